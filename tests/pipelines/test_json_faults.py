"""A line that is no JSON says what is wrong in words of our own."""

import json
from pathlib import Path

import pytest
from source_rows import ingest_new

from pipelines.sources.source_spec import InteractionsSpec
from pipelines.sources.text.json_faults import why_no_json
from pipelines.sources.text.json_rows import json_rows
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.releases.catalogue import catalogue

OF_LIBRARIES = ("Expecting", "Extra data", "Unterminated", "Invalid control", "recursion", "(char")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{'item_id': 1}", "at character 2 stands \"'item_id': 1}\": it is written as Python prints it"),
        ('{"a": None}', "at character 7 stands 'None}': it is written as Python prints it"),
        ('{"a": True}', "it is written as Python prints it: write JSON (json.dumps)"),
        ('{"a": 1},', "a comma stands behind the object"),
        ('{"a": 1}{"a": 2}', "at character 9 a second value begins: write one object a line"),
        ('{"a": 1} // note', "at character 10 stands '// note' behind the object"),
        ('{"a": "torn line', 'the line ends within its JSON, after \'{"a": "torn line\''),
        ('{"a": 1', "the line ends within its JSON"),
        ('{"a": "x\ty"}', "at character 9 a text has a control character, which JSON writes as \\t"),
        ('{"a": "C:\\dir"}', "a backslash in a text is written twice"),
        ('{"a": 1,}', "take out the last comma"),
        ('\x1e{"a": 1}', "at character 1 stands '\\x1e{\"a\": 1}', which is no JSON"),
        ("# comment", "at character 1 stands '# comment', which is no JSON"),
        ('{"a" 1}', "at character 6 stands '1}', which is no JSON"),
        ('{"a":' * 100_000, "lists and objects lie too deep in each other"),
        ('{"a": 1, "b": tru\xe9}', "at character 15 stands"),
        ("[1, 2]", "a list, not an object"),
        ("3", "a number, not an object"),
    ],
)
def test_a_line_that_is_no_json_says_what_is_wrong(line: str, why: str) -> None:
    for end in ("", "\n", "\r\n"):
        (row,) = json_rows([f"{line}{end}".encode()])
        assert row.reason == "invalid_json"
        assert why in row.detail
        assert not [each for each in OF_LIBRARIES if each in row.detail]


@pytest.mark.parametrize("number", ["1e400", "-1E+0309", f"1{'0' * 400}.0"])
def test_a_number_beyond_64_bits_stays_as_it_is_written_and_is_not_infinity(tmp_path: Path, number: str) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"item_id": "a", "title": "mug", "price": {number}, "size": 1.5}}\n')
    event = f'{{"user_id": "u", "item_id": "a", "event_time": "2026-01-01T00:00:00Z", "value": {number}}}\n'
    (tmp_path / "log.jsonl").write_text(event)
    lake = Lake(str(tmp_path / "lake"))
    ingest_new(lake, str(tmp_path / "x.jsonl"))
    assert json.loads(catalogue(lake)["attributes"][0]) == {"price": number, "size": "1.5"}
    ingest_new(lake, str(tmp_path / "log.jsonl"), InteractionsSpec())
    (detail,) = open_rows(lake)["detail"]
    assert detail.startswith("value = ")
    assert detail.endswith("a number beyond 64-bit floating point")


SECRET = "s3cr3t-0f-4-r0w"
ADDRESSES = [
    f"http://host/a.jpg?X-Amz-Signature={SECRET}&x=a b",
    f"s3://ana:{SECRET}@host/a/long/path/of/a/picture.jpg",
    f"http:\\/\\/host\\/a.jpg?sig={SECRET}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_message_quotes_what_signs_an_address(address: str) -> None:
    """Wherever a line breaks off, or a character is lost or comes in between."""
    line = f'{{"item_id": "a", "image": "{address}", "title": "A"}}'
    damaged = [line[:at] for at in range(len(line))]
    damaged += [line[:at] + line[at + 1 :] for at in range(len(line))]
    damaged += [line[:at] + more + line[at:] for at in range(len(line)) for more in "\",}\\\1'"]
    told = 0
    for text in damaged:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            message, told = why_no_json(error), told + 1
            assert not any(SECRET[at : at + 4] in message for at in range(len(SECRET) - 3)), (text, message)
    assert told > len(line)
