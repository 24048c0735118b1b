"""A shop whose clean data bad input is seeded into: items of some themes, and users who stay with one theme."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from conftest import START
from flows.nightly import nightly
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.releases import published, releases

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
