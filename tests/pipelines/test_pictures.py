"""Pictures come from files, the web and object stores within limits; one that cannot be had harms nothing else."""

import io
import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from PIL import Image

from pipelines.ingest.items.ingest import fetch_again, ingest_items
from pipelines.ingest.pictures.fetch import Web
from pipelines.ingest.pictures.ingest import Pictures
from pipelines.sources.cells import Refused
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")


LIMIT = 100_000


def picture(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(stream, "JPEG")
    return stream.getvalue()


class Host(BaseHTTPRequestHandler):
    """A host of pictures with every bad habit; `asked` counts requests by path, `mended` turns the bad ones good."""

    asked: ClassVar[dict[str, int]] = {}
    mended = False

    def do_GET(self) -> None:
        path = self.path
        self.asked[path] = self.asked.get(path, 0) + 1
        if path.startswith("/stall") and not self.mended:
            time.sleep(3)
            return
        if path == "/drip":
            self._head(200, {"Content-Length": "100"})
            for _ in range(30):
                self._write(b"x")
                time.sleep(0.1)
        elif path == "/late" and not self.mended:
            self._head(404, {})
        elif path == "/large":
            self._head(200, {"Content-Length": str(10 * LIMIT)})
        elif path == "/endless":
            self._head(200, {})
            for _ in range(20):
                self._write(b"x" * 10_000)
        elif path == "/short":
            self._head(200, {"Content-Length": "1000"})
            self._write(b"only this")
        elif path == "/unsized":
            self._head(200, {})
            self._write(picture())
        elif path == "/moved":
            self._head(302, {"Location": "/red.jpg"})
        elif path == "/round":
            self._head(302, {"Location": "/round"})
        elif path == "/inside":
            self._head(302, {"Location": f"http://localhost:{self.server.server_address[1]}/red.jpg"})
        elif path == "/file":
            self._head(302, {"Location": "file:///etc/passwd"})
        else:
            data = picture(path.strip("/").split(".")[0].split("?")[0] if path.endswith(".jpg") else "green")
            self._head(200, {"Content-Length": str(len(data))})
            self._write(data)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the client had enough

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal of the tests."""


@pytest.fixture
def host() -> Iterator[str]:
    Host.asked, Host.mended = {}, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def certified(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, secret


def test_a_host_with_tls_is_read_where_its_certificate_is_trusted_and_is_its_own(
    certified: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certified)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    port = server.server_address[1]
    ours = web(5, ("127.0.0.1", "localhost"))
    try:
        with pytest.raises(Refused, match="the certificate of the host is not accepted: "):
            ours.get(f"https://localhost:{port}/red.jpg")
        monkeypatch.setenv("SSL_CERT_FILE", str(certified[0]))
        assert ours.get(f"https://localhost:{port}/red.jpg") == picture("red")
        with pytest.raises(Refused, match=r"not valid for '127\.0\.0\.1'"):
            ours.get(f"https://127.0.0.1:{port}/red.jpg")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def web(timeout_s: float = 0.5, trusted: tuple[str, ...] = ("127.0.0.1",)) -> Web:
    return Web(LIMIT, timeout_s, trusted)


def test_a_picture_on_the_web_is_read_also_behind_a_redirect_and_under_a_name_with_spaces(host: str) -> None:
    assert web().get(f"{host}/red.jpg") == picture("red")
    assert web().get(f"{host}/moved") == picture("red")
    assert web().get(f"{host}/a blue häuschen?size=1&more") == picture("green")
    assert "/a%20blue%20h%C3%A4uschen?size=1&more" in Host.asked


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/late", "image_unreachable"),
        ("/short", "image_unreachable"),
        ("/round", "image_unreachable"),
        ("/large", "image_too_large"),
        ("/endless", "image_too_large"),
        ("/inside", "image_address"),
        ("/file", "image_address"),
        ("/stall", "image_timeout"),
        ("/drip", "image_timeout"),
    ],
)
def test_what_a_host_does_wrong_is_the_reason(host: str, path: str, reason: str) -> None:
    begun = time.monotonic()
    with pytest.raises(Refused) as refused:
        web().get(host + path)
    assert refused.value.reason == reason
    assert time.monotonic() - begun < 2  # seconds: a drip of bytes buys no time


def test_a_private_host_is_asked_only_when_it_is_trusted(host: str) -> None:
    with pytest.raises(Refused) as refused:
        web(trusted=()).get(f"{host}/red.jpg")
    assert (refused.value.reason, Host.asked) == ("image_address", {})


def test_a_host_that_stalls_is_left_alone_and_the_others_are_not(host: str, tmp_path: Path) -> None:
    spec = ItemsSpec(trusted_hosts=("127.0.0.1", "localhost"), image_timeout_s=0.3, image_workers=4)
    other = host.replace("127.0.0.1", "localhost")
    rows = [(number, [f"{host}/stall{number}", f"{other}/red.jpg"]) for number in range(60)]
    begun = time.monotonic()
    found = dict(Pictures(Lake(str(tmp_path)), None, spec).stored(rows))
    assert list(found) == list(range(60))
    assert all(isinstance(stalled, Refused) and stalled.reason == "image_timeout" for stalled, _ in found.values())
    assert all(isinstance(good, str) for _, good in found.values())
    assert sum("stall" in path for path in Host.asked) < 10
    assert time.monotonic() - begun < 10  # seconds; one after the other it would be 18


def ingest(lake: Lake, path: Path, spec: ItemsSpec) -> tuple[dict[str, int], int]:
    (source,) = find_sources(str(path))
    images = ingest_items(lake, source, spec, datetime.now(UTC), WHO).stages[1]
    return images.by_reason, images.out


def test_an_item_has_the_pictures_that_can_be_had_and_asks_again_for_the_others(host: str, tmp_path: Path) -> None:
    lake, spec = Lake(str(tmp_path / "lake")), ItemsSpec(trusted_hosts=("127.0.0.1",), image_timeout_s=0.5)
    (tmp_path / "here.jpg").write_bytes(picture("blue"))
    rows = [
        {"item_id": "a", "title": "one", "image": ["here.jpg", f"{host}/red.jpg"]},
        {"item_id": "b", "title": "two", "image": [f"{host}/red.jpg", f"{host}/late"]},
        {"item_id": "c", "title": "three", "image": "../outside.jpg"},
        {"item_id": "d", "title": "four", "image": ["s3://elsewhere/x.jpg"]},
        {"item_id": "e", "title": "five"},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused, stored = ingest(lake, path, spec)
    assert refused == {"image_unreachable": 1, "image_outside_folder": 1, "image_address": 1}
    assert stored == 3
    items = {row["item_id"]: row for row in catalogue(lake).to_dicts()}
    assert [len(items[item]["images"]) for item in "abcde"] == [2, 1, 0, 0, 0]
    assert lake.blobs.get(items["a"]["images"][0]) == picture("blue")

    assert fetch_again(lake, spec, datetime.now(UTC), WHO) == 0
    Host.mended = True
    assert fetch_again(lake, spec, datetime.now(UTC), WHO) == 1
    mended = catalogue(lake, among=["b"]).to_dicts()[0]
    assert (mended["revision"], [lake.blobs.get(each) for each in mended["images"]]) == (
        1,
        [picture("red"), picture("green")],
    )
    assert by_reason(lake) == {"image_outside_folder": 1, "image_address": 1}
    assert fetch_again(lake, spec, datetime.now(UTC), WHO) == 0


def test_a_picture_that_failed_in_several_files_is_asked_for_again_as_the_newest_one_names_it(
    host: str, tmp_path: Path
) -> None:
    lake, spec = Lake(str(tmp_path / "lake")), ItemsSpec(trusted_hosts=("127.0.0.1",), image_timeout_s=0.5)
    for number in range(3):
        path = tmp_path / f"items{number}.jsonl"
        path.write_text(json.dumps({"item_id": "a", "title": str(number), "image": f"{host}/late"}))
        assert ingest(lake, path, spec) == ({"image_unreachable": 1}, 0)
    Host.mended = True
    assert fetch_again(lake, spec, datetime.now(UTC), WHO) == 1
    assert [(item["title"], len(item["images"])) for item in catalogue(lake).to_dicts()] == [("2", 1)]
    assert by_reason(lake) == {}


class Mute(BaseHTTPRequestHandler):
    """A host that takes what it is asked and says nothing, until it is told to go."""

    leave = threading.Event()

    def do_GET(self) -> None:
        self.leave.wait(10)
        self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal of the tests."""


def test_a_store_that_says_nothing_costs_its_time_and_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mute)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "none")
    (tmp_path / "here.jpg").write_bytes(picture())
    spec = ItemsSpec(image_roots=("s3://shop/a", f"file://{tmp_path}"), image_timeout_s=0.3, image_workers=2)
    rows = [(row, [f"s3://shop/a/{row}.jpg", f"file://{tmp_path}/here.jpg"]) for row in range(9)]
    begun = time.monotonic()
    try:
        found = [each for _, each in Pictures(Lake(str(tmp_path / "lake")), None, spec).stored(rows)]
    finally:
        Mute.leave.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert time.monotonic() - begun < 3  # seconds
    assert [refused.reason for refused, _ in found if isinstance(refused, Refused)] == ["image_timeout"] * 9
    assert [good for _, good in found if isinstance(good, Refused)] == []
    left = [refused for refused, _ in found if isinstance(refused, Refused) and "left alone" in refused.detail]
    assert len(left) >= 5


def test_a_pipe_among_the_pictures_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    os.mkfifo(tmp_path / "pictures" / "a.jpg")
    spec = ItemsSpec(image_roots=(f"file://{tmp_path}/pictures",), image_timeout_s=0.2)
    wanted = [("row", [f"file://{tmp_path}/pictures/a.jpg"])]
    ((_, (found,)),) = Pictures(Lake(str(tmp_path / "lake")), None, spec).stored(wanted)
    assert isinstance(found, Refused)
    assert found.reason == "image_timeout"
    with (tmp_path / "pictures" / "a.jpg").open("wb"):
        """The thread that was left behind comes to its end."""


def test_pictures_below_a_root_are_read_and_no_others(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "a.jpg").write_bytes(picture())
    (tmp_path / "secret.jpg").write_bytes(picture("blue"))
    spec = ItemsSpec(image_roots=(f"file://{root}/",))
    wanted = [f"file://{root}/a.jpg", f"file://{root}/../secret.jpg", f"file://{tmp_path}/secret.jpg"]
    ((_, found),) = Pictures(Lake(str(tmp_path / "lake")), None, spec).stored([("row", list(wanted))])
    assert isinstance(found[0], str)
    assert [each.reason for each in found[1:] if isinstance(each, Refused)] == ["image_address", "image_address"]
