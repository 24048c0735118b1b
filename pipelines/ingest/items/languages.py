"""Choice of one language in cells that hold several."""

import re
from collections.abc import Sequence
from typing import Any

TAG = re.compile(r"[A-Za-z]{2}([-_][A-Za-z0-9]{2,8})*")
"""Language tag: two letters, with or without a region or a script: `en`, `pt_BR`, `zh-Hant`."""


def in_language(value: Any, languages: Sequence[str]) -> Any:
    """Return a cell's value in the first of `languages` that it has, else in its alphabetically first tag.

    Such a cell is an object or Parquet map from tags to values, or a list of objects with `language_tag` and `value`
    (Amazon Berkeley Objects), which may repeat a language. `en` also matches `en_GB`, `en-US`, .... A cell without a
    value in any language gives None; any other cell is returned unchanged.
    """
    known = _by_tag(value)
    if known is None:
        return value
    if not known:
        return None
    tags = sorted(known)
    wanted = [tag for language in languages for tag in tags if _is_of(tag, language)]
    return known[[*wanted, *tags][0]]


def _is_of(tag: str, language: str) -> bool:
    tag, language = (name.lower().replace("_", "-") for name in (tag, language))
    return tag == language or tag.startswith(f"{language}-")


def _by_tag(value: Any) -> dict[str, Any] | None:
    """Return the non-empty values by tag; None if the cell is of no such kind."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and value and all(isinstance(each, tuple) and len(each) == 2 for each in value):
        pairs = value
    elif isinstance(value, list) and value and all(_is_tagged(each) for each in value):
        several: dict[str, list[Any]] = {}
        for each in value:
            several.setdefault(str(each["language_tag"]), []).append(each["value"])
        pairs = [(tag, found[0] if len(found) == 1 else found) for tag, found in several.items()]
    else:
        return None
    if not all(isinstance(tag, str) and TAG.fullmatch(tag) for tag, _ in pairs):
        return None
    return {tag: found for tag, found in pairs if found not in (None, "", [])}


def _is_tagged(each: Any) -> bool:
    return isinstance(each, dict) and {"language_tag", "value"} <= set(each)
