"""On a GPU the product does what it does on a CPU, up to rounding; skipped where there is none."""

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray import cloudpickle
from test_launch import PLAN, SPEC, read_cycle
from test_trainer import Made, fusion, sasrec, vae

from bench.gpu.texts import save_model
from learning.loop import Loop, WorkerContext
from learning.ray_train.launch import launch
from learning.trainer import train_in_process
from pipelines.compute.executors import OnRay
from pipelines.embed.images import decode_image
from pipelines.embed.protocol import load_encoder
from pipelines.embed.text import TextEncoder
from pipelines.spec import ComputeSpec, ImageSpec, TextSpec
from training.objectives.next_code import NextCode, Origin
from training.spec import TrainSpec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

TRAIN = TrainSpec(workers=1, epochs=3, batch_size=9, warmup_steps=4, learning_rate=0.01)


def cycle() -> NextCode:
    return NextCode(SPEC, PLAN, read_cycle, Origin("v", "r-1", "r"))


def unlike(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


@pytest.mark.parametrize("make", [vae, fusion, sasrec])
def test_a_training_in_process_runs_on_the_gpu_and_loses_what_it_loses_on_a_cpu(
    make: Callable[[], Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainable, spec = make()
    devices: list[str] = []

    def note(row: dict[str, float]) -> None:
        devices.append(next(trainable.module.parameters()).device.type)

    there = train_in_process(trainable, spec, "test", note)
    assert devices == ["cuda"] * spec.epochs
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trainable, spec = make()
    here = train_in_process(trainable, spec, "test")
    assert there[-1] == pytest.approx(here[-1], rel=0.05)


def test_ray_train_takes_the_gpu_and_ends_near_the_loop_on_a_cpu(tmp_path: Path, ray_cluster: None) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    cloudpickle.register_pickle_by_value(sys.modules["test_launch"])
    done = launch(cycle, TRAIN, "gpu", tmp_path)
    loop = Loop(cycle(), TRAIN, WorkerContext())
    loop.run(lambda *_: None)
    assert done.history[-1]["targets"] == loop.progress.history[-1]["targets"]
    assert done.history[-1]["loss"] == pytest.approx(loop.progress.history[-1]["loss"], rel=0.1)


class WithCard:
    """Job that tells whether its worker has the card."""

    class stage:  # noqa: N801 - its name is that of a stage
        name = "with_card"
        uses_gpu = True

    def start(self) -> Callable[[int], bool]:
        return lambda number: torch.cuda.is_available()


def test_a_job_that_uses_a_gpu_has_one_on_ray(ray_cluster: None) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert sorted(OnRay(ComputeSpec()).map(WithCard(), [1, 2, 3])) == [(0, True), (1, True), (2, True)]


def test_texts_have_the_vectors_that_they_have_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(50)]
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    save_model(tmp_path, words, shape)
    spec = TextSpec(encoder="sentence-transformers", model=str(tmp_path))
    texts = [" ".join(words[: 1 + number]) for number in range(40)]
    there = TextEncoder(spec).encode(texts)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unlike(there, TextEncoder(spec).encode(texts)) < 1e-3


def test_pictures_have_the_vectors_that_they_have_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    torch.manual_seed(0)
    torch.save(open_clip.create_model("RN50").state_dict(), tmp_path / "random.pt")
    spec = ImageSpec(encoder="open-clip", model="RN50", pretrained=str(tmp_path / "random.pt"))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    encode = partial(decode_image, file.getvalue(), spec.max_pixels, spec.formats)
    encoder = load_encoder(spec)
    there = encoder.encode([encoder.prepare(encode())])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unlike(there, load_encoder(spec).encode([encoder.prepare(encode())])) < 1e-2
