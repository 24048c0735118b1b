"""`sidmill lake erase`: read the ids, erase, say what had seen them, and start the fits that replace it."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.cli.start import by_hand, get_ready
from flows.runtime.terminal import say, warn
from learning.progress import progress_listener
from storage.erasure.erase import Held
from storage.erasure.record import Wanted, unfinished
from storage.lake import Lake


def subjects(named: Iterable[str], file: str | None) -> frozenset[str]:
    """Return the ids that were named and those of a file, one a line; - is standard input."""
    text = "" if file is None else sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    return frozenset(each for each in (*named, *text.splitlines()) if each)


@dataclass(frozen=True)
class Request:
    """Options of the command."""

    users: frozenset[str]
    items: frozenset[str]
    reason: str
    wait_s: float
    refit: bool
    resume: bool
    yes: bool


def run_erase(lake: Lake, request: Request, as_json: bool) -> None:
    """Erase, or say what would go."""
    from flows.erase import erase_from, what_is_held
    from pipelines.ingest.events.pseudonyms import with_pseudonyms

    named = with_pseudonyms(lake, request.users) if request.users else request.users
    wanted = [Wanted(named, request.items)] if named or request.items else []
    wanted += unfinished(lake).values() if request.resume else []
    if not wanted and not request.resume:
        raise ValueError("name whom or what to erase: --user ID, --item ID, --users-from FILE or --items-from FILE.")
    if not wanted:
        say("all erasures have ended")
    for each in wanted:
        if request.yes:
            provenance = by_hand("lake erase")
            with progress_listener(warn):
                erased = erase_from(lake, each.users, each.items, request.reason, provenance, request.wait_s)
            held, record = erased.held, asdict(erased)
        else:
            held = what_is_held(lake, each.users, each.items)
            record = {"held": asdict(held)}
        if as_json:
            print(json.dumps(record, indent=2))
            continue
        for line in _lines(held, each, request.yes):
            say(line)
        if request.yes:
            print(f"{erased.files:,} data files, {erased.blobs:,} blobs and {erased.texts:,} texts had something of it")
        if request.yes and request.refit:
            _refit(lake, held)


def _lines(held: Held, wanted: Wanted, done: bool) -> Iterable[str]:
    found = ((len(wanted.users), "ids of users"), (len(wanted.items), "ids of items"))
    counted = " and ".join(f"{count:,} {name}" for count, name in found if count)
    if not held.rows:
        yield f"the lake holds nothing of {counted}"
        return
    yield f"{'erased' if done else 'would erase'} {counted}; rows by table:"
    width = max(map(len, held.rows))
    yield from (f"  {table:<{width}}  {rows:>10,}" for table, rows in held.rows.items())
    if held.seen.releases:
        yield f"  fitted with them: vectors, codebooks and tries of {', '.join(held.seen.releases)}"
        yield f"    fusions: {', '.join(held.fusions)}"
        yield f"    codebooks: {', '.join(held.codebooks)}"
    if held.seen.models:
        yield f"  trained on them: {', '.join(held.seen.models)}"
    if held.seen.releases or held.seen.models:
        yield "  they keep sums over many rows, no ids; to replace them, `sidmill run backfill` and `sidmill run train`"
    if not done:
        yield "nothing was changed; run it again with --yes"


def _refit(lake: Lake, held: Held) -> None:
    """Make a candidate of a new fit if production's had seen what is gone, and a model on it if there was one."""
    from storage.releases.releases import PRODUCTION, published

    current = published(lake, PRODUCTION)
    if current is None or not {current.release, current.model} & {*held.seen.releases, *held.seen.models}:
        say("production had not seen it: nothing to refit")
        return
    get_ready("flows.backfill", cluster=True)
    from flows.backfill import backfill
    from flows.train import train

    made = backfill(lake.uri)
    if current.model is not None:
        train(lake.uri, release=made["release"])
