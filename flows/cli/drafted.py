"""Write a draft of a recipe, and say what was found and what to run next."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from flows.cli.options import Sources
from flows.draft.draft import Draft, draft_recipe
from flows.recipe import RecipeError


class DraftIncomplete(RecipeError):
    """Raised when a recipe was written in which a person has to name columns."""


def written(sources: Sources, output: Path, force: bool) -> Iterator[str]:
    """Write the draft, and yield lines about it. Raise DraftIncomplete at the end if columns have to be named."""
    if not sources.items:
        raise RecipeError("there is no catalogue to look at: give it with --items PATH.")
    if output.exists() and not force:
        raise RecipeError(f"{output} is there already: write to another file with --output, or overwrite with --force.")
    sources.found()
    draft = draft_recipe(list(sources.items), list(sources.interactions))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(draft.text)
    yield from _told(draft)
    yield f"wrote {output}"
    if draft.lacking:
        missing = "\n  ".join(draft.lacking)
        raise DraftIncomplete(
            f"{output} is not complete, because some columns could not be identified:\n  {missing}\n"
            "Correct the data, or name the columns in the lines marked TO DO; then run "
            f"`sidmill recipe check --recipe {output}`."
        )
    given = _options(sources)
    yield ""
    yield "next:"
    yield f"  sidmill recipe check --recipe {shlex.quote(str(output))} {given}"
    yield f"  sidmill run bootstrap --recipe {shlex.quote(str(output))} {given}"


def _told(draft: Draft) -> Iterator[str]:
    yield f"items         {draft.items}"
    if draft.interactions is not None:
        yield f"interactions  {draft.interactions}"
    if draft.preset:
        yield f"known columns: preset {draft.preset}"
    for sampled in (draft.items, draft.interactions):
        for warning in sampled.warnings if sampled else ():
            yield f"warning: {warning}"
    for note in draft.notes:
        yield f"note: {note}"


def _options(sources: Sources) -> str:
    items = " ".join(map(shlex.quote, sources.items))
    logs = " ".join(map(shlex.quote, sources.interactions))
    return f"--items {items}" + (f" --interactions {logs}" if logs else "")
