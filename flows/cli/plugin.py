"""`sidmill plugin`: the members of registries, built in or from installed packages."""

from cyclopts import App

from flows.cli.options import OPTIONS, AsJson, Debug

app = App(name="plugin", help="List quantizers, encoders and what else packages add.", group_parameters=OPTIONS)


@app.command(name="list")
def list_members(*, as_json: AsJson = False, debug: Debug = Debug()) -> None:
    """List quantizers, encoders and other members with the package they come from."""
    from flows.cli import show
    from flows.runtime.members import members

    show.plugins(members(), as_json)
