"""`sidmill recipe`: propose a recipe from data, and say what a run with a recipe would do."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.options import OPTIONS, AsJson, Common, Debug, RecipeOptions, Sources
from flows.cli.start import production_recipe, tell
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


@app.command
def check(
    *,
    sources: Sources = Sources(),
    recipe: RecipeOptions = RecipeOptions(),
    lake: Annotated[str | None, Parameter(metavar="URI")] = None,
    quick: bool = False,
    as_json: AsJson = False,
    debug: Debug = Debug(),
) -> None:
    """Report what a run with a recipe would read and make, and its faults.

    Ingests a sample of each source into a temporary folder, opens encoders and
    given vectors, and compares the codebook with the number of items. Exits
    with 1 if a fault would stop the run, otherwise with 0.
    Without --recipe, the recipe of production in --lake applies.

    $ sidmill recipe check --recipe shop.toml --items items.jsonl
    $ sidmill recipe check --recipe shop.toml --items new.csv --lake ./lake

    Args:
        lake: Lake that the run would extend. Sources that it has read are left out.
        quick: Do not load encoders to time them.
    """
    from flows.preflight.preflight import PlannedRun
    from storage.releases.releases import PRODUCTION

    given = Common(lake=lake).existing() if lake is not None else None
    base = production_recipe(given) if given is not None else None
    settings, overrides = recipe.resolve(base)
    parent = PRODUCTION if base is not None else None
    kind = "nightly" if parent else "bootstrap"
    run = PlannedRun(kind, settings, *sources.absolute(), given, parent, overrides=tuple(overrides))
    tell(run, quick=quick, as_json=as_json)
