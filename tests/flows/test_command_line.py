"""The command line accepts what the docs say, suggests corrections of typing errors, and prints help quickly."""

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from flows.cli.main import app, run_command
from flows.cli.options import Common, RecipeOptions, Sources

ROOT = Path(__file__).resolve().parents[2]
# In a code span, after a prompt, in the folder of an environment, or alone on an indented line; up to prose.
SHOWN = re.compile(r"(?:`|\$ |bin/|^ {4}|^#   )sidmill ([a-z-](?:(?!\.\.\.|   )[^`#|\n])*)", re.MULTILINE)
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "infra").glob("*.yaml"),
    *(ROOT / "infra" / "recipes").glob("*.toml"),
]


def verbs(of: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in of:
        if not name.startswith("-"):
            yield (*path, name), of[name]
            yield from verbs(of[name], (*path, name))


COMMANDS = [path for path, _ in verbs()]


def shown() -> Iterator[str]:
    for path in PAGES:
        yield from SHOWN.findall(path.read_text().replace("\\\n", " "))
    for _, verb in verbs():
        yield from SHOWN.findall(inspect.cleandoc(verb.help))


def arguments_of(words: list[str]) -> dict[str, object]:
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return bound.arguments


@pytest.mark.parametrize("command", sorted(set(map(str.strip, shown()))))
def test_a_command_that_a_page_or_the_help_shows_is_understood(command: str) -> None:
    words = shlex.split(command)
    if tuple(words) not in COMMANDS:  # else a page only names it
        assert arguments_of(words)


@pytest.mark.parametrize("words", [["item", "explain"], ["release", "diff"], ["release", "diff", "r-000001"]])
def test_what_is_missing_is_named_with_the_help_of_the_verb(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(rf"sidmill: error: [A-Z]+ is missing. See `sidmill {words[0]} {words[1]} --help`.\n", told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rnu"], 'Unknown command "rnu". Did you mean "run"?'),
        (["run", "nighly"], 'Unknown command "nighly". Did you mean "nightly"?'),
        (["nightly"], 'Unknown command "nightly". Did you mean "run"?'),
        (["run", "nightly", "--itmes", "x"], "Unknown option: --itmes. Did you mean --items?"),
        (["release", "export-trie", "a", "b", "--format", "arow"], 'Did you mean "arrow"?'),
        (["run", "nightly", "--no-publish"], "Unknown option: --no-publish."),
        (["lake", "status", "extra"], 'Unexpected argument "extra".'),
        (["lake", "status", "--lake"], "--lake needs a value."),
        (["run", "nightly", "--items"], "--items needs a value."),
        (["quarantine", "list", "--limit", "few"], 'Invalid value for --limit: unable to convert "few" into int.'),
    ],
)
def test_a_slip_is_answered_in_one_line_with_what_was_meant(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sidmill: error: ")
    assert said.err.endswith("--help`.\n")
    assert told in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["run"], ["release"]])
def test_without_a_verb_the_help_goes_to_stderr_and_the_command_exits_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"Usage: {' '.join(['sidmill', *words])} COMMAND")


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_every_command_has_help_of_80_columns(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command([*command, "--help"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(['sidmill', *command])}")
    assert max(map(len, lines)) <= 80
    assert "None" not in said.out
    assert not re.search(r"^│ \S+( \S+)? +│$", said.out, re.MULTILINE), "an option without a text"


def test_help_and_version_import_nothing_that_a_run_needs() -> None:
    script = (
        "import sys; from flows.cli.main import run_command; "
        "assert [run_command([*each, '--help']) for each in ([], ['run', 'nightly'], ['serve'])] == [0, 0, 0]; "
        "assert run_command(['--version']) == 0; "
        "heavy = {'ray', 'torch', 'prefect', 'polars', 'pyarrow', 'deltalake', 'numpy', 'pydantic'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sidmill " in done.stdout.splitlines()[-1]


def test_an_option_of_many_values_is_repeated_or_given_all_at_once() -> None:
    once = arguments_of(["run", "nightly", "--items", "a", "b", "--set", "x.y=[1]", "--set=x.z={a=1}"])
    again = arguments_of(["run", "nightly", "--items", "a", "--set", "x.y=[1]", "--items=b", "--set", "x.z={a=1}"])
    assert (
        once == again == {"sources": Sources(items=("a", "b")), "recipe": RecipeOptions(None, ("x.y=[1]", "x.z={a=1}"))}
    )


def test_of_another_option_the_last_value_counts() -> None:
    assert arguments_of(["lake", "status", "--lake", "a", "--lake=b"]) == {"common": Common(lake="b")}


@pytest.mark.parametrize(
    ("words", "item"), [(["-5"], "-5"), (["--", "-x"], "-x"), (["--", "--help"], "--help"), ([""], "")]
)
def test_an_id_may_look_like_an_option(words: list[str], item: str) -> None:
    assert arguments_of(["item", "explain", *words]) == {"item": item}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_its_options(shell: str) -> None:
    script = app.generate_completion(shell=shell)  # type: ignore[arg-type]
    for command in COMMANDS:
        assert command[-1] in script
    for option in ("items", "set", "without-model", "lift", "format"):
        assert option in script
