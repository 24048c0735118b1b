"""Hashes and lists of many rows are those of each row."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipelines.assign import _lists
from pipelines.vector_store import vector_hashes


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(width=32, allow_nan=False)))
def test_the_hash_of_a_row_is_the_hash_of_its_bytes(vectors: np.ndarray) -> None:  # type: ignore[type-arg]
    plain = [hashlib.blake2b(row.astype("<f4").tobytes(), digest_size=16).hexdigest() for row in vectors]
    assert vector_hashes(vectors) == plain
    assert vector_hashes(np.asfortranarray(vectors)) == plain


def test_no_rows_have_no_hashes() -> None:
    assert vector_hashes(np.zeros((0, 4), np.float32)) == []


@settings(max_examples=50, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(0, 5), st.integers(1, 4))))
def test_lists_of_codes_are_the_rows(codes: np.ndarray) -> None:  # type: ignore[type-arg]
    assert _lists(codes).to_pylist() == codes.tolist()
    assert _lists(codes[::2]).to_pylist() == codes[::2].tolist()
