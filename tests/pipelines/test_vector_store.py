"""Hashes, places and lists of many rows are those of each row."""

import hashlib
import pickle
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipelines import places
from pipelines.places import PAIR
from pipelines.sid_table import _lists
from pipelines.vector_store import STORED, cached, store_vectors, stored_under, vector_hashes
from storage.commit import Provenance
from storage.hashing.packed import packed
from storage.lake import Lake


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(width=32, allow_nan=False)))
def test_the_hash_of_a_row_is_the_hash_of_its_bytes(vectors: np.ndarray) -> None:  # type: ignore[type-arg]
    plain = [hashlib.blake2b(row.astype("<f4").tobytes(), digest_size=16).hexdigest() for row in vectors]
    assert vector_hashes(vectors).to_list() == plain
    assert vector_hashes(np.asfortranarray(vectors)).to_list() == plain


def test_no_rows_have_no_hashes() -> None:
    assert vector_hashes(np.zeros((0, 4), np.float32)).to_list() == []


WANTED = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["x", "y", None])))
PAIRS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xy")))


@settings(max_examples=100, deadline=None)
@given(wanted=WANTED, pairs=PAIRS, alike=st.booleans())
def test_places_are_those_of_a_double_loop_also_where_hashes_collide(
    wanted: list[tuple[str, str | None]], pairs: list[tuple[str, str]], alike: bool
) -> None:
    schema = dict.fromkeys(PAIR, pl.String)
    with pytest.MonkeyPatch.context() as patch:
        if alike:
            patch.setattr(places, "tie_keys", lambda ids: np.zeros(len(ids), np.uint64))
        held = places.Places.of(pl.DataFrame(wanted, schema, orient="row"))
        row, place = pickle.loads(pickle.dumps(held)).find(pl.DataFrame(pairs, schema, orient="row"))
    plain = [(at, to) for at, pair in enumerate(pairs) for to, each in enumerate(wanted) if pair == each]
    assert list(zip(row.tolist(), place.tolist(), strict=True)) == plain


@settings(max_examples=100, deadline=None)
@given(
    ids=st.sets(st.sampled_from("abcdefgh")), having=st.dictionaries(st.sampled_from("abcdefghi"), st.integers(0, 9))
)
def test_hashes_are_aligned_with_ids_as_by_a_loop(ids: set[str], having: dict[str, int]) -> None:
    pairs = pl.DataFrame({"item_id": sorted(having), "content_hash": [having[each] for each in sorted(having)]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "JOINED_ROWS", 3)
        found = places.aligned(pl.Series(sorted(ids), dtype=pl.String), pairs.cast({"item_id": pl.String}))
    assert found.to_list() == [having.get(each) for each in sorted(ids)]


DIGESTS = st.sampled_from(["0" * 31 + "1", "1" + "0" * 31])


@settings(max_examples=50, deadline=None)
@given(
    wanted=st.lists(st.tuples(st.sampled_from("abc"), st.none() | DIGESTS)),
    pairs=st.lists(st.tuples(st.sampled_from("abc"), DIGESTS)),
)
def test_places_of_packed_hashes_are_those_of_their_texts(
    wanted: list[tuple[str, str | None]], pairs: list[tuple[str, str]]
) -> None:
    schema = dict.fromkeys(PAIR, pl.String)
    texts, sought = pl.DataFrame(wanted, schema, orient="row"), pl.DataFrame(pairs, schema, orient="row")
    held = places.Places.of(texts.with_columns(packed(texts["content_hash"])))
    for each in (held, pickle.loads(pickle.dumps(held))):
        for one, other in zip(each.find(sought), places.Places.of(texts).find(sought), strict=True):
            assert one.tolist() == other.tolist()


@settings(max_examples=50, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(0, 5), st.integers(1, 4))))
def test_lists_of_codes_are_the_rows(codes: np.ndarray) -> None:  # type: ignore[type-arg]
    assert _lists(codes).to_pylist() == codes.tolist()
    assert _lists(codes[::2]).to_pylist() == codes[::2].tolist()


def test_vectors_under_some_content_hashes_are_those_of_all_that_have_one_of_them(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for content in ("first", "second", "third"):
        names = [f"{content}-{number}" for number in range(5)] + [content]
        rows = pl.DataFrame({"item_id": names}).with_columns(
            content_hash=pl.lit(content), modality=pl.lit("m"), fingerprint=pl.lit("f"), vector=pl.lit([1.0])
        )
        store_vectors(lake, rows, Provenance("run", "recipe"))
    items = pl.Series(["first-3", "third-1", "second", "third", "unknown"])
    for hashes in (["first", "second", "first"], ["third"], ["absent"], []):
        every = cached(lake, "m", "f", items).filter(pl.col("content_hash").is_in(hashes))
        plain = dict(every.iter_rows())
        assert stored_under(lake, "m", "f", hashes, items).to_list() == [plain.get(item) for item in items]
    assert every.is_empty()


def test_a_slow_reader_holds_few_batches_of_a_long_table(tmp_path: Path) -> None:
    lake, width, files, rows = Lake(str(tmp_path / "lake")), 256, 24, 1 << 12
    same = pl.lit([1.0] * width, pl.List(pl.Float32))
    for number in range(files):
        names = pl.DataFrame({"item_id": [f"{number}-{row}" for row in range(rows)]})
        tags = {name: pl.lit(name[0]) for name in ("content_hash", "modality", "fingerprint")}
        store_vectors(lake, names.with_columns(vector=same, **tags), Provenance("run", "recipe"))
    start, most, seen = pa.total_allocated_bytes(), 0, 0
    for batch in lake.batches("vectors", STORED, ds.field("modality") == "m"):
        time.sleep(0.05)
        most, seen = max(most, pa.total_allocated_bytes() - start), seen + batch.num_rows
    assert seen == files * rows
    assert most < seen * width * 4 / 2, f"{most >> 20} MB of {seen * width * 4 >> 20} are held at once"
