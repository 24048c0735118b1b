"""The fitted artifacts of a release: the encoders, fusion and codebook that determine SIDs."""

from dataclasses import dataclass
from datetime import datetime

from pipelines.fusion.frozen import Fusion
from storage.lake import Lake
from storage.releases.manifest import CodebookRef, EncoderRef, Manifest
from tokenizer.codebook import Codebook


@dataclass(frozen=True)
class FittedArtifacts:
    """Encoders, fusion and codebook, which determine SIDs. They have seen only events before `fit_cutoff`."""

    encoders: dict[str, EncoderRef]
    fusion: Fusion
    fusion_blob: str
    codebook: Codebook
    codebook_ref: CodebookRef
    fit_cutoff: datetime


def fitted_artifacts_of(lake: Lake, manifest: Manifest) -> FittedArtifacts:
    """Read the fitted artifacts of a release by hash."""
    return FittedArtifacts(
        manifest.encoders,
        Fusion.from_bytes(lake.blobs.get(manifest.fusion_blob)),
        manifest.fusion_blob,
        Codebook.from_bytes(lake.blobs.get(manifest.codebook.blob)),
        manifest.codebook,
        manifest.fit_cutoff,
    )
