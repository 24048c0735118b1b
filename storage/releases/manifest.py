"""The manifest: everything a release pins. Readers resolve an alias and then read only what its manifest names."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from plugins.younger import OmitsYoungerDefaults


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(_Frozen):
    """One check of a candidate: `value` against `limit`. A failed blocking gate prevents its publication."""

    name: str
    severity: Literal["block", "warn"]
    value: float
    limit: float
    passed: bool
    detail: str = ""


class TrieRef(_Frozen):
    """The trie file: sha256 of its bytes, its path, and its number of SIDs."""

    sha256: str
    path: str
    sids: int


class CodebookRef(_Frozen):
    """The codebook of a release: content hash, its file, codes per level, and the vocabulary hash.

    `refit_of` is the codebook it was refitted from: their codes mean nearly the same and are comparable.
    """

    id: str
    blob: str
    sizes: tuple[int, ...]
    vocabulary: str
    fitted_by: str
    refit_of: str | None = None


class EncoderRef(_Frozen):
    """Encoder of the vectors of one modality. `details` is the input of the fingerprint's hash."""

    fingerprint: str
    details: dict[str, Any]


class Manifest(OmitsYoungerDefaults):
    """One release. `as_of` bounds arrival times, inclusive; `cutoff` bounds event times, exclusive.

    `assignments` are the segments of the SID table that together give every item its SID; a later night adds one.
    `fit_cutoff` bounds the event times that vectors and codebook have seen; it is at most `cutoff`. `cutoff_date` is an
    explicitly requested cutoff, which nights inherit; None if the recipe's share decided. `packages` are the members of
    installed packages that its run used: kind and name, to package and version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    younger: ClassVar[frozenset[str]] = frozenset({"packages"})

    id: str
    key: str
    kind: Literal["bootstrap", "nightly", "backfill"]
    parent: str | None
    run: str
    created_at: datetime
    recipe_hash: str
    recipe: dict[str, Any]
    as_of: datetime
    cutoff: datetime
    fit_cutoff: datetime
    cutoff_date: datetime | None = None
    split_rule: str
    versions: dict[str, int]
    encoders: dict[str, EncoderRef]
    fusion: EncoderRef
    fusion_blob: str
    codebook: CodebookRef
    assignments: tuple[str, ...]
    trie: TrieRef
    items: int
    counts: dict[str, int]
    metrics: dict[str, Any]
    gates: tuple[Gate, ...]
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def blocked_by(self) -> list[Gate]:
        return [gate for gate in self.gates if gate.severity == "block" and not gate.passed]
