"""The trie against sets and dictionaries."""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tokenizer.arrays import id_index
from tokenizer.arrays.items import id_array, id_text
from tokenizer.errors import TrieCorrupt
from tokenizer.trie.filters import TrieFilters, by_filter
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie

SIZES = (5, 300, 4)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[NDArray[np.int32], list[str], tuple[int, ...]]:
    sizes = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    sids = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), unique=True, max_size=40))
    ids = draw(st.lists(st.text(max_size=6), unique=True, min_size=len(sids), max_size=len(sids)))
    return np.array(sids, np.int32).reshape(-1, len(sizes)), ids, sizes


@st.composite
def shared_catalogues(draw: st.DrawFn) -> tuple[NDArray[np.int32], list[str], tuple[int, ...]]:
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    sids = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), max_size=30))
    ids = draw(st.lists(st.text(max_size=4), unique=True, min_size=len(sids), max_size=len(sids)))
    return np.array(sids, np.int32).reshape(-1, len(sizes)), ids, sizes


def some(items: int = 200, seed: int = 0) -> tuple[NDArray[np.int32], list[str]]:
    draw = np.random.default_rng(seed)
    chosen = draw.choice(5 * 300 * 4, items, replace=False)
    return np.stack(np.unravel_index(chosen, SIZES), axis=1).astype(np.int32), [f"i{row}" for row in range(items)]


@settings(max_examples=60, deadline=None)
@given(catalogues())
def test_lookup_find_and_prefix_agree_with_a_dictionary(
    catalogue: tuple[NDArray[np.int32], list[str], tuple[int, ...]],
) -> None:
    codes, ids, sizes = catalogue
    trie = Trie.build(codes, ids, sizes)
    item_of = dict(zip(map(tuple, codes.tolist()), ids, strict=True))
    assert list(map(tuple, trie.codes().tolist())) == sorted(item_of)
    assert trie.item_ids.to_pylist() == [item_of[sid] for sid in sorted(item_of)]
    asked = list(product(*(range(-1, size + 1) for size in sizes)))[:500]
    for sid, row in zip(asked, trie.lookup(np.array(asked)).tolist(), strict=True):
        assert (trie.item_ids[row].as_py() if row >= 0 else None) == item_of.get(sid)
    for sid, item in item_of.items():
        found = trie.find(item)
        assert found is not None
        assert tuple(found.tolist()) == sid
    assert trie.find("no such item") is None
    for prefix in {sid[:depth] for sid in asked[:60] for depth in range(len(sizes) + 1)}:
        start, stop = trie.prefix_range(prefix)
        assert sorted(item_of)[start:stop] == [sid for sid in sorted(item_of) if sid[: len(prefix)] == prefix]


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.integers(0, 10**6))
def test_beams_see_exactly_the_valid_continuations(
    catalogue: tuple[NDArray[np.int32], list[str], tuple[int, ...]], seed: int
) -> None:
    codes, ids, sizes = catalogue
    draw = np.random.default_rng(seed)
    allowed = draw.random(len(ids)) < 0.7
    trie = Trie.build(codes, ids, sizes)
    item_of = dict(zip(map(tuple, trie.codes().tolist()), trie.item_ids.to_pylist(), strict=True))
    masks = TrieMasks.of(trie, allowed)
    sids = {sid for sid, keep in zip(item_of, allowed.tolist(), strict=True) if keep}
    beams: list[tuple[int, ...]] = [() for _ in range(9)]
    nodes = np.zeros(9, np.int64)
    for level, size in enumerate(sizes):
        prefixes = {sid[: level + 1] for sid in sids}
        expected = [[(*beam, code) in prefixes for code in range(size)] for beam in beams]
        assert masks.mask(level, nodes).tolist() == expected
        chosen = draw.integers(0, size, len(beams))
        beams = [(*beam, int(code)) for beam, code in zip(beams, chosen, strict=True)]
        nodes = masks.step(level, nodes, chosen)
        assert [node >= 0 for node in nodes.tolist()] == [beam in prefixes for beam in beams]
    rows, count = masks.items(nodes)
    assert count.tolist() == [int(beam in sids) for beam in beams]
    assert [trie.item_ids[row].as_py() for row in rows.tolist()] == [item_of[beam] for beam in beams if beam in sids]


@settings(max_examples=60, deadline=None)
@given(shared_catalogues(), st.integers(0, 10**6))
def test_items_that_share_a_sid_are_all_found_behind_it(
    catalogue: tuple[NDArray[np.int32], list[str], tuple[int, ...]], seed: int
) -> None:
    codes, ids, sizes = catalogue
    draw = np.random.default_rng(seed)
    turned = draw.permutation(len(ids))
    trie = Trie.build(codes, ids, sizes, shared=True)
    assert Trie.build(codes[turned], [ids[row] for row in turned], sizes, shared=True).sha256 == trie.sha256
    rows = sorted(zip(map(tuple, codes.tolist()), [item.encode() for item in ids], strict=True))
    assert [(*sid,) for sid in trie.codes().tolist()] == [sid for sid, _ in rows]
    assert [item.encode() for item in trie.item_ids.to_pylist()] == [item for _, item in rows]
    for sid, item in zip(codes.tolist(), ids, strict=True):
        assert trie.find(item).tolist() == sid  # type: ignore[union-attr]
        start, stop = trie.prefix_range(sid)
        assert [row for row, (other, _) in enumerate(rows) if list(other) == sid] == list(range(start, stop))
        assert trie.lookup(np.array([sid])).tolist() == [start]
    half = draw.random(len(ids)) < 0.5
    part = Trie.build(codes[half], list(np.array(ids, object)[half]), sizes, shared=True)
    grown = part.updated(codes[~half], list(np.array(ids, object)[~half]))
    assert grown.sha256 == trie.sha256
    assert grown.updated(codes[:0], [], list(np.array(ids, object)[~half])).sha256 == part.sha256
    allowed = draw.random(len(ids)) < 0.6
    masks, nodes = TrieMasks.of(trie, allowed), np.zeros(len(rows), np.int64)
    for level in range(len(sizes)):
        nodes = masks.step(level, nodes, np.array([sid[level] for sid, _ in rows], np.int64))
    found, count = masks.items(nodes)
    expected = [[row for row, (other, _) in enumerate(rows) if other == sid and allowed[row]] for sid, _ in rows]
    assert count.tolist() == [len(each) for each in expected]
    assert found.tolist() == [row for each in expected for row in each]


def test_a_file_of_shared_sids_opens_as_it_was(tmp_path: Path) -> None:
    codes, ids = some(50)
    codes = np.repeat(codes[:20], 3, axis=0)[:50]
    trie = Trie.build(codes, ids, SIZES, shared=True)
    trie.write(tmp_path / "sids.trie")
    opened = Trie.open(tmp_path / "sids.trie")
    assert (opened.sizes, opened.shared, len(opened)) == (SIZES, 3, 50)
    assert opened.find("i7").tolist() == codes[7].tolist()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="belongs to both"):
        Trie.build(codes, ids, SIZES)


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.integers(0, 10**6))
def test_an_edge_is_closed_for_a_user_when_all_items_below_are(
    catalogue: tuple[NDArray[np.int32], list[str], tuple[int, ...]], seed: int
) -> None:
    codes, ids, sizes = catalogue
    trie, draw = Trie.build(codes, ids, sizes), np.random.default_rng(seed)
    allowed = draw.random(len(ids)) < 0.8
    masks = TrieMasks.of(trie, allowed)
    user, rows = draw.integers(0, 3, 40), draw.integers(-1, len(ids) + 1, 40)
    gone = set(zip(user.tolist(), rows.tolist(), strict=True))
    sids = {row: tuple(sid) for row, sid in enumerate(trie.codes().tolist()) if allowed[row]}
    nodes: dict[tuple[int, ...], int] = {(): 0}
    for level, closed in enumerate(masks.closed(user, rows)):
        prefix_of = {node: prefix for prefix, node in nodes.items()}
        edges = zip(*(part.tolist() for part in closed), strict=True)
        prefixes = {sid[: level + 1] for sid in sids.values()}
        assert {(who, (*prefix_of[node], code)) for who, node, code in edges} == {
            (who, prefix)
            for who in range(3)
            for prefix in prefixes
            if all((who, row) in gone for row, sid in sids.items() if sid[: level + 1] == prefix)
        }
        assert (np.diff(closed[0] * (len(masks.starts[level]) - 1) + closed[1]) >= 0).all()
        nodes = {prefix: node for node, prefix in enumerate(sorted(prefixes))}


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.integers(0, 10**6), st.lists(st.sampled_from(["stock", "locale", "safe"]), max_size=4))
def test_named_filters_allow_what_is_in_all_of_their_sets(
    catalogue: tuple[NDArray[np.int32], list[str], tuple[int, ...]], seed: int, names: list[str]
) -> None:
    codes, ids, sizes = catalogue
    draw = np.random.default_rng(seed)
    trie = Trie.build(codes, ids, sizes)
    allowed = {name: draw.random(len(ids)) < 0.7 for name in ("stock", "locale", "safe")}
    filters = TrieFilters(trie, allowed)
    masks = filters.masks(*names)
    rows = set(range(len(ids)))
    for name in names:
        rows &= set(np.flatnonzero(allowed[name]).tolist())
    assert set(masks.rows.tolist()) == rows
    sids = [tuple(codes) for row, codes in enumerate(trie.codes().tolist()) if row in rows]
    nodes = {(): 0}
    for level, size in enumerate(sizes):
        for prefix, node in nodes.items():
            follow = {sid[level] for sid in sids if sid[:level] == prefix}
            assert np.flatnonzero(masks.mask(level, np.array([node]))[0]).tolist() == sorted(follow)
        assert size == masks.sizes[level]
        nodes = {prefix: node for node, prefix in enumerate(sorted({sid[: level + 1] for sid in sids}))}
    assert filters.masks(*reversed(names)) is masks  # made once


def test_a_filter_that_is_not_there_is_refused_and_users_go_by_theirs() -> None:
    codes, ids = some(9)
    filters = TrieFilters(Trie.build(codes, ids, SIZES), {"stock": np.ones(9, bool)})
    with pytest.raises(ValueError, match="no filter 'stok'; known filters: stock"):
        filters.masks("stock", "stok")
    groups = by_filter([["stock", "safe"], [], ["safe", "stock", "safe"], ["stock"]])
    assert {names: users.tolist() for names, users in groups.items()} == {
        ("safe", "stock"): [0, 2],
        (): [1],
        ("stock",): [3],
    }


def test_a_filter_of_another_length_is_refused() -> None:
    codes, ids = some(9)
    with pytest.raises(ValueError, match="one boolean per item"):
        TrieMasks.of(Trie.build(codes, ids, SIZES), np.ones(8, bool))


@settings(max_examples=80, deadline=None)
@given(catalogues(), st.data())
def test_an_update_gives_the_bytes_of_a_full_build(
    catalogue: tuple[NDArray[np.int32], list[str], tuple[int, ...]], data: st.DataObject
) -> None:
    codes, ids, sizes = catalogue
    rows = st.sets(st.integers(0, len(ids) - 1)) if ids else st.just(set[int]())
    before, after = sorted(data.draw(rows)), sorted(data.draw(rows))
    trie = Trie.build(codes[before], [ids[row] for row in before], sizes)
    added, removed = sorted(set(after) - set(before)), [ids[row] for row in sorted(set(before) - set(after))]
    updated = trie.updated(codes[added], [ids[row] for row in added], removed)
    assert updated.to_bytes() == Trie.build(codes[after], [ids[row] for row in after], sizes).to_bytes()


def test_an_update_of_wide_sids_that_moves_an_item() -> None:
    codes = np.unique(np.random.default_rng(0).integers(0, 3, (300, 12)), axis=0).astype(np.int32)
    ids, sizes = [f"{row}" * (row % 5) + f"i{row}" for row in range(len(codes))], [1000] * 12
    trie = Trie.build(codes[:200], ids[:200], sizes)
    added = [*ids[201:], ids[7]]
    moved = trie.updated(codes[200:], added, [ids[7], ids[9]])
    kept = [row for row in range(200) if row not in (7, 9)]
    expected = Trie.build(codes[[*kept, *range(200, len(codes))]], [*(ids[row] for row in kept), *added], sizes)
    assert moved.to_bytes() == expected.to_bytes()


def test_an_update_that_cannot_be_is_refused() -> None:
    codes, ids = some(9)
    trie = Trie.build(codes[:6], ids[:6], SIZES)
    with pytest.raises(ValueError, match="belongs to both"):
        trie.updated(codes[:1], ["new"])
    with pytest.raises(ValueError, match="'i0' has more than one SID"):
        trie.updated(codes[6:7], ["i0"])
    with pytest.raises(ValueError, match="'i8' cannot be removed"):
        trie.updated(codes[6:7], ["i6"], ["i1", "i8"])
    with pytest.raises(ValueError, match="at level"):
        trie.updated(np.array([[9, 9, 9]]), ["new"])


@pytest.mark.parametrize("at_once", [7, 1 << 18])
def test_many_items_of_all_lengths_are_found_together(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.trie.trie.FOUND_AT_ONCE", at_once)
    draw = np.random.default_rng(3)
    chosen = draw.choice(64**3, 20_000, replace=False)
    codes = np.stack(np.unravel_index(chosen, (64, 64, 64)), axis=1).astype(np.int32)
    ids = ["é" * (row % 140) + str(row) for row in range(20_000)]
    trie = Trie.build(codes, ids, (64, 64, 64))
    assert trie.arrays["id_lengths"].dtype == np.uint16
    rows = trie.find_rows([*ids, "", "19999x"])
    assert trie.item_ids.take(pa.array(rows[:-2])).to_pylist() == ids
    assert rows[-2:].tolist() == [-1, -1]
    np.testing.assert_array_equal(trie.codes()[rows[:-2]], codes)


def test_an_id_that_ends_like_another_is_not_taken_for_it() -> None:
    trie = Trie.build([[0, 0, 0]], ["a-12345678"], SIZES)  # one item: all ids have its bucket
    assert trie.find("a-12345678") is not None
    assert trie.find("b-12345678") is None


@given(st.lists(st.text(max_size=12), min_size=1))
def test_the_last_bytes_of_ids_are_those_of_each_alone(ids: list[str]) -> None:
    text, offsets = id_text(id_array(ids))
    found = id_index.last_bytes(text, offsets[1:], np.diff(offsets))
    assert found.tolist() == [int.from_bytes(each.encode()[-8:], "little") for each in ids]


def test_the_bytes_do_not_depend_on_the_order_of_items(tmp_path: Path) -> None:
    codes, ids = some()
    trie = Trie.build(codes, ids, SIZES)
    shuffled = np.random.default_rng(1).permutation(len(ids))
    again = Trie.build(codes[shuffled], pa.array([ids[row] for row in shuffled]), SIZES)
    assert again.to_bytes() == trie.to_bytes()
    assert again.sha256 == trie.sha256


def test_codes_beyond_64_bits_sort_like_the_others() -> None:
    draw = np.random.default_rng(0)
    codes = np.unique(draw.integers(0, 3, (300, 12)), axis=0).astype(np.int32)
    ids = [str(row) for row in range(len(codes))]
    wide = Trie.build(codes, ids, [1000] * 12)
    narrow = Trie.build(codes, ids, [3] * 12)
    np.testing.assert_array_equal(wide.codes(), narrow.codes())
    assert wide.item_ids.equals(narrow.item_ids)
    assert (wide.lookup(codes) >= 0).all()


def test_a_trie_survives_its_file(tmp_path: Path) -> None:
    codes, ids = some()
    trie, path = Trie.build(codes, ids, SIZES), tmp_path / "trie.safetensors"
    trie.write(path)
    opened = Trie.open(path)
    Trie.verify(path, trie.sha256)
    assert opened.sha256 == trie.sha256
    assert (len(opened), opened.levels, opened.sizes) == (200, 3, SIZES)
    assert opened.item_ids.equals(trie.item_ids)
    np.testing.assert_array_equal(opened.lookup(codes), trie.lookup(codes))
    assert set(load_file(path)) == set(trie.arrays)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    codes, ids = some()
    trie, path = Trie.build(codes, ids, SIZES), tmp_path / "trie"
    data = trie.to_bytes()
    for length in (0, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(TrieCorrupt):
            Trie.open(path)
    path.write_bytes(data + b"0")
    with pytest.raises(TrieCorrupt):
        Trie.open(path)
    for place in range(0, len(data), 97):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(TrieCorrupt, match="sha256"):
            Trie.verify(path, trie.sha256)


def test_what_cannot_be_indexed_is_refused() -> None:
    codes, ids = some(4)
    with pytest.raises(ValueError, match="belongs to both"):
        Trie.build(codes[[0, 1, 1]], ids[:3], SIZES)
    with pytest.raises(ValueError, match="'i0' has more than one SID"):
        Trie.build(codes[:3], ["i0", "i1", "i0"], SIZES)
    with pytest.raises(ValueError, match="row 0 has code -1 at level 0"):
        Trie.build(np.array([[-1, -1, -1]]), ["a"], SIZES)
    with pytest.raises(ValueError, match="one id per SID"):
        Trie.build(codes, ids[:3], SIZES)
    with pytest.raises(ValueError, match="null"):
        Trie.build(codes[:2], pa.array(["a", None]), SIZES)


def test_ids_whose_hashes_collide_are_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "_ODD", np.uint64(0))
    codes, ids = some(60)
    trie = Trie.build(codes, ids, SIZES)
    for sid, item in zip(codes.tolist(), ids, strict=True):
        found = trie.find(item)
        assert found is not None
        assert found.tolist() == sid
    assert trie.find("zz") is None


def test_slices_of_arrow_arrays_are_indexed_from_their_own_start() -> None:
    codes, ids = some(50)
    sliced = pa.array(["before", *ids, "after"])[1:-1]
    expected = Trie.build(codes, ids, SIZES).to_bytes()
    for given_ids in (sliced, sliced.cast(pa.large_string()), sliced.dictionary_encode(), pa.chunked_array([sliced])):
        assert Trie.build(codes, given_ids, SIZES).to_bytes() == expected
