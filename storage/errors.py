"""Errors of a lake.

LakeError
├── LakeNotFound        no such lake, table, release or item
│   └── Retired         a release or a model was retired: what it pinned is gone, or goes soon
├── LakeUnusable        the path is a file, or is not writable
├── LakeFormat          this program does not read or write the lake's format version
├── SchemaMismatch      rows do not match the schema of their table
├── CommitConflict      other writers won more races than we retry
├── ErasedMeanwhile     rows are being erased, or were erased that a run may have read before it began
├── LeaseTaken          another run of the kind holds the lease for longer than this one waits
├── LeaseLost           another run took the lease over, because this one gave no sign of life
├── LineageBroken       a candidate would go back in time behind its parent
├── PointerMoved        a compare-and-swap found another value than the expected one
├── DataCorrupt         a data file or a log entry of a table is missing or was changed
├── BlobCorrupt         a stored file does not have the hash in its name
├── QuarantineBudgetExceeded   a stage refused more of its rows than the recipe allows
└── PublishRefused      an alias may not point to a release
    ├── GateBlocked     a blocking gate of the candidate failed
    ├── StaleCandidate  the candidate lacks what was published since it was made
    └── ProductionHeld  production is held: runs publish nothing until the hold is lifted
"""

import re

_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_BACKTRACE = re.compile(r"\d+: |at |stack backtrace:|Backtrace:?$")
_MOST = 500


class LakeError(RuntimeError):
    """Base of the errors of a lake."""


def in_one_line(error: BaseException) -> str:
    """Return the message of a library's error as one line, without the colours and the backtrace of Rust."""
    lines = [_COLOUR.sub("", line).strip(" \t\r↳") for line in str(error).splitlines()]
    told = ": ".join(line for line in lines if line and not _BACKTRACE.match(line))
    return told[:_MOST] or type(error).__name__


class Unhealthy(LakeError):
    """Raised when a watched lake has problems: something is too old, has failed, or lags."""


class LakeNotFound(LakeError):
    """Raised when a named lake, table, release or item does not exist."""


class Retired(LakeNotFound):
    """Raised when a release or a model was retired: its files are removed, or will be soon."""


class LakeUnusable(LakeError):
    """Raised when the path of the lake is a file, or is not writable."""


class LakeFormat(LakeError):
    """Raised when this program does not read or write the lake's format version."""


class SchemaMismatch(LakeError):
    """Raised when rows do not match the schema of their table."""


class CommitConflict(LakeError):
    """Raised when other writers win more races than we retry."""


class ErasedMeanwhile(LakeError):
    """Raised where rows are being erased, or were erased since they may have been read."""


class LeaseTaken(LakeError):
    """Raised when another run of the kind holds the lease for longer than this one waits."""


class LeaseLost(LakeError):
    """Raised when another run took the lease over, because this one gave no sign of life."""


class LineageBroken(LakeError):
    """Raised for a candidate with an earlier time than its parent, or one that has seen its held-out events."""


class PointerMoved(LakeError):
    """Raised when a compare-and-swap finds another value than the expected one."""


class DataCorrupt(LakeError):
    """Raised when a data file or a log entry of a table is missing or was changed."""


class BlobCorrupt(LakeError):
    """Raised when a stored file does not have the hash in its name."""


class QuarantineBudgetExceeded(LakeError):
    """Raised when a stage refuses more of its rows than the recipe allows; nothing is published."""


class PublishRefused(LakeError):
    """Raised when an alias may not point to a release."""


class GateBlocked(PublishRefused):
    """Raised when a blocking gate of the candidate failed."""


class StaleCandidate(PublishRefused):
    """Raised when the candidate lacks SIDs, items or changes that were published since it was made."""


class ProductionHeld(PublishRefused):
    """Raised when production is held: runs publish nothing until the hold is lifted."""
