"""Shapes of files that tools really write: each is read as meant, or refused with the place and the remedy."""

import base64
import datetime as dt
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from source_rows import read_rows

from pipelines.counts import Counts
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.ingest.pictures.references import references
from pipelines.sources.cells import Half, Refused, Single, identifier
from pipelines.sources.column_names import header_of, near_columns
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Source, Spec, check_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.sources.text.csv_dialect import Dialect
from pipelines.sources.text.csv_rows import csv_rows
from pipelines.sources.times import utc_time
from storage.commit import Provenance
from storage.errors import LakeUnusable
from storage.lake import Lake
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")
NOW = dt.datetime(2026, 9, 1, tzinfo=dt.UTC)


def items(folder: Path, data: bytes | pa.Table, name: str = "x.csv", **spec: Any) -> tuple[Counts, dict[str, str]]:
    """Ingest a catalogue; return the counts of its rows, and the titles of its items."""
    settings = ItemsSpec.model_validate(spec)
    source = _source(folder, data, name)
    check_sources([source], settings)
    lake = Lake(str(folder / "lake"))
    counts = ingest_items(lake, source, settings, NOW, WHO).stages[0]
    return counts, dict(catalogue(lake).select("item_id", "title").iter_rows())


def _source(folder: Path, data: bytes | pa.Table, name: str) -> Any:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        pq.write_table(data, path)
    (source,) = find_sources(str(path))
    return source


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_joined_files_give_their_rows_and_the_headers_between_them_are_refused(
    tmp_path: Path, mark: bytes, end: bytes
) -> None:
    part = mark + b'"item_id","title"' + end
    counts, found = items(tmp_path, part + b"1,a" + end + part + b"2,b" + end)
    assert found == {"1": "a", "2": "b"}
    assert counts.by_reason == {"malformed_row": 1}
    assert "the header again" in counts.why()
    assert counts.rows_in == 3


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_of_json_end_as_lines_do_on_any_system(tmp_path: Path, end: bytes) -> None:
    lines = [b'{"item_id": 1, "title": "a\\rb"}', b"", b'{"item_id": 2, "title": "b"}', b'{"item_id": ']
    counts, found = items(tmp_path, end.join(lines), "x.jsonl")
    assert found == {"1": "a\rb", "2": "b"}
    assert counts.by_reason == {"invalid_json": 1}


def test_a_carriage_return_between_the_parts_of_an_object_ends_no_line(tmp_path: Path) -> None:
    counts, found = items(tmp_path, b'{"item_id": 1,\r"title": "a"}\n', "x.jsonl")
    assert (found, counts.quarantined) == ({"1": "a"}, 0)


ESCAPED = rb"""item_id,title
1,"a \"blue\" mug"
2,"plain"
3,5\, or 6
4,\N
5,C:\new\\N
"""


def test_quotes_written_with_a_backslash_are_read_where_the_recipe_says_so_and_refused_else(tmp_path: Path) -> None:
    counts, found = items(tmp_path / "told", ESCAPED, csv={"quotes": "escaped"})
    assert found == {"1": 'a "blue" mug', "2": "plain", "3": "5, or 6", "5": r"C:\new\N"}
    assert counts.by_reason == {"empty_title": 1}
    counts, found = items(tmp_path / "untold", ESCAPED)
    assert found == {"2": "plain", "4": "\\N", "5": r"C:\new\\N"}
    assert counts.by_reason == {"unpaired_quote": 1, "malformed_row": 1}
    assert 'csv.quotes of the section to "escaped"' in counts.why()


cells = st.text(alphabet='ab"\\, N', max_size=6)


@given(st.lists(st.tuples(cells, cells), max_size=5))
def test_what_is_written_with_backslashes_is_read_back(rows: list[tuple[str, str]]) -> None:
    """Against the obvious writer: every cell in quotes, a backslash before each quote and each backslash."""

    def written(cell: str) -> str:
        return '"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = "".join(",".join(map(written, row)) + "\n" for row in [("id", "text"), *rows])
    dialect = Dialect("utf-8", ",", ".", "escaped")
    found = list(csv_rows(io.BufferedReader(io.BytesIO(text.encode())), "x.csv", dialect, None))  # type: ignore[arg-type]
    kept = [row for row in rows if row != ("id", "text")]
    assert [(row.values["id"] or "", row.values["text"] or "") for row in found] == kept


def test_an_encoding_that_makes_no_text_is_refused_with_the_recipe() -> None:
    for name in ("rot13", "hex", "undefined", "no-such"):
        with pytest.raises(ValueError, match="no encoding"):
            ItemsSpec.model_validate({"csv": {"encoding": name}})
    for name in ("utf-16", "utf-32", "cp1252", "shift-jis", "utf-8-sig", "gb18030"):
        assert ItemsSpec.model_validate({"csv": {"encoding": name}}).csv.encoding == name


@pytest.mark.parametrize(
    ("data", "name", "told"),
    [
        (b"item_id,title\n1,a\n" + b"\0" * 4000, "x.csv", "zero bytes"),
        (b'{"item_id":1}\n' + b"\0" * 40, "x.jsonl", "zero bytes"),
        (b"<!DOCTYPE html><html>403</html>\n", "x.csv", "a web page"),
        (b"<?xml version='1.0'?><Error/>\n", "x.jsonl", "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "x.parquet", "git lfs pull"),
        (b"\x1f\x8b rest", "x.parquet", "gzip"),
        (b"PARE rest PARE", "x.parquet", "encrypted"),
        (b'{"item_id": 1, "title": "a"}\n', "x.csv", "holds JSON"),
        (b'[{"item_id": 1}]', "x.tsv", "holds JSON"),
    ],
)
def test_a_file_of_another_kind_is_refused_as_a_whole(tmp_path: Path, data: bytes, name: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        items(tmp_path, data, name)


@pytest.mark.parametrize("name", [" title", "title ", "\u00a0title"])
def test_blanks_around_the_name_of_a_column_that_is_meant_are_no_part_of_it(tmp_path: Path, name: str) -> None:
    _, found = items(tmp_path / "csv", f"item_id,{name}, price\n1,a,2\n".encode())
    assert found == {"1": "a"}
    _, found = items(tmp_path / "parquet", pa.table({"item_id": ["1"], name: ["a"]}), "x.parquet")
    assert found == {"1": "a"}
    log = pa.table({" user_id": ["u"], "item_id ": ["1"], "event_time": ["2026-01-01"], " value ": [3.0]})
    (row,) = read_rows(_source(tmp_path, log, "log.parquet"), InteractionsSpec())
    assert row.values == {"user_id": "u", "item_id": "1", "event_time": "2026-01-01", "value": 3.0}
    with pytest.raises(SourceError, match="twice"):
        items(tmp_path / "twice", b"item_id,title,title\n1,a,b\n")


def near(source: Source, spec: Spec) -> dict[str, str]:
    header = header_of(source, spec)
    return {} if header is None else near_columns(header, spec)


@pytest.mark.parametrize("name", ["Deleted", "DELETED", "de_leted"])
def test_a_column_that_is_nearly_one_that_is_meant_is_told(tmp_path: Path, name: str) -> None:
    for source in (
        _source(tmp_path, f"item_id,title,{name}\n1,a,t\n".encode(), "x.csv"),
        _source(tmp_path, pa.table({"item_id": ["1"], "title": ["a"], name: ["t"]}), "x.parquet"),
        _source(tmp_path, json.dumps({"item_id": 1, "title": "a", name: "t"}).encode(), "x.jsonl"),
    ):
        assert near(source, ItemsSpec()) == {"deleted": name}
        assert near(source, ItemsSpec(deleted=name)) == {}
        assert near(source, ItemsSpec(deleted="")) == {}
    both = _source(tmp_path, f"item_id,title,deleted,{name}\n1,a,f,t\n".encode(), "both.csv")
    assert near(both, ItemsSpec()) == {}
    log = b"user_id,item_id,event_time\nu,1,2026-01-01\n"
    assert near(_source(tmp_path, log, "EVENT_TYPE=buy/log.csv"), InteractionsSpec()) == {"event_type": "EVENT_TYPE"}


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array([16777215.0, 16777216.0], pa.float32()), ["16777215", None]),
        (pa.array([2047.0, 2048.0], pa.float16()), ["2047", None]),
        (pa.array([2.0**53 - 1, 2.0**53]), [str(2**53 - 1), None]),
        (pa.array([b"7\0\0", b"123"], pa.binary(3)), ["7", "123"]),
        (pa.array(["7\u200b", "\ufeff8"]), ["7", "8"]),
        (pa.array(["1.23457E+11", "1.2e+05"]), [None, None]),
        (pa.array(["1e+05", "2E+6"]), [None, None]),
        (pa.array(["12E5", "1.5e3"]), ["12E5", "1.5e3"]),
        (pa.array(["7", "123"]).dictionary_encode(), ["7", "123"]),
        (pa.array([1.0, 2.0**24], pa.float32()).dictionary_encode(), ["1", None]),
    ],
)
def test_an_id_that_may_be_another_ones_is_refused(tmp_path: Path, column: pa.Array, found: list[str | None]) -> None:
    table = pa.table({"item_id": column, "title": ["a", "b"]})
    counts, there = items(tmp_path, table, "x.parquet")
    assert sorted(there) == sorted(each for each in found if each is not None)
    assert counts.by_reason == ({"not_an_id": found.count(None)} if None in found else {})


@given(st.integers(0, 2**60), st.sampled_from([(Single, pa.float32()), (Half, pa.float16()), (float, pa.float64())]))
def test_an_id_read_through_a_float_is_right_or_refused(number: int, kind: tuple[Any, pa.DataType]) -> None:
    made, arrow = kind
    stored = pa.array([float(number)], pa.float64()).cast(arrow, safe=False)[0].as_py()
    if stored < getattr(made, "exact", 2**53):
        assert identifier(made(stored), "id") == str(number)
    else:
        with pytest.raises(Refused, match="not_an_id"):
            identifier(made(stored), "id")


@pytest.mark.parametrize("word", ["#N/A", "-nan", "-1.#IND", "(null)", "-", "--", "undefined", "nil", "#REF!"])
def test_words_of_other_tools_for_no_value_make_no_id_no_time_and_no_picture(word: str) -> None:
    assert identifier(word, "id") is None
    assert utc_time(word, "time") is None
    assert references(word) == references([word, None, ""]) == []


@pytest.mark.parametrize(
    "text", ["2026-09-01+02:00", "2026-09-01-0500", "20260901+02", "2026-W36-2+02:00", "2026-09-01-05:00"]
)
def test_a_day_with_a_zone_is_refused_and_not_read_as_a_time_of_that_day(text: str) -> None:
    with pytest.raises(Refused, match="accepted are"):
        utc_time(text, "time")


@pytest.mark.parametrize("text", ["2026-09-01", "2026-09-01Z", "2026-W36-2", "20260901T10", "2026-09-01 02:00+00"])
def test_days_and_times_beside_these_are_read(text: str) -> None:
    assert utc_time(text, "time") is not None


@pytest.mark.parametrize(("required", "reason"), [(False, "no_content"), (True, "empty_title")])
def test_a_row_that_deletes_needs_an_id_alone(required: bool, reason: str, tmp_path: Path) -> None:
    data = b'{"item_id": 1, "title": "a"}\n{"item_id": 2}\n'
    counts, _ = items(tmp_path, data, "x.jsonl", require_title=required)
    assert counts.by_reason == {reason: 1}
    counts, _ = items(tmp_path, b'{"item_id": 1, "deleted": true}\n', "y.jsonl", require_title=required)
    assert counts.quarantined == 0
    assert catalogue(Lake(str(tmp_path / "lake")))["deleted"].to_list() == [True]


def test_a_time_of_32_bits_is_refused(tmp_path: Path) -> None:
    times = pa.array([1_756_684_800.0], pa.float32())
    table = pa.table({"user_id": ["u"], "item_id": ["1"], "event_time": times})
    source = _source(tmp_path, table, "log.parquet")
    counts = ingest_interactions(Lake(str(tmp_path / "lake")), source, InteractionsSpec(), NOW, WHO).stages[0]
    assert counts.by_reason == {"event_time_invalid": 1}


def test_flags_of_exact_numbers_are_flags(tmp_path: Path) -> None:
    table = pa.table({"item_id": ["a", "b"], "title": ["x", "y"], "deleted": [Decimal("0.00"), Decimal("1.00")]})
    counts, _ = items(tmp_path, table, "x.parquet")
    assert counts.quarantined == 0
    assert catalogue(Lake(str(tmp_path / "lake"))).sort("item_id")["deleted"].to_list() == [False, True]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ('["a.jpg", "b.jpg"]', ["a.jpg", "b.jpg"]),
        ('{"url": "a.jpg"}', ["a.jpg"]),
        ('[{"large": "a.jpg"}, {"hi_res": null, "large": "b.jpg"}]', ["a.jpg", "b.jpg"]),
        ([("url", "a.jpg"), ("width", "3")], ["a.jpg"]),
        ([{"url": "null"}, {"url": "a.jpg"}], ["a.jpg"]),
        (" https://host/a.jpg ", ["https://host/a.jpg"]),
        ("[]", []),
        ("{}", []),
        (float("nan"), []),
        (False, []),
    ],
)
def test_pictures_are_found_in_text_that_is_json_and_in_maps(cell: Any, found: list[str]) -> None:
    assert references(cell) == found


DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "cell", ["[" * 80 + "]" * 80, 5, True, [255, 216, 255] * 200, "['a.jpg']", '{"url": "a.jpg"', [["a.jpg"], 7], DEEP]
)
def test_a_cell_that_names_no_picture_is_refused_once(cell: Any) -> None:
    refused = [each for each in references(cell) if isinstance(each, Refused)]
    assert [each.reason for each in refused] == ["image_reference_unknown"]
    assert len(refused[0].detail) < 300


def test_a_name_that_an_object_has_twice_is_no_picture_and_says_why(tmp_path: Path) -> None:
    data = b'{"item_id": 1, "title": "a", "image": {"url": "a.jpg", "url": "b.jpg"}}\n'
    source = _source(tmp_path, data, "x.jsonl")
    stages = ingest_items(Lake(str(tmp_path / "lake")), source, ItemsSpec(), NOW, WHO).stages
    assert stages[1].by_reason == {"image_reference_unknown": 1}
    assert "twice" in stages[1].why()


def test_bytes_of_a_picture_as_text_are_refused_in_a_short_line(tmp_path: Path) -> None:
    data = json.dumps({"item_id": 1, "title": "a", "image": "/9j/4AAQ" * 10_000}).encode()
    source = _source(tmp_path, data, "x.jsonl")
    stages = ingest_items(Lake(str(tmp_path / "lake")), source, ItemsSpec(), NOW, WHO).stages
    assert stages[1].by_reason == {"image_reference_unknown": 1}
    assert len(stages[1].why()) < 500
    assert "'data:image/jpeg;base64,' in front" in stages[1].why()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_picture_in_base64_without_a_scheme_is_told_from_a_path(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (1, 2, 3)).save(file, kind)
    text = base64.b64encode(file.getvalue()).decode()
    (refused,) = references(text)
    assert isinstance(refused, Refused)
    assert f"'data:image/{kind.lower()};base64,' in front" in refused.detail
    assert references("/9j/a.jpg") == ["/9j/a.jpg"]


@pytest.mark.parametrize("name", ["a%41b", "a\\b"])
def test_a_lake_at_a_path_that_delta_reads_as_another_is_refused_before_it_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(LakeUnusable, match="give another folder with --lake"):
        items(tmp_path / name, b"item_id,title\n1,a\n")
    assert not (tmp_path / name / "lake").exists()
    for plain in ("a b", "a#b", "a?b", "50%", "é"):
        _, found = items(tmp_path / plain, b"item_id,title\n1,a\n")
        assert found == {"1": "a"}
