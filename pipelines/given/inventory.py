"""The inventory of a source of given vectors: the vectors that a catalogue can use, and the storage of new ones.

A source is read twice: once to judge and hash its rows, and again, where a part has vectors that are not stored, to
store those. An id that comes twice with different vectors is known only at the end of the first reading.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.counts import Counts
from pipelines.given.judge import ROWS, judge
from pipelines.given.part import VectorPart
from pipelines.given.source import GivenSource
from pipelines.places import PAIR, aligned
from pipelines.sources.row import SourceError
from pipelines.vector_store import cached, store_vectors, stored_among
from storage.commit import Provenance
from storage.hashing.packed import Halves, as_text, from_halves, halves, packed
from storage.lake import Lake
from storage.quarantine import Reject, open_rows, quarantine, resolve
from storage.reasons import VECTORS, Reason
from tokenizer.arrays.id_rows import IdRows

PLACES = {"part": pl.Int32(), **ROWS}
COMMIT_BYTES = 1 << 25
"""Bytes of vectors in a commit, held in memory until then. Smaller commits make more versions and files."""


@dataclass(frozen=True)
class Inventory:
    """The vectors of a source that a catalogue can use, one an item, and the `refused` rows (PLACES), with the reason.

    `pairs` are (item_id, packed content_hash) of the items that have a vector, in order of item_id, and `rows` (N,) is
    the row of each in the source. `repeated` rows equal one of these. `absent` rows have no vector. `unknown` rows are
    of items not in the catalogue.
    """

    source: GivenSource
    pairs: pl.DataFrame
    rows: NDArray[np.int64]
    refused: pl.DataFrame
    repeated: int
    absent: int
    unknown: int

    @property
    def digest(self) -> str:
        """Hash of the pairs: the identity of what the source says."""
        digest = hashlib.blake2b(digest_size=16)
        for some in self.pairs.iter_slices(1 << 16):
            texts = some.with_columns(as_text(some["content_hash"]))
            digest.update(texts.select(pl.concat_str(PAIR, separator="\0").str.join("\n")).item().encode() + b"\n")
        return digest.hexdigest()

    @property
    def files(self) -> list[str]:
        """Names of the files that hold refused rows."""
        return sorted({self.source.place(part) for part in self.refused["part"].unique()})


Known = Callable[[pl.Series], pl.DataFrame]
"""Returns (item_id), in order, of those of some items that the catalogue has."""


def inventory_of(source: GivenSource, catalogue: pl.DataFrame | Known) -> Inventory:
    """Judge the rows of a source. The `catalogue` is (item_id) in order, or tells which of some items it has."""
    judged: Iterable[pl.DataFrame] = _judged(source)
    if not isinstance(catalogue, pl.DataFrame):
        judged = list(judged)
        ids = [pl.Series("item_id", [], pl.String), *(rows["item_id"].drop_nulls() for rows in judged)]
        catalogue = catalogue(pl.concat(ids).unique())
    found, first = _Found.none(catalogue["item_id"]), 0
    for rows in judged:
        found.add(rows, first)
        first += rows.height
    return found.inventory(source)


@dataclass
class _Found:
    """The findings so far about `items`, N of a catalogue in order.

    `hashes` (N, 2) are the halves of the hash of an item's first vector and `rows` (N,) its row, -1 for none. `again`
    are later rows with a vector, as (row, place of the item, 1 if the vector is another one).
    """

    items: pl.Series
    index: IdRows
    hashes: Halves
    rows: NDArray[np.int64]
    again: list[NDArray[np.int64]] = field(default_factory=list)
    refused: list[pl.DataFrame] = field(default_factory=list)
    absent: int = 0
    unknown: int = 0

    @classmethod
    def none(cls, items: pl.Series) -> "_Found":
        count = len(items)
        index = IdRows(items.to_arrow().cast(pa.large_string()))
        return cls(items, index, np.zeros((count, 2), np.uint64), np.full(count, -1, np.int64))

    def add(self, judged: pl.DataFrame, first: int) -> None:
        """Add judged rows (PLACES), of which the first is that row of the source."""
        place = np.full(judged.height, -1, np.int64)
        named = judged["item_id"].is_not_null()
        place[named.to_numpy()] = self.index.find(judged["item_id"].drop_nulls().to_arrow().cast(pa.large_string()))
        known = pl.Series(place >= 0)
        reason, content = judged["reason"].is_not_null(), judged["content_hash"].is_not_null()
        self.unknown += int((named & ~known).sum())
        self.absent += int((known & ~reason & ~content).sum())
        if (bad := ~named | (known & reason)).any():
            self.refused.append(judged.drop("content_hash").filter(bad))
        good = (known & content).arg_true()
        self._set(first + good.to_numpy().astype(np.int64), place[good], halves(packed(judged["content_hash"][good])))

    def _set(self, row: NDArray[np.int64], place: NDArray[np.int64], hashes: Halves) -> None:
        first = np.unique(place, return_index=True)[1]
        first = first[self.rows[place[first]] < 0]
        self.rows[place[first]], self.hashes[place[first]] = row[first], hashes[first]
        later = np.delete(np.arange(len(row)), first)
        other = (self.hashes[place[later]] != hashes[later]).any(axis=1)
        self.again.append(np.column_stack([row[later], place[later], other]))

    def inventory(self, source: GivenSource) -> Inventory:
        """Return the inventory. All rows of an item with several vectors are refused."""
        again = np.concatenate([np.zeros((0, 3), np.int64), *self.again])
        several = np.unique(again[again[:, 2] > 0, 1])
        conflicting = np.isin(again[:, 1], several)
        rows = np.concatenate([self.rows[several], again[conflicting, 0]])
        places = np.concatenate([several, again[conflicting, 1]])
        self.rows[several] = -1
        refused = _placed(source, rows).with_columns(
            item_id=self.items.gather(places),
            reason=pl.lit(Reason.GIVEN_TWICE.value),
            detail=pl.lit("the id has another vector in another row"),
        )
        refused = pl.concat([pl.DataFrame(schema=PLACES), *self.refused, refused], how="diagonal").select(*PLACES)
        having = self.rows >= 0
        pairs, rows = pl.DataFrame([self.items, from_halves(self.hashes)]), self.rows
        if not having.all():
            pairs, rows = pairs.filter(pl.Series(having)), rows[having]
        repeated = len(again) - int(conflicting.sum())
        return Inventory(source, pairs, rows, refused.sort("part", "row"), repeated, self.absent, self.unknown)


def _starts(source: GivenSource) -> NDArray[np.int64]:
    """Return the rows of a source before each of its parts, and before its end."""
    return np.cumsum([0, *(part.rows for part in source.parts)])


def _placed(source: GivenSource, rows: NDArray[np.int64]) -> pl.DataFrame:
    """Return the part of each row of a source, and its row in the file."""
    starts = _starts(source)
    part = np.searchsorted(starts, rows, side="right") - 1
    firsts = np.array([each.first for each in source.parts], np.int64)
    return pl.DataFrame({"part": part.astype(np.int32), "row": rows - starts[part] + firsts[part]})


def _judged(source: GivenSource) -> Iterator[pl.DataFrame]:
    for number, part in enumerate(source.parts):
        row = part.first
        for batch in part.read(source.batch_rows):
            found = judge(batch, source.dim, row).rows
            yield found.select(pl.lit(number, pl.Int32).alias("part"), *ROWS)
            row += batch.num_rows
        if row != part.first + part.rows:
            raise _changed(source, part)


def store_inventory(
    lake: Lake, inventory: Inventory, fingerprint: str, provenance: Provenance, advance: Callable[[int], None]
) -> Counts:
    """Store the good vectors that the lake lacks, in chunks; quarantine refused rows, and resolve corrected ones."""
    name, stage = inventory.source.name, f"{VECTORS} {inventory.source.name}"
    counts = Counts(stage, rows_in=inventory.pairs.height + inventory.repeated + inventory.refused.height)
    lacking = np.flatnonzero(~stored_among(lake, name, fingerprint, inventory.pairs))
    counts.unchanged = counts.rows_in - inventory.refused.height - len(lacking)
    advance(counts.unchanged)
    for rows in _chunks(inventory, lacking):
        tagged = rows.with_columns(modality=pl.lit(name), fingerprint=pl.lit(fingerprint))
        store_vectors(lake, tagged, provenance)
        counts.out += rows.height
        advance(rows.height)
    places = {part: inventory.source.place(part) for part in inventory.refused["part"].unique()}
    rejects = [
        Reject(stage, reason, detail or "", places[part], row, item)
        for part, row, item, reason, detail in inventory.refused.select(
            "part", "row", "item_id", "reason", "detail"
        ).iter_rows()
    ]
    for reject in rejects:
        counts.refuse(reject.reason, detail=reject.detail)
    quarantine(lake, rejects, provenance)
    _resolve(lake, stage, inventory.pairs["item_id"], {reject.id for reject in rejects}, provenance)
    return counts.check()


def _resolve(lake: Lake, stage: str, good: pl.Series, refused: set[str], provenance: Provenance) -> None:
    """Resolve rows refused before: of items that have a vector now, and of rows without an id that are gone."""
    rows = open_rows(lake).filter(pl.col("stage") == stage, ~pl.col("quarantine_id").is_in(list(refused)))
    mended = good.filter(good.is_in(rows["subject"].drop_nulls().implode()))
    done = rows.filter(pl.col("subject").is_null() | pl.col("subject").is_in(mended.implode()))
    resolve(lake, done, "the source was read again and the row was not refused", provenance)


def _chunks(inventory: Inventory, wanted: NDArray[np.int64]) -> Iterator[pl.DataFrame]:
    """Read the vectors of some pairs again; yield item_id, content_hash, vector in frames for one commit each."""
    source, starts, waiting = inventory.source, _starts(inventory.source), list[pl.DataFrame]()
    size = max(1, COMMIT_BYTES // (4 * source.dim))
    by_row = wanted[np.argsort(inventory.rows[wanted])]
    bounds = np.searchsorted(inventory.rows[by_row], starts)
    for number, (low, high) in enumerate(pairwise(bounds)):
        for rows in _taken(inventory, number, by_row[low:high]) if low < high else ():
            waiting.append(rows)
            if sum(each.height for each in waiting) >= size:
                yield pl.concat(waiting)
                waiting = []
    if waiting:
        yield pl.concat(waiting)


def _taken(inventory: Inventory, number: int, wanted: NDArray[np.int64]) -> Iterator[pl.DataFrame]:
    """Yield the vectors of pairs in a part, in order of its rows, batch by batch; raise SourceError if they changed."""
    source, part = inventory.source, inventory.source.parts[number]
    rows, start = inventory.rows[wanted], int(_starts(source)[number])
    for batch in part.read(source.batch_rows):
        low, high = np.searchsorted(rows, [start, start + batch.num_rows])
        if low < high:
            pairs = inventory.pairs[wanted[low:high]]
            judged = judge(batch.take(pa.array(rows[low:high] - start)), source.dim, 0)
            if not judged.rows.select("item_id", packed(judged.rows["content_hash"])).equals(pairs):
                break
            yield pairs.with_columns(pl.Series("vector", judged.vectors).cast(pl.List(pl.Float32)))
        start += batch.num_rows
        if high == len(rows):
            return
    raise _changed(source, part)


def _changed(source: GivenSource, part: VectorPart) -> SourceError:
    return SourceError(
        f"vectors.{source.name}: {part.file} changed while it was read. Run the same command again, and do not change "
        "the file meanwhile."
    )


def current_pairs(
    lake: Lake, name: str, fingerprint: str, items: pl.DataFrame, delivered: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return (item_id, packed content_hash) of the vectors of items: those `delivered`, else those stored last.

    Items are in order of item_id, as is what is delivered.
    """
    ids = items["item_id"]
    if delivered is None:
        delivered = pl.DataFrame(schema={"item_id": pl.String, "content_hash": pl.UInt128})
    hashes = aligned(ids, delivered)
    if hashes.null_count():
        others = ids.filter(hashes.is_null())
        stored = cached(lake, name, fingerprint, others).unique("item_id", keep="last", maintain_order=True)
        last = aligned(others, stored.select("item_id", packed(stored["content_hash"])).sort("item_id"))
        hashes = hashes.scatter(hashes.is_null().arg_true(), last)
    pairs = pl.DataFrame({"item_id": ids, "content_hash": hashes})
    return pairs if not hashes.null_count() else pairs.drop_nulls("content_hash")
