"""The inventory of a source of given vectors: the vectors that a catalogue can use, and the storage of new ones.

A source is read twice: once to judge and hash its rows, and again, where a part has vectors that are not stored, to
store those. An id that comes twice with different vectors is known only at the end of the first reading.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from pipelines.counts import Counts
from pipelines.given.judge import ROWS, judge
from pipelines.given.source import GivenSource
from pipelines.places import PAIR
from pipelines.sources.row import SourceError
from pipelines.vector_store import cached, store_vectors
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, open_rows, quarantine, resolve
from storage.reasons import VECTORS, Reason

PLACES = {"part": pl.Int32(), **ROWS}
GOOD = ["part", "row", *PAIR]
COMMIT_BYTES = 1 << 25
"""Bytes of vectors in a commit, held in memory until then. Smaller commits make more versions and files."""
SHARES = 16
"""Shares of the ids: finding repeats takes several times the memory of the rows among which they are sought."""


@dataclass(frozen=True)
class Inventory:
    """Rows of a source: the `good` ones (GOOD), one an item, and the `refused` ones (PLACES), with the reason.

    `repeated` rows equal a good one. `absent` rows have no vector. `unknown` rows are of items not in the catalogue.
    """

    source: GivenSource
    good: pl.DataFrame
    refused: pl.DataFrame
    repeated: int
    absent: int
    unknown: int

    @property
    def pairs(self) -> pl.DataFrame:
        """(item_id, content_hash) of the items that have a vector, by item_id."""
        return self.good.select(PAIR)

    @property
    def digest(self) -> str:
        """Hash of the pairs: the identity of what the source says."""
        digest = hashlib.blake2b(digest_size=16)
        for some in self.pairs.iter_slices(1 << 16):
            digest.update(some.select(pl.concat_str(PAIR, separator="\0").str.join("\n")).item().encode() + b"\n")
        return digest.hexdigest()

    @property
    def files(self) -> list[str]:
        """Names of the files that hold refused rows."""
        return sorted({self.source.place(part) for part in self.refused["part"].unique()})


def inventory_of(source: GivenSource, known: Callable[[pl.Series], pl.DataFrame]) -> Inventory:
    """Judge the rows of a source; `known` returns (item_id) of those of some items that the catalogue has."""
    hashed, others = [pl.DataFrame(schema=PLACES).select(GOOD)], [pl.DataFrame(schema=PLACES)]
    for rows in _judged(source):
        whole = pl.col("item_id").is_not_null() & pl.col("content_hash").is_not_null()
        hashed.append(rows.filter(whole).select(GOOD))
        others.append(rows.filter(~whole))
    named, rest = pl.concat(hashed), pl.concat(others)
    del hashed, others
    in_catalogue = known(pl.concat([named["item_id"], rest["item_id"].drop_nulls()]).unique()).select("item_id")
    ours = rest.join(in_catalogue, on="item_id", how="semi", maintain_order="left")
    nameless = rest.filter(pl.col("item_id").is_null())
    found = [_once(*each) for each in zip(_shares(named), _shares(in_catalogue), strict=True)]
    good = pl.concat([each.good for each in found]).sort("item_id")
    conflicting = pl.concat([each.conflicting for each in found])
    unknown = rest.height - ours.height - nameless.height + sum(each.unknown for each in found)
    return Inventory(
        source,
        good,
        pl.concat([nameless, ours.filter(pl.col("reason").is_not_null()), conflicting]).sort("part", "row"),
        named.height - sum(each.unknown for each in found) - conflicting.height - good.height,
        ours.filter(pl.col("reason").is_null()).height,
        unknown,
    )


@dataclass(frozen=True)
class _Once:
    """Of rows with an id and a vector: one of each item, the rows of items with several vectors, and a count."""

    good: pl.DataFrame
    conflicting: pl.DataFrame
    unknown: int


def _once(rows: pl.DataFrame, in_catalogue: pl.DataFrame) -> _Once:
    """Find the rows of the items in the catalogue; those of others are counted as unknown."""
    ours = rows.join(in_catalogue, on="item_id", how="semi", maintain_order="left")
    several = ours.group_by("item_id").agg(pl.col("content_hash").n_unique()).filter(pl.col("content_hash") > 1)
    conflicting = ours.join(several, on="item_id", how="semi", maintain_order="left").with_columns(
        reason=pl.lit(Reason.GIVEN_TWICE.value), detail=pl.lit("the id has another vector in another row")
    )
    single = ours.join(several, on="item_id", how="anti", maintain_order="left")
    good = single.unique("item_id", keep="first", maintain_order=True)
    return _Once(good, conflicting.select(*PLACES), rows.height - ours.height)


def _shares(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of each share of the ids."""
    share = rows["item_id"].hash() % SHARES
    yield from (rows.filter(share == number) for number in range(SHARES))


def _judged(source: GivenSource) -> Iterator[pl.DataFrame]:
    for number, part in enumerate(source.parts):
        row = part.first
        for batch in part.read(source.batch_rows):
            found = judge(batch, source.dim, row).rows
            yield found.select(pl.lit(number, pl.Int32).alias("part"), *ROWS)
            row += batch.num_rows


def store_inventory(
    lake: Lake, inventory: Inventory, fingerprint: str, provenance: Provenance, advance: Callable[[int], None]
) -> Counts:
    """Store the good vectors that the lake lacks, in chunks; quarantine refused rows, and resolve corrected ones."""
    name, stage = inventory.source.name, f"{VECTORS} {inventory.source.name}"
    counts = Counts(stage, rows_in=inventory.good.height + inventory.repeated + inventory.refused.height)
    stored = cached(lake, name, fingerprint, inventory.good["item_id"])
    missing = inventory.good.join(stored, on=PAIR, how="anti", maintain_order="left")
    counts.unchanged = counts.rows_in - inventory.refused.height - missing.height
    advance(counts.unchanged)
    for rows in _chunks(inventory.source, missing):
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
    _resolve(lake, stage, inventory.good, {reject.id for reject in rejects}, provenance)
    return counts.check()


def _resolve(lake: Lake, stage: str, good: pl.DataFrame, refused: set[str], provenance: Provenance) -> None:
    """Resolve rows refused before: of items that have a vector now, and of rows without an id that are gone."""
    rows = open_rows(lake).filter(pl.col("stage") == stage)
    mended = pl.col("subject").is_null() | pl.col("subject").is_in(good["item_id"].implode())
    done = rows.filter(mended & ~pl.col("quarantine_id").is_in(list(refused)))
    resolve(lake, done, "the source was read again and the row was not refused", provenance)


def _chunks(source: GivenSource, wanted: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Read the vectors of some rows again; yield item_id, content_hash, vector in frames for one commit each."""
    waiting: list[pl.DataFrame] = []
    size = max(1, COMMIT_BYTES // (4 * source.dim))
    for number in sorted(wanted["part"].unique()):
        for rows in _taken(source, number, wanted.filter(pl.col("part") == number)):
            waiting.append(rows)
            if sum(each.height for each in waiting) >= size:
                yield pl.concat(waiting)
                waiting = []
    if waiting:
        yield pl.concat(waiting)


def _taken(source: GivenSource, number: int, wanted: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the wanted rows of a part, batch by batch; raise SourceError if they have changed."""
    part, left = source.parts[number], wanted.height
    row = part.first
    for batch in part.read(source.batch_rows):
        in_batch = wanted.filter(pl.col("row").is_between(row, row + batch.num_rows - 1)).sort("row")
        if in_batch.height:
            places = (in_batch["row"] - row).to_list()
            judged = judge(batch.take(pa.array(places, pa.int64())), source.dim, 0)
            if not judged.rows.select(PAIR).equals(in_batch.select(PAIR)):
                break
            yield in_batch.select(PAIR).with_columns(pl.Series("vector", judged.vectors).cast(pl.List(pl.Float32)))
            left -= in_batch.height
        row += batch.num_rows
        if not left:
            return
    raise SourceError(
        f"vectors.{source.name}: {part.file} changed while it was read. Run the same command again, and do not change "
        "the file meanwhile."
    )


def current_pairs(
    lake: Lake, name: str, fingerprint: str, items: pl.DataFrame, delivered: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return (item_id, content_hash) of the vectors that items have: the `delivered` ones, else those stored last."""
    ids = items.select("item_id")
    if delivered is None:
        delivered = pl.DataFrame(schema=dict.fromkeys(PAIR, pl.String))
    ours = delivered.join(ids, on="item_id", how="semi", maintain_order="left")
    others = ids.join(ours, on="item_id", how="anti", maintain_order="left")
    if others.is_empty():
        return ours
    stored = cached(lake, name, fingerprint, others["item_id"])
    return pl.concat([ours, stored.select(PAIR).unique("item_id", keep="last", maintain_order=True)])
