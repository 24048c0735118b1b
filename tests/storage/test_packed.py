"""Content hashes in 16 bytes are the texts that they stand for."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.hashing.packed import as_text, from_halves, halves, packed, packed_if_all

DIGITS = st.binary(min_size=16, max_size=16).map(bytes.hex)
EXTREMES = st.sampled_from(
    ["0" * 32, "f" * 32, "0" * 16 + "f" * 16, "f" * 16 + "0" * 16, "7" + "f" * 31, "8" + "0" * 31]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | DIGITS | EXTREMES))
def test_a_packed_hash_is_the_number_of_its_digits_and_gives_them_back(hashes: list[str | None]) -> None:
    numbers = packed(pl.Series("content_hash", hashes, dtype=pl.String))
    assert numbers.to_list() == [None if each is None else int(each, 16) for each in hashes]
    assert as_text(numbers).to_list() == hashes


@given(st.lists(st.text(alphabet="0123456789abcdefg", max_size=34)))
def test_other_texts_are_null_and_stay_texts(texts: list[str]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    is_hash = [len(each) == 32 and "g" not in each for each in texts]
    assert packed(series).is_not_null().to_list() == is_hash
    kept = packed_if_all(series)
    assert as_text(kept).to_list() == texts
    assert (kept.dtype == pl.UInt128) == all(is_hash)


@given(arrays(np.uint64, st.tuples(st.integers(0, 5), st.just(2))))
def test_halves_make_the_number(both: np.ndarray) -> None:  # type: ignore[type-arg]
    numbers = from_halves(both)
    assert numbers.to_list() == [(int(high) << 64) + int(low) for high, low in both]
    assert halves(numbers).tolist() == both.tolist()
