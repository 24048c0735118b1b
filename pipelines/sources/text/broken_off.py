"""Compressed text that breaks off: the whole lines before that place are read."""

import io
from dataclasses import dataclass

import pyarrow as pa

from pipelines.sources.file import File

BLOCK_BYTES = 1 << 20
_STEP = 64
"""Bytes that are read at a time near the break: a read across it gives nothing."""
_TRUNCATED = "truncated compressed stream"


@dataclass(frozen=True)
class Break:
    """The place where a text breaks off, in bytes of whole lines before it, and what to do about the file."""

    sound: int
    told: str


def break_of(file: File, whole_bytes: int, error: OSError) -> Break:
    """Return where a text breaks off of which some bytes were read before an error.

    A text whose end is missing is sound up to there. Of one that was changed in the middle nothing is taken: what was
    decompressed is not known to be right. Raise SourceError where the content is not at fault, or not compressed.
    """
    told = file.broken_off(error)
    if not file.is_damaged(error):
        raise told from error
    return Break(_sound(file, whole_bytes) if _TRUNCATED in str(error).lower() else 0, str(told))


def _sound(file: File, whole_bytes: int) -> int:
    place = end = 0
    try:
        with file.open_stream() as stream:
            while block := stream.read(max(_STEP, min(BLOCK_BYTES, whole_bytes - place))):
                if line_end := block.rfind(b"\n") + 1:
                    end = place + line_end
                place += len(block)
    except OSError:
        return end
    return end


def first_bytes(stream: pa.NativeFile, size: int) -> pa.NativeFile:
    """Return a stream that ends behind the first bytes of another."""
    return pa.PythonFile(_FirstBytes(stream, size), mode="r")


class _FirstBytes(io.RawIOBase):
    def __init__(self, stream: pa.NativeFile, size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()
