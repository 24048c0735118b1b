"""Policies for items whose codes are taken: a constant for each name that a recipe may give as `codebook.collision`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Collision = Literal["relocate", "suffix", "item", "keep"]


@dataclass(frozen=True)
class CollisionPolicy:
    """Treatment of items whose codes are taken.

    With `relocates` an item gets other codes, which are free. With `token` a number after the codes makes the SID
    unique: it counts the items of a SID ("per SID") or all items ("per item"). With neither, items share a SID.
    """

    relocates: bool = False
    token: Literal["per SID", "per item"] | None = None

    @property
    def shares(self) -> bool:
        """True if items may share a SID."""
        return not self.relocates and self.token is None

    def token_codes(self, suffix_codes: int, planned_items: int) -> int | None:
        """Return the number of values of the token, or None if there is no token."""
        if self.token is None:
            return None
        return suffix_codes if self.token == "per SID" else planned_items


POLICIES: Mapping[Collision, CollisionPolicy] = {
    "relocate": CollisionPolicy(relocates=True),
    "suffix": CollisionPolicy(token="per SID"),
    "item": CollisionPolicy(token="per item"),
    "keep": CollisionPolicy(),
}
