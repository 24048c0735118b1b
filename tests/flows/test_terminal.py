"""Nothing that is printed of a catalogue steers the terminal; JSON stays exact."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import show
from flows.cli.main import run_command
from flows.inspect.explain import Explanation, Lineage, PrefixMembers, RefusedRow, TitledItem
from flows.report.page import environment
from flows.runtime.progress import Display
from flows.runtime.terminal import printable, printable_lines

EVIL = "\x1b]0;owned\x07\x1b[31mred\u202eder\r\n\x9b2Jsidmill: all is well\u2028[bold]"


@given(st.text(alphabet=st.characters()))
def test_a_line_obeys_nothing_and_plain_text_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not set(shown) & {chr(code) for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F))}
    assert printable(shown) == shown
    shown.encode()
    assert printable("Käse 茶 🙂 \u200d") == "Käse 茶 🙂 \u200d"
    assert printable_lines("a\nb\x1b") == "a\nb\\x1b"


def test_titles_reasons_and_progress_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    explained = Explanation(
        item=EVIL,
        release="r-000001",
        title=EVIL,
        deleted=False,
        sid=[1],
        path=[PrefixMembers([1], 2, [TitledItem(EVIL, EVIL)])],
        lineage=Lineage(EVIL, None, 1, [], [], EVIL, EVIL, []),
        quarantine=[RefusedRow(EVIL, EVIL, EVIL, EVIL, EVIL, 1)],
    )
    row = {"stage": "ingest items", "reason": EVIL, "item": EVIL, "file": EVIL, "row": 1, "detail": EVIL, "at": 0}
    show.explanation(explained, False)
    show.quarantine(pl.DataFrame([row]), 5, False)
    show.record({"error": EVIL, "many": [{"a": EVIL}]}, False)
    Display().say(EVIL)
    assert run_command(["run", "bootstrap", "--items", f"/nowhere/{EVIL}.jsonl"]) != 0
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert "owned" in text
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2028"}
        assert not any(line.startswith("sidmill: all") for line in text.splitlines())
    show.explanation(explained, True)
    assert json.loads(capsys.readouterr().out) == explained.as_record()


def test_records_wrap_between_words_on_a_terminal_and_never_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {f"metric_{number}": 0.12345 * number for number in range(1, 30)}
    found = {
        "sha256": "0" * 90,
        "parts": list(figures.values()),
        "gates": [figures, figures],
        "of": {"all": list(figures)},
    }
    show.record(found, False)
    whole = capsys.readouterr().out
    assert len(whole.splitlines()) == 7
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show.record(found, False)
    folded = capsys.readouterr().out
    assert max(len(line) for line in folded.splitlines() if "0" * 90 not in line) <= 80
    assert folded.split() == whole.split()


def test_the_report_shows_no_control_character_no_markup_and_no_secret_of_other_people() -> None:
    text = EVIL + "<script>alert(1)</script> https://ana:hush@host/a.jpg?sig=hush"
    page = environment().from_string("<td title='{{ x }}'>{{ x[:200] }}</td>{{ 7 }}{{ chart|safe }}")
    shown = page.render(x=text, chart="<svg>a?b</svg>")
    assert "owned" in shown
    assert not set(shown) & set("\x1b\x07\x9b\r\n\u202e\u2028")
    assert "<script>" not in shown
    assert "hush" not in shown
    assert shown.endswith("7<svg>a?b</svg>")
