"""Named arrays in one safetensors file, with the same bytes on every write.

The safetensors library keeps metadata in an unordered map, so its bytes differ from run to run; this writer fixes the
order. Any safetensors reader opens the files. Format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tokenizer.arrays.types import Array

_NAMES = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_DTYPES = {name: np.dtype(code) for name, code in _NAMES.items()}
_LABELS = {dtype: name for name, dtype in _DTYPES.items()}
_SEAL = b'{"__metadata__":{"sha256":"'
_SEAL_AT = 8 + len(_SEAL)
_UNSEALED = "0" * 64


def pack(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Lay arrays out as safetensors bytes that depend only on the arguments."""
    return b"".join(parts(arrays, metadata))


def parts(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield the pieces that `pack` joins: the header, then each array, without copies.

    Arrays with the widest items come first, so that each array starts at a multiple of its item size. The header is
    padded to a multiple of 8 bytes.
    """
    named = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    stop = 0
    for name, array in named:
        start, stop = stop, stop + array.nbytes
        header[name] = {
            "dtype": _LABELS[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, array in named:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def unpack(data: Any) -> tuple[dict[str, str], dict[str, Array]]:
    """Read metadata and arrays, as views of `data` (bytes or a memory map).

    Raises ValueError when the bytes are not a complete safetensors file.
    """
    size = len(data)
    if size < 8:
        raise ValueError(f"the file is truncated: its {size} bytes are too few for a safetensors header")
    begin = 8 + int.from_bytes(data[:8], "little")
    if begin > size:
        raise ValueError(f"the file is truncated: it ends at byte {size}, and its header at byte {begin}")
    try:
        header = json.loads(bytes(data[8:begin]))
        metadata = {str(key): str(value) for key, value in header.pop("__metadata__").items()}
        arrays = {str(name): _view(data, begin, entry) for name, entry in header.items()}
        end = begin + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (KeyError, TypeError, AttributeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"the header is malformed: {error!r}") from error
    if end != size:
        raise ValueError(f"the file has the wrong size: it ends at byte {size}, and its arrays end at byte {end}")
    return metadata, arrays


def _view(data: Any, begin: int, entry: dict[str, Any]) -> Array:
    dtype, (start, stop) = _DTYPES[entry["dtype"]], entry["data_offsets"]
    count, rest = divmod(stop - start, dtype.itemsize)
    if rest or start < 0 or begin + stop > len(data):
        raise ValueError(f"the header places an array at bytes {start} to {stop}, which does not fit the file")
    return np.frombuffer(data, dtype, count, begin + start).reshape(entry["shape"])


def seal(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Pack with a sha256 of the whole file inside it, so that `check_seal` finds any changed byte."""
    data = pack(arrays, {"sha256": _UNSEALED, **metadata})
    return data[:_SEAL_AT] + hashlib.sha256(data).hexdigest().encode() + data[_SEAL_AT + 64 :]


def check_seal(data: bytes) -> None:
    """Raise ValueError unless `data` equals, byte for byte, what `seal` wrote."""
    if data[8:_SEAL_AT] != _SEAL:
        raise ValueError("the file has no sha256 at the place where one is expected")
    found = data[_SEAL_AT : _SEAL_AT + 64]
    actual = hashlib.sha256(data[:_SEAL_AT] + _UNSEALED.encode() + data[_SEAL_AT + 64 :]).hexdigest().encode()
    if found != actual:
        raise ValueError(
            f"the file is damaged: its sha256 is {actual.decode()}, and it records {found.decode(errors='replace')}"
        )
