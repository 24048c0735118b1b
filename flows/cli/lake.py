"""`sidmill lake`: the state of the lake as a whole."""

import json
from contextlib import suppress
from datetime import timedelta
from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.options import OPTIONS, AsJson, Common, ReleaseName
from flows.cli.start import by_hand
from flows.runtime.terminal import say, warn
from learning.progress import progress_listener
from storage.errors import DataCorrupt, LakeError

app = App(name="lake", help="Look at the lake as a whole, and keep it small.", group_parameters=OPTIONS)


IdArguments = Annotated[tuple[str, ...], Parameter(metavar="ID...", consume_multiple=1)]
IdFile = Annotated[str | None, Parameter(metavar="FILE")]


class VerificationFailed(LakeError):
    """Raised if a check of the lake finds a fault."""


@app.command
def status(*, as_json: AsJson = False, common: Common = Common()) -> None:
    """Show what ran last, what is published, and how full the tables are.

    $ sidmill lake status
    $ sidmill lake status --json --lake s3://bucket/lake
    """
    from flows.cli import show
    from flows.inspect.status import lake_status
    from storage.releases.releases import published

    lake = common.existing()
    try:
        found = lake_status(lake)
    except DataCorrupt:
        with suppress(LakeError):  # the same table is damaged
            if not as_json and (target := published(lake)):
                say(f"production: {target.release}, {target.model or 'no model'}. More of the lake cannot be read:")
        raise
    show.status(found, as_json)


@app.command
def verify(*, as_json: AsJson = False, common: Common = Common()) -> None:
    """Compare every file that a release pins with its hash. Reads all of them.

    $ sidmill lake verify
    """
    from flows.inspect.verify import verify as verify_lake

    findings = list(verify_lake(common.existing()))
    wrong = [finding for finding in findings if finding.fault is not None]
    if as_json:
        print(json.dumps([{"subject": e.subject, "what": e.what, "wrong": e.fault or ""} for e in findings]))
    else:
        for each in wrong:
            say(f"  WRONG {each.subject} {each.what}: {each.fault}")
        print(f"{len(findings)} checks of versions and hashes, {len(wrong)} wrong")
    if wrong:
        subjects = ", ".join(sorted({finding.subject for finding in wrong}))
        raise VerificationFailed(
            f"{subjects} cannot be trusted: restore the files from a backup, or roll back to a release without faults."
        )


@app.command
def migrate(*, common: Common = Common()) -> None:
    """Bring a lake of an older format to the format of this version, in place."""
    from storage.migrate import migrate as migrate_lake

    for line in migrate_lake(common.open(), by_hand("lake migrate")):
        print(f"  {line}")


@app.command
def gc(
    *,
    keep: Annotated[int, Parameter(metavar="RELEASES")] = 10,
    grace: Annotated[timedelta, Parameter(metavar="DURATION", show_default=lambda _: "7d")] = timedelta(days=7),
    yes: bool = False,
    as_json: AsJson = False,
    common: Common = Common(),
) -> None:
    """Retire old releases, and remove the files that nothing needs any more.

    Keeps production, pins (`sidmill release pin`), the newest releases, and
    what running runs need. Without --yes nothing is changed: the command
    lists what would be removed, and why the rest stays.

    $ sidmill lake gc
    $ sidmill lake gc --keep 30 --grace 2d --yes

    Args:
        keep: Keep this many releases that were published last, and as many that were made last.
        grace: Keep what was written, retired or replaced within this time, such as 7d or 12h: readers may still use it.
        yes: Retire and remove.
    """
    from flows.inspect.collected import as_record, lines
    from storage.retention.collect import collect
    from storage.retention.policy import Policy

    with progress_listener(warn):
        found = collect(common.existing(), Policy(keep, grace), by_hand("lake gc"), remove=yes)
    if as_json:
        print(json.dumps(as_record(found, removed=yes), indent=2))
        return
    for line in lines(found, removed=yes):
        say(line)


@app.command
def erase(
    *,
    user: IdArguments = (),
    item: IdArguments = (),
    users_from: IdFile = None,
    items_from: IdFile = None,
    reason: str = "",
    wait: Annotated[timedelta, Parameter(metavar="DURATION", show_default=lambda _: "10m")] = timedelta(minutes=10),
    refit: bool = False,
    resume: bool = False,
    yes: bool = False,
    as_json: AsJson = False,
    common: Common = Common(),
) -> None:
    """Take users or items out of the lake, also out of what releases pin.

    Every version of every table is written without their rows, the tries and
    factors of all releases without the items, and the former files are deleted.
    Without --yes nothing is changed: the command says what the lake holds of them.

    Delete them from the sources first: a file that is read again brings them
    back. Backups, and tries that were exported, are not reached.

    $ sidmill lake erase --user u-1029
    $ sidmill lake erase --users-from requests.txt --reason 'ticket 4711' --yes

    Args:
        user: Ids of users, as in the log. Pseudonyms are found by the key of the recipe.
        item: Ids of items. Events of these items go too.
        users_from: File with an id of a user on each line; - reads standard input.
        items_from: File with an id of an item on each line; - reads standard input.
        reason: Text for the record of erasures, which names nobody.
        wait: Wait so long for the end of running runs, which may hold rows in memory.
        refit: Then fit a new codebook, and train on it, as candidates: `run backfill` and `run train`.
        resume: Go on with the erasures that did not end.
        yes: Erase.
    """
    from flows.cli.erase import Request, run_erase, subjects

    users, items = subjects(user, users_from), subjects(item, items_from)
    request = Request(users, items, reason, wait.total_seconds(), refit=refit, resume=resume, yes=yes)
    run_erase(common.existing(), request, as_json)


@app.command
def backup(
    target: Annotated[str, Parameter(name="DEST")],
    /,
    *,
    release: ReleaseName = "production",
    common: Common = Common(),
) -> None:
    """Copy a release with all that it pins to an empty place.

    The copy is a lake with this release alone, and has the hashes of its files.

    $ sidmill lake backup /backups/2026-12-01
    $ sidmill lake backup s3://backups/spring --release r-000003

    Args:
        target: Folder or object-store URI, which must be empty or not exist.
        release: Release id or alias.
    """
    from storage.retention.backup import backup as make_backup

    made = make_backup(common.existing(), target, release, by_hand("lake backup"))
    print(f"{target}: {made.release}, {made.model or 'no model'}, {len(made.files):,} files, {made.size:,} bytes")


@app.command
def restore(source: Annotated[str, Parameter(name="SOURCE")], /, *, common: Common = Common()) -> None:
    """Make a lake of a backup, in an empty place. Every file is compared with its hash.

    $ sidmill lake restore /backups/2026-12-01 --lake ./books

    Args:
        source: Folder or object-store URI that `sidmill lake backup` wrote.
    """
    from storage.retention.backup import restore as restore_lake

    lake = common.open()
    found = restore_lake(source, lake)
    print(f"{lake.uri}: {len(found.files):,} files of {found.made_at[:19]} UTC, each with its hash")
    print(f"production -> ({found.release}, {found.model or 'no model'})")
