"""Bad input of every kind, each seeded into clean data, is kept from production by a gate; clean nights pass."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from conftest import START
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from storage.errors import GateBlocked, QuarantineBudgetExceeded
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.releases import published, read_release, releases

DIM, THEMES, ITEMS, USERS = 16, 12, 1_200, 120
CENTRES = np.random.default_rng(7).standard_normal((THEMES, DIM))


class Shop:
    """Items of some themes with vectors near that of their theme, and users who stay with one theme."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lake = folder, Lake(str(folder / "lake"))

    def items(self, name: str, numbers: range, deleted: bool = False) -> str:
        path = self.folder / f"{name}.csv"
        rows = [f"i{number:05d},item {number},{str(deleted).lower()}" for number in numbers]
        path.write_text("\n".join(["item_id,title,deleted", *rows]) + "\n")
        return str(path)

    def vectors(self, name: str, numbers: range, change: Callable[[Any, Any], Any] = lambda draw, rows: rows) -> str:
        """Write vectors; `change` gets a generator and the vectors (N, DIM) of the items in order."""
        draw = np.random.default_rng(numbers.start)
        rows = CENTRES[np.array(numbers) % THEMES] + 0.3 * draw.standard_normal((len(numbers), DIM))
        path = self.folder / f"{name}.parquet"
        ids = [f"i{number:05d}" for number in numbers]
        pl.DataFrame({"item_id": ids, "vector": change(draw, rows).tolist()}).write_parquet(path)
        return str(path)

    def log(self, name: str, numbers: range, day: int, prefix: str = "i") -> str:
        draw = np.random.default_rng(day)
        rows = ["user_id,item_id,event_time"]
        for user in range(USERS):
            own = [number for number in numbers if number % THEMES == user % THEMES]
            for step, number in enumerate(draw.choice(own, 20)):
                when = START + timedelta(days=day, minutes=user, seconds=step)
                rows.append(f"u{user},{prefix}{number:05d},{when.isoformat()}")
        path = self.folder / f"{name}.csv"
        path.write_text("\n".join(rows) + "\n")
        return str(path)

    def recipe(self, vectors: str, **sections: Any) -> dict[str, Any]:
        return {
            "items": {"deleted": "deleted"},
            "vectors": {"mine": {"path": vectors}},
            "fusion": {"method": "concat", "dim": DIM},
            "codebook": {"levels": [{"codes": 16}, {"codes": 16}, {"codes": 16}]},
            "split": {"holdout": 0.5},
            "compute": {"in_process_below": 1_000_000},
            **sections,
        }

    def night(
        self, *items: str, log: str | None = None, vectors: str | None = None, setting: str = "", **others: Any
    ) -> dict[str, Any]:
        overrides = [f"vectors.mine.path={vectors}"] if vectors else []
        overrides += [setting] if setting else []
        found: dict[str, Any] = nightly(
            self.lake.uri, None, [*items], [log] if log else [], overrides=overrides, **others
        )
        return found

    def clean_night(self, night: int, items: int) -> None:
        """Run a night of so many new items, which no earlier night brought, and a day's log."""
        numbers = range(ITEMS + items * night, ITEMS + items * (night + 1))
        name = f"night-{night}"
        self.night(
            self.items(name, numbers),
            log=self.log(f"{name}-log", range(ITEMS), night + 1),
            vectors=self.vectors(name, numbers),
        )

    @property
    def newest(self) -> Manifest:
        return releases(self.lake)[-1]

    @property
    def production(self) -> str:
        current = published(self.lake)
        assert current is not None
        return current.release


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
