"""`sidmill quarantine`: rows that stages refused."""

from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.options import OPTIONS, AsJson, Bounds, Common, RecipeOptions, Sources
from flows.cli.start import start_night

app = App(name="quarantine", help="Look at rows that stages refused, and try them again.", group_parameters=OPTIONS)


@app.command(name="list")
def list_rows(
    *,
    reason: str | None = None,
    limit: Annotated[int, Parameter(metavar="ROWS")] = 50,
    as_json: AsJson = False,
    common: Common = Common(),
) -> None:
    """List the rows in quarantine with their reasons and remedies.

    $ sidmill quarantine list
    $ sidmill quarantine list --reason image_unreachable --limit 10

    Args:
        reason: Only rows with this reason.
        limit: Show this many rows, the newest ones. --json prints all.
    """
    from flows.cli import show
    from flows.inspect.status import refused_rows

    show.quarantine(refused_rows(common.existing(), reason), limit, as_json)


@app.command
def retry(*, recipe: RecipeOptions = RecipeOptions(), common: Common = Common()) -> None:
    """Run a night that tries the items in quarantine again.

    Items that a stage after ingest refused are tried again, and pictures that
    their hosts did not give are asked for again. Rows that ingest refused are
    read again only from a corrected file.

    $ sidmill quarantine retry
    """
    start_night("production", Sources(), recipe, Bounds(), common, retry=True)
