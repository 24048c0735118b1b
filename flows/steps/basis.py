"""The basis of a release: the encoders, fusion and codebook that determine SIDs."""

from dataclasses import dataclass
from datetime import datetime

from pipelines.fusion.frozen import Fusion
from storage.lake import Lake
from storage.releases.manifest import CodebookRef, EncoderRef, Manifest
from tokenizer.codebook import Codebook


@dataclass(frozen=True)
class Basis:
    """Encoders, fusion and codebook, which determine SIDs. They have seen only events before `fit_cutoff`."""

    encoders: dict[str, EncoderRef]
    fusion: Fusion
    fusion_blob: str
    codebook: Codebook
    codebook_ref: CodebookRef
    fit_cutoff: datetime


def basis_of(lake: Lake, manifest: Manifest) -> Basis:
    """Read the frozen basis of a release by hash."""
    return Basis(
        manifest.encoders,
        Fusion.from_bytes(lake.blobs.get(manifest.fusion_blob)),
        manifest.fusion_blob,
        Codebook.from_bytes(lake.blobs.get(manifest.codebook.blob)),
        manifest.codebook,
        manifest.fit_cutoff,
    )
