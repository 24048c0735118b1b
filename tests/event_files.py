"""The scalars that TensorBoard reads from its event files."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) by tag of all event files below a folder: records of length, checksum, bytes, checksum."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {name: sorted(values) for name, values in found.items()}
