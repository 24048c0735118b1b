"""Step that reads new source files into the lake, and stops the run if too many rows are bad."""

from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.runtime.budget import check_stage_budget
from flows.runtime.progress import StageView
from flows.runtime.run import Run
from flows.steps.task import step
from pipelines.counts import Counts
from pipelines.ingest.absent import absent_columns
from pipelines.ingest.accounting import IngestedSource, record_source, records, unread
from pipelines.ingest.events.ingest import LogResources, ingest_interactions
from pipelines.ingest.events.waiting import admit_waiting, waiting_for_known_items
from pipelines.ingest.items.ingest import fetch_again, ingest_items
from pipelines.ingest.items.marks import doubtful_attributes
from pipelines.registry import source_kind_of
from pipelines.sources.column_names import differences, header_of, lacking_headers, near_columns
from pipelines.sources.files import SourceFile
from pipelines.sources.protocol import Source, Spec, check_sources
from pipelines.sources.source_spec import ItemsWithoutImages
from pipelines.sources.tables.versioned import TableVersion
from storage.reasons import ATTRIBUTES, IMAGES
from storage.releases.manifest import Manifest


@step
def ingest(
    run: Run, items: list[str], interactions: list[str], fetch: bool = False, base: Manifest | None = None
) -> None:
    """Read the files that were not read before, the catalogue first, then admit events that waited for an item.

    A file is recorded as read only if the new files of its kind in the run are within the budget together. So the same
    command fails again, and a run with other files is judged by these alone. `fetch` retries pictures that failed to
    download. Items of the release `base` are known without reading the catalogue.
    """
    mapping = run.recipe.items if run.recipe.image is not None else ItemsWithoutImages.of(run.recipe.items)
    _read(run, "items", "ingest items", items, mapping, partial(ingest_items, compute=run.compute))
    has = None if base is None else partial(_is_item, run, base)
    reader = partial(ingest_interactions, resources=LogResources(run.compute, has))
    _read(run, "interactions", "ingest log", interactions, run.recipe.interactions, reader)
    if fetch and (fetched := fetch_again(run.lake, run.recipe.items, run.clock, run.provenance())):
        run.say(f"  {fetched:,} items got pictures that could not be fetched before")
    if waiting_for_known_items(run.lake):
        run.begin()
        with run.stage("admit waiting") as view:
            admitted = admit_waiting(run.lake, run.clock, run.provenance())
            view.note(f"{admitted:,} events whose item has arrived", rows_out=admitted)


def _is_item(run: Run, base: Manifest, ids: pl.Series) -> NDArray[np.bool_]:
    return run.trie_of(base).find_rows(ids.to_arrow()) >= 0


def _read(
    run: Run,
    kind: str,
    stage: str,
    uris: list[str],
    spec: Spec,
    reader: Callable[..., IngestedSource],
) -> None:
    done: list[IngestedSource] = []
    for source in _unread(run, kind, uris, spec):
        with run.stage(stage) as view:
            done.append(reader(run.lake, source, spec, run.clock, run.provenance()))
            _show(view, done[-1])
        _note(run, done[-1])
    for line in (*doubtful_attributes(done), *absent_columns(done, spec)):
        run.say(f"  warning: {line}")
    total = Counts(f"ingest {kind}")
    for each in done:
        total.add(each.stages[0])
    files = [each.source.file for each in done if each.stages[0].quarantined]
    check_stage_budget(total, run.recipe.budget, files)
    for each in done:
        _warn(run, each)
        if isinstance(each.source, SourceFile) and each.source.broken:  # the next run tries it again
            run.say(f"  warning: {each.source.broken.told} Until then each run reads what is whole of it.")
        else:
            record_source(run.lake, each, run.provenance())


def _unread(run: Run, kind: str, uris: list[str], spec: Spec) -> list[Source]:
    before = records(run.lake, kind, spec)
    sources: list[Source] = []
    for uri in uris:
        found = source_kind_of(uri).find(uri, spec, before)
        sources += found.sources
        for warning in found.warnings:
            run.say(f"  warning: {warning}")
    fresh = unread(sources, before)
    check_sources(fresh, spec)
    if sources and not fresh:
        run.say(f"  ingest {kind}: skipped, all {len(sources)} sources were read before (same content, same mapping)")
        if kind == "items" and before[-1].sha256 not in {each.sha256 for each in sources}:
            run.say(
                "  note: other catalogue files were read since, and what they say stays. To undo them by a file that "
                "was read before, change it by a byte, such as an empty line at its end"
            )
    if fresh:
        _tell_copies(run, sources)
        _tell_folders(run, kind, fresh)
        _tell_columns(run, fresh, spec)
        if run.begin():  # the run that this one waited for may have read them
            return _unread(run, kind, uris, spec)
    return fresh


def _tell_copies(run: Run, sources: list[Source]) -> None:
    """Note the sources that have the content of another one: a copy is read once."""
    first: dict[str, Source] = {}
    copies = [each.file for each in sources if first.setdefault(each.sha256, each) is not each]
    if copies:
        more = f" and {len(copies) - 3:,} more" if len(copies) > 3 else ""
        run.say(f"  note: {', '.join(copies[:3])}{more} not read: the content is that of another file of this run")


def _tell_folders(run: Run, kind: str, sources: list[Source]) -> None:
    """Note catalogue columns in folder names that are not read; a log is skipped, because it has many of them."""
    unused = sorted({name for source in sources for name in source.unread_columns})
    if unused and kind == "items":
        run.say(
            f"  note: columns in the names of folders are not read as attributes: {', '.join(unused)}. To read them, "
            "list them in items.partitions"
        )


def _tell_columns(run: Run, sources: list[Source], spec: Spec) -> None:
    """Warn of requested columns that a file has under nearly the same name only, and of files that differ."""
    headers = [header for source in sources if (header := header_of(source, spec))]
    for line in lacking_headers(headers, spec):
        run.say(f"  warning: {line}")
    for header in headers:
        for wanted, there in near_columns(header, spec).items():
            run.say(
                f"  warning: {header.file} has no column {wanted!r}; if {there!r} is that column, name it in "
                f"[{spec.section}] of the recipe"
            )
    for line in differences(headers):
        run.say(f"  warning: {line}")


def _show(view: StageView, done: IngestedSource) -> None:
    rows, *others = done.stages
    view.count(rows)
    for stage in others:
        if stage.stage == IMAGES and stage.rows_in:
            view.count(stage, "images")
        elif stage.stage == ATTRIBUTES and stage.quarantined:
            view.note(f"{stage.quarantined:,} without some attributes", attributes=stage.summary())


def _note(run: Run, done: IngestedSource) -> None:
    """Note pictures of a file that were not read, and warn of an empty file and of columns that items lose."""
    if done.unread_pictures:
        run.say(
            f"  note: {done.source.file} names {done.unread_pictures:,} pictures that were not read, because the "
            "recipe has no [image]; run again with [image] to read them"
        )
    if done.lost:
        run.say(
            f"  warning: the items that {done.source.file} changes had {', '.join(map(repr, done.lost))} before, and "
            "have none now: a row replaces its item whole"
        )
    if done.stages[0].rows_in == 0 and isinstance(done.source, TableVersion) and done.source.since is not None:
        run.say(f"  note: {done.source.file} has no new rows: none came since {done.source.since_file}")
    elif done.stages[0].rows_in == 0:
        run.say(f"  warning: {done.source.file} is empty: it has no rows")


def _warn(run: Run, done: IngestedSource) -> None:
    """Warn of attributes that were left out, and of a file with more than half of its rows or pictures refused.

    If the budget stops the run because of its rows, its error says so.
    """
    for stage in done.stages:
        noun = "pictures" if stage.stage == IMAGES else "rows"
        if stage.stage == ATTRIBUTES:
            if stage.quarantined:
                items = f"{stage.quarantined:,} of {stage.rows_in:,} items"
                run.say(f"  warning: {items} in {done.source.file} lack attributes ({stage.why()})")
        elif stage.quarantined and stage.quarantined == stage.rows_in:
            run.say(f"  warning: {done.source.file} gave no {noun[:-1]}: all rows were refused ({stage.why()})")
        elif stage.quarantined > stage.rows_in / 2:
            run.say(f"  warning: more than half of the {noun} in {done.source.file} were refused ({stage.why()})")
