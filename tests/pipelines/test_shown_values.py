"""Values as texts: of attributes, and in messages, which quote them as in JSON and in one line."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from pipelines.sources.cells import Refused, boolean, identifier, read_cell, shown, text, values


def test_booleans_are_written_as_in_json_and_empty_objects_are_absent() -> None:
    cells = [True, False, [True, 1], {"a": True}, np.bool_(True), {}, [], [{}], {"a": {}}]
    told = ["true", "false", "true, 1", '{"a": true}', "true", "", "", "", '{"a": {}}']
    assert [read_cell({"x": cell}, "x", text) for cell in cells] == told
    assert [read_cell({"x": cell}, "x", values) for cell in (True, [True, False], {}, [{}])] == [
        *("true", ["true", "false"], "", [])
    ]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ([1, "a"], 'x = [1, "a"] is a list, and this column has a text or an integer'),
        ({"bar": 1}, 'x = {"bar": 1} is an object, and this column has a text or an integer'),
        (True, "x = true is a boolean, and this column has a text or an integer"),
    ],
)
def test_a_cell_that_is_no_id_is_shown_as_in_json_with_what_it_is(cell: Any, told: str) -> None:
    with pytest.raises(Refused) as refused:
        identifier(cell, "x")
    assert refused.value.detail == told


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ({"value": False}, '{"value": false}'),
        ([b"ab", None, Decimal("1.5")], """["'ab'", null, "1.5"]"""),
        ({1: date(2026, 1, 2)}, '{"1": "2026-01-02"}'),
        ({(1,): 2}, "{(1,): 2}"),
        (b"", "''"),
        (b"\xff", r"'\\xff'"),
        ("a\nb", r"'a\nb'"),
        (datetime(2026, 1, 2), "2026-01-02 00:00:00"),
        *((True, "true"), (None, "null"), (1.5, "1.5"), (Decimal("1.50"), "1.50"), ("a", "'a'")),
    ],
)
def test_a_message_quotes_texts_and_writes_other_values_as_in_json(cell: Any, told: str) -> None:
    assert shown(cell) == told


def test_a_list_of_null_is_no_flag_and_no_word_for_none() -> None:
    with pytest.raises(Refused, match=r"not_a_boolean: x = \[null\]"):
        boolean([None], "x")


def test_a_message_has_one_line_whatever_a_column_is_called() -> None:
    with pytest.raises(Refused) as refused:
        read_cell({"a\nb\u2028c": [1]}, "a\nb\u2028c", identifier)
    assert str(refused.value).splitlines() == [str(refused.value)]
    assert refused.value.detail.startswith(r"a\nb\u2028c = [1]")
