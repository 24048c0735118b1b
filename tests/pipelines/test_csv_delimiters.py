"""Texts whose cells are separated by something else are named with the setting, or the command, that reads them."""

import tomllib
from pathlib import Path

import pytest
from source_rows import ingest_new

from pipelines.sources.files import find_sources
from pipelines.sources.protocol import check_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import CsvSpec, ItemsSpec
from storage.lake import Lake
from storage.releases.catalogue import catalogue


@pytest.mark.parametrize("delimiter", ["\x01", "\x1f", "~", "^", ";", "\t", "|", "::", "|@|", "~~"])
def test_the_setting_that_is_named_reads_the_file(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "x.csv").write_text("item_id,title\n1,mug\n2,cup\n".replace(",", delimiter))
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(SourceError, match=r"x\.csv: its cells are separated by") as raised:
        ingest_new(lake, str(tmp_path / "x.csv"))
    setting = str(raised.value).partition("Read it with ")[2].partition(" below")[0]
    spec = ItemsSpec(csv=CsvSpec(**tomllib.loads(setting)["csv"]))
    ingest_new(lake, str(tmp_path / "x.csv"), spec)
    assert catalogue(lake)["title"].to_list() == ["mug", "cup"]


@pytest.mark.parametrize("text", ["a~b\n1\n2\n", "title~x,item_id\na,1\n", "item_id\n1\n", "a::b\n1\n", "a^b\n"])
def test_a_sign_that_does_not_cut_all_lines_alike_is_no_delimiter(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    check_sources(find_sources(str(tmp_path / "x.csv")), ItemsSpec())


def test_names_of_columns_that_hide_characters_are_told_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("'item_id',title\u200b\n'1',mug\n")
    (done,) = ingest_new(Lake(str(tmp_path / "lake")), str(tmp_path / "x.csv"))
    assert "it has \"'item_id'\", 'title\\u200b': write a value, or name the column" in done.stages[0].why()
