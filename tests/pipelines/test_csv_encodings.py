"""A file that is declared to have an 8-bit encoding: rows in UTF-8 are refused, and real text is read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_rows import read_rows

from pipelines.sources.files import find_sources
from pipelines.sources.row import Row, SourceError
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec, ItemsSpec
from pipelines.sources.text.eight_bit import is_eight_bit, reads_as_utf8
from storage.reasons import Reason

UTF8 = (
    "Müßli|Café|CAFÉ|Gdańsk|Łódź|Žena|茶|чай|10 µm|10 μm|it’s|20 °C|☕|Straße|naïve|Constanța|日本|x®|Việt|año|שלום|ไทย"
)
WESTERN = "NESCAFÉ®|CAFÉ™|JOSÉ’S|BEYONCÉ’s|Café\xa0– 250 g|Spaß…|Spaß®|«\xa0Café\xa0»|10×½|Ø\xa0ca. 20|“café”|CITÉ\xa0!"
WESTERN += "|L’ÉTÉ\xa0: QUALITÉ\xa0»|Müßli|PERÙ\xa0».|CAFFÈ®|BLÅ®|LUNEDÌ”|À\xa0la|NESCAFÉ® NESCAFÉ™"
OTHERS = {
    "cp1251": "Привет мир|Київ|Моё|«Мир»|Літо|№ 5",
    "koi8-r": "Привет|моё|её|ёлка",
    "iso-8859-7": "Καλημέρα|Άλλο",
    "cp1250": "Łódź|Žena|România",
    "cp1254": "İstanbul|Ağaç|IŞIK",
    "cp874": "ไทย|เธอ|กาแฟ|โดด|แปด",
    "cp1255": "שלום",
}


def read(path: Path, encoding: str) -> list[Row]:
    return list(read_rows(find_sources(str(path))[0], ItemsSpec(csv=CsvSpec(encoding=encoding))))


@pytest.mark.parametrize("title", UTF8.split("|"))
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "iso-8859-15", "cp1251"])
def test_a_row_in_utf8_is_refused_where_an_8_bit_encoding_is_declared(
    tmp_path: Path, title: str, encoding: str
) -> None:
    path = tmp_path / "items.csv"
    own = ("вот" if encoding == "cp1251" else "caf\xe9").encode(encoding)
    path.write_bytes(b"item_id,title,kind\n1," + own + b",a\n2," + title.encode() + b",b\n3,mug," + own + b"\n")
    found = read(path, encoding)
    assert [row.reason for row in found] == [None, Reason.INVALID_UTF8, None]
    told = f"line 3: title is UTF-8, and the file is declared {encoding}: write all lines of it in one encoding"
    assert str(found[1].detail).startswith(told)


@pytest.mark.parametrize(
    ("encoding", "title"),
    [("cp1252", title) for title in WESTERN.split("|")]
    + [(encoding, title) for encoding, titles in OTHERS.items() for title in titles.split("|")],
)
def test_real_text_of_an_8_bit_encoding_is_read(tmp_path: Path, encoding: str, title: str) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"item_id,title\n" + b"".join(b"%d,%s\n" % (n, title.encode(encoding)) for n in range(5)))
    assert [(row.reason, row.values["title"]) for row in read(path, encoding)] == [(None, title)] * 5


def test_thai_words_whose_bytes_are_utf8_too_are_read_beside_others(tmp_path: Path) -> None:
    path, titles = tmp_path / "items.csv", ["เดช", "เดช เขต", "กาแฟ", "เดช"]
    path.write_bytes(b"item_id,title\n" + b"".join(b"%d,%s\n" % (n, t.encode("cp874")) for n, t in enumerate(titles)))
    assert [(row.reason, row.values["title"]) for row in read(path, "tis-620")] == [(None, each) for each in titles]


def test_rows_in_utf8_far_below_the_first_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"item_id,title\n" + b"1,plain\n" * 140_000 + "2,Müßli\n".encode() * 5)
    assert [row.reason for row in read(path, "cp1252")[-6:]] == [None] + [Reason.INVALID_UTF8] * 5


def test_a_column_in_utf8_beside_one_in_another_encoding_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"item_id,title,kind\n1,caf\xe9,M\xc3\xbcsli\n2,caf\xe9,mug\n")
    found = read(path, "cp1252")
    assert [row.reason for row in found] == [Reason.INVALID_UTF8, None]
    assert "kind is UTF-8" in str(found[0].detail)


def test_of_a_log_only_columns_that_are_read_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = b"\xe9,i,2026-01-01,M\xc3\xbcsli\nM\xc3\xbcsli,i,2026-01-01,x\n"
    path.write_bytes("user_id,item_id,event_time,größe\n".encode() + rows)
    spec = InteractionsSpec(csv=CsvSpec(encoding="cp1252"))
    assert [row.reason for row in read_rows(find_sources(str(path))[0], spec)] == [None, Reason.INVALID_UTF8]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_a_header_in_utf8_stops_a_file_that_is_declared_otherwise(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes("item_id,title,größe\n".encode() + b"1,caf\xe9,a\n")
    with pytest.raises(SourceError, match=rf"its header has 'größe' in UTF-8, and the file is declared {encoding}"):
        read(path, encoding)


def test_a_byte_that_an_8_bit_encoding_lacks_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"item_id,title\n1,caf\xe9\n2,\x8dcaf\xe9\n")
    found = read(path, "cp1252")
    assert [row.reason for row in found] == [None, Reason.INVALID_UTF8]
    assert "title has bytes that are not cp1252" in str(found[1].detail)


@pytest.mark.parametrize("encoding", ["utf-16", "shift_jis", "gb18030", "big5", "euc-kr", "utf-7", "utf-8", "punycode"])
def test_an_encoding_of_several_bytes_a_character_has_not_8_bits(encoding: str) -> None:
    assert not is_eight_bit(encoding)


@given(st.binary(max_size=12))
def test_only_text_beyond_ascii_that_is_wholly_utf8_reads_as_utf8(data: bytes) -> None:
    if reads_as_utf8(data):
        assert not data.decode("utf-8").isascii()
