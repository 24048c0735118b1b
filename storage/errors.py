"""What can go wrong with a lake.

LakeError
├── LakeNotFound        there is no lake, table, release or item where one was named
├── SchemaMismatch      rows do not have the shape of their table
├── CommitConflict      other writers won the race more often than we retry
├── PointerMoved        a compare-and-swap found another value than the one expected
├── BlobCorrupt         a stored file does not have the hash it is named by
├── QuarantineBudgetExceeded   a stage refused more of its rows than the recipe allows
└── PublishRefused      a release may not become what an alias points to
    ├── GateBlocked     a blocking gate of the candidate failed
    └── StaleCandidate  the candidate lacks what was published since it was made
"""


class LakeError(RuntimeError):
    """Something about the lake is not as it must be."""


class LakeNotFound(LakeError):
    """There is no lake, table, release or item where one was named."""


class SchemaMismatch(LakeError):
    """Rows do not have the shape of their table."""


class CommitConflict(LakeError):
    """Other writers won the race more often than we retry."""


class PointerMoved(LakeError):
    """A compare-and-swap found another value than the one expected."""


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
