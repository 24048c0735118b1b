"""The protocols of encoders and stages, fingerprints, and the isolation of rows that make an encoder fail."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from learning.file_hash import file_sha256
from pipelines.registry import ENCODERS
from storage.json_hash import json_hash

C = TypeVar("C", contravariant=True)
T = TypeVar("T")
Vectors = NDArray[np.float32]
Outcome = tuple[Vectors | None, str | None, str]
"""Vector or None, reason of a refusal or None, and detail."""


class EncoderError(ValueError):
    """Raised when an encoder cannot be loaded as the recipe names it."""


class Encoder(Protocol[C]):
    """Encoder of N contents (texts, decoded images) to float32 (N, D); deterministic on one build."""

    def encode(self, contents: Sequence[C]) -> Vectors: ...


class Stage(Protocol):
    """A map from an Arrow batch to an Arrow batch with the same rows. Heavy models load in `__init__`.

    `reads` names the columns it needs and may drop, `adds` the columns it appends; `apply` checks both. Every stage
    appends `reason`, which is null for an accepted row and else the quarantine reason, and `detail`.
    """

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def adds(self) -> tuple[str, ...]: ...

    def __call__(self, batch: pa.Table) -> pa.Table: ...


class EncoderSettings(Protocol):
    """A section of a recipe that names an encoder."""

    @property
    def encoder(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def options(self) -> dict[str, Any]: ...

    @property
    def precision(self) -> str: ...


@dataclass(frozen=True)
class EncoderKind:
    """Declaration of an encoder: the contents that it encodes, and functions that describe it and load it.

    `describe` gives, as JSON, all that decides the vectors, weights by hash, and loads no model. `load` gives an
    `Encoder` of texts, or of pictures one with `prepare` as well (`pipelines.embed.vision.ImageEncoder`). `text_tower`:
    what is loaded has `encode_text` too, into the space of the pictures. `options` is the model of the section's
    table `options`. `bfloat16`: it obeys `precision = "bfloat16"` of the section (`autocast`).
    """

    contents: Literal["text", "image"]
    describe: Callable[[Any], dict[str, Any]]
    load: Callable[[Any], Any]
    text_tower: bool = False
    options: type[BaseModel] | None = None
    bfloat16: bool = False


def apply(stage: Stage, batch: pa.Table) -> pa.Table:
    """Run the stage on `batch`; raise TypeError if input or output differs from what the stage declares."""
    name = type(stage).__name__
    if missing := set(stage.reads) - set(batch.column_names):
        raise TypeError(f"stage {name} reads columns {sorted(missing)}, but its input only has {batch.column_names}")
    answer = stage(batch)
    given, got, added = set(batch.column_names), set(answer.column_names), set(stage.adds)
    if not given - set(stage.reads) | added <= got <= given | added or answer.num_rows != batch.num_rows:
        raise TypeError(
            f"stage {name} returned {answer.num_rows} rows with columns {sorted(got)} for {batch.num_rows} rows with "
            f"columns {sorted(given)}; it declares that it reads {sorted(stage.reads)} and adds {sorted(added)}"
        )
    return answer


def describe_encoder(spec: EncoderSettings) -> dict[str, Any]:
    """Return everything that decides the vectors of a section's encoder, with its package if it is a plug-in."""
    member = ENCODERS.members[spec.encoder]
    origin = {} if member.ours else {"encoder": spec.encoder, "from": member.origin, "options": spec.options}
    precision = {} if spec.precision == "float32" else {"precision": spec.precision}
    return {**ENCODERS.get(spec.encoder).describe(spec), **origin, **precision}


def load_encoder(spec: EncoderSettings) -> Any:
    """Load the encoder that a section names."""
    return ENCODERS.get(spec.encoder).load(spec)


def autocast(spec: EncoderSettings, device: str) -> AbstractContextManager[None]:
    """Return a context in which torch multiplies in the `precision` of a section."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=spec.precision == "bfloat16")


def fingerprint(details: dict[str, Any]) -> str:
    """Return 16 hex digits over all settings that determine the vectors; vectors of two fingerprints never mix."""
    return json_hash(details)


def files_hash(folder: Path, left_out: Collection[str]) -> str:
    """Return the sha256 over paths and bytes of all files below a folder, except hidden ones and some suffixes."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = path.relative_to(folder)
        if path.suffix not in left_out and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def encode_all(encode: Callable[[Sequence[T]], Vectors], contents: Sequence[T]) -> list[Outcome]:
    """Return (vector, reason, detail) for each content, in order.

    A batch on which the encoder fails is halved until the failing rows are alone. These are refused as
    `encoder_failed`; every other row gets its vector. A vector that is not finite is refused as `vector_not_finite`, a
    zero vector as `vector_zero`. An EncoderError of the encoder is passed on, because no row causes it.
    """
    if not contents:
        return []
    try:
        vectors = np.asarray(encode(contents), dtype=np.float32)
    except EncoderError:
        raise
    except Exception as error:  # noqa: BLE001 - libraries raise their own types: onnxruntime's derive from Exception
        if len(contents) == 1:
            return [(None, "encoder_failed", f"{type(error).__name__}: {error}")]
        middle = len(contents) // 2
        return encode_all(encode, contents[:middle]) + encode_all(encode, contents[middle:])
    if len(vectors) != len(contents):
        raise EncoderError(
            f"the encoder returned {len(vectors)} vectors for {len(contents)} contents; it must return one for each"
        )
    if np.isfinite(vectors).all() and vectors.any(axis=1).all():
        return [(vector, None, "") for vector in vectors]
    return [_judge(vector) for vector in vectors]


def _judge(vector: Vectors) -> Outcome:
    if not np.isfinite(vector).all():
        return (
            None,
            "vector_not_finite",
            f"{int((~np.isfinite(vector)).sum())} of {vector.size} values are NaN or infinite",
        )
    if not vector.any():
        return None, "vector_zero", "all values of the vector are zero"
    return vector, None, ""
