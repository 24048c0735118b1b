"""Leave-last-out: what a benchmark of recommenders trains on, and what it asks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.quality.catalogues import Catalogue

Ints = NDArray[np.int64]
WIDTH = 20
"""Items a recommender names."""
Part = Literal["validation", "test"]
"""Settings are chosen on the validation; the test is asked with settings that stand."""


@dataclass(frozen=True)
class Split:
    """Rows of the catalogue's items that users took, oldest first, less the last two; and those two, (n,) each."""

    catalogue: Catalogue
    train: list[Ints]
    validation: Ints
    test: Ints

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.catalogue.ids)

    @property
    def given(self) -> list[Ints]:
        """What is known of each user at test: all items but the last."""
        return [np.append(rows, row) for rows, row in zip(self.train, self.validation, strict=True)]

    def asked(self, part: Part) -> tuple[list[Ints], Ints]:
        """Histories to go on from, and the row that follows each, (n,): of the validation or of the test."""
        return (self.train, self.validation) if part == "validation" else (self.given, self.test)


Recommend = Callable[[Sequence[Ints], bool], Ints]
"""(n histories, whether to leave out what they hold) -> the WIDTH best items of each, int64 (n, WIDTH), -1 padded."""


def split_of(catalogue: Catalogue) -> Split:
    """Leave-last-out over the users with three events and more. The split's catalogue holds out the same events."""
    histories = [np.array([row for _, row in each], np.int64) for each in catalogue.histories if len(each) > 2]
    return Split(
        catalogue=catalogue.leave_last_out(),
        train=[rows[:-2] for rows in histories],
        validation=np.array([rows[-2] for rows in histories]),
        test=np.array([rows[-1] for rows in histories]),
    )


def say(line: str) -> None:
    """A line about how far it is, as a comment between the tables."""
    print(f"<!-- {line} -->", flush=True)
