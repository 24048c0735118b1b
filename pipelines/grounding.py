"""A grounding corpus: pairs of texts that teach a language model what SIDs mean, as in LC-Rec (arXiv 2311.09049).

Items are written a range at a time, and pairs of items taken one after the other are counted by ranges of the first in
scratch files: memory holds a bucket of users, or a range of items, whatever the size of log and catalogue.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.behaviour import LogSlice
from pipelines.ingest import Counts
from pipelines.sequences import bucket_count, in_order, spread
from pipelines.spec import SequencesSpec
from storage.catalogue import catalogue
from storage.lake import Lake
from tokenizer.items import tie_keys
from tokenizer.trie import Trie

ITEM_ROWS = 1 << 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SCHEMA = pa.schema([(name, pa.string()) for name in ("task", "item_id", "sid", "prompt", "response")])
TEMPLATES = {
    "sid_to_title": ("What is the title of {sid}?", "Name the item {sid}.", "Which item does {sid} stand for?"),
    "title_to_sid": ("Which item is called {title}?", "Give the code of {title}.", "What stands for {title}?"),
    "attribute_of_sid": ("What is the {field} of {sid}?", "Name the {field} of {sid}.", "{sid}: which {field}?"),
    "co_consumed": ("What do users take after {sid}?", "After {sid} comes", "Which items follow {sid}?"),
}


@dataclass(frozen=True)
class GroundingSpec:
    """`next_items` most often taken right after an item by the same user, `least` times at least; `fields` of the
    attributes, all where it is None; events of the types in `negative_events` say nothing."""

    next_items: int = 5
    least: int = 2
    fields: tuple[str, ...] | None = None
    negative_events: tuple[str, ...] = ("impression",)


def tokens(sizes: tuple[int, ...]) -> list[str]:
    """The token of each code of each level, in order: what a tokenizer has to learn. Raises ValueError beyond z."""
    if len(sizes) > len(LETTERS):
        raise ValueError(f"SIDs have {len(sizes)} codes, and tokens are named for {len(LETTERS)} at most")
    return [f"<{letter}_{code}>" for letter, size in zip(LETTERS, sizes, strict=False) for code in range(size)]


def sid_texts(codes: NDArray[np.integer]) -> list[str]:
    """SIDs (N, L) as text: <a_1><b_2>..."""
    return ["".join(f"<{letter}_{code}>" for letter, code in zip(LETTERS, row, strict=False)) for row in codes.tolist()]


def grounding(
    lake: Lake, trie: Trie, log: LogSlice, items_version: int, spec: GroundingSpec, left_out: Counts
) -> Iterator[pa.Table]:
    """The corpus (SCHEMA), a table for each range of items in the order of the trie; the same bytes for the same input.

    Only what the slice of the log and the revisions that had arrived by then say. `left_out` counts events without a
    SID, and items that a task has no pair of: `no_title`, `no_attributes`, `nothing_follows`.
    """
    codes = trie.codes()
    with TemporaryDirectory(prefix="sidmill-grounding-") as scratch:
        _follow(lake, trie, log, spec, Path(scratch), left_out)
        for start in range(0, len(trie), ITEM_ROWS):
            sids = sid_texts(codes[start : start + ITEM_ROWS])
            ids = trie.item_ids.slice(start, len(sids)).to_pylist()
            known = catalogue(lake, items_version, log.as_of, ["title", "attributes"], ids)
            described = {row["item_id"]: row for row in known.iter_rows(named=True)}
            following = _following(Path(scratch) / str(start // ITEM_ROWS), spec)
            pairs: list[dict[str, str]] = []
            for row, (item, sid, draw) in enumerate(zip(ids, sids, tie_keys(ids).tolist(), strict=True), start):
                said = described[item]
                answers = {
                    "title": (said["title"] or "").strip(),
                    "fields": _fields(json.loads(said["attributes"]), spec.fields),
                    "next": sid_texts(codes[following.get(row, [])]),
                }
                for reason, part in (("no_title", "title"), ("no_attributes", "fields"), ("nothing_follows", "next")):
                    left_out.refuse(reason, int(not answers[part]), item)
                pairs += [{"item_id": item, "sid": sid, **pair} for pair in _pairs(sid, answers, draw)]
            yield pa.Table.from_pylist(pairs, schema=SCHEMA)


def _pairs(sid: str, answers: dict[str, Any], draw: int) -> Iterator[dict[str, str]]:
    """The pairs of one item; which template asks is drawn by its id."""

    def pair(task: str, response: str, **said: str) -> dict[str, str]:
        templates = TEMPLATES[task]
        return {"task": task, "prompt": templates[draw % len(templates)].format(**said), "response": response}

    if answers["title"]:
        yield pair("sid_to_title", answers["title"], sid=sid)
        yield pair("title_to_sid", sid, title=answers["title"])
    for field, value in answers["fields"].items():
        yield pair("attribute_of_sid", value, sid=sid, field=field)
    if answers["next"]:
        yield pair("co_consumed", ", ".join(answers["next"]), sid=sid)


def _fields(attributes: dict[str, Any], wanted: tuple[str, ...] | None) -> dict[str, str]:
    """What attributes say, by field; a list as its values, and nothing for what is empty."""
    texts = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in sorted(attributes.items())
        if value is not None and (wanted is None or name in wanted)
    }
    return {name: text.strip() for name, text in texts.items() if text.strip()}


def _follow(lake: Lake, trie: Trie, log: LogSlice, spec: GroundingSpec, scratch: Path, left_out: Counts) -> None:
    """Counts of (item, the next one of the same user), in a file for each range of first items, bucket by bucket."""
    buckets = bucket_count(lake, log, SequencesSpec())
    events = scratch / "events"
    events.mkdir()
    spread(lake, log, trie.item_ids, buckets, events, left_out, None)
    for bucket in range(buckets):
        rows = in_order(events / str(bucket), left_out).filter(
            ~pl.col("impression").fill_null(False) & ~pl.col("event_type").is_in(spec.negative_events)
        )
        pairs = rows.select(
            pl.col("row").cast(pl.Int64), next=pl.col("row").shift(-1).over("user_id").cast(pl.Int64)
        ).filter(pl.col("next").is_not_null() & (pl.col("row") != pl.col("next")))
        counted = pairs.group_by("row", "next").len().with_columns(part=pl.col("row") // ITEM_ROWS)
        for (part,), own in counted.partition_by("part", as_dict=True).items():
            folder = scratch / str(part)
            folder.mkdir(exist_ok=True)
            own.drop("part").write_ipc(folder / str(bucket))


def _following(folder: Path, spec: GroundingSpec) -> dict[int, list[int]]:
    """Rows of the items most often taken after each, those more often first, then those of lower rows."""
    if not folder.exists():
        return {}
    counted = pl.concat([pl.read_ipc(path) for path in sorted(folder.iterdir())])
    best = (
        counted.group_by("row", "next")
        .agg(pl.col("len").sum())
        .filter(pl.col("len") >= spec.least)
        .sort("row", "len", "next", descending=[False, True, False])
        .group_by("row", maintain_order=True)
        .agg(pl.col("next").head(spec.next_items))
    )
    return dict(zip(best["row"].to_list(), best["next"].to_list(), strict=True))
