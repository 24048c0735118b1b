"""Ids in free text: what is taken out, and what stays because it only looks like one."""

import json

import pytest

from storage.texts import Ids


@pytest.mark.parametrize(
    ("ids", "text", "left"),
    [
        (["anna-7"], "user 'anna-7' is refused", "user '[erased]' is refused"),
        (["anna-7"], "anna-7,i1 and anna-77", "[erased],i1 and anna-77"),
        (["anna", "anna-7"], "anna-7 and anna", "[erased] and [erased]"),
        (["a.c*"], "a.c* but abc*", "[erased] but abc*"),
        (["7"], "7 rows of user '7' and \"7\" of 17", "7 rows of user '[erased]' and \"[erased]\" of 17"),
        (["7", "1234"], "1234 rows", "[erased] rows"),
        ([], "a text", "a text"),
    ],
)
def test_an_id_is_taken_out_as_a_word_and_a_short_one_in_quotes(ids: list[str], text: str, left: str) -> None:
    assert Ids(ids).without(text) == left


def test_a_json_text_keeps_its_numbers_and_stays_json() -> None:
    text = json.dumps({"rows": 12345, "user": "12345", "of": ["12345 rows", 7, None], "12345": True})
    left = json.loads(Ids(["12345", "7"]).without_in_json(text))
    assert left == {"rows": 12345, "user": "[erased]", "of": ["[erased] rows", 7, None], "[erased]": True}
    assert Ids(["nobody"]).without_in_json(text) == text
    assert Ids(["anna"]).without_in_json('{"cut short: anna') == '{"cut short: [erased]'


@pytest.mark.parametrize(
    ("payload", "held"),
    [
        ('{"uid": 7, "stars": 1}', True),
        ('{"uid": "7"}', True),
        ('{"of": [{"uid": 7}]}', True),
        ('{"7": 0}', True),
        ('{"uid": 77}', False),
        ("7,i1,2024", False),
        ("'7',i1,2024", True),
    ],
)
def test_a_refused_row_holds_an_id_as_any_of_its_values(payload: str, held: bool) -> None:
    assert Ids(["7"]).within(payload) is held
