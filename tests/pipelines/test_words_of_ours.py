"""Files, cells and pictures that libraries refuse are refused in words of our own, with what to do."""

import base64
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from source_rows import ingest_new

from pipelines.embed.images import ImageRefused, decode_image
from pipelines.ingest.events.near_ids import other_spellings
from pipelines.sources.cells import Half, Refused, Single, identifier, number, text, values
from pipelines.sources.row import SourceError
from storage.lake import Lake
from storage.releases.catalogue import catalogue

TABLE = pa.table({"item_id": ["1", "2"], "title": ["mug", "cup"]})


def png() -> bytes:
    found = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 10, 11)).save(found, "PNG")
    return found.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"item_id,title\n1,mug\n", "x.parquet is not Parquet by its first bytes"),
        (b"PA", "x.parquet is not Parquet by its first bytes"),
        (b"PAR1", "x.parquet is damaged"),
    ],
)
def test_a_file_that_is_no_parquet_is_told_by_what_it_is(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    (done,) = ingest_new_unchecked(tmp_path)
    assert why in done


def test_parquet_that_breaks_off_is_told_to(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[:-5])
    (done,) = ingest_new_unchecked(tmp_path)
    assert f"x.parquet is not whole: it breaks off after {len(whole) - 5:,} bytes" in done
    assert "magic" not in done


def ingest_new_unchecked(folder: Path) -> list[str]:
    return [each.stages[0].why() for each in ingest_new(Lake(str(folder / "lake")), str(folder / "x.parquet"))]


@pytest.mark.parametrize(("suffix", "codec"), [(".gz", "gzip"), (".zst", "zstd"), (".bz2", "bz2")])
def test_a_name_that_promises_a_compression_is_told_to_be_wrong(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"x.csv{suffix}"
    path.write_bytes(b"item_id,title\n1,mug\n")
    with pytest.raises(SourceError, match=f"is not compressed with {codec} by its first bytes: take {suffix} off"):
        ingest_new(Lake(str(tmp_path / "lake")), str(path))
    (tmp_path / "y.csv.gz").write_bytes(gzip.compress(b"item_id,title\n1,mug\n" * 99)[:-12])
    with pytest.raises(SourceError, match="cannot be read to its end"):
        ingest_new(Lake(str(tmp_path / "lake")), str(tmp_path / "y.csv.gz"))


@pytest.mark.parametrize("rows", [1, 20_000])
def test_lines_in_utf16_that_were_appended_to_another_text_are_refused(tmp_path: Path, rows: int) -> None:
    head = "item_id,title\n" + "".join(f"{row},mug\n" for row in range(rows))
    (tmp_path / "x.csv").write_bytes(head.encode() + "b1,jug\nb2,pot\n".encode("utf-16-le"))
    lake = Lake(str(tmp_path / "lake"))
    (done,) = ingest_new(lake, str(tmp_path / "x.csv"))
    assert done.stages[0].by_reason == {"invalid_utf8": 3}
    assert f"line {rows + 2}: it has zero bytes between its characters, as UTF-16 has" in done.stages[0].why()
    assert catalogue(lake)["title"].unique().to_list() == ["mug"]


def test_single_zero_bytes_in_a_title_stay(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"item_id,title\n1,mug\0blue\n")
    lake = Lake(str(tmp_path / "lake"))
    ingest_new(lake, str(tmp_path / "x.csv"))
    assert catalogue(lake)["title"].to_list() == ["mug\0blue"]


def test_a_short_float_is_the_shortest_number_that_reads_as_it(tmp_path: Path) -> None:
    prices = pa.table(
        {"price": pa.array([19.99, 17.0], pa.float32()), "half": pa.array(np.array([0.1, 2], np.float16))}
    )
    pq.write_table(
        pa.table({**{name: TABLE[name] for name in TABLE.schema.names}, **{n: prices[n] for n in prices.schema.names}}),
        tmp_path / "x.parquet",
    )
    lake = Lake(str(tmp_path / "lake"))
    ingest_new(lake, str(tmp_path / "x.parquet"))
    assert catalogue(lake)["attributes"].to_list() == [
        '{"half": "0.1", "price": "19.99"}',
        '{"half": "2", "price": "17"}',
    ]
    assert (text(Single(0.1), "x"), values(Half(0.5), "x")) == ("0.1", "0.5")


def test_an_id_that_is_a_short_float_stays_what_it_was() -> None:
    assert identifier(Single(np.float32(0.1)), "x") == "0.10000000149011612"


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("1,000", "a number with a decimal comma, or one with commas between thousands: export such a number without"),
        ("1,234.50", "a number with commas between thousands: export such a number without them"),
        ("1,234,567", "a number with commas between thousands"),
        ("1,5", "a number with a decimal comma"),
    ],
)
def test_commas_of_a_number_are_told_for_what_they_may_be(cell: str, hint: str) -> None:
    with pytest.raises(Refused) as raised:
        number(cell, "value")
    assert hint in raised.value.detail


@pytest.mark.parametrize(
    ("unknown", "known"), [('="0012"', "0012"), ("0012", '="0012"'), ("1,001", "1001"), ("1001", "1,001")]
)
def test_formulas_and_commas_around_ids_are_seen_through(unknown: str, known: str) -> None:
    assert known in [name for name, _ in other_spellings(unknown)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (base64.b64encode(png()), "as base64 text"),
        (b'{"error": "gone"}', "JSON and no picture"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (gzip.compress(png()), "compressed with gzip"),
        (png().decode("latin-1").encode(), "a PNG that was converted to UTF-8"),
        (png().replace(b"\n", b"\r\n"), "a PNG whose line ends were converted"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b"8BPS\x00\x01", "PSD"),
        (png()[:-30], "the picture breaks off before its end: send it again"),
        (b"plain words", "not a picture of a known format"),
    ],
)
def test_bytes_that_are_no_picture_are_told_by_what_they_are(data: bytes, why: str) -> None:
    with pytest.raises(ImageRefused) as raised:
        decode_image(data, 10**6, ["PNG", "JPEG"])
    assert why in raised.value.detail
