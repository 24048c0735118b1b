"""The refit that production is due for: its gates say that the catalogue has outgrown its codebook."""

from storage.lake import Lake
from storage.releases.releases import PRODUCTION, published, read_release, releases

DUE_GATES = ("capacity_used", "drifted_items", "new_items_distance")
"""Gates that a refit or a new codebook mends. They warn: SIDs that are published stay right meanwhile."""


def refit_due(lake: Lake) -> str:
    """Return why production is due for a backfill; "" if it is not, or if one was made for its codebook already."""
    if published(lake) is None:
        return ""
    production = read_release(lake, PRODUCTION)
    why = [gate.name for gate in production.gates if gate.name in DUE_GATES and not gate.passed]
    if production.counts.get("refit_due"):
        why.append("items without a free SID")
    fits = [((each.codebook.id, each.codebook.fitted_by), each.created_at) for each in releases(lake)]
    own = production.codebook.id, production.codebook.fitted_by
    since = min(at for fit, at in fits if fit == own)
    if any(fit != own and at > since for fit, at in fits):
        return ""
    return f"the codebook {production.codebook.id} is due for a refit: {', '.join(why)}" if why else ""
