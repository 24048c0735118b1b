"""Bad input of every kind, each seeded into clean data, is kept from production by a gate; clean nights pass."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shop import CENTRES, DIM, ITEMS, Shop

from conftest import START
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from storage.errors import GateBlocked, QuarantineBudgetExceeded
from storage.releases.releases import read_release


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    everything = range(ITEMS)
    bootstrap(
        shop.lake.uri,
        shop.recipe(shop.vectors("first", everything)),
        [shop.items("first", everything)],
        [shop.log("log", everything, 0)],
    )
    return shop.folder


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Shop:
    shutil.copytree(made, tmp_path / "shop")
    found = Shop(tmp_path / "shop")
    assert found.production == "r-000001"
    assert all(gate.passed for gate in read_release(found.lake, "r-000001").gates)
    return found


def blocked(shop: Shop) -> list[str]:
    """Names of the gates that keep the newest release from production."""
    assert shop.production == "r-000001"
    return [gate.name for gate in shop.newest.blocked_by]


NEW = range(ITEMS, ITEMS + 40)


def test_clean_nights_pass_all_gates(shop: Shop) -> None:
    for night in range(3):
        shop.clean_night(night, 40)
        assert [gate.name for gate in shop.newest.gates if not gate.passed] == []
        assert "outlying_items" in [gate.name for gate in shop.newest.gates]
        assert "behaviour_kept" in [gate.name for gate in shop.newest.gates]
    assert shop.production == "r-000004"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_clean_nights_in_a_row_pass(shop: Shop) -> None:
    for night in range(50):
        shop.clean_night(night, 25)
        assert [gate.name for gate in shop.newest.gates if not gate.passed and gate.severity == "block"] == []
    assert shop.production == "r-000051"


def test_an_encoder_that_was_swapped_under_its_name_is_blocked(shop: Shop) -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0]
    swapped = shop.vectors("swapped", NEW, lambda draw, rows: rows @ rotation)
    with pytest.raises(GateBlocked):
        shop.night(shop.items("new", NEW), vectors=swapped)
    assert blocked(shop) == ["outlying_items"]
    values = {gate.name: (gate.value, gate.passed) for gate in shop.newest.gates}
    assert not values["new_items_distance"][1], "it warns"


def test_a_halved_catalogue_is_blocked(shop: Shop) -> None:
    with pytest.raises(GateBlocked):
        shop.night(shop.items("half", range(ITEMS // 2), deleted=True))
    assert blocked(shop) == ["shrinkage"]


def test_a_catalogue_whose_items_got_other_ids_is_blocked(shop: Shop) -> None:
    renamed = range(ITEMS, ITEMS + ITEMS // 2)
    gone = shop.items("gone", range(ITEMS // 2), deleted=True)
    with pytest.raises(GateBlocked):
        shop.night(gone, shop.items("renamed", renamed), vectors=shop.vectors("renamed", renamed))
    assert blocked(shop) == ["shrinkage"]


def test_a_log_of_another_catalogue_is_blocked(shop: Shop) -> None:
    with pytest.raises((GateBlocked, QuarantineBudgetExceeded)) as stopped:
        shop.night(log=shop.log("joined", range(ITEMS), 1, prefix="x"))
    assert "unknown_item" in str(stopped.value) or blocked(shop) == ["events_without_sid"]


def test_vectors_of_which_half_are_no_numbers_are_blocked(shop: Shop) -> None:
    def spoil(draw: Any, rows: Any) -> Any:
        rows[::2] = np.nan
        return rows

    many = range(ITEMS, ITEMS + 100)
    with pytest.raises(QuarantineBudgetExceeded, match="given_vector_not_finite 50"):
        shop.night(shop.items("new", many), vectors=shop.vectors("spoilt", many, spoil))
    assert shop.production == "r-000001"


def test_vectors_of_other_items_are_blocked(shop: Shop) -> None:
    def shuffled(draw: Any, rows: Any) -> Any:
        return draw.permutation(rows)

    everything = range(ITEMS)
    backfill(shop.lake.uri, shop.recipe(shop.vectors("shuffled", everything, shuffled)))
    assert blocked(shop) == ["behaviour_kept"]
    backfill(shop.lake.uri, shop.recipe(shop.vectors("again", everything), codebook={"levels": [{"codes": 20}] * 3}))
    assert blocked(shop) == []


def test_codes_that_do_not_follow_the_vectors_are_blocked_also_without_a_log(tmp_path: Path) -> None:
    shop, everything = Shop(tmp_path), range(ITEMS)
    recipe = shop.recipe(shop.vectors("first", everything))
    bootstrap(shop.lake.uri, recipe, [shop.items("first", everything)])
    backfill(shop.lake.uri, {**recipe, "codebook": {**recipe["codebook"], "quantizer": "random"}})
    assert blocked(shop) == ["neighbours_kept"]
    backfill(shop.lake.uri, {**recipe, "codebook": {"levels": [{"codes": 16}, {"codes": 16}, {"codes": 20}]}})
    assert blocked(shop) == []


def test_an_old_log_is_told_and_blocks_where_the_recipe_says_so(shop: Shop) -> None:
    (gate,) = [each for each in shop.newest.gates if each.name == "log_age_days"]
    assert gate.value == pytest.approx((shop.newest.as_of - START).total_seconds() / 86_400, abs=1)
    with pytest.raises(GateBlocked):
        shop.night(
            shop.items("new", NEW),
            vectors=shop.vectors("new", NEW),
            setting='gates.log_age_days={limit=2.0, severity="block"}',
        )
    assert blocked(shop) == ["log_age_days"]


def test_a_reason_with_a_limit_of_its_own_stops_the_run_however_few_rows_it_has(shop: Shop) -> None:
    with pytest.raises(QuarantineBudgetExceeded, match=r"given_vector_not_finite .* budget\.reasons"):
        shop.night(
            shop.items("new", NEW),
            vectors=shop.vectors("one", NEW, _spoil_one),
            setting="budget.reasons.given_vector_not_finite=0.01",
        )
    assert shop.production == "r-000001"


def _spoil_one(draw: Any, rows: Any) -> Any:
    rows[0] = np.nan
    return rows


def test_a_codebook_that_collapsed_is_blocked(tmp_path: Path) -> None:
    shop, everything = Shop(tmp_path), range(300)

    def alike(draw: Any, rows: Any) -> Any:
        return CENTRES[np.array(everything) % 2] + 1e-4 * draw.standard_normal(rows.shape)

    recipe = shop.recipe(shop.vectors("alike", everything, alike))
    recipe["codebook"] = {"levels": [{"codes": 32}] * 3, "quantizer": "rq-kmeans", "slack": 40.0}
    with pytest.raises(GateBlocked, match="utilisation"):
        bootstrap(shop.lake.uri, recipe, [shop.items("items", everything)])
