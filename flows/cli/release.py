"""`sidmill release`: list, compare, publish and export releases."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from flows.cli.options import OPTIONS, AsJson, Common, OptionalModel, OptionalRelease, Time
from flows.cli.start import by_hand, get_ready
from flows.runtime.terminal import say

if TYPE_CHECKING:
    from storage.releases.standing import Standing

app = App(name="release", help="List, compare, publish and export releases.", group_parameters=OPTIONS)

Format = Literal["native", "arrow", "codes"]
ReleaseArgument = Annotated[str, Parameter(name="RELEASE")]


class NoTrie(ValueError):
    """Raised if the trie of a release whose codes have no order is requested."""


@app.command(name="list")
def list_releases(*, as_json: AsJson = False, common: Common = Common()) -> None:
    """List candidates and releases, oldest first, without those that were retired."""
    from flows.cli import show
    from flows.inspect.status import ListedRelease, release_status
    from storage.erasure.record import redacted
    from storage.releases.releases import published, releases
    from storage.releases.standing import read_standing

    lake = common.existing()
    standing, erased = read_standing(lake), redacted(lake)
    found = [
        ListedRelease(release_status(each), _pinned(standing, each.id), erased.get(each.id, []))
        for each in releases(lake)
    ]
    show.releases(found, published(lake), sum(name.startswith("r-") for name in standing.retired), as_json)


def _pinned(standing: "Standing", release: str) -> str | None:
    found = standing.pins.get(release)
    return str(found) if found is not None and found.holds(datetime.now(UTC)) else None


@app.command
def audit(release: ReleaseArgument = "production", /, *, common: Common = Common()) -> None:
    """Check that held-out events have no effect on what a release is made of.

    Builds the release three times, below TMPDIR: as it is, with other held-out
    events, and with other events before the cutoff. The first two must agree in
    factors, fusion, codebook, SIDs and training sequences, or the command
    exits with 1. The third shows that the comparison can find a difference.

    $ sidmill release audit production

    Args:
        release: Release id or alias.
    """
    lake = common.existing()
    get_ready("flows.audit.leakage", cluster=True)
    from flows.audit.leakage import audit_release, require_no_leak

    require_no_leak(audit_release(lake, release, say))


@app.command(name="show")
def show_release(release: ReleaseArgument, /, *, as_json: AsJson = False, common: Common = Common()) -> None:
    """Show what a release pins, its gates, and its models.

    $ sidmill release show production

    Args:
        release: Release id or alias.
    """
    from flows.cli import show
    from flows.inspect.status import ShownRelease, model_status, models_shown, release_status
    from storage.releases.releases import read_release

    lake = common.existing()
    manifest = read_release(lake, release)
    models = [model_status(row) for row in models_shown(lake, manifest)]
    show.release(ShownRelease(release_status(manifest), models), as_json)


@app.command
def diff(
    before: Annotated[str, Parameter(name="BEFORE")],
    after: Annotated[str, Parameter(name="AFTER")],
    /,
    *,
    as_json: AsJson = False,
    common: Common = Common(),
) -> None:
    """Show what changed from one release to another.

    $ sidmill release diff r-000001 production

    Args:
        before: Release id or alias.
        after: Release id or alias.
    """
    from flows.inspect.diff import diff_releases, show_diff
    from storage.releases.releases import read_release

    lake = common.existing()
    found = diff_releases(lake, read_release(lake, before), read_release(lake, after))
    if as_json:
        print(json.dumps(found.as_record(), indent=2))
    else:
        show_diff(say, found)


@app.command
def publish(
    release: ReleaseArgument,
    /,
    *,
    model: OptionalModel = None,
    without_model: bool = False,
    common: Common = Common(),
) -> None:
    """Publish a candidate: point production at it. This also ends a hold.

    $ sidmill release publish r-000003
    $ sidmill release publish r-000003 --model m-000002

    Args:
        release: Release id.
        model: Publish this model with it. Default: its newest model, else the model of production if that fits.
        without_model: Publish also if production loses its generator by it.
    """
    from flows.gates.model_gate import may_be_worse
    from storage.releases.models import newest_model
    from storage.releases.publishing import Publication
    from storage.releases.publishing import publish as publish_release

    lake = common.existing()
    wanted = Publication(release, model=model, without_model=without_model, may_be_worse=may_be_worse)
    now = publish_release(lake, wanted, by_hand("release publish"))
    print(f"production -> ({now.release}, {now.model or 'no model'})")
    newest = newest_model(lake, now.release)
    if model is None and not without_model and newest is not None and now.model != newest:
        print(
            f"{newest}, the newest model of {now.release}, is not published with it; "
            f"`sidmill release publish {now.release} --model {newest}` publishes it"
        )


@app.command
def rollback(*, to: OptionalRelease = None, common: Common = Common()) -> None:
    """Point production back at a release published earlier, and hold it there.

    While production is held, runs make candidates and publish none.

    $ sidmill release rollback
    $ sidmill release rollback --to r-000001

    Args:
        to: Release to go back to. Default: the one published before, without those that were rolled back.
    """
    from flows.gates.model_gate import may_be_worse
    from storage.releases.publishing import rollback as roll_back
    from storage.releases.releases import published

    lake = common.existing()
    before = published(lake)
    now = roll_back(lake, by_hand("release rollback"), to, may_be_worse=may_be_worse)
    unmoved = "already, nothing was moved" if now == before else ""
    print(f"production -> ({now.release}, {now.model or 'no model'}) {unmoved}".rstrip())
    if now != before:
        print("held: runs make candidates and publish none, until `sidmill release publish` or `release hold --lift`")


@app.command
def hold(*, lift: bool = False, reason: str = "", common: Common = Common()) -> None:
    """Keep runs from moving production, or let them move it again.

    $ sidmill release hold --reason "prices are wrong since Monday"
    $ sidmill release hold --lift

    Args:
        lift: Let runs publish again.
        reason: Shown by each run that does not publish, and by `sidmill lake status`.
    """
    from storage.releases.publishing import held
    from storage.releases.publishing import hold as hold_production
    from storage.releases.publishing import lift as lift_hold

    lake, who = common.existing(), by_hand("release hold")
    if lift:
        print("production is no longer held" if lift_hold(lake, who) else "production was not held")
    else:
        hold_production(lake, who, reason)
        say(held(lake) or "production is not held")


@app.command
def pin(release: ReleaseArgument, /, *, reason: str, until: Time = None, common: Common = Common()) -> None:
    """Keep a release, with all that it pins, from `sidmill lake gc`.

    $ sidmill release pin r-000003 --reason "spring report" --until 2027-06-30

    Args:
        release: Release id or alias.
        reason: Shown by `sidmill release list` and `sidmill lake gc`.
        until: Keep it up to this time. Default: until `sidmill release unpin`.
    """
    from flows.runtime.times import parse_time
    from storage.releases.releases import read_release
    from storage.releases.standing import pin as pin_release

    lake = common.existing()
    found = read_release(lake, release).id
    say(f"{found} {pin_release(lake, found, reason, parse_time(until), by_hand('release pin'))}")


@app.command
def unpin(release: ReleaseArgument, /, *, common: Common = Common()) -> None:
    """Lift a pin: `sidmill lake gc` may retire the release.

    $ sidmill release unpin r-000003

    Args:
        release: Release id or alias.
    """
    from storage.releases.releases import read_release
    from storage.releases.standing import unpin as unpin_release

    lake = common.existing()
    found = read_release(lake, release).id
    lifted = unpin_release(lake, found, by_hand("release unpin"))
    print(f"{found} is no longer pinned" if lifted else f"{found} was not pinned")


@app.command
def export_trie(
    release: ReleaseArgument,
    output: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    format: Format = "native",
    common: Common = Common(),
) -> None:
    """Write the trie of a release, or its table of codes, to a file for serving.

    $ sidmill release export-trie production sids.trie
    $ sidmill release export-trie r-000003 sids.arrow --format arrow

    Args:
        release: Release id or alias.
        output: File to write.
        format: The trie as it is, the trie as an Arrow file, or the codes of each item as an Arrow file: docs/trie.md.
    """
    from storage.releases.releases import read_release
    from tokenizer.spec import CodebookSpec

    lake = common.existing()
    manifest = read_release(lake, release)
    if not output.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {output.parent} for {output.name}: create it, or name another file."
        )
    native = manifest.trie.sha256
    if format != "codes" and not CodebookSpec.model_validate(manifest.recipe["codebook"]).ordered:
        raise NoTrie(
            f"{manifest.id} has no trie to serve: the codes of {manifest.recipe['codebook']['quantizer']} have no "
            f"order. Write its table of codes: `sidmill release export-trie {release} {output} --format codes`."
        )
    if format == "native":
        output.write_bytes(lake.blobs.get(native))
    else:
        from sidmill.release import open_trie
        from tokenizer.trie.export import write_arrow, write_codes

        names = {"release": manifest.id, "vocabulary": manifest.codebook.vocabulary, "native_sha256": native}
        write = write_codes if format == "codes" else write_arrow
        write(open_trie(lake, manifest), output, names)
    print(f"{output}: {manifest.trie.sids:,} SIDs of {manifest.id} ({format}), trie sha256 {native}")


@app.command
def export_grounding(
    release: ReleaseArgument = "production",
    /,
    *,
    output: Annotated[Path, Parameter(metavar="FOLDER")],
    common: Common = Common(),
) -> None:
    """Write pairs of texts that teach a language model what the SIDs mean.

    $ sidmill release export-grounding --output corpus

    Args:
        release: Release id or alias.
        output: Folder to write.
    """
    from flows.grounding import export_grounding as export
    from flows.grounding import format_summary
    from storage.releases.releases import read_release

    lake = common.existing()
    made = export(lake, read_release(lake, release), output)
    print(f"{output}: {format_summary(made)}")
