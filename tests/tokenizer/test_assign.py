"""SIDs that are unique, within capacity, and never move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import checked_items
from tokenizer.assign import (
    Assignment,
    Occupancy,
    Status,
    _Batch,
    _level_by_level,
    _place_stuck,
    assign_sids,
    checked_sids,
)
from tokenizer.balancing.assign_level import room_left
from tokenizer.codebook import Codebook
from tokenizer.fit import fit_codebook as fit
from tokenizer.spec import CodebookSpec, LevelSpec


def catalogue(items: int, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    draw = np.random.default_rng(seed)
    vectors = np.repeat(draw.normal(size=(items // 3 + 1, 4)), 3, axis=0)[:items]
    vectors[::2] += 0.1 * draw.normal(size=vectors[::2].shape)
    return vectors.astype(np.float32), [f"item-{row}" for row in range(items)]


def fitted(items: int, *codes: int, slack: float = 1.5, growth: float = 2.0) -> Codebook:
    vectors, ids = catalogue(items)
    levels = tuple(LevelSpec(codes=size) for size in codes)
    return fit({"fused": vectors}, ids, CodebookSpec(levels=levels, iterations=3, slack=slack, growth=growth))


TIGHT = fitted(60, 4, 5, 6, slack=1.0, growth=1.5)
ROOMY = fitted(60, 8, 8, 8)


def assert_lawful(codebook: Codebook, published: NDArray[np.int32]) -> None:
    assert len(np.unique(published, axis=0)) == len(published)
    for level, capacity in enumerate(codebook.capacity):
        assert np.bincount(published[:, level], minlength=1).max(initial=0) <= capacity


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["tight", "roomy"]), st.lists(st.integers(0, 30), max_size=6), st.integers(0, 10**6))
def test_published_sids_never_move_over_the_nights(kind: str, nights: list[int], seed: int) -> None:
    codebook = TIGHT if kind == "tight" else ROOMY
    vectors, ids = catalogue(180, seed)
    draw = np.random.default_rng(seed)
    published, start = Occupancy.empty(codebook.levels).codes, 0
    for night in nights:
        rows, order = np.arange(start, start + night), draw.permutation(night)
        start += night
        result = assign_rows(codebook, vectors, ids, rows, published)
        again = assign_rows(codebook, vectors, ids, rows[order], draw.permutation(published))
        np.testing.assert_array_equal(result.codes[order], again.codes)
        got = result.codes[result.status != Status.REFIT_DUE]
        assert (result.codes[result.status == Status.REFIT_DUE] == -1).all()
        published = np.concatenate([published, got])
        assert_lawful(codebook, published)


def assign_rows(
    codebook: Codebook,
    vectors: NDArray[np.float32],
    ids: list[str],
    rows: NDArray[np.int64],
    taken: NDArray[np.int32],
) -> Assignment:
    return assign_sids(codebook, {"fused": vectors[rows]}, [ids[row] for row in rows], Occupancy(taken))


def test_an_empty_batch_gives_an_empty_assignment() -> None:
    result = assign_sids(ROOMY, {"fused": np.empty((0, 4), np.float32)}, [], Occupancy.empty(3))
    assert result.codes.shape == (0, 3)
    assert result.relative_error == 0.0


def test_items_without_rivals_keep_their_raw_codes() -> None:
    vectors, ids = catalogue(60)
    result = assign_rows(ROOMY, vectors, ids, np.arange(60), Occupancy.empty(3).codes)
    same = (result.codes == result.raw_codes).all(axis=1)
    np.testing.assert_array_equal(same, result.status == Status.ASSIGNED)
    _, first, count = np.unique(result.raw_codes, axis=0, return_index=True, return_counts=True)
    assert same[first[count == 1]].all()
    assert (~same).any()


def test_one_of_those_who_want_a_free_sid_keeps_it() -> None:
    vectors, ids = catalogue(60)
    result = assign_rows(ROOMY, vectors, ids, np.arange(60), Occupancy.empty(3).codes)
    for sid in np.unique(result.raw_codes, axis=0):
        group = np.flatnonzero((result.raw_codes == sid).all(axis=1))
        assert np.count_nonzero(result.status[group] == Status.ASSIGNED) == 1


def test_a_lone_item_takes_the_nearest_free_code_of_its_prefix() -> None:
    vectors, ids = catalogue(1, seed=9)
    raw = assign_rows(ROOMY, vectors, ids, np.arange(1), Occupancy.empty(3).codes).codes
    left = vectors[0] - ROOMY.arrays["level0"][raw[0, 0]] - ROOMY.arrays["level1"][raw[0, 1]]
    order = np.argsort(np.square(ROOMY.arrays["level2"] - left).sum(axis=1), kind="stable")
    taken = np.array([[*raw[0, :2], code] for code in order[:4]], np.int32)
    result = assign_rows(ROOMY, vectors, ids, np.arange(1), taken)
    assert result.codes[0].tolist() == [*raw[0, :2].tolist(), int(order[4])]
    assert Status(result.status[0]).label == "relocated"


def test_a_full_prefix_sends_items_outward() -> None:
    vectors, ids = catalogue(1, seed=9)
    raw = assign_rows(ROOMY, vectors, ids, np.arange(1), Occupancy.empty(3).codes).codes[0]
    taken = np.array([[raw[0], raw[1], code] for code in range(8)], np.int32)
    found = assign_rows(ROOMY, vectors, ids, np.arange(1), taken).codes[0]
    left = vectors[0] - ROOMY.arrays["level0"][raw[0]]
    second = np.argsort(np.square(ROOMY.arrays["level1"] - left).sum(axis=1), kind="stable")[1]
    assert found[:2].tolist() == [raw[0], second]


def test_a_full_code_space_is_refit_due() -> None:
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in TIGHT.sizes)), axis=-1).reshape(-1, 3).astype(np.int32)
    vectors, ids = catalogue(10)
    result = assign_rows(TIGHT, vectors, ids, np.arange(10), grid)
    assert (result.codes == -1).all()
    assert {Status(value).label for value in result.status} == {"refit due"}


def test_capacity_goes_to_as_many_as_there_is_room_for() -> None:
    """One level without slack: 90 planned places, 100 items ask."""
    codebook = fitted(60, 90, slack=1.0, growth=1.5)
    vectors, ids = catalogue(100)
    result = assign_rows(codebook, vectors, ids, np.arange(100), Occupancy.empty(1).codes)
    assert np.count_nonzero(result.status == Status.REFIT_DUE) == 10
    assert_lawful(codebook, result.codes[result.codes[:, 0] >= 0])


def test_wide_code_spaces_beyond_64_bits_work() -> None:
    codebook = fitted(60, *([8] * 24))
    vectors, ids = catalogue(60)
    result = assign_rows(codebook, vectors, ids, np.arange(60), Occupancy.empty(24).codes)
    assert_lawful(codebook, result.codes)
    again = assign_rows(codebook, vectors, [f"{item}-copy" for item in ids], np.arange(60), result.codes)
    assert_lawful(codebook, np.concatenate([result.codes, again.codes]))


def test_repeated_ids_and_foreign_occupancy_are_refused() -> None:
    vectors, _ = catalogue(2)
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        assign_sids(ROOMY, {"fused": vectors}, ["a", "a"], Occupancy.empty(3))
    with pytest.raises(ValueError, match="row 0 has code 8 at level 1"):
        assign_sids(ROOMY, {"fused": vectors}, ["a", "b"], Occupancy(np.array([[0, 8, 0]], np.int32)))
    with pytest.raises(ValueError, match=r"of shape \(SIDs, 3\)"):
        assign_sids(ROOMY, {"fused": vectors}, ["a", "b"], Occupancy.empty(2))


STUCK_SEEDS = range(12)


def stuck_batch(seed: int) -> tuple[_Batch, NDArray[np.int32], NDArray[np.int32]]:
    """A batch of which some items found no SID level by level, its codes, and the SIDs that were taken before."""
    draw = np.random.default_rng(seed)
    every = np.array(list(np.ndindex(4, 5, 6)), np.int32)
    taken = np.zeros((0, 3), np.int32)
    for sid in draw.permutation(every)[:40]:
        more = np.concatenate([taken, sid[None]])
        if all(np.bincount(more[:, level]).max() <= most for level, most in enumerate(TIGHT.capacity)):
            taken = more
    vectors, ids = catalogue(45, seed)
    vectors[:, 1:] *= 0.01  # items that want the same codes
    items = checked_items({"fused": vectors}, ids, ["fused"], LOCAL_THREADS)
    batch = _Batch(TIGHT, items, room_left(TIGHT.capacity, Occupancy(taken).load(TIGHT)), LOCAL_THREADS)
    codes = np.full((len(items), 3), -1, np.int32)
    _level_by_level(batch, codes, 0, taken)
    return batch, codes, taken


def test_items_that_are_stuck_move_no_other_and_wait_only_where_no_sid_is_left() -> None:
    stuck = 0
    for seed in STUCK_SEEDS:
        batch, codes, taken = stuck_batch(seed)
        before, placed = codes.copy(), codes[:, -1] >= 0
        stuck += int((~placed).sum())
        _place_stuck(batch, codes, taken)
        np.testing.assert_array_equal(codes[placed], before[placed])
        done = codes[:, -1] >= 0
        published = np.concatenate([taken, codes[done]])
        assert_lawful(TIGHT, published)
        for level, left in enumerate(room_left(TIGHT.capacity, Occupancy(published).load(TIGHT))):
            np.testing.assert_array_equal(batch.room[level], left)
        if not done.all():
            used = [np.bincount(published[:, level], minlength=size) for level, size in enumerate(TIGHT.sizes)]
            held = {tuple(sid) for sid in published.tolist()}
            for sid in np.ndindex(*TIGHT.sizes):
                full = any(used[level][code] >= TIGHT.capacity[level] for level, code in enumerate(sid))
                assert full or sid in held
    assert stuck > len(STUCK_SEEDS)


def test_sids_from_elsewhere_are_taken_as_they_are_and_refused_where_they_break_a_rule() -> None:
    vectors, ids = catalogue(6)
    codes = np.array([[0, 0, 0], [0, 0, 1], [1, 2, 3], [-1, -1, -1], [2, 0, 0], [3, 4, 5]], np.int32)
    taken = np.array([[0, 0, 2]], np.int32)

    def checked(book: Codebook, given: NDArray[np.int32]) -> Assignment:
        return checked_sids(book, {"fused": vectors[: len(given)]}, ids[: len(given)], Occupancy(taken), given)

    found = checked(TIGHT, codes)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_array_equal(found.raw_codes, codes)
    waiting = [Status.ASSIGNED] * 3 + [Status.REFIT_DUE] + [Status.ASSIGNED] * 2
    assert [Status(each) for each in found.status] == waiting
    for wrong in ([[0, 0, 2]], [[1, 1, 1], [1, 1, 1]], [[3, 4, 5], [0, 1, 0], [3, 4, 5]]):
        with pytest.raises(ValueError, match=f"the SIDs given for {len(wrong)} items"):
            checked(TIGHT, np.array(wrong, np.int32))
    shared = fit(
        {"fused": catalogue(60)[0]},
        catalogue(60)[1],
        CodebookSpec(levels=tuple(LevelSpec(codes=size) for size in (4, 5, 6)), iterations=3, collision="keep"),
    )
    repeated = np.array([[0, 0, 2], [0, 0, 2]], np.int32)
    np.testing.assert_array_equal(checked(shared, repeated).codes, repeated)
    vectors, ids = catalogue(120)
    most = np.array([[0, code % 5, code % 6] for code in range(30) if code != 20], np.int32)[: TIGHT.capacity[0] - 1]
    assert Occupancy(np.concatenate([taken, most])).load(TIGHT)[0][0] == TIGHT.capacity[0]
    np.testing.assert_array_equal(checked(TIGHT, most).codes, most)
    over = np.array([sid for sid in np.ndindex(4, 5, 6) if sid[0] == 0], np.int32)
    assert len(over) > TIGHT.capacity[0]
    with pytest.raises(ValueError, match="exceed a capacity"):
        checked(TIGHT, over[~(over == taken[0]).all(axis=1)])


@pytest.mark.parametrize("collision", ["suffix", "item", "keep"])
def test_items_without_room_have_no_code_at_all(collision: str) -> None:
    vectors, ids = catalogue(40)
    settings_of = {"collision": collision, "slack": 1.0, "growth": 1.0, "iterations": 2}
    spec = CodebookSpec.model_validate({"levels": [{"codes": 3}, {"codes": 2}], **settings_of})
    book = fit({"fused": vectors[:7]}, ids[:7], spec)  # 3 codes for 3 items each, then 2 codes for 4 each
    found = assign_sids(book, {"fused": vectors}, ids, Occupancy.empty(len(book.sizes)))
    waits = found.status == Status.REFIT_DUE
    assert waits.any()
    assert (found.codes[waits] == -1).all()
    assert (found.raw_codes[waits] == -1).all()
    assert (found.codes[~waits] >= 0).all()


@pytest.mark.parametrize("collision", ["suffix", "item"])
def test_a_token_after_the_codes_makes_sids_unique_and_counts_on_from_those_taken(collision: str) -> None:
    vectors, ids = catalogue(30)
    spec = CodebookSpec.model_validate(
        {"levels": [{"codes": 3}, {"codes": 2}], "collision": collision, "iterations": 2, "balanced": False}
    )
    book = fit({"fused": vectors}, ids, spec)
    first = assign_sids(book, {"fused": vectors[:20]}, ids[:20], Occupancy.empty(len(book.sizes)))
    later = assign_sids(book, {"fused": vectors[20:]}, ids[20:], Occupancy(first.codes))
    sids = np.concatenate([first.codes, later.codes])
    assert len(np.unique(sids, axis=0)) == 30
    assert len(np.unique(sids[:, :-1], axis=0)) <= 6, "the codes are those of the levels"
    groups = {tuple(codes): sids[(sids[:, :-1] == codes).all(axis=1), -1] for codes in np.unique(sids[:, :-1], axis=0)}
    if collision == "suffix":
        assert all(sorted(tokens) == list(range(len(tokens))) for tokens in groups.values())
    else:
        assert sorted(sids[:, -1]) == list(range(30))
    assert later.codes[:, -1].max() > first.codes[:, -1].max() - 1
