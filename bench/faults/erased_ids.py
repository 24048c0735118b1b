"""Files of a lake that hold an erased id, in their bytes or in their rows."""

import io
import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from storage.lake import Lake


def files_holding(lake: Lake, erased: list[str], clean: set[str]) -> tuple[list[str], list[str]]:
    """Return the files that hold an erased id, in their bytes or rows, and those that hold none, as they are now."""
    holding, without = [], []
    words = [each.encode() for each in erased]
    for path in sorted(Path(lake.uri).rglob("*")) if words else ():
        if not path.is_file():
            continue
        stat = path.stat()
        key = f"{path} {stat.st_size} {stat.st_mtime_ns} {len(words)}"
        if key not in clean:
            data = path.read_bytes() + str(path).encode()
            if data[:4] == b"PAR1":
                data += _decoded(path)
            if any(word in data for word in words):
                holding.append(str(path.relative_to(lake.uri)))
                continue
        without.append(key)
    return holding, without


def _decoded(path: Path) -> bytes:
    table = pl.from_arrow(pq.read_table(io.BytesIO(path.read_bytes())))
    rows = table.to_dicts() if isinstance(table, pl.DataFrame) else table.to_list()
    return json.dumps(rows, default=str).encode()
