"""What can go wrong with a lake.

LakeError
├── LakeNotFound        there is no lake, table, release or item where one was named
├── LakeUnusable        the path is a file, or may not be written
├── LakeFormat          the lake has another format version than this program reads or writes
├── SchemaMismatch      rows do not have the shape of their table
├── CommitConflict      other writers won the race more often than we retry
├── LineageBroken       a candidate would go back in time behind its parent
├── PointerMoved        a compare-and-swap found another value than the one expected
├── DataCorrupt         a data file or a log entry of a table is missing or was changed
├── BlobCorrupt         a stored file does not have the hash it is named by
├── QuarantineBudgetExceeded   a stage refused more of its rows than the recipe allows
└── PublishRefused      a release may not become what an alias points to
    ├── GateBlocked     a blocking gate of the candidate failed
    ├── StaleCandidate  the candidate lacks what was published since it was made
    └── Held            production is held: runs publish nothing until somebody lifts the hold
"""


class LakeError(RuntimeError):
    """Something about the lake is not as it must be."""


class LakeNotFound(LakeError):
    """There is no lake, table, release or item where one was named."""


class LakeUnusable(LakeError):
    """The path of the lake is a file, or may not be written."""


class LakeFormat(LakeError):
    """The lake has another format version than this program reads or writes."""


class SchemaMismatch(LakeError):
    """Rows do not have the shape of their table."""


class CommitConflict(LakeError):
    """Other writers won the race more often than we retry."""


class LineageBroken(LakeError):
    """A candidate would go back in time behind its parent, or has seen what it holds out."""


class PointerMoved(LakeError):
    """A compare-and-swap found another value than the one expected."""


class DataCorrupt(LakeError):
    """A data file or a log entry of a table is missing or was changed."""


class BlobCorrupt(LakeError):
    """A stored file does not have the hash it is named by."""


class QuarantineBudgetExceeded(LakeError):
    """A stage refused more of its rows than the recipe allows; nothing was published."""


class PublishRefused(LakeError):
    """A release may not become what an alias points to."""


class GateBlocked(PublishRefused):
    """A blocking gate of the candidate failed."""


class StaleCandidate(PublishRefused):
    """The candidate lacks what was published since it was made."""


class Held(PublishRefused):
    """Production is held: runs publish nothing until somebody lifts the hold."""
