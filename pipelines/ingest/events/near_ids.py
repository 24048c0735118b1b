"""Unknown ids that differ from a catalogue id only in spelling: zeros, `.0`, quotes, blanks, case.

Only the other spellings of a few unknown ids are looked up, so the check costs nothing if every id is known.
"""

import re
import unicodedata
from collections.abc import Callable, Collection

# Most unknown ids that are checked.
ASKED = 50
# Most digits to which an id is padded with zeros.
LONGEST = 18
_PYTHON_BYTES = re.compile(r"b'(.*)'|b\"(.*)\"", re.DOTALL)
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+")
Spelling = tuple[str, str]
"""Another spelling of an id, and the difference."""


def near_ids(unknown: Collection[str], known: Callable[[set[str]], set[str]]) -> dict[str, str]:
    """Return {id: hint} for those of the first ASKED unknown ids that the catalogue has in another spelling.

    `known` returns those of some ids that the catalogue has.
    """
    spellings = {item: other_spellings(item) for item in list(dict.fromkeys(unknown))[:ASKED]}
    wanted = {name for found in spellings.values() for name, _ in found}
    existing = known(wanted) if wanted else set()
    hints = {}
    for item, found in spellings.items():
        match = next(((name, what) for name, what in found if name in existing), None)
        if match:
            hints[item] = f"the catalogue has {match[0]!r}, which differs in {match[1]} alone"
    return hints


def other_spellings(item: str) -> list[Spelling]:
    """Return other spellings that the catalogue may use for an id, the likeliest first."""
    found: list[Spelling] = []
    wrapped = _PYTHON_BYTES.fullmatch(item)
    bare = (wrapped[1] or wrapped[2] or "") if wrapped else item
    what = "b'...' around it" if wrapped else ""
    if wrapped:
        found.append((bare, what))
    whole = re.sub(r"\.0+$", "", bare)
    for name, change in ((whole, "a .0 behind it"), (f"{bare}.0", "a .0 behind it")):
        found.append((name, _both(what, change)))
    ending = _both(what, "a .0 behind it" if whole != bare else "")
    if whole.isdecimal():
        stripped = whole.lstrip("0") or "0"
        padded = [stripped.zfill(width) for width in range(len(stripped), LONGEST + 1)]
        found += [(name, _both(ending, "zeros in front")) for name in padded]
    closed = "".join(bare.split())
    seen = "".join(character for character in closed if character.isprintable())
    found += [
        (closed, "blanks"),
        (" ".join(bare.split()), "blanks"),
        (seen, "characters that are not seen"),
        (bare.strip("'\"`"), "quotes around it"),
        (_as_value(bare), '="..." of a spreadsheet around it'),
        (f'="{bare}"', '="..." of a spreadsheet around it'),
        (bare.replace(",", "") if _GROUPED.fullmatch(bare) else "", "commas between thousands"),
        (
            f"{int(bare):,}" if bare.isdecimal() and bare.isascii() and len(bare) <= LONGEST else "",
            "commas between thousands",
        ),
    ]
    found += [(unicodedata.normalize("NFKC", bare), "the form of its characters")]
    found += [(name, "case") for name in (bare.lower(), bare.upper(), bare.capitalize(), bare.title())]
    return [each for each in dict.fromkeys(found) if each[0] and each[0] != item]


def _as_value(item: str) -> str:
    """Return the text of a formula `="text"`; empty for other texts."""
    return item[2:-1] if item.startswith('="') and item.endswith('"') else ""


def _both(one: str, other: str) -> str:
    return " and ".join(part for part in (one, other) if part)
