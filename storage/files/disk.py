"""Errors of a disk that is full or read-only, as one message for all writers of a lake."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deltalake.exceptions import DeltaError

from storage.errors import LakeUnusable

# Error codes of a path that cannot be written, and of a disk that is full.
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
# Error codes of a file where a folder belongs, and of a folder where a file belongs.
IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY)
FULL = (errno.ENOSPC, errno.EDQUOT)
# Delta tells the code of the system in its text only.
_CODE = re.compile(r"\(os error (\d+)\)|Os { code: (\d+),")
_OF_DELTA = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Raise LakeUnusable, with the place and the remedy, if the disk is full or may not be written."""
    try:
        yield
    except (OSError, DeltaError) as error:
        code = _code(error)
        if code is None:
            raise
        if code in FULL:
            why = (
                f"cannot write to {place}: the disk is full ({os.strerror(code)}). Make room: move files of other "
                "programs away, or enlarge the disk. `sidmill lake gc --yes` removes what nothing needs, and has to "
                "write too. Then run the command again; what was committed stays."
            )
        elif code in IN_THE_WAY:
            blocks = getattr(error, "filename2", None) or getattr(error, "filename", None) or place
            why = (
                f"cannot write to {place}: {blocks} is in the way ({os.strerror(code)}). Nothing of a lake has this "
                "shape: move it away, and run the command again."
            )
        else:
            why = f"cannot write to {place} ({os.strerror(code)}); give a lake that this user may write to."
        raise LakeUnusable(why) from error


def _code(error: Exception) -> int | None:
    """Return the code of an error that says that a disk is full or may not be written."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in (*FULL, *NOT_WRITABLE, *IN_THE_WAY) else None
    told = _CODE.search(str(error))
    code = int(told[1] or told[2]) if told else None
    return code if code in _OF_DELTA else None
