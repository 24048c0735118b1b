"""Blocks of a text as bytes, cut at the ends of lines."""

from typing import Protocol

BLOCK_BYTES = 1 << 20
"""Bytes of a block of text that is parsed at once. Larger ones cost memory, smaller ones more calls."""
SMALL_BYTES = 1 << 13
"""Blocks of at most this size are not cut in two: reading them line by line costs little."""
MAX_BYTES_OF_COLUMNS = 1 << 28
"""Largest block for Arrow's readers of CSV and JSON, which take less than 2 GiB; a larger one is a single line."""

MAX_BLOCKS_ALONE = 32
"""Where all is unusual, this many small blocks are read line by line before another is tried."""


class ByteStream(Protocol):
    """A source of bytes."""

    def read(self, size: int) -> bytes: ...


class Blocks:
    """Blocks of a stream in order, each of whole lines. What was given may be put back, and is given again.

    Blocks begin small, so that what is unusual at the beginning costs few lines. Lines end with a line feed; with
    `returns` also with a carriage return.
    """

    def __init__(self, stream: ByteStream, returns: bool, size: int = 0, small: int = 0) -> None:
        self._stream, self._returns = stream, returns
        self._most, self._small = size or BLOCK_BYTES, small or SMALL_BYTES
        self._size = self._small
        self._text, self._place = b"", 0
        self._rest: list[bytes] = []
        self._ended, self._failed = False, 0

    def next(self) -> bytes:
        """Return the next block; empty at the end."""
        return self._next(self._size)

    def next_small(self) -> bytes:
        """Return a small block, or the shortest that ends a line; empty at the end."""
        return self._next(self._small)

    def put_back(self, block: bytes) -> None:
        """Put back the end of what was given last."""
        start = self._place - len(block)
        if start >= 0 and self._text.startswith(block, start):
            self._place = start
        else:  # part of it was read before the rest
            self._text, self._place = block + self._text[self._place :], 0

    def taken(self) -> None:
        """Take note that the last block was usual: the next ones are longer."""
        self._failed = 0
        self._size = min(2 * self._size, max(self._most, self._small))

    def halve(self, block: bytes) -> bool:
        """Put back the last block, to be given again in smaller ones; return False if it is too small for that."""
        size = max(self._small, len(block) // 2)
        if not _line_end(block, size - 1):
            return False
        self._size = size
        self.put_back(block)
        return True

    def alone(self, block: bytes) -> bytes:
        """Return the last block for reading line by line, with more text the more blocks before it were unusual."""
        more = (min(2 << self._failed, MAX_BLOCKS_ALONE) - 2) * self._small
        self._failed += 1
        return block + self._next(more) if more else block

    def _next(self, size: int) -> bytes:
        if self._place == len(self._text):
            self._text, self._place = self._read(), 0
        end = _line_end(self._text, self._place + size - 1) or len(self._text)
        block = self._text[self._place : end]
        self._place = end
        return block

    def _read(self) -> bytes:
        while not self._ended:
            piece = self._stream.read(self._most)
            self._ended = not piece
            cut = piece.rfind(b"\n") + 1 or (self._returns and piece.rfind(b"\r", 0, -1) + 1)  # a line feed may follow
            if cut:
                block = b"".join([*self._rest, piece[:cut]])
                self._rest = [piece[cut:]]
                return block
            self._rest.append(piece)
        block, self._rest = b"".join(self._rest), []
        return block


def _line_end(text: bytes, beyond: int) -> int:
    """Return the place behind the first line end from a place on; 0 if there is none, or it ends the text."""
    cut = text.find(b"\n", beyond) + 1
    return cut if cut < len(text) else 0
