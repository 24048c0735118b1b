"""Pictures through whole runs: several an item, from files and the web, encoded by a real open_clip checkpoint."""

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

from conftest import START, write_items, write_log
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from flows.steps.embed import EncoderChanged
from storage.lake import Lake
from storage.quarantine import by_reason

MODEL = "ViT-S-32-alt"


def picture(path: Path, colour: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(stream, "JPEG")
    path.write_bytes(stream.getvalue())


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal of the tests."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "host"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    import open_clip

    torch.manual_seed(0)
    torch.save(open_clip.create_model(MODEL, pretrained=None).state_dict(), tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def test_pictures_are_pooled_asked_for_again_and_never_mixed_with_those_of_other_weights(
    tmp_path: Path,
    recipe: dict[str, object],
    host: tuple[str, Path],
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, folder = host
    picture(folder / "web.jpg", "green")
    data = tmp_path / "data"
    rows = write_items(data / "items.jsonl", 0, 12)
    for number, row in enumerate(rows):
        picture(data / f"{number}.jpg", ("red", "blue", "white")[number % 3])
        row["image"] = [f"{number}.jpg", f"{url}/web.jpg"] if number % 2 else f"{number}.jpg"
    rows[0]["image"] = f"{url}/late.jpg"
    pl.DataFrame(
        {
            "item_id": [row["item_id"] for row in rows],
            "title": [row["title"] for row in rows],
            "image": [row["image"] if isinstance(row["image"], list) else [row["image"]] for row in rows],
        }
    ).write_parquet(data / "items.parquet")
    write_log(data / "log.csv", [str(row["item_id"]) for row in rows], users=8, events=200, start=START)
    settings = {
        **recipe,
        "items": {"trusted_hosts": ["127.0.0.1"]},
        "text": {"encoder": "packaged-minilm", "fields": ["title"]},
        "image": {"encoder": "open-clip", "model": MODEL, "pretrained": str(checkpoint)},
    }
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, settings, [str(data / "items.parquet")], [str(data / "log.csv")])
    shown = capsys.readouterr().out
    assert "% of 11 titles rank their picture among the first 10, 91% by chance" in shown
    images = pl.col("modality") == "image"
    assert by_reason(lake) == {"image_unreachable": 1}
    assert lake.frame("vectors").filter(images).height == 11

    picture(folder / "late.jpg", "black")
    made = nightly(lake.uri, retry_quarantined=True)
    assert made["made"]
    assert by_reason(lake) == {}
    assert lake.frame("vectors").filter(images).height == 12

    weights = torch.load(checkpoint)
    next(iter(weights.values())).add_(1.0)
    torch.save(weights, checkpoint)
    write_items(data / "more.jsonl", 12, 1)
    with pytest.raises(EncoderChanged, match="the image encoder differs"):
        nightly(lake.uri, None, [str(data / "more.jsonl")])
    assert lake.frame("vectors").filter(images).height == 12
