"""Addresses and recipes that a shell, an editor or a network spoilt are refused in one line, or read."""

from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.recipe import RecipeError, load_recipe
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import absolute_path
from pipelines.sources.row import SourceError


@pytest.mark.parametrize("option", ["--items", "--interactions"])
@pytest.mark.parametrize("address", ["", "  "])
def test_an_empty_address_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, address: str
) -> None:
    (tmp_path / "x.csv").write_text("item_id,title\n1,mug\n")
    monkeypatch.chdir(tmp_path)
    assert run_command(["recipe", "check", "--recipe", "demo", option, address]) == 2
    assert f"{option} is empty: give a value" in capsys.readouterr().err
    with pytest.raises(SourceError, match="the address of a source is empty"):
        find_sources(address)


def test_a_tilde_that_the_shell_left_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert absolute_path("~/x.csv") == str(tmp_path / "x.csv")
    assert absolute_path("~x.csv") == "/~x.csv"


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b'\xef\xbb\xbf[items]\nitem_id = "sku"\n')
    assert load_recipe(str(tmp_path / "r.toml")).items.item_id == "sku"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ('[items]\nitem_id = "sku"\n'.encode("utf-16"), "is not text in UTF-8"),
        (b'[items.csv]\ndelimiter = ";;;;;;;;;"\n', "must be a text of at most 8 characters"),
        (b'[items]\nitem_id = ""\n', "must be a text of at least 1 character"),
        (b"[items]\nitem_id = 5\n", "must be text"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_why(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "r.toml").write_bytes(data)
    with pytest.raises(RecipeError, match=why) as raised:
        load_recipe(str(tmp_path / "r.toml"))
    assert "codec" not in str(raised.value)
