"""Blocks of a text as bytes, cut at the ends of lines."""

from collections import deque
from typing import Protocol

BLOCK_BYTES = 1 << 20
SMALL_BYTES = 1 << 13
"""Blocks of at most this size are not cut in two: reading them line by line costs little."""


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int) -> bytes: ...


class Blocks:
    """Blocks of a stream in order, each of whole lines. A block may be cut in two, and is given again in halves.

    Lines end with a line feed; with `returns` also with a carriage return.
    """

    def __init__(self, stream: Stream, returns: bool, size: int = 0, small: int = 0) -> None:
        self._stream, self._returns = stream, returns
        self._size, self._small = size or BLOCK_BYTES, small or SMALL_BYTES
        self._ahead: deque[bytes] = deque()
        self._rest: list[bytes] = []
        self._ended = False

    def next(self) -> bytes:
        """Return the next block; empty at the end."""
        return self._ahead.popleft() if self._ahead else self._read()

    def next_small(self) -> bytes:
        """Return a small block, or the shortest that ends a line; empty at the end."""
        block = self.next()
        cut = _line_end(block, self._small)
        if 0 < cut < len(block):
            self._ahead.appendleft(block[cut:])
            return block[:cut]
        return block

    def halve(self, block: bytes) -> bool:
        """Put back the halves of a block; return False for one that is small, or a single line."""
        if len(block) <= self._small:
            return False
        cut = _line_end(block, len(block) // 2) or block.rfind(b"\n", 0, len(block) // 2) + 1
        if not 0 < cut < len(block):
            return False
        self._ahead.extendleft([block[cut:], block[:cut]])
        return True

    def _read(self) -> bytes:
        while not self._ended:
            piece = self._stream.read(self._size)
            self._ended = not piece
            cut = piece.rfind(b"\n") + 1 or (self._returns and piece.rfind(b"\r", 0, -1) + 1)  # a line feed may follow
            if cut:
                block = b"".join([*self._rest, piece[:cut]])
                self._rest = [piece[cut:]]
                return block
            self._rest.append(piece)
        block, self._rest = b"".join(self._rest), []
        return block


def _line_end(block: bytes, beyond: int) -> int:
    """Return the place behind the first line end from a place on; 0 if there is none, or it ends the block."""
    cut = block.find(b"\n", beyond) + 1
    return cut if cut < len(block) else 0
