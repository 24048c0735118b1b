"""Fits report their progress to the listener of the context."""

import numpy as np

from learning.progress import Epochs, emit, progress_listener
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec

VECTORS = {"fused": np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)}
IDS = [f"i{row}" for row in range(64)]


def test_lines_go_to_the_innermost_that_hears_and_to_nobody_else() -> None:
    outer: list[str] = []
    inner: list[str] = []
    emit("before")
    with progress_listener(outer.append):
        emit("one")
        with progress_listener(inner.append):
            emit("two")
        emit("three")
    emit("after")
    assert (outer, inner) == (["one", "three"], ["two"])


def test_an_epoch_is_told_with_its_loss_and_the_last_one_has_nothing_left() -> None:
    lines: list[str] = []
    with progress_listener(lines.append):
        epochs = Epochs("fusion", 2)
        epochs.done(1.5)
        epochs.done(0.25)
    assert lines[0].startswith("fusion epoch 1 of 2: loss 1.5000, ")
    assert lines[0].endswith(" s left")
    assert lines[1].startswith("fusion epoch 2 of 2: loss 0.2500, ")
    assert not lines[1].endswith("left")


def test_a_fit_tells_each_level_and_gives_the_same_whoever_hears_it() -> None:
    spec, lines = CodebookSpec.model_validate({"levels": [{"codes": 8}] * 3}), list[str]()
    silent = fit_codebook(VECTORS, IDS, spec)
    with progress_listener(lines.append):
        told = fit_codebook(VECTORS, IDS, spec)
    assert told.to_bytes() == silent.to_bytes()
    errors = [level["relative_error"] for level in told.statistics["levels"]]
    assert lines == [
        f"level {number} of 3: 8 of 8 codes in use, relative error {error:.4f}"
        for number, error in enumerate(errors, start=1)
    ]
