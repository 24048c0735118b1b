"""Pseudonyms of users: keyed hashes that take the place of user ids before anything of a log is stored.

Without the key nobody can tell whose pseudonym it is, also not by trying all ids. The lake has a check value of the
key, so that another key, or none, is noticed before it splits the histories of all users.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines.sources.cells import Refused, identifier, read_cell
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.releases.pointers import move_pointer, read_pointer
from storage.texts import Ids

KEY = "SIDMILL_USER_KEY"
MIN_CHARACTERS = 16
"""Characters of a key: with fewer, pseudonyms of known users can be undone by trying all keys."""
POINTER = "user-key"
"""Pointer with the check value of the key that names the users of a lake."""
LEFT_OUT = "the row has no user that can be replaced by a pseudonym, so its values are not kept"
BYTES = 16
"""Length of a pseudonym. Among 10^9 users two have the same one with a probability of 10^-21."""


class UserKeyWrong(SourceError):
    """Raised when the key of pseudonyms is missing, or is not that of the lake."""


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms under one key."""

    key: bytes

    @classmethod
    def of(cls, spec: InteractionsSpec) -> "Pseudonyms | None":
        """Return the pseudonyms that a recipe asks for, with the key of the environment; raise UserKeyWrong."""
        if not spec.pseudonyms:
            return None
        key = os.environ.get(KEY, "")
        if len(key) < MIN_CHARACTERS:
            raise UserKeyWrong(
                f"interactions.pseudonyms needs a key of at least {MIN_CHARACTERS} characters in the environment "
                f"variable {KEY}. Make one with `openssl rand -hex 32`, and keep it: the users of a lake are lost "
                "without it."
            )
        return cls(key.encode())

    def name(self, user: str) -> str:
        """Return the pseudonym of a user: 32 hex digits of the keyed BLAKE2b hash (RFC 7693)."""
        key = hashlib.blake2b(self.key).digest()
        return hashlib.blake2b(user.encode("utf-8", "backslashreplace"), key=key, digest_size=BYTES).hexdigest()

    def names(self, users: pl.Series) -> pl.Series:
        """Return the pseudonyms of users; null stays null."""
        known = users.drop_nulls().unique()
        named = pl.Series([self.name(user) for user in known], dtype=pl.String)
        return users.replace_strict(known, named, default=None, return_dtype=pl.String)

    def of_refused(self, values: dict[str, Any], column: str, detail: str) -> tuple[dict[str, Any], str]:
        """Return the values of a refused row and the detail of the refusal without its user.

        Where the user is not known, because the row has no such cell or it is no id, any value might be the user: then
        none is kept. The source and the number of the row say where they are.
        """
        try:
            user = read_cell(values, column, identifier)
        except Refused:
            user = None
        if user is None:
            return {}, LEFT_OUT
        return {**values, column: self.name(user)}, Ids([user]).without(detail)

    @property
    def check_value(self) -> str:
        """Hash by which the key is recognised."""
        return hmac.new(self.key, b"sidmill users", hashlib.sha256).hexdigest()[:32]


def with_pseudonyms(lake: Lake, users: frozenset[str]) -> frozenset[str]:
    """Return users with their pseudonyms if a lake names its users by such; raise UserKeyWrong without its key."""
    if read_pointer(lake, POINTER).value is None:
        return users
    pseudonyms = Pseudonyms.of(InteractionsSpec(pseudonyms=True))
    require_same_key(lake, pseudonyms, Provenance("", ""))
    return users | {pseudonyms.name(user) for user in users if pseudonyms is not None}


def require_same_key(lake: Lake, pseudonyms: Pseudonyms | None, provenance: Provenance) -> None:
    """Raise UserKeyWrong unless the users of a lake are named as they were so far; the first log decides."""
    pointer = read_pointer(lake, POINTER)
    wanted = None if pseudonyms is None else pseudonyms.check_value
    if pointer.value == wanted:
        return
    if pointer.value is not None:
        told = "asks for none" if wanted is None else f"has another key in {KEY}"
        raise UserKeyWrong(
            f"the users of the lake {lake.uri} are named by pseudonyms, and this run {told}. Set "
            f"interactions.pseudonyms = true and the former {KEY}; otherwise everybody would become another user."
        )
    if lake.rows("interactions"):
        raise UserKeyWrong(
            f"the lake {lake.uri} has events with user ids as they were delivered, and interactions.pseudonyms would "
            "name the same users differently. Begin a new lake, or leave interactions.pseudonyms out."
        )
    move_pointer(lake, pointer, wanted, "the key of pseudonyms", provenance)
