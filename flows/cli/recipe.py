"""`sidmill recipe`: propose a recipe from data, and say what a run with a recipe would do."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.options import OPTIONS, Debug, Sources
from flows.runtime.terminal import say

app = App(name="recipe", help="Draft a recipe from data, and check one before a run.", group_parameters=OPTIONS)


@app.command
def init(
    *,
    sources: Sources = Sources(),
    output: Annotated[Path, Parameter(metavar="FILE")] = Path("recipe.toml"),
    force: bool = False,
    debug: Debug = Debug(),
) -> None:
    """Look at a catalogue and its logs, and write a commented recipe for them.

    Reads a sample of each source. Proposes which columns mean what, the text
    that is encoded, and how many codes a level has. Public data sets are known
    by their columns.

    $ sidmill recipe init --items items.jsonl --interactions log.csv
    $ sidmill recipe init --items films.parquet --output films.toml

    Args:
        output: File to write.
        force: Overwrite the file if there is one.
    """
    from flows.cli.drafted import written

    for line in written(sources, output, force):
        say(line)
