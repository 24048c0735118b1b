"""Files under a URI, and blobs: written at once, hashed in blocks, mapped where they lie."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import BlobCorrupt, LakeNotFound, LakeUnusable
from storage.files import store as files
from storage.files.blobs import Blobs
from storage.files.store import Files, sha256


@given(data=st.binary(max_size=40), size=st.integers(0, 50), block=st.integers(1, 9))
def test_a_file_comes_back_whole_by_its_end_and_hashed_in_blocks(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int, block: int
) -> None:
    place = Files(str(tmp_path_factory.mktemp("files")))
    place.write("folder/name", data)
    assert place.read("folder/name") == data
    assert place.tail("folder/name", size) == (data[-size:] if size else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        assert place.hash("folder/name") == hashlib.sha256(data).hexdigest() == sha256(data)
    found = place.local_path("folder/name")
    assert found is not None
    assert place.info(["folder/name", "other"]) == [(len(data), found.stat().st_mtime_ns), None]
    place.delete("folder/name")
    assert place.info(["folder/name", "folder"]) == [None, None]
    for use in (place.read, place.hash, lambda name: place.tail(name, 1)):
        with pytest.raises(FileNotFoundError):
            use("folder/name")


def test_a_file_is_written_over_at_once_and_one_that_cannot_be_written_is_told_with_its_folder(tmp_path: Path) -> None:
    place = Files(str(tmp_path))
    for data in (b"one", b"other"):
        place.write("name", data)
        assert place.read("name") == data
    for below, why in (("name", "File exists"), ("name/folder", "Not a directory")):
        with pytest.raises(
            LakeUnusable, match=rf"cannot write to {tmp_path}/{below}: {tmp_path}/name.* is in the way \({why}\)"
        ):
            place.write(f"{below}/file", b"")
    with pytest.raises(OSError, match="File name too long"):
        place.write("n" * 300, b"")
    assert [each.name for each in tmp_path.iterdir()] == ["name"]


def test_a_blob_of_an_object_store_is_copied_once_to_where_it_can_be_mapped_and_checked_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URI stands for the store: what is behind it has no path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    data, digest = b"a trie", sha256(b"a trie")
    (tmp_path / "store" / digest[:2]).mkdir(parents=True)
    blobs = Blobs(f"file://{tmp_path}/store")
    assert blobs.put(data) == digest
    assert blobs.location(digest) == f"file://{tmp_path}/store/{digest[:2]}/{digest}"
    for cache, place in ((tmp_path / "cache", tmp_path / "cache"), (None, tmp_path / "tmp" / "sidmill-blobs")):
        assert blobs.local_path(digest, cache) == place / digest
        copied = (place / digest).stat().st_ino
        assert (place / digest).read_bytes() == data
        assert [each.name for each in place.iterdir()] == [digest]
        assert blobs.local_path(digest, cache).stat().st_ino == copied, "what is there and right stays"
        (place / digest).write_bytes(b"other")
        assert blobs.local_path(digest, cache).read_bytes() == data
    (tmp_path / "store" / digest[:2] / digest).write_bytes(b"other")
    for use in (blobs.get, blobs.check, blobs.local_path):
        with pytest.raises(BlobCorrupt, match=f"{digest} is damaged: its bytes now have the hash {sha256(b'other')}"):
            use(digest)
    (tmp_path / "store" / digest[:2] / digest).unlink()
    for use in (blobs.get, blobs.check, blobs.local_path):
        with pytest.raises(LakeNotFound, match=f"blob {digest} is missing at file://"):
            use(digest)


def test_a_blob_on_a_disk_is_mapped_where_it_lies(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path / "blobs"))
    digest = blobs.put(b"a trie")
    assert blobs.local_path(digest, tmp_path / "cache") == tmp_path / "blobs" / digest[:2] / digest
    assert not (tmp_path / "cache").exists()
