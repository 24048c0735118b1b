"""Verbs of `sidmill release`; see flows/cli/commands.py."""

import json
from pathlib import Path

from flows.cli import show
from flows.cli.commands import Options, existing
from flows.runtime.terminal import say


class NoTrie(ValueError):
    """Raised if the trie of a release whose codes have no order is requested."""


def release_list(options: Options) -> None:
    from flows.inspect.status import release_status
    from storage.releases.releases import published, releases

    lake = existing(options)
    show.releases([release_status(manifest) for manifest in releases(lake)], published(lake), options.json)


def release_show(options: Options) -> None:
    from flows.inspect.status import model_status, models_shown, release_status
    from storage.releases.releases import read_release

    lake = existing(options)
    manifest = read_release(lake, options.release)
    models = [model_status(row) for row in models_shown(lake, manifest)]
    show.release({**release_status(manifest), "models": models}, options.json)


def release_diff(options: Options) -> None:
    from flows.inspect.diff import diff_releases, show_diff
    from storage.releases.releases import read_release

    lake = existing(options)
    diff = diff_releases(lake, read_release(lake, options.before), read_release(lake, options.after))
    if options.json:
        print(json.dumps(diff, indent=2))
    else:
        show_diff(say, diff)


def release_publish(options: Options) -> None:
    from flows.gates.model_gate import may_be_worse
    from storage.commit import Provenance
    from storage.releases.models import newest_model
    from storage.releases.publishing import publish

    lake = existing(options)
    now = publish(
        lake,
        options.release,
        Provenance("release publish", ""),
        options.model,
        without_model=options.without_model,
        may_be_worse=may_be_worse,
    )
    print(f"production -> ({now.release}, {now.model or 'no model'})")
    newest = newest_model(lake, now.release)
    if options.model is None and not options.without_model and newest is not None and now.model != newest:
        print(
            f"{newest}, the newest model of {now.release}, is not published with it; "
            f"`sidmill release publish {now.release} --model {newest}` does that"
        )


def release_rollback(options: Options) -> None:
    from flows.gates.model_gate import may_be_worse
    from storage.commit import Provenance
    from storage.releases.publishing import rollback
    from storage.releases.releases import published

    lake = existing(options)
    before = published(lake)
    now = rollback(lake, Provenance("release rollback", ""), options.to, may_be_worse=may_be_worse)
    told = "already, nothing was moved" if now == before else ""
    print(f"production -> ({now.release}, {now.model or 'no model'}) {told}".rstrip())
    if now != before:
        print("held: runs make candidates and publish none, until `sidmill release publish` or `release hold --lift`")


def release_hold(options: Options) -> None:
    from storage.commit import Provenance
    from storage.releases.publishing import held, hold, lift

    lake, who = existing(options), Provenance("release hold", "")
    if options.lift:
        print("production is no longer held" if lift(lake, who) else "production was not held")
    else:
        hold(lake, who, options.reason)
        print(held(lake))


def release_export_trie(options: Options) -> None:
    from storage.releases.releases import read_release
    from tokenizer.spec import CodebookSpec

    lake = existing(options)
    manifest = read_release(lake, options.release)
    native, output = manifest.trie.sha256, Path(options.output)
    if options.format != "codes" and not CodebookSpec.model_validate(manifest.recipe["codebook"]).ordered:
        raise NoTrie(
            f"the codes of {manifest.id} have no order ({manifest.recipe['codebook']['quantizer']}), so no trie to "
            f"serve: `sidmill release export-trie {options.release} {output} --format codes` writes the code table"
        )
    if options.format == "native":
        output.write_bytes(lake.blobs.get(native))
    else:
        from sidmill.release import open_trie
        from tokenizer.trie.export import write_arrow, write_codes

        names = {"release": manifest.id, "vocabulary": manifest.codebook.vocabulary, "native_sha256": native}
        write = write_codes if options.format == "codes" else write_arrow
        write(open_trie(lake, manifest), output, names)
    print(f"{output}: {manifest.trie.sids:,} SIDs of {manifest.id} ({options.format}), trie sha256 {native}")


def release_export_grounding(options: Options) -> None:
    from flows.grounding import export_grounding, format_summary
    from storage.releases.releases import read_release

    lake = existing(options)
    made = export_grounding(lake, read_release(lake, options.release), Path(options.output))
    print(f"{options.output}: {format_summary(made)}")
