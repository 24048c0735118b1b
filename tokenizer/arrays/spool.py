"""An array that grows at its end, in an unnamed file that disappears with it, and is read in parts."""

import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.scratch import IN_MEMORY


class Spool:
    """Numbers of one type on the scratch disk."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed, and so deleted, with this object
        weakref.finalize(self, self._file.close)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(values, self.dtype).data.cast("B"))
        self._size += len(values)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return a copy of some of the values."""
        out = np.empty(stop - start, self.dtype)
        self._file.seek(start * self.dtype.itemsize)
        self._file.readinto(out.data.cast("B"))
        return out

    def whole(self) -> NDArray[Any]:
        """Return all values: in memory, or mapped from the file if they are many."""
        if len(self) * self.dtype.itemsize <= IN_MEMORY:
            return self.read(0, len(self))
        self._file.flush()
        return np.asarray(np.memmap(self._file, self.dtype, "r"))
