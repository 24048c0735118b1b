"""A text that is read as columns gives the rows, the events, the items and the refusals of one read line by line."""

import gzip
import re
from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_twins import (
    CATALOGUE,
    CLEAN,
    EVENTS,
    LOG,
    MANY,
    NOW,
    SIZES,
    TIMES,
    assert_same,
    csv_twins,
    damaged,
    in_columns,
    lines_of,
    words,
)

from pipelines.ingest.events import columns as event_columns
from pipelines.ingest.events.rows import EventRules
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Spec
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec
from pipelines.sources.text import blocks
from pipelines.sources.text.csv_dialect import Dialect

WORDS = words("u1|i 2|NULL|| x|\u00e9|\ufeffx|x\0|\x1cx\x1f|\u2028|\x85|1.23E+11|007|-0")
WORDS += words("3,5|1.234,50|1.234|-12.345.678|1.23|1234.5|0.125|true|\\N|a\\|item_id|title|user_id")
PLAIN_CELL = st.sampled_from([*WORDS, "9" * 20, "x" * 90, *TIMES]) | st.text("ab 0\u00e9\u3000.-", max_size=5)
DIRT = st.sampled_from(words('"|\r|\n|,|"a"|""|"a,b"|"a\nb"|"a""b"|"a"b|a"b|"open|\\|\\"'))
LINE_ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n"])
HEADERS = words(
    "user_id,item_id,event_time,value,impression|item_id, title ,price,,deleted|user_id,item_id,event_time,x,x|"
    '"user_id","item_id","event_time","a""b","c"|\u00e9,user_id,item_id,event_time,position|item_id,title,,,x'
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Files of five columns: good rows, and dirt of every kind between them."""
    dirty = draw(st.sampled_from([0, 0, 1, 4]))
    lines = [draw(st.sampled_from(HEADERS))]
    quoted = draw(st.booleans())
    for _ in range(draw(st.integers(0, 12))):
        cells = [draw(st.sampled_from(["u1", "u2"])), draw(st.sampled_from(["i1", "7"])), draw(st.sampled_from(TIMES))]
        cells += [draw(PLAIN_CELL), draw(PLAIN_CELL)]
        if dirty and draw(st.integers(0, 5)) < dirty:
            cells[draw(st.integers(0, 4))] = draw(PLAIN_CELL | DIRT)
            cells = cells[: draw(st.sampled_from([5, 5, 5, 4, 1]))]
        if quoted and draw(st.booleans()):
            cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
        lines.append(draw(st.sampled_from([",".join(cells)] * 8 + [lines[0]])))
    end = draw(LINE_ENDS)
    ends = [draw(LINE_ENDS) if dirty and draw(st.booleans()) else end for _ in lines]
    text = "".join(line + each for line, each in zip(lines, ends, strict=True)).encode()
    text = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf"])) + text
    return damaged(draw, text if draw(st.booleans()) else text[: -len(end)], bool(dirty))


@given(
    tables(),
    st.sampled_from(["checked", "escaped", "trusted", "none"]),
    st.sampled_from([".", ","]),
    st.sampled_from([LOG, CATALOGUE]),
    SIZES,
    SIZES,
    st.sampled_from([1, 3, MANY]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_csv_file_of_any_dirt_is_read_alike(
    text: bytes, quotes: str, decimal: str, spec: Spec, size: int, small: int, rows: int
) -> None:
    csv_twins(text, Dialect("utf-8", ",", decimal, quotes), spec, size, small, rows)


@given(
    st.sampled_from(["item_id,title\n", "item_id\n", ",item_id\r\n"]),
    st.text(st.sampled_from('ab,"\n\r'), max_size=30),
    SIZES,
    st.sampled_from(["checked", "trusted", "none"]),
)
@settings(max_examples=300, deadline=None)
def test_a_csv_file_of_quotes_and_line_breaks_is_read_alike(header: str, text: str, size: int, quotes: str) -> None:
    csv_twins(f"{header}{text}".encode(), Dialect("utf-8", ",", ".", quotes), CATALOGUE, size, 1)


QUOTED = re.sub("x(.+)", r'"a, ""\1"""', CLEAN.replace("2024-01-02T03:04:05Z", '"1700000000"'))


@pytest.mark.parametrize("text", [CLEAN, QUOTED, CLEAN.replace("\n", "\r\n"), QUOTED.replace("\n", "\r\n"), CLEAN[:-1]])
@pytest.mark.parametrize("size", [1, 17, 1000, 1 << 20])
def test_all_lines_of_a_clean_csv_file_but_the_first_are_read_as_columns(text: str, size: int) -> None:
    parts = csv_twins(text.encode(), Dialect("utf-8", ",", ".", "checked"), LOG, size, 40)
    assert in_columns(parts) >= 99


@pytest.mark.parametrize(
    "bad", ['u,i"x,1,', "u,i", 'u,"i\nj",1,', "", "u,i,1,\xff", "user_id,item_id,event_time,other"]
)
def test_a_bad_line_of_a_csv_file_costs_the_lines_beside_it_their_columns_and_no_others(bad: str) -> None:
    lines = CLEAN.splitlines()
    text = "\n".join([*lines[:50], bad, *lines[50:]]).encode("latin-1")
    parts = csv_twins(
        text, Dialect("utf-8", ",", ".", "checked"), CATALOGUE.model_copy(update={"title": ""}), 4000, 100
    )
    assert in_columns(parts) >= 90


QUOTES = words('"a\nb",c|"a\nb"|"a\rb",c|a"b,c|"a"b,c|a,"b"""|""|"a"" b",c|"a", "b"|a,"|"a,b"|"x""","y"|"item_id",x')
OTHERS = words(
    "\ufeffa,b|a\\,b,c|\\N,x|a\rb,c|\r|\na,b|\r\na,b|item_id| item_id ,x|a,b,c|a|user_id, item_id|,item_id|\0,b"
)
OTHERS += [",,", "a,b,", ",a,b", "a,b,b"]


@pytest.mark.parametrize("unusual", [*QUOTES, *OTHERS])
def test_one_unusual_line_of_a_csv_file_is_read_alike(unusual: str) -> None:
    headers = ["user_id,item_id", "item_id", ",item_id", '"item_id",x', ",,item_id", "item_id,x,x"]
    for header, end in product(headers, ["\n", "\r\n"]):
        clean = [",".join(["a7"] * (header.count(",") + 1))] * 20
        text = end.join([header, *clean, unusual, *clean, ""]).encode()
        for quotes in ("checked", "escaped", "trusted", "none"):
            csv_twins(text, Dialect("utf-8", ",", ".", quotes), CATALOGUE, 4000, 20)
        csv_twins(text, Dialect("utf-8", ",", ".", "checked"), LOG, 4000, 20)


@pytest.mark.parametrize("above", ["\n" * 9, "\r" * 9, "\r\n" * 9, "\ufeff\n\ufeff\n"])
def test_a_header_below_blank_lines_that_fill_blocks_is_the_header(above: str) -> None:
    parts = csv_twins((above + CLEAN).encode(), Dialect("utf-8", ",", ".", "checked"), LOG, 3, 2)
    assert in_columns(parts) >= 99


def test_a_quote_that_is_never_closed_costs_the_lines_beside_it() -> None:
    lines = CLEAN.splitlines()
    text = "\n".join([*lines[:50], 'u,"x,1,', *lines[50:], 'u,"a\nb\nc",1,', *lines[50:]]).encode()
    parts = csv_twins(text, Dialect("utf-8", ",", ".", "checked"), LOG, 2000, 100)
    assert in_columns(parts) >= 130


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl", "log.jsonl.gz", "log.jsonl.zst"])
def test_files_of_any_kind_are_read_as_columns_with_the_values_of_their_folders(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 999)
    monkeypatch.setattr(blocks, "SMALL_BYTES", 99)
    rows = [{key: each[key] for key in ("user_id", "item_id", "event_time")} for each in EVENTS]
    text = lines_of([*rows, {**rows[0], "event_type": None}, *rows]) if "json" in name else CLEAN
    folder = tmp_path / "event_type=buy"
    folder.mkdir()
    codec = {"gz": "gzip", "zst": "zstd"}.get(name.rsplit(".", 1)[-1])
    data = text.encode()
    (folder / name).write_bytes(pa.compress(data, codec, asbytes=True) if codec == "zstd" else data)
    if codec == "gzip":
        (folder / name).write_bytes(gzip.compress(data))
    (source,) = find_sources(str(tmp_path), LOG.from_folders)
    one_by_one = [row for part in source.parts(LOG, 100) for row in (part if isinstance(part, list) else part.rows())]
    parts = list(source.parts(LOG, 1 << 18))
    assert in_columns(parts) > 80
    assert_same(parts, one_by_one, LOG)
    types = event_columns.parse(parts[0], EventRules(LOG, NOW)).events["event_type"]
    assert types.unique().sort().to_list() == (["buy", "interaction"] if "json" in name else ["buy"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_csv_file_in_another_encoding_is_read_line_by_line(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "log.csv").write_bytes(CLEAN.replace("x", "\xe9").encode(encoding))
    (source,) = find_sources(str(tmp_path))
    parts = list(source.parts(InteractionsSpec(csv=CsvSpec(encoding=encoding)), 1 << 18))
    assert [len(part) for part in parts] == [100]
    assert in_columns(parts) == 0
