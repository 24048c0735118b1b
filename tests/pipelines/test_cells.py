"""Whatever stands in a cell becomes a value, no value, or a refusal of that row that names the column."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from pipelines.counts import Counts
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources.cells import (
    FALSE_WORDS,
    NULL_WORDS,
    TRUE_WORDS,
    Refused,
    boolean,
    identifier,
    read_cell,
    text,
)
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.reasons import Reason
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")


NOW = datetime(2024, 6, 1, tzinfo=UTC)


ITEM = {"item_id": "a", "title": "mug", "image": None, "deleted": False, "colour": "red"}


ATTRIBUTE = "colour"


EVENT = {
    **{"user_id": "u", "item_id": "a", "event_time": 1700000000, "event_id": "e", "event_type": "click"},
    **{"arrival_time": "2023-12-01", "session_id": "s", "request_id": "r", "impression": 0, "position": 1, "value": 2},
}


MAPPED = [("items", column) for column in ITEM] + [("interactions", column) for column in EVENT]


WITHOUT_COLUMN = {
    Reason.UNKNOWN_ITEM,
    Reason.INVALID_JSON,
    Reason.DUPLICATE_EVENT,
    Reason.CONFLICTING_EVENT,
    Reason.DUPLICATE_ITEM_ID,
}


def ingest(folder: Path, kind: str, path: Path) -> tuple[Counts, Lake]:
    """The file as a catalogue or a log, with one item in the catalogue of a log."""
    lake = Lake(str(folder / "lake"))
    if kind == "items":
        return ingest_items(lake, find_sources(str(path))[0], ItemsSpec(require_title=False), NOW, WHO).stages[0], lake
    (folder / "known.jsonl").write_text(json.dumps(ITEM) + "\n")
    ingest_items(lake, find_sources(str(folder / "known.jsonl"))[0], ItemsSpec(), NOW, WHO)
    counts = ingest_interactions(lake, find_sources(str(path))[0], InteractionsSpec(), NOW, WHO).stages[0]
    return counts, lake


def holds(columns: list[str], counts: Counts, lake: Lake) -> None:
    """Every row is accounted for; one that is refused has a reason with a remedy, and names the column of that row.

    An attribute refuses no row.
    """
    assert counts.rows_in == len(columns) == counts.out + counts.unchanged + counts.quarantined
    for row in open_rows(lake).to_dicts():
        reason = Reason(row["reason"])
        assert reason.remedy
        if row["stage"] != "ingest images" and reason not in WITHOUT_COLUMN:
            assert columns[row["source_row"]] in row["detail"], row
            assert (columns[row["source_row"]] == ATTRIBUTE) == (row["stage"] == "ingest attributes"), row


HUGE = "9" * 5000


DEEP = "[" * 490 + "]" * 490


RAW = st.sampled_from(
    [HUGE, "-" + HUGE, DEEP, '{"a":' * 300 + "1" + "}" * 300, '"\\ud800"', "1e999", "NaN", "-Infinity"]
)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "20220408", "t", "N/A", "3,5", "3000000000"]
    )
)


JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


CELLS = RAW | JSON.map(json.dumps)


@pytest.mark.parametrize("kind", ["items", "interactions"])
@given(cells=st.lists(CELLS, min_size=3, max_size=12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_in_any_column_costs_its_row_at_most(kind: str, cells: list[str]) -> None:
    good = ITEM if kind == "items" else EVENT
    columns = [column for column in good for _ in cells]
    lines = []
    for place, (column, cell) in enumerate(zip(columns, cells * len(good), strict=True)):
        own = {"item_id": f"i{place}"} if kind == "items" else {"event_id": f"e{place}"}
        fields = {name: json.dumps(value) for name, value in {**good, **own}.items()} | {column: cell}
        lines.append("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}\n")
    with TemporaryDirectory() as name:
        path = Path(name) / "file.jsonl"
        path.write_text("".join(lines))
        holds(columns, *ingest(Path(name), kind, path))


TIMES = st.sampled_from([-(2**63) + 1, -(10**18), -1, 0, 1_700_000_000, 253402300799, 253402300800, 10**15, 2**63 - 1])


UNITS, ZONES = (
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Asia/Tokyo", "+14:00", "Mars/Base"]),
)


def bad_text(values: list[bytes]) -> pa.Array:
    """Text that is not UTF-8, as a writer without checks leaves it."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


ARRAYS = st.one_of(
    st.builds(lambda unit, zone, at: pa.array([at] * 3, pa.timestamp(unit, zone)), UNITS, ZONES, TIMES),
    st.builds(lambda at: pa.array([at % 2**31, None, -at % 2**31], pa.int32()).cast(pa.date32()), TIMES),
    st.builds(lambda at: pa.array([at, None, 0], pa.int64()).cast(pa.duration("ns")), TIMES),
    st.just(pa.array([b"a", b"1000", b"\xff"], pa.binary())),
    st.just(pa.array([b"0123456789abcdef", None, b"\xff" * 16], pa.binary(16))),
    st.just(bad_text([b"a", b"caf\xe9", b"b"])),
    st.just(pa.array([2**64 - 1, 0, None], pa.uint64())),
    st.just(pa.array([float("nan"), float("inf"), 1e300])),
    st.just(pa.array([Decimal("1.50"), None, Decimal("99999999999999999999.99")], pa.decimal128(22, 2))),
    st.just(pa.array([[1, None], [], None], pa.list_(pa.int64()))),
    st.just(pa.array([{"a": 1}, None, {"a": None}], pa.struct([("a", pa.int64())]))),
    st.just(pa.array([[("k", "v")], [], None], pa.map_(pa.string(), pa.string()))),
    st.just(pa.array(["t", "maybe", "t"]).dictionary_encode()),
    st.just(
        pa.array([[{"at": 10**15}], None, []], pa.list_(pa.struct([("at", pa.int64())]))).cast(
            pa.list_(pa.struct([("at", pa.timestamp("s"))]))
        )
    ),
    st.just(pa.nulls(3)),
    st.just(pa.array([True, None, False])),
    st.just(pa.array([86_399_999_999_999, 1, None], pa.time64("ns"))),
)


@given(place=st.sampled_from(MAPPED), array=ARRAYS, others=ARRAYS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_arrow_column_costs_its_rows_at_most_and_one_nobody_asked_for_costs_nothing(
    place: tuple[str, str], array: pa.Array, others: pa.Array
) -> None:
    kind, column = place
    good = ITEM if kind == "items" else EVENT
    own = {"item_id": ["a", "b", "c"]} if kind == "items" else {"event_id": ["x", "y", "z"]}
    table = {name: own.get(name, [value] * 3) for name, value in good.items()} | {column: array}
    with TemporaryDirectory() as name:
        path = Path(name) / "file.parquet"
        try:
            pq.write_table(pa.table({**table, **({} if kind == "items" else {"nobody": others})}), path)
        except pa.ArrowInvalid:
            reject()  # Parquet has no place for such a time
        holds([column] * 3, *ingest(Path(name), kind, path))


def test_a_column_that_nobody_asked_for_is_not_read(tmp_path: Path) -> None:
    far = pa.array([253402300799] * 2, pa.timestamp("s", "Asia/Tokyo"))
    log = {"user_id": ["u", "v"], "item_id": ["a", "a"], "event_time": ["2024-01-01"] * 2, "valid_to": far}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    counts, _ = ingest(tmp_path, "interactions", tmp_path / "log.parquet")
    assert (counts.out, counts.quarantined) == (2, 0)


def test_a_date_that_python_does_not_know_is_kept_as_text_in_an_attribute(tmp_path: Path) -> None:
    far = pa.array([253402300799, 0], pa.timestamp("s", "Asia/Tokyo"))
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": ["x", "y"], "until": far}), tmp_path / "items.parquet")
    _, lake = ingest(tmp_path, "items", tmp_path / "items.parquet")
    assert json.loads(catalogue(lake)["attributes"][0]) == {"until": "10000-01-01 08:59:59.000+0900"}


def test_ids_are_the_same_in_the_catalogue_and_in_the_log(tmp_path: Path) -> None:
    raw = pa.array([b"1000", b"1001"], pa.binary())
    pq.write_table(pa.table({"item_id": raw, "title": ["x", "y"]}), tmp_path / "items.parquet")
    log = pa.table({"item_id": raw, "user_id": raw, "event_time": ["2024-01-01"] * 2})
    pq.write_table(log, tmp_path / "log.parquet")
    lake = Lake(str(tmp_path / "lake"))
    ingest_items(lake, find_sources(str(tmp_path / "items.parquet"))[0], ItemsSpec(), NOW, WHO)
    done = ingest_interactions(lake, find_sources(str(tmp_path / "log.parquet"))[0], InteractionsSpec(), NOW, WHO)
    assert done.stages[0].out == 2
    assert sorted(lake.frame("interactions")["user_id"]) == ["1000", "1001"]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (17, "17"),
        (17.0, "17"),
        ("17.0", "17.0"),
        (17.5, "17.5"),
        (" a ", "a"),
        (b"a", "a"),
        (Decimal("17"), "17"),
        (np.int64(17), "17"),
        (np.float32(17.0), "17"),
        (float("nan"), None),
        *(("[NULL]", None), ("<null>", None)),
        (np.datetime64("NaT"), None),
        *((word.upper(), None) for word in sorted(NULL_WORDS)),
    ],
)
def test_an_id_is_the_text_of_its_cell_and_a_null_word_is_none(cell: Any, found: str | None) -> None:
    assert read_cell({"id": cell}, "id", identifier) == found


def test_a_decimal_is_read_as_other_numbers_and_never_with_an_exponent() -> None:
    zero, price = Decimal("0E-10"), Decimal("5.3000")
    assert [identifier(cell, "id") for cell in (Decimal("17.0000000000"), zero, Decimal("1.50"))] == ["17", "0", "1.50"]
    assert [text(cell, "price") for cell in (zero, price)] == ["0.0000000000", "5.3000"]
    assert text({"price": zero}, "offer") == '{"price": "0.0000000000"}'


@pytest.mark.parametrize("cell", ["1.23E+11", "1,23E+11", "-1.2e+12", "1E+11", "1e+05", "2e+06", "1E+03", "12e+5"])
def test_a_number_that_a_spreadsheet_shortened_is_no_id(cell: str) -> None:
    with pytest.raises(Refused, match=r"not_an_id: id = .*its last digits may be lost"):
        identifier(cell, "id")


@pytest.mark.parametrize("cell", ["1e05", "12e34", "12E5", "1.5e3", "1e-05", "e+05", "A1e+05", "1e+0005", "1e+05x"])
def test_an_id_with_an_e_in_it_is_an_id_unless_it_is_a_number_with_a_plus(cell: str) -> None:
    assert identifier(cell, "id") == cell


@pytest.mark.parametrize("cell", [[1], {"a": 1}, True, float("inf"), 2.0**60, "x" * 20_000])
def test_a_cell_that_is_no_id_is_refused(cell: Any) -> None:
    with pytest.raises(Refused, match=r"not_an_id: id = "):
        identifier(cell, "id")


@pytest.mark.parametrize("change", [str, str.upper, str.title])
def test_flags_are_words_that_are_understood(change: Any) -> None:
    for words, meaning in ((TRUE_WORDS, True), (FALSE_WORDS, False), (NULL_WORDS, None)):
        assert {boolean(change(word), "flag") for word in words} == {meaning}
    assert [boolean(cell, "flag") for cell in (True, False, 1, 0, 1.0, 0.0, Decimal(1), b"t", float("nan"))] == [
        *(True, False, True, False, True, False, True, True, None)
    ]


@given(st.text() | st.integers() | st.floats() | st.dates() | st.lists(st.integers(), min_size=1))
def test_any_other_word_is_refused_and_never_yes_or_no(cell: Any) -> None:
    try:
        found = boolean(cell, "flag")
    except Refused as refused:
        found = refused.reason
    word = str(cell).strip().lower()
    expected = word in TRUE_WORDS if word in TRUE_WORDS | FALSE_WORDS else None
    assert found == (expected if expected is not None or word in NULL_WORDS else Reason.NOT_A_BOOLEAN)


@pytest.mark.parametrize(("word", "gone"), [("f", False), ("0.0", False), ("t", True), ("1.0", True), ("", False)])
def test_an_item_is_deleted_by_a_word_that_says_so(tmp_path: Path, word: str, gone: bool) -> None:
    (tmp_path / "items.csv").write_text(f"item_id,title,deleted\na,mug,{word}\n")
    _, lake = ingest(tmp_path, "items", tmp_path / "items.csv")
    assert catalogue(lake)["deleted"].to_list() == [gone]


def test_an_item_is_stored_without_a_column_whose_name_utf8_cannot_hold(tmp_path: Path) -> None:
    lines = [b'{"item_id": "a", "title": "x", "caf\xe9": 1}', b'{"item_id": "b", "title": "y", "caf\xc3\xa9": 1}']
    (tmp_path / "items.jsonl").write_bytes(b"\n".join(lines))
    counts, lake = ingest(tmp_path, "items", tmp_path / "items.jsonl")
    assert (counts.by_reason, catalogue(lake)["attributes"].to_list()) == ({}, ["{}", '{"caf\\u00e9": "1"}'])
    assert lake.frame("quarantine")["reason"].to_list() == [Reason.UNREADABLE_ATTRIBUTE]


@pytest.mark.parametrize(
    ("more", "refused"),
    [('"colour": 1, "colour": 1', 0), ('"colour": 1, "colour": 2', 1), ('"size": {"cm": 1, "cm": 2}', 1)],
)
def test_a_name_that_comes_twice_in_an_object_with_different_values_gives_no_value(
    tmp_path: Path, more: str, refused: int
) -> None:
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "x", ' + more + "}\n")
    counts, lake = ingest(tmp_path, "items", tmp_path / "items.jsonl")
    assert (counts.out, counts.quarantined, len(open_rows(lake, reason=Reason.UNREADABLE_ATTRIBUTE))) == (1, 0, refused)
    (tmp_path / "log").mkdir()
    lines = '{"user_id": "u", "item_id": "a", "event_time": "2024-01-01", ' + more + "}\n"
    (tmp_path / "log" / "log.jsonl").write_text(lines)
    assert ingest(tmp_path / "log", "interactions", tmp_path / "log" / "log.jsonl")[0].out == 1


def test_an_attribute_that_cannot_be_read_refuses_the_row_of_an_item_that_has_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "colour": ' + DEEP + "}\n")
    counts, _ = ingest(tmp_path, "items", tmp_path / "items.jsonl")
    assert counts.by_reason == {Reason.UNREADABLE_ROW: 1}
    assert "colour" in counts.examples[Reason.UNREADABLE_ROW]


def test_an_item_that_lacks_an_attribute_waits_in_quarantine_until_it_is_sent_with_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for name, cell in (("first", DEEP), ("second", DEEP), ("third", '"red"')):
        (tmp_path / f"{name}.jsonl").write_text('{"item_id": "a", "title": "' + name + '", "colour": ' + cell + "}\n")
        ingest_items(lake, find_sources(str(tmp_path / f"{name}.jsonl"))[0], ItemsSpec(), NOW, WHO)
        waiting = open_rows(lake)
        assert len(waiting) == {"first": 1, "second": 2, "third": 0}[name]
        assert set(waiting["subject"]) <= {"a"}
    assert catalogue(lake)["attributes"].to_list() == ['{"colour": "red"}']


def test_an_item_with_a_flag_that_is_not_understood_is_neither_deleted_nor_changed(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,deleted\na,mug,2024-01-01\nNA,mug,\nb,None,\n")
    counts, lake = ingest(tmp_path, "items", tmp_path / "items.csv")
    assert counts.by_reason == {Reason.NOT_A_BOOLEAN: 1, Reason.MISSING_ITEM_ID: 1}
    assert "'NA' stands for none" in counts.examples[Reason.MISSING_ITEM_ID]
    assert catalogue(lake).select("item_id", "title").rows() == [("b", "None")]
