"""Encodings of one byte a character, and text of UTF-8 that is taken for one of them: `MÃ¼sli` for `Müsli`.

Any bytes are text in such an encoding, so no decoder notices. A text is taken for UTF-8 if all its bytes beyond ASCII
form characters of UTF-8, and at least one of these cannot well be text of a Western encoding. There a capital letter
with an accent may precede a sign (`NESCAFÉ®`), and a small one two signs (`Café –` with a blank that does not break).
"""

import re
from functools import cache

_ASCII = bytes(range(128))
_SURE = re.compile(
    rb"\xc2[\xa0-\xbf]"  # signs
    rb"|[\xc3\xce\xcf][\x80-\xbf]"  # Latin and Greek letters
    rb"|(?<=[a-z])(?:[\xc4\xc5\xcc][\x80-\xbf]|\xc8[\x98-\x9b])"  # more Latin letters, within a word
    rb"|(?<![A-Za-z])[\xc4\xc5][\x80-\xbf](?=[a-z])"  # the same at the start of one
    rb"|\xe1[\xb8-\xbb][\x80-\xbf](?=[a-z])"  # those of Vietnamese
    rb"|\xe2[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}"  # punctuation, signs and pictures
    rb"|\xe0[\xa4-\xbf][\x80-\xbf]|(?<![a-z])(?:[\xe1\xe3][\x80-\x9f]|[\xe4-\xef][\x80-\xbf])[\x80-\xbf]"  # of Asia
)
_CHARACTER = re.compile(rb"[\xc4\xc5\xcc-\xde][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")
"""Characters of which two different ones are taken for UTF-8: letters, but no phonetic ones."""
THAI = frozenset({"cp874", "tis-620", "iso8859-11"})


@cache
def is_eight_bit(encoding: str) -> bool:
    """Return whether an encoding has one byte a character, and those of ASCII."""
    try:
        beyond = bytes(range(128, 256)).decode(encoding, "replace")
    except UnicodeError:  # punycode knows no errors
        return False
    return (
        len(beyond) == 128
        and set(beyond) != {"\ufffd"}
        and _ASCII.decode(encoding, "replace") == _ASCII.decode("ascii")
    )


def reads_as_utf8(data: bytes) -> bool:
    """Return whether bytes that are declared to be of an 8-bit encoding are text in UTF-8."""
    if data.isascii():
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return bool(_SURE.search(data)) or len(set(_CHARACTER.findall(data))) > 1
