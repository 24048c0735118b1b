"""The tables of the lake: columns, partitions and constraints, in the order in which data passes through them.

Every table is append-only. A change is a newer row (a higher `revision` of an item, a later event of a run), so every
version of every table stays readable for the releases that pin it.
"""

from dataclasses import dataclass, field

import pyarrow as pa

FOR_GOOD = "interval 36500 days"
"""A hundred years, as Delta writes it: Delta has no word for never, and only `lake gc` may remove something."""
PROPERTIES = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": FOR_GOOD,
    "delta.deletedFileRetentionDuration": FOR_GOOD,
    "delta.appendOnly": "true",
    "delta.checkpointInterval": "20",
}
"""Settings of every table. By default Delta deletes log entries after 30 days, and with them the versions that releases
pin; a vacuum deletes replaced files after a week. Only the lake itself decides what is deleted.
"""

TIME = pa.timestamp("us", tz="UTC")
CODES = pa.list_(pa.int32())


@dataclass(frozen=True)
class TableSpec:
    """One Delta table: `key` names its logical primary key, `constraints` are SQL expressions on a row.

    A `bookkeeping` table grows by single rows; its small files are joined from time to time. `statistics` are the
    required columns whose bounds the log holds for each file, so that readers can skip files. User columns are not
    among them: the log is readable wherever file names are.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = ()
    constraints: dict[str, str] = field(default_factory=dict)
    statistics: tuple[str, ...] = ()
    bookkeeping: bool = False


def _schema(**columns: pa.DataType | tuple[pa.DataType, bool]) -> pa.Schema:
    """Return a schema; columns are required unless given as (type, True)."""
    return pa.schema(
        [
            pa.field(name, kind[0], nullable=kind[1])
            if isinstance(kind, tuple)
            else pa.field(name, kind, nullable=False)
            for name, kind in columns.items()
        ]
    )


def _optional(kind: pa.DataType) -> tuple[pa.DataType, bool]:
    return (kind, True)


SOURCES = TableSpec(
    "sources",
    _schema(
        sha256=pa.string(),
        kind=pa.string(),
        mapping=pa.string(),
        uri=pa.string(),
        rows_in=pa.int64(),
        rows_out=pa.int64(),
        rows_unchanged=pa.int64(),
        rows_quarantined=pa.int64(),
        at=TIME,
        run=pa.string(),
    ),
    key=("kind", "sha256", "mapping"),
    constraints={"balanced": "rows_in = rows_out + rows_unchanged + rows_quarantined"},
    bookkeeping=True,
)

ITEMS = TableSpec(
    "items",
    _schema(
        item_id=pa.string(),
        revision=pa.int32(),
        title=_optional(pa.string()),
        attributes=pa.string(),
        text_hash=pa.string(),
        images=pa.list_(pa.string()),
        deleted=pa.bool_(),
        arrived_at=TIME,
        source=pa.string(),
        source_row=pa.int64(),
    ),
    key=("item_id", "revision"),
    constraints={"has_id": "item_id <> ''", "revision_counts": "revision >= 0"},
    statistics=("item_id", "arrived_at", "source"),
)

INTERACTIONS = TableSpec(
    "interactions",
    _schema(
        event_id=pa.string(),
        user_id=pa.string(),
        item_id=pa.string(),
        event_type=pa.string(),
        event_time=TIME,
        arrival_time=TIME,
        arrival_date=pa.date32(),
        session_id=_optional(pa.string()),
        request_id=_optional(pa.string()),
        impression=_optional(pa.bool_()),
        position=_optional(pa.int32()),
        value=_optional(pa.float64()),
        source=pa.string(),
        source_offset=pa.int64(),
    ),
    key=("event_id",),
    partition_by=("arrival_date",),
    constraints={"has_user": "user_id <> ''", "has_item": "item_id <> ''"},
    statistics=("event_time", "arrival_time", "source"),
)

VECTORS = TableSpec(
    "vectors",
    _schema(
        item_id=pa.string(),
        modality=pa.string(),
        content_hash=pa.string(),
        fingerprint=pa.string(),
        vector=pa.list_(pa.float32()),
    ),
    key=("item_id", "modality", "content_hash", "fingerprint"),
    partition_by=("modality", "fingerprint"),
    statistics=("item_id",),
)

CODEBOOKS = TableSpec(
    "codebooks",
    _schema(
        codebook=pa.string(),
        vocabulary=pa.string(),
        blob=pa.string(),
        spec=pa.string(),
        statistics=pa.string(),
        planned_items=pa.int64(),
        fitted_items=pa.int64(),
        at=TIME,
        run=pa.string(),
    ),
    key=("codebook",),
    bookkeeping=True,
)

SIDS = TableSpec(
    "sids",
    _schema(
        assignment_id=pa.string(),
        codebook=pa.string(),
        item_id=pa.string(),
        codes=CODES,
        vector_hash=pa.string(),
        status=pa.string(),
    ),
    key=("assignment_id", "item_id"),
    partition_by=("codebook",),
    statistics=("assignment_id", "item_id"),
)

DRIFT = TableSpec(
    "drift",
    _schema(
        assignment_id=pa.string(),
        item_id=pa.string(),
        encoded_hash=pa.string(),
        current_hash=pa.string(),
        cosine=pa.float64(),
    ),
    key=("assignment_id", "item_id"),
    bookkeeping=True,
)

RELEASES = TableSpec(
    "releases",
    _schema(
        id=pa.string(),
        key=pa.string(),
        kind=pa.string(),
        parent=_optional(pa.string()),
        codebook=pa.string(),
        manifest=pa.string(),
        at=TIME,
        run=pa.string(),
    ),
    key=("id",),
    bookkeeping=True,
)

SEQUENCES = TableSpec(
    "sequences",
    _schema(
        release=pa.string(),
        bucket=pa.int32(),
        user_id=pa.string(),
        event_id=pa.string(),
        event_time=TIME,
        event_type=pa.string(),
        impression=_optional(pa.bool_()),
        session_id=_optional(pa.string()),
        item_id=pa.string(),
        codes=CODES,
        fresh=pa.bool_(),
    ),
    key=("release", "event_id"),
    partition_by=("release", "bucket"),
)

MODELS = TableSpec(
    "models",
    _schema(
        id=pa.string(),
        key=pa.string(),
        release=pa.string(),
        vocabulary=pa.string(),
        weights=pa.string(),
        card=pa.string(),
        at=TIME,
        run=pa.string(),
    ),
    key=("id",),
    bookkeeping=True,
)

EVALUATIONS = TableSpec(
    "evaluations",
    _schema(
        key=pa.string(),
        model=pa.string(),
        release=pa.string(),
        result=pa.string(),
        at=TIME,
        run=pa.string(),
    ),
    key=("key",),
    bookkeeping=True,
)

QUARANTINE = TableSpec(
    "quarantine",
    _schema(
        quarantine_id=pa.string(),
        status=pa.string(),
        stage=pa.string(),
        subject=_optional(pa.string()),
        reason=pa.string(),
        detail=pa.string(),
        payload=_optional(pa.string()),
        source=pa.string(),
        source_row=pa.int64(),
        at=TIME,
        run=pa.string(),
    ),
    key=("quarantine_id", "status"),
    constraints={"known_status": "status = 'open' OR status = 'resolved'"},
    bookkeeping=True,
)

RUNS = TableSpec(
    "runs",
    _schema(
        run=pa.string(),
        kind=pa.string(),
        event=pa.string(),
        name=pa.string(),
        detail=pa.string(),
        at=TIME,
    ),
    key=("run", "event", "name", "at"),
    bookkeeping=True,
)

POINTERS = TableSpec(
    "pointers",
    _schema(name=pa.string(), sequence=pa.int64(), value=pa.string(), note=pa.string(), at=TIME, run=pa.string()),
    key=("name", "sequence"),
    bookkeeping=True,
)

CHECKSUMS = TableSpec(
    "checksums",
    _schema(table=pa.string(), path=pa.string(), sha256=pa.string(), size=pa.int64(), at=TIME, run=pa.string()),
    key=("table", "path"),
    bookkeeping=True,
)

ERASURES = TableSpec(
    "erasures",
    _schema(
        erasure=pa.string(),
        event=pa.string(),
        subjects=pa.string(),
        pinned=pa.list_(pa.string()),
        releases=pa.list_(pa.string()),
        models=pa.list_(pa.string()),
        reason=pa.string(),
        at=TIME,
        run=pa.string(),
    ),
    key=("erasure", "event"),
    constraints={"known_event": "event = 'begun' OR event = 'cleaned' OR event = 'done'"},
    bookkeeping=True,
)

TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (
        SOURCES,
        ITEMS,
        INTERACTIONS,
        VECTORS,
        CODEBOOKS,
        SIDS,
        DRIFT,
        RELEASES,
        SEQUENCES,
        MODELS,
        EVALUATIONS,
        QUARANTINE,
        RUNS,
        POINTERS,
        CHECKSUMS,
        ERASURES,
    )
}
