"""A path that leads to no picture is refused in words that say how the path is to be written."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pipelines.ingest.pictures.ingest import Pictures
from pipelines.ingest.pictures.references import references
from pipelines.sources.cells import Refused
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import ItemsSpec
from storage.lake import Lake

FILES = ("pic/a.png", "b c.png", unicodedata.normalize("NFC", "ä.png"))


def read(folder: Path, cell: Any) -> list[str | Refused]:
    """Store the pictures that a cell of the catalogue of a folder names; return hashes and refusals."""
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"bytes")
    (folder / "x.jsonl").write_text("{}")
    (source,) = find_sources(str(folder / "x.jsonl"))
    ((_, found),) = Pictures(Lake(str(folder / "lake")), source, ItemsSpec()).stored([(0, references(cell))])
    return found


def refusal(folder: Path, cell: Any) -> Refused:
    (found,) = read(folder, cell)
    assert isinstance(found, Refused)
    assert "Errno" not in found.detail
    assert str(folder) not in found.detail
    return found


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("pic\\a.png", "pic/a.png"),
        (".\\pic\\a.png", "pic/a.png"),
        ("b%20c.png", "b c.png"),
        ("%C3%A4.png", "ä.png"),
        (unicodedata.normalize("NFD", "ä.png"), "ä.png"),
        ("pic/a.png?v=2", "pic/a.png"),
        ("pic/a.png#top", "pic/a.png"),
    ],
)
def test_a_path_that_is_written_as_elsewhere_is_told_with_the_file_that_is_there(
    tmp_path: Path, cell: str, meant: str
) -> None:
    found = refusal(tmp_path, cell)
    assert found.reason == "image_unreadable"
    assert f"there is no such file, but there is {meant!r}: write the path so" in found.detail


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("gone.png", "there is no such file, and a path begins at the folder of the catalogue"),
        ("pic\\gone.png", "a path is written with / and not with a backslash"),
        ("C:\\pictures\\a.png", "it is a path of Windows: copy the picture beside the catalogue"),
        ("\\\\server\\share\\a.png", "it is a path of Windows: copy the picture beside the catalogue"),
        ("pic", "it is a folder: name the pictures in it"),
        ("cid:12", "cid: is no address of pictures"),
        ("http:/a.example/a.png", "http: is no address of pictures"),
        ("www.a.example/a.png", "write https:// in front of it"),
    ],
)
def test_a_path_without_a_file_says_what_it_is(tmp_path: Path, cell: str, why: str) -> None:
    found = refusal(tmp_path, cell)
    assert found.reason == "image_unreadable"
    assert why in found.detail


@pytest.mark.parametrize("cell", ["pic/a.png,b c.png", "pic/a.png; b c.png", "pic/a.png|b c.png", "pic/a.png\nb c.png"])
def test_several_paths_in_one_text_are_told_to_be_a_list(tmp_path: Path, cell: str) -> None:
    assert (
        'write several pictures as a list, in a CSV as JSON: ["pic/a.png", "b c.png"]' in refusal(tmp_path, cell).detail
    )
    assert len(read(tmp_path, '["pic/a.png", "b c.png"]')) == 2


@pytest.mark.parametrize(
    "cell", ["['pic/a.png', 'b c.png']", "{'url': 'pic/a.png'}", "[{'url': 'pic/a.png'}]", "[None]"]
)
def test_a_list_that_python_printed_is_told(tmp_path: Path, cell: str) -> None:
    assert "as Python prints it: write JSON (json.dumps)" in refusal(tmp_path, cell).detail


@pytest.mark.parametrize("cell", [{"bytes": list(range(9))}, {"url": None, "bytes": [1.5, 2]}, [1, 2, 3]])
def test_numbers_that_stand_for_a_picture_are_one_refusal(tmp_path: Path, cell: Any) -> None:
    assert "numbers names no picture" in refusal(tmp_path, cell).detail
