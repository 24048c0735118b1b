"""Every gate of releases that comes with sidmill passes a clean night or refit, and blocks a bad input of its own."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shop import DIM, ITEMS, THEMES, Shop

from conftest import START
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.gates.registry import GATES
from storage.errors import GateBlocked
from storage.releases.manifest import Gate

EVERYTHING, NEW, SOME = range(ITEMS), range(ITEMS, ITEMS + 40), range(8 * THEMES)
LIMITS = {"log_age_days": 3.0, "collision_rate": 0.01}
"""Limits that differ from the default, which holds in any shop or allows no codebook that could fail."""
CODEBOOK: dict[str, Any] = {"levels": [{"codes": 16}] * 3, "growth": 3.0}


def blocking(name: str) -> dict[str, Any]:
    return {"limit": LIMITS.get(name, GATES.get(name).limit), "severity": "block"}


def night(shop: Shop, name: str, *items: str, **others: Any) -> None:
    """Run a night in which one gate blocks."""
    gate = blocking(name)
    with pytest.raises(GateBlocked):
        shop.night(*items, setting=f'gates.{name}={{limit={gate["limit"]}, severity="block"}}', **others)


def new_fit(shop: Shop, name: str, vectors: str, **sections: Any) -> None:
    """Make a candidate with a codebook of its own, in which one gate blocks."""
    given = {"codebook": CODEBOOK, "gates": {name: blocking(name)}, **sections}
    backfill(shop.lake.uri, shop.recipe(vectors, **given))


def shuffled(draw: Any, rows: Any) -> Any:
    return draw.permutation(rows)


def codes_that_items_share(shop: Shop, name: str) -> None:
    few = {"levels": [{"codes": 16}] * 2, "collision": "keep", "slack": 10.0}
    new_fit(shop, name, shop.vectors("again", EVERYTHING), codebook=few)


def vectors_of_two_kinds(shop: Shop, name: str) -> None:
    def alike(draw: Any, rows: Any) -> Any:
        return rows[np.arange(len(rows)) % 2] + 1e-4 * draw.standard_normal(rows.shape)

    wide = {"levels": [{"codes": 32}] * 3, "slack": 40.0}
    new_fit(shop, name, shop.vectors("alike", EVERYTHING, alike), codebook=wide)


def so_many_equal_vectors_that_no_code_near_them_is_left(shop: Shop, name: str) -> None:
    """What an encoder makes of empty texts."""
    many = range(ITEMS, 3 * ITEMS - 10)
    equal = shop.vectors("equal", many, lambda draw, rows: np.tile(rows.mean(axis=0), (len(rows), 1)))
    night(shop, name, shop.items("new", many), vectors=equal)


def a_catalogue_of_which_half_is_deleted(shop: Shop, name: str) -> None:
    night(shop, name, shop.items("half", range(ITEMS // 2), deleted=True))


def a_log_of_deleted_items(shop: Shop, name: str) -> None:
    shop.night(shop.items("gone", SOME, deleted=True))
    night(shop, name, log=shop.log("late", SOME, 1))


def vectors_that_changed(shop: Shop, name: str) -> None:
    night(shop, name, vectors=shop.vectors("changed", range(ITEMS // 3), shuffled))


def more_items_than_planned(shop: Shop, name: str) -> None:
    many = range(ITEMS, 2 * ITEMS + 900)
    night(shop, name, shop.items("new", many), vectors=shop.vectors("new", many))


def a_refit_to_vectors_of_other_items(shop: Shop, name: str) -> None:
    new_fit(shop, name, shop.vectors("shuffled", EVERYTHING, shuffled), refit={"budget": 0.5, "steps": 2})


def vectors_of_another_encoder(shop: Shop, name: str) -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0]
    rotated = shop.vectors("rotated", NEW, lambda draw, rows: rows @ rotation)
    night(shop, name, shop.items("new", NEW), vectors=rotated)


def vectors_with_an_offset(shop: Shop, name: str) -> None:
    night(shop, name, shop.items("new", NEW), vectors=shop.vectors("offset", NEW, lambda draw, rows: rows + 2.0))


def a_fit_to_vectors_of_other_items(shop: Shop, name: str) -> None:
    new_fit(shop, name, shop.vectors("shuffled", EVERYTHING, shuffled))


def codes_drawn_by_lot(shop: Shop, name: str) -> None:
    new_fit(shop, name, shop.vectors("again", EVERYTHING), codebook={**CODEBOOK, "quantizer": "random"})


def a_log_that_ended_long_ago(shop: Shop, name: str) -> None:
    night(shop, name, shop.items("new", NEW), log=shop.log("old", EVERYTHING, 1), vectors=shop.vectors("new", NEW))


def most_events_on_items_that_are_deleted(shop: Shop, name: str) -> None:
    """Of the events before the cutoff, more than half are on a twelfth of the items, which then go."""
    for day in range(1, 5):
        shop.night(log=shop.log(f"day-{day}", SOME, day))
    night(shop, name, shop.items("gone", SOME, deleted=True))


BAD_INPUTS: dict[str, Callable[[Shop, str], None]] = {
    "collision_rate": codes_that_items_share,
    "utilisation": vectors_of_two_kinds,
    "relative_error": so_many_equal_vectors_that_no_code_near_them_is_left,
    "shrinkage": a_catalogue_of_which_half_is_deleted,
    "events_without_sid": a_log_of_deleted_items,
    "drifted_items": vectors_that_changed,
    "capacity_used": more_items_than_planned,
    "churn": a_refit_to_vectors_of_other_items,
    "outlying_items": vectors_of_another_encoder,
    "behaviour_kept": a_fit_to_vectors_of_other_items,
    "neighbours_kept": codes_drawn_by_lot,
    "new_items_distance": vectors_of_another_encoder,
    "log_age_days": a_log_that_ended_long_ago,
    "mean_drift": vectors_with_an_offset,
    "log_coverage": most_events_on_items_that_are_deleted,
}
OURS = [name for name, member in GATES.members.items() if member.ours]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    recipe = shop.recipe(shop.vectors("first", EVERYTHING), codebook=CODEBOOK)
    bootstrap(shop.lake.uri, recipe, [shop.items("first", EVERYTHING)], [shop.log("log", EVERYTHING, 0)])
    return shop.folder


@pytest.fixture(scope="module")
def clean(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gate]:
    """The gates of a clean night, whose log is of yesterday, and those that only a refit has."""
    folder = tmp_path_factory.mktemp("clean") / "shop"
    shutil.copytree(made, folder)
    shop, yesterday = Shop(folder), (datetime.now(UTC) - START).days - 1
    log = shop.log("log-1", EVERYTHING, yesterday)
    shop.night(shop.items("new", NEW), log=log, vectors=shop.vectors("new", NEW))
    night = shop.newest.gates
    backfill(shop.lake.uri, shop.recipe(shop.vectors("again", range(NEW.stop)), codebook=CODEBOOK, refit={}))
    return {gate.name: gate for gate in (*shop.newest.gates, *night)}


def test_every_gate_has_a_bad_input() -> None:
    assert list(BAD_INPUTS) == OURS


@pytest.mark.parametrize("name", OURS)
def test_a_gate_passes_clean_input_and_blocks_its_bad_input(
    made: Path, clean: dict[str, Gate], tmp_path: Path, name: str
) -> None:
    limit, value = blocking(name)["limit"], clean[name].value
    assert value >= limit if GATES.get(name).at_least else value <= limit
    shutil.copytree(made, tmp_path / "shop")
    shop = Shop(tmp_path / "shop")
    BAD_INPUTS[name](shop, name)
    assert name in [gate.name for gate in shop.newest.blocked_by]
    assert shop.newest.id != shop.production
