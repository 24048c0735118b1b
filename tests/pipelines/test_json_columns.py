"""Lines of JSON that are read as columns give the rows, events, items and refusals of those read one by one."""

from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_twins import CATALOGUE, EVENTS, LOG, MANY, SIZES, TIMES, damaged, in_columns, json_twins, lines_of, words

from pipelines.sources.protocol import Spec

VALUES = words("1|-0|1.0|2.5|1e3|1e400|-0.0|9007199254740993|9007199254740993.0|01|1.|+1||null|true|false|NaN")
VALUES += words('Infinity|-Infinity|Inf|-NaN|"u1"|"i\\u00e9"|"\\ud800"|"\\u0000x"|"\u00e9"|" "|"a\tb"|"a|["a","b"]')
VALUES += words('[1,null]|[]|[1,2.5]|[[1]]|{"a":1}')
VALUES += [*(f'"{time}"' for time in TIMES), "1" * 25, "1" * 5000, "[" * 500 + "]" * 500, "[" * 3000 + "]" * 3000]
NAMES = words("user_id|item_id|event_time|value|impression|position|title|x|\\u0078|\u00e9")
PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
GOOD = {"user_id": '"u1"', "item_id": "7", "event_time": "1700000000"}


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Lines of JSON: good objects, and dirt of every kind between them."""
    dirty = draw(st.sampled_from([0, 0, 1, 4]))
    usual = GOOD | dict(draw(st.lists(PAIRS, max_size=3)))
    lines = []
    for _ in range(draw(st.integers(0, 12))):
        pairs = list(usual.items())
        for _ in range(draw(st.integers(0, 2)) if dirty else 0):
            pairs.insert(draw(st.integers(0, len(pairs))), draw(PAIRS))
        if draw(st.booleans()):
            pairs[draw(st.integers(0, len(pairs) - 1))] = draw(PAIRS)
        line = "{" + ",".join(f'"{name}": {value}' for name, value in pairs) + "}"
        if dirty and draw(st.integers(0, 5)) < dirty:
            others = ["", " ", line + line, line + " ", " " + line, line + ",", "[1]", line[:9], "{}", '{"a":{}']
            others += [line.replace(":", ":\n", 1), line.replace(":", ":\r", 1), line.replace("u1", "\0")]
            others += [line[:-1] + ",}", "\ufeff" + line]
            line = draw(st.sampled_from(others))
        lines.append(line)
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    text = "".join(line + end for line in lines).encode()
    return damaged(draw, text if draw(st.booleans()) else text[: -len(end)], bool(dirty))


@given(objects(), st.sampled_from([LOG, CATALOGUE]), SIZES, SIZES, st.sampled_from([1, 3, MANY]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_lines_of_json_of_any_dirt_are_read_alike(text: bytes, spec: Spec, size: int, small: int, rows: int) -> None:
    json_twins(text, spec, size, small, rows)


ITEMS = [
    {"item_id": n, "title": f"t\u00e9 {n}", "tags": ["a", str(n)], "price": n / 4, "new": n > 5} for n in range(100)
]


@pytest.mark.parametrize(("rows", "spec"), [(EVENTS, LOG), (ITEMS, CATALOGUE)])
@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_all_lines_of_usual_json_but_the_first_are_read_as_columns(rows: Any, spec: Spec, size: int) -> None:
    parts = json_twins(lines_of(rows).encode(), spec, size, 100)
    assert in_columns(parts) >= 98


def test_types_and_columns_are_learned_and_a_bad_line_costs_only_the_lines_beside_it() -> None:
    rows = [
        *[{"item_id": n, "title": None} for n in range(50)],
        *[{"item_id": n, "title": "a", "price": n} for n in range(50, 100)],
        {"item_id": "torn"},
        *[{"item_id": n, "title": "a", "price": n / 4} for n in range(100, 150)],
        *[{"item_id": n, "title": "a", "price": 7} for n in range(150, 200)],
    ]
    parts = json_twins(lines_of(rows).encode(), CATALOGUE, 2000, 60)
    assert in_columns(parts) >= 185
    assert len(parts) == 2  # integers became floats


UNUSUAL = words(
    'NaN|-NaN|Inf|-Inf|Infinity|-0|-0.0|9007199254740993|1e400|"a"|null|[]|{"y":1}|01|"\\ud800"|"\xff"|"\0"'
)
UNUSUAL += [
    "[" * 900 + "]" * 900,
    "1" * 5000,
    '1,"x":2',
    '1,"x":1',
    "1}",
    "1}\0{",
    '1}{"x":2',
    '\n1}\n{"x":2}{"x":3',
    "\r1",
]


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_one_unusual_value_of_json_is_read_alike(unusual: str) -> None:
    start = '{"item_id":"7","user_id":"u","event_time":"2024-01-02",'
    for name, usual, spec in product(["value", "x"], ["1", "0.5", '"a"', "null"], [LOG, CATALOGUE]):
        clean = [f'{start}"{name}":{usual}}}'] * 20
        line = f'{start}"{name}":{unusual}}}'.replace('"x"', f'"{name}"')
        json_twins("\n".join([*clean, line, *clean, ""]).encode("latin-1"), spec, 1 << 20, 100)


def test_a_catalogue_of_nested_objects_is_read_line_by_line() -> None:
    rows = [{"item_id": n, "title": "a", "size": {"x": n, "y": None}} for n in range(50)]
    assert in_columns(json_twins(lines_of(rows).encode(), CATALOGUE, 1000, 60)) == 0
