"""`lake erase`: tries and factors without the erased items, and the erasure of a lake with them."""

from dataclasses import dataclass, field

import numpy as np

from pipelines.collaborative.factors_file import BLOB, factors_without
from storage.commit import Provenance
from storage.erasure.erase import Erased, Held, erase, held_by
from storage.erasure.rows import Subjects
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.releases.manifest import EncoderRef, Manifest, TrieRef
from tokenizer.trie.trie import Trie


def what_is_held(lake: Lake, users: frozenset[str], items: frozenset[str]) -> Held:
    """Return what a lake holds of users and items; changes nothing."""
    return held_by(lake, Subjects(users, items))


def erase_from(
    lake: Lake, users: frozenset[str], items: frozenset[str], reason: str, provenance: Provenance, wait_s: float
) -> Erased:
    """Erase users and items. An item also leaves the tries and the factors of releases, which get new hashes."""
    without = _WithoutItems(lake, items)
    return erase(lake, Subjects(users, items, without.amended if items else None), reason, provenance, wait_s)


@dataclass
class _WithoutItems:
    """Tries and factors without some items; each is made once, and stays as it is if it has none of them."""

    lake: Lake
    items: frozenset[str]
    _tries: dict[str, TrieRef] = field(default_factory=dict)
    _factors: dict[str, dict[str, str] | None] = field(default_factory=dict)

    def amended(self, manifest: Manifest) -> Manifest:
        """Return a manifest that names the new blobs; blobs of a retired release may be gone, and keep their names."""
        trie = self._trie(manifest.trie)
        encoders = {name: self._encoder(each) for name, each in manifest.encoders.items()}
        fewer = manifest.items - manifest.trie.sids + trie.sids
        counts = {**manifest.counts, "items": fewer} if "items" in manifest.counts else manifest.counts
        return manifest.model_copy(update={"trie": trie, "encoders": encoders, "items": fewer, "counts": counts})

    def _trie(self, reference: TrieRef) -> TrieRef:
        if reference.sha256 not in self._tries:
            self._tries[reference.sha256] = self._fewer(reference)
        return self._tries[reference.sha256]

    def _fewer(self, reference: TrieRef) -> TrieRef:
        try:
            trie = Trie.open(self.lake.blobs.local_path(reference.sha256))
        except LakeNotFound:
            return reference
        names = sorted(self.items)
        erased = [name for name, row in zip(names, trie.find_rows(names).tolist(), strict=True) if row >= 0]
        if not erased:
            return reference
        left = trie.updated(np.zeros((0, trie.levels), np.int32), [], erased)
        digest = self.lake.blobs.put(left.to_bytes())
        return TrieRef(sha256=digest, path=f"blobs/{digest[:2]}/{digest}", sids=len(left))

    def _encoder(self, reference: EncoderRef) -> EncoderRef:
        named = reference.details.get(BLOB)
        if named is None:
            return reference
        if named not in self._factors:
            try:
                self._factors[named] = factors_without(self.lake.blobs, reference.details, self.items)
            except LakeNotFound:
                self._factors[named] = None
        made = self._factors[named]
        return reference if made is None else reference.model_copy(update={"details": {**reference.details, **made}})
