"""`sidmill item`: look at one item."""

from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.options import OPTIONS, AsJson, Common, ReleaseName

app = App(name="item", help="Look at one item.", group_parameters=OPTIONS)


@app.command
def explain(
    item: Annotated[str, Parameter(name="ITEM")],
    /,
    *,
    release: ReleaseName = "production",
    as_json: AsJson = False,
    common: Common = Common(),
) -> None:
    """Show the SID of an item, the items near it, and where its data came from.

    If the item has no SID, this says why.

    $ sidmill item explain 1003
    $ sidmill item explain --release r-000002 -- -17b

    Args:
        item: Item id. Put -- before an id that begins with a dash.
        release: Release id or alias.
    """
    from flows.cli import show
    from flows.inspect.explain import explain_item
    from storage.releases.releases import read_release

    lake = common.existing()
    show.explanation(explain_item(lake, read_release(lake, release), item), as_json)
