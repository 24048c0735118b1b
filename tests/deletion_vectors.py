"""Deletion vectors of Delta tables, as the protocol describes them: deltalake reads them and writes none."""

import json
import struct
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
FEATURE = {"minReaderVersion": 3, "minWriterVersion": 7}
FEATURE |= {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}  # type: ignore[dict-item]


def mark_deleted(path: str, column: str, value: str) -> None:
    """Commit a version of a table without the rows of a value, whose files stay."""
    table = DeltaTable(path)
    before = _marked(table)
    entries: list[dict[str, object]] = [{"protocol": FEATURE}]
    for add in _files(Path(path), table.version()):
        name = unquote(add["path"])
        values = pq.ParquetFile(Path(path, name)).read(columns=[column])[column].to_pylist()
        rows = {row for row, each in enumerate(values) if each == value} | before.get(name, set())
        if rows == before.get(name, set()):
            continue
        kept = ("path", "partitionValues", "size")
        remove = {name: add[name] for name in kept} | {"dataChange": True, "deletionTimestamp": 1}
        if "deletionVector" in add:
            remove["deletionVector"] = add["deletionVector"]
        entries += [{"remove": remove}, {"add": {**add, "dataChange": True, "deletionVector": _vector(sorted(rows))}}]
    log = Path(path, "_delta_log", f"{table.version() + 1:020d}.json")
    log.write_text("".join(json.dumps(each) + "\n" for each in [*entries, {"commitInfo": {"operation": "DELETE"}}]))


def _files(path: Path, version: int) -> list[dict[str, object]]:
    """Return the entries of the files of a version whose log has no checkpoint."""
    found: dict[str, dict[str, object]] = {}
    for number in range(version + 1):
        for line in (path / "_delta_log" / f"{number:020d}.json").read_text().splitlines():
            entry = json.loads(line)
            if "remove" in entry:
                found.pop(entry["remove"]["path"], None)
            if "add" in entry:
                found[entry["add"]["path"]] = entry["add"]
    return list(found.values())


def _marked(table: DeltaTable) -> dict[str, set[int]]:
    """Return the rows that are deleted already, by path of the file below the table."""
    read = pa.table(table.deletion_vectors()).to_pylist()
    below = Path(table.table_uri.removeprefix("file://"))
    return {
        str(Path(unquote(each["filepath"]).removeprefix("file://")).relative_to(below)): {
            row for row, flag in enumerate(each["selection_vector"]) if not flag
        }
        for each in read
    }


def _vector(rows: list[int]) -> dict[str, object]:
    """Return an inline vector of fewer than 65,536 rows: one roaring bitmap with one array container."""
    container = struct.pack("<HH", 0, len(rows) - 1) + struct.pack("<I", 16)
    bitmap = struct.pack("<II", 12346, 1) + container + b"".join(struct.pack("<H", row) for row in rows)
    body = struct.pack("<IQI", 1_681_511_377, 1, 0) + bitmap
    return {
        "storageType": "i",
        "pathOrInlineDv": _z85(body + b"\0" * (-len(body) % 4)),
        "sizeInBytes": len(body),
        "cardinality": len(rows),
    }


def _z85(data: bytes) -> str:
    words = (int.from_bytes(data[start : start + 4], "big") for start in range(0, len(data), 4))
    return "".join(Z85[word // 85**place % 85] for word in words for place in range(4, -1, -1))
