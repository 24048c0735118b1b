"""Grounding corpus: pairs of texts that teach a language model what SIDs mean, as in LC-Rec (arXiv 2311.09049).

The catalogue is spread over scratch files by range of trie rows, the log by user bucket. Memory holds a bucket of
events and its pairs, the revisions of a range of items, about `PAIRS` counts of pairs, and a batch of texts. An item
takes 12 + 4 L bytes for a SID of L codes, and an entry in the hash table that joins the log. Scratch files grow with
catalogue and log, by at most `window` pairs per event.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from infra.scratch import ScratchFolder
from pipelines.counts import Counts
from pipelines.event_log.user_buckets import EventsByUser, bucket_count, in_buckets, with_sid
from pipelines.event_log.visible_log import LogSlice
from storage.lake import Lake
from storage.reasons import Reason
from storage.releases.catalogue import deleted_items
from tokenizer.arrays.items import tie_keys
from tokenizer.trie.trie import Trie

# Items of a range, and most ranges: a larger catalogue has larger ranges.
RANGE_ITEMS, MAX_RANGES = 1 << 15, 512
# Counts of pairs that are held at a time.
PAIRS = 1 << 22
# Most rows and characters of a batch of texts.
BATCH_ROWS, BATCH_CHARACTERS = 1 << 16, 1 << 26
# Rows of the items table that are read at a time.
READ_ROWS = 1 << 14
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKEN = re.compile(r"<([a-z])_\d+>")
SCHEMA = pa.schema([(name, pa.string()) for name in ("task", "item_id", "prompt", "response", "sid")])
# Columns of counted pairs: row of an item, row of the SID taken after it, number of times.
PAIR = ("row", "next", "times")
TEMPLATES = {
    "sid_to_title": ("What is the title of {sid}?", "Name the item {sid}.", "Which item does {sid} stand for?"),
    "title_to_sid": ("Which item is called {title}?", "Give the code of {title}.", "What stands for {title}?"),
    "attribute_of_sid": ("What is the {field} of {sid}?", "Name the {field} of {sid}.", "{sid}: which {field}?"),
    "co_consumed": ("What do users take after {sid}?", "After {sid} comes", "Which items follow {sid}?"),
}


@dataclass(frozen=True)
class GroundingSpec:
    """Settings of a corpus: the `next_items` SIDs most often taken after an item, each at least `least` times.

    An item is followed by what the same user takes with one of the next `window` events. Impressions and events of the
    types in `negative_events` do not count. `fields` are the attributes that are asked for, None for all.
    """

    next_items: int = 5
    least: int = 2
    window: int = 3
    fields: tuple[str, ...] | None = None
    negative_events: tuple[str, ...] = ("impression",)


def tokens(sizes: tuple[int, ...]) -> list[str]:
    """Return the token of each code of each level, in order, for a tokenizer. Raise ValueError beyond 26 levels."""
    if len(sizes) > len(LETTERS):
        raise ValueError(
            f"the SIDs of this release have {len(sizes)} codes, but SID tokens have letters for only {len(LETTERS)} "
            "levels; export a release whose codebook has fewer levels"
        )
    return [f"<{letter}_{code}>" for letter, size in zip(LETTERS, sizes, strict=False) for code in range(size)]


def sid_texts(codes: NDArray[np.integer]) -> list[str]:
    """Return SIDs (N, L) as text: <a_1><b_2>..."""
    return ["".join(f"<{letter}_{code}>" for letter, code in zip(LETTERS, row, strict=False)) for row in codes.tolist()]


@dataclass(frozen=True)
class _Corpus:
    """The input of a corpus, the counts of what is left out, and a folder for files on the way."""

    lake: Lake
    trie: Trie
    log: LogSlice
    items_version: int
    spec: GroundingSpec
    left_out: Counts
    scratch: Path


def grounding(
    lake: Lake, trie: Trie, log: LogSlice, items_version: int, spec: GroundingSpec, left_out: Counts
) -> Iterator[pa.RecordBatch]:
    """Yield the corpus (SCHEMA) in batches, item by item in trie order; the same input gives the same bytes.

    It holds only information of the log slice and of the revisions that had arrived by then. `left_out` counts events
    that are not used (of deleted items, without a SID, repeated, negative), texts that contain a token of a SID, and
    items without a pair for a task: `no_title`, `no_attributes`, `nothing_follows`. Raise ValueError for SIDs of more
    levels than letters.
    """
    tokens(trie.sizes)
    with ScratchFolder("grounding") as scratch:
        corpus = _Corpus(lake, trie, log, items_version, spec, left_out, Path(scratch))
        yield from _batches(_texts(corpus))


def _batches(texts: Iterator[dict[str, str]]) -> Iterator[pa.RecordBatch]:
    """Yield the pairs in batches limited by BATCH_ROWS and BATCH_CHARACTERS."""
    rows: list[dict[str, str]] = []
    characters = 0
    for pair in texts:
        rows.append(pair)
        characters += len(pair["prompt"]) + len(pair["response"])
        if len(rows) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
            rows, characters = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _texts(corpus: _Corpus) -> Iterator[dict[str, str]]:
    """Yield the pairs one by one."""
    trie, spec, left_out, scratch = corpus.trie, corpus.spec, corpus.left_out, corpus.scratch
    codes = trie.codes()
    range_rows = max(RANGE_ITEMS, -(-len(trie) // MAX_RANGES))
    _spread_items(corpus, range_rows)
    counted = _count_pairs(corpus, _first_of_sid(codes))
    for start in range(0, len(trie), range_rows):
        known = _newest(scratch / f"items-{start // range_rows}")
        for first, stop in _spans(counted[start : start + range_rows], start):
            following = _following(scratch, first, stop, spec)
            ids = trie.item_ids.slice(first, stop - first)
            sids = sid_texts(codes[first:stop])
            for row, item, sid, draw in zip(
                range(first, stop), ids.to_pylist(), sids, tie_keys(ids).tolist(), strict=True
            ):
                title, fields = _described(known.get(row), spec.fields, trie.levels, left_out)
                follow = sid_texts(codes[following.get(row, [])])
                left_out.refuse(Reason.NO_TITLE, int(not title), item)
                left_out.refuse(Reason.NO_ATTRIBUTES, int(not fields), item)
                left_out.refuse(Reason.NOTHING_FOLLOWS, int(not follow), item)
                for pair in _pairs(sid, title, fields, follow, draw):
                    yield {"item_id": item, "sid": sid, **pair}


def _pairs(sid: str, title: str, fields: dict[str, str], follow: list[str], draw: int) -> Iterator[dict[str, str]]:
    """Yield the pairs of one item; `draw` selects the templates."""

    def pair(task: str, response: str, **said: str) -> dict[str, str]:
        templates = TEMPLATES[task]
        return {"task": task, "prompt": templates[draw % len(templates)].format(**said), "response": response}

    if title:
        yield pair("sid_to_title", title, sid=sid)
        yield pair("title_to_sid", sid, title=title)
    for field, value in fields.items():
        yield pair("attribute_of_sid", value, sid=sid, field=field)
    if follow:
        yield pair("co_consumed", ", ".join(follow), sid=sid)


def _described(
    known: tuple[str | None, str] | None, wanted: tuple[str, ...] | None, levels: int, left_out: Counts
) -> tuple[str, dict[str, str]]:
    """Return title and attributes by field, each on one line; lists are joined, empty values dropped.

    A text that contains a token of a SID would teach that token another meaning, so it is left out.
    """
    title, attributes = known or (None, "{}")
    texts = [("title", title or "")] + [
        (field, ", ".join(str(each).strip() for each in value if each is not None and str(each).strip()))
        if isinstance(value, list)
        else (field, str(value))
        for field, value in sorted(json.loads(attributes).items())
        if value is not None and field.strip() and (wanted is None or field in wanted)
    ]
    lines = [(field, " ".join(text.split())) for field, text in texts]
    plain = [("", "") if _holds_token(f"{field} {line}", levels) else (field, line) for field, line in lines]
    left_out.refuse(Reason.TEXT_WITH_TOKEN, sum(before != after for before, after in zip(lines, plain, strict=True)))
    return plain[0][1], {field: line for field, line in plain[1:] if line}


def _holds_token(text: str, levels: int) -> bool:
    return any(LETTERS.index(letter) < levels for letter in TOKEN.findall(text))


def _spread_items(corpus: _Corpus, range_rows: int) -> None:
    """Write the visible revisions of the trie's items, one file per range of `range_rows` rows."""
    trie, arrived = corpus.trie, ds.field("arrived_at") <= corpus.log.as_of
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        columns = ["item_id", "revision", "title", "attributes"]
        for batch in corpus.lake.batches("items", columns, arrived, READ_ROWS, corpus.items_version):
            row = trie.find_rows(batch.column("item_id"))
            batch = batch.drop_columns(["item_id"]).append_column("row", pa.array(row))
            if not writers:
                for part in range(-(-len(trie) // range_rows)):
                    sink = stack.enter_context(pa.OSFile(str(corpus.scratch / f"items-{part}"), "wb"))
                    writers.append(stack.enter_context(pa.ipc.new_stream(sink, batch.schema)))
            order = np.argsort(row, kind="stable")
            bounds = np.searchsorted(row[order], np.arange(len(writers) + 1) * range_rows)
            for writer, (start, stop) in zip(writers, pairwise(bounds.tolist()), strict=True):
                if stop > start:
                    writer.write_batch(batch.take(pa.array(order[start:stop])))


def _newest(path: Path) -> dict[int, tuple[str | None, str]]:
    """Return {row: (title, attributes)} of each item in its newest revision."""
    with pa.OSFile(str(path), "rb") as source:
        revisions = pl.DataFrame(pa.ipc.open_stream(source).read_all())
    newest = revisions.sort("row", "revision").unique("row", keep="last", maintain_order=True)
    return {row: (title, attributes) for row, title, attributes in newest.select("row", "title", "attributes").rows()}


def _first_of_sid(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return for each row the first with its SID, int32 (N,): a reader of SIDs cannot tell such items apart."""
    new = np.append(True, (codes[1:] != codes[:-1]).any(axis=1))[: len(codes)]
    return np.maximum.accumulate(np.where(new, np.arange(len(codes), dtype=np.int32), np.int32(0)))


def _count_pairs(corpus: _Corpus, first_of_sid: NDArray[np.int32]) -> NDArray[np.int64]:
    """Count (item, SID taken after it) in one file per bucket of users, ordered by item.

    `first_of_sid` names a SID by its first row, int32 (N,). Return the number of counts of an item in all files, int64
    (N,).
    """
    lake, log, left_out, ids = corpus.lake, corpus.log, corpus.left_out, corpus.trie.item_ids
    deleted = deleted_items(lake, corpus.items_version, log.as_of)
    counted = np.zeros(len(ids), np.int64)
    wanted = EventsByUser(log, ids, bucket_count(lake, log))
    for bucket, events in enumerate(in_buckets(lake, wanted, left_out)):
        rows = with_sid(events, deleted, left_out)
        if rows.is_empty():
            continue
        positive = rows.filter(
            ~pl.col("impression").fill_null(False) & ~pl.col("event_type").is_in(corpus.spec.negative_events)
        )
        left_out.refuse(Reason.NEGATIVE_EVENT, rows.height - positive.height)
        pairs = _taken_after(positive, first_of_sid, corpus.spec.window).sort("row", "next")
        row, often = np.unique(pairs["row"].to_numpy(), return_counts=True)
        counted[row] += often
        np.save(corpus.scratch / f"pairs-{bucket}.npy", np.stack([pairs[name].to_numpy() for name in PAIR]))
    return counted


def _taken_after(positive: pl.DataFrame, first_of_sid: NDArray[np.int32], window: int) -> pl.DataFrame:
    """Return PAIR rows of some users' ordered events; an event counts once per SID taken after it."""
    user, row = positive["user_id"].rle_id().to_numpy(), positive["row"].to_numpy()
    found = []
    for apart in range(1, min(window, len(row) - 1) + 1):
        event = np.flatnonzero(user[apart:] == user[:-apart])
        after = first_of_sid[row[event + apart]]
        other = after != first_of_sid[row[event]]
        found.append(pl.DataFrame({"event": event[other], "row": row[event[other]], "next": after[other]}))
    if not found:
        return pl.DataFrame(schema=dict.fromkeys(PAIR, pl.Int32))
    once = pl.concat(found).unique(["event", "next"])
    return once.group_by("row", "next").agg(pl.len().cast(pl.Int32).alias("times"))


def _spans(counted: NDArray[np.int64], start: int) -> list[tuple[int, int]]:
    """Return ranges of rows, from `start` on, with about PAIRS counts each and at least one item."""
    cuts = np.flatnonzero(np.diff(np.cumsum(counted) // PAIRS)) + 1
    return list(pairwise((start + np.array([0, *cuts, len(counted)])).tolist()))


def _following(scratch: Path, first: int, stop: int, spec: GroundingSpec) -> dict[int, list[int]]:
    """Return for rows first..stop the rows of the SIDs most often taken after each: by count, then by row."""
    parts = [np.zeros((len(PAIR), 0), np.int32)]
    for path in sorted(scratch.glob("pairs-*.npy")):
        pairs = np.load(path, mmap_mode="r")  # its rows are contiguous: the search reads a few pages
        low, high = np.searchsorted(pairs[0], np.array([first, stop], np.int32))
        parts.append(np.array(pairs[:, low:high]))
    best = (
        pl.DataFrame(dict(zip(PAIR, np.concatenate(parts, axis=1), strict=True)))
        .group_by("row", "next")
        .agg(pl.col("times").cast(pl.Int64).sum())
        .filter(pl.col("times") >= spec.least)
        .sort("row", "times", "next", descending=[False, True, False])
        .group_by("row", maintain_order=True)
        .agg(pl.col("next").head(spec.next_items))
    )
    return dict(zip(best["row"].to_list(), best["next"].to_list(), strict=True))
