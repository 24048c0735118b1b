"""Ids in free text (messages, refused rows, records), from which they are taken out."""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

ERASED = "[erased]"
SHORT = 4
"""Ids of fewer characters are looked for in quotes only: `1` is part of most messages."""


class Ids:
    """Ids to take out of texts. An id is found as a word of its own, or as a value of a JSON text."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = frozenset(ids)

    @cached_property
    def _words(self) -> re.Pattern[str]:
        longest_first = sorted(self.ids, key=lambda each: (-len(each), each))
        words = [re.escape(each) for each in longest_first if len(each) >= SHORT]
        quoted = [re.escape(each) for each in longest_first if len(each) < SHORT]
        parts = [rf"(?<!\w)(?:{'|'.join(words)})(?!\w)"] if words else []
        parts += [rf"(?<=')(?:{'|'.join(quoted)})(?=')", rf'(?<=")(?:{"|".join(quoted)})(?=")'] if quoted else []
        return re.compile("|".join(parts) or r"(?!)")

    def without(self, text: str) -> str:
        """Return a message without the ids."""
        return self._words.sub(ERASED, text)

    def without_in_json(self, text: str) -> str:
        """Return a JSON text without the ids in its texts; numbers stay, since they count something. Other texts are
        taken for messages.
        """
        try:
            stored = json.loads(text)
        except ValueError:
            return self.without(text)
        bare = self._bare(stored)
        return text if bare == stored else json.dumps(bare, sort_keys=True)

    def _bare(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._bare(name): self._bare(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._bare(each) for each in value]
        if isinstance(value, str):
            return ERASED if value in self.ids else self.without(value)
        return value

    def within(self, payload: str) -> bool:
        """Return whether a refused row holds one of the ids, as a word or as a value, numbers included."""
        if self.without(payload) != payload:
            return True
        try:
            return self._holds(json.loads(payload))
        except ValueError:
            return False

    def _holds(self, value: Any) -> bool:
        if isinstance(value, dict):
            return any(map(self._holds, [*value, *value.values()]))
        if isinstance(value, list):
            return any(map(self._holds, value))
        return str(value) in self.ids
