"""Leave-last-out split: the training data and the targets of a benchmark of recommenders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.quality.catalogues import Catalogue
from tokenizer.arrays.types import Ints

WIDTH = 20
"""Items that a recommender returns."""
Part = Literal["validation", "test"]
"""Settings are chosen on the validation; the test is used with fixed settings."""


@dataclass(frozen=True)
class Split:
    """Rows of the items that users took, oldest first, without the last two; and those two, (n,) each."""

    catalogue: Catalogue
    train: list[Ints]
    validation: Ints
    test: Ints

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.catalogue.ids)

    @property
    def given(self) -> list[Ints]:
        """Known items of each user at test: all but the last."""
        return [np.append(rows, row) for rows, row in zip(self.train, self.validation, strict=True)]

    def asked(self, part: Part) -> tuple[list[Ints], Ints]:
        """Return histories and the row that follows each, (n,), of the validation or of the test."""
        return (self.train, self.validation) if part == "validation" else (self.given, self.test)


Recommend = Callable[[Sequence[Ints], bool], Ints]
"""(n histories, whether to leave out their items) -> the WIDTH best items of each, int64 (n, WIDTH), -1 padded."""


def split_of(catalogue: Catalogue) -> Split:
    """Split users with at least three events leave-last-out. The split's catalogue holds out the same events."""
    histories = [np.array([row for _, row in each], np.int64) for each in catalogue.histories if len(each) > 2]
    return Split(
        catalogue=catalogue.leave_last_out(),
        train=[rows[:-2] for rows in histories],
        validation=np.array([rows[-2] for rows in histories]),
        test=np.array([rows[-1] for rows in histories]),
    )


def say(line: str) -> None:
    """Print a line of progress, as a comment between the tables."""
    print(f"<!-- {line} -->", flush=True)
