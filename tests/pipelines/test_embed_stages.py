"""Stages that encode: a bad row is refused alone, nothing is encoded twice, and Ray gives the same vectors."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import ray.data
from made_contents import kind_of, made_contents
from test_encoders import WHO
from test_images import picture

import pipelines.embed.embed
from pipelines.compute import executors
from pipelines.compute.cluster import machine_cpus
from pipelines.compute.executors import InProcess, OnRay, StageError, WorkerDied
from pipelines.compute.placement import placement
from pipelines.embed.embed import EncodingJob, embed
from pipelines.embed.protocol import EncoderError, fingerprint
from pipelines.embed.stages import EmbedImages, EmbedText
from pipelines.embed.text import describe_text
from pipelines.embed.vision import describe_image
from pipelines.spec import ComputeSpec, ImageSpec, TextSpec
from pipelines.vector_store import cached
from storage.errors import DataCorrupt
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from tokenizer.arrays.executor import LOCAL_THREADS


def run_embed(lake: Lake, compute: object, items: pl.DataFrame, make: type, arguments: dict[str, object]):  # type: ignore[no-untyped-def]
    job = EncodingJob(lake, "image", "print", make, arguments, kind_of(make), 4)
    return embed(job, made_contents(items, make), compute, WHO, lambda rows: None)  # type: ignore[arg-type]


def test_bad_images_are_quarantined_good_ones_embedded_and_a_rerun_encodes_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    contents = [picture(colour="red"), picture(colour="blue"), picture(kind="GIF"), picture(400, 300)[:500]]
    hashes = [lake.blobs.put(data) for data in contents]
    items = pl.DataFrame({"item_id": list("abcd"), "content_hash": hashes, "images": [[each] for each in hashes]})
    compute = InProcess(ComputeSpec())
    arguments = {"spec": ImageSpec(), "lake": lake}
    first = run_embed(lake, compute, items, EmbedImages, arguments)
    assert (first.rows_in, first.out, first.by_reason) == (4, 2, {"image_format": 1, "image_truncated": 1})
    assert by_reason(lake) == {"image_format": 1, "image_truncated": 1}
    version = lake.version("vectors")
    again = run_embed(lake, compute, items.head(2), EmbedImages, arguments)
    assert (again.unchanged, again.out, lake.version("vectors")) == (2, 0, version)
    assert set(cached(lake, "image", "print")["item_id"]) == {"a", "b"}


class OneNumber:
    """A stage without a model: the vector of an item is its number."""

    reads, adds = ("number",), ("vector", "reason", "detail")

    def __call__(self, batch: pa.Table) -> pa.Table:
        none = pa.nulls(batch.num_rows, pa.string())
        vectors = pa.array([[float(number)] for number in batch.column("number").to_pylist()], pa.list_(pa.float32()))
        added = {"vector": vectors, "reason": none, "detail": none}
        return pa.table({**{name: batch.column(name) for name in ("item_id", "content_hash")}, **added})


def test_many_items_take_a_bounded_number_of_commits_and_a_rerun_makes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.embed.embed, "UNITS", 5)
    names = [f"{number:03d}" for number in range(102)]
    items = pl.DataFrame({"item_id": names, "content_hash": names, "number": range(102)})
    whole, cut = Lake(str(tmp_path / "whole")), Lake(str(tmp_path / "cut"))

    def stored(lake: Lake) -> set[str]:
        return {each.name for each in Lake(lake.uri).data_files("vectors")}

    run_embed(whole, InProcess(ComputeSpec()), items, OneNumber, {})
    assert len(stored(whole)) == 5
    assert whole.rows("vectors") == 102
    done = 0

    def interrupted(rows: int) -> None:
        nonlocal done
        done += rows
        if done > 60:
            raise KeyboardInterrupt

    job = EncodingJob(cut, "image", "print", OneNumber, {}, kind_of(OneNumber), 4)
    with pytest.raises(KeyboardInterrupt):
        embed(job, made_contents(items), InProcess(ComputeSpec()), WHO, interrupted)
    assert 0 < len(stored(cut)) < 5
    counts = run_embed(cut, InProcess(ComputeSpec()), items, OneNumber, {})
    assert counts.unchanged == 102 - counts.out
    assert stored(cut) == stored(whole)


@pytest.mark.parametrize(
    ("chunk_rows", "items", "expected"),
    [(256, 12_101, 256), (256, 65_536, 256), (256, 1_000_000, 3_907), (256, 10_000_000, 16_384), (65_536, 9, 65_536)],
)
def test_a_unit_has_rows_by_the_size_of_the_stage(chunk_rows: int, items: int, expected: int) -> None:
    job = EncodingJob(Lake(""), "text", "print", OneNumber, {}, kind_of(OneNumber), chunk_rows)
    assert job.unit_rows(items) == expected


def test_the_pictures_of_an_item_are_pooled_and_a_bad_one_costs_itself_only(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    red, blue, gif = (lake.blobs.put(data) for data in (picture(), picture(colour="blue"), picture(kind="GIF")))
    pictures = [[red], [blue], [red, blue], [red, gif, blue], [gif, gif]]
    items = pl.DataFrame({"item_id": list("abcde"), "content_hash": list("12345"), "images": pictures})
    arguments = {"spec": ImageSpec(batch_size=2), "lake": lake, "decoders": 2}
    counts = run_embed(lake, InProcess(ComputeSpec()), items, EmbedImages, arguments)
    assert (counts.rows_in, counts.out, counts.by_reason) == (5, 4, {"image_format": 1})
    found = {row["item_id"]: np.array(row["vector"]) for row in lake.frame("vectors").to_dicts()}
    mean = (found["a"] + found["b"]) / 2
    assert np.allclose(found["c"], mean, atol=1e-6)
    assert np.allclose(found["d"], mean, atol=1e-4)
    stages = open_rows(lake).sort("subject").select("subject", "stage").rows()
    assert stages == [("d", "embed image, one of several"), ("e", "embed image")]


def test_a_stage_refuses_to_mix_the_vectors_of_weights_that_changed_under_it(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="changed during the run"):
        EmbedText(TextSpec(), expected="another")
    with pytest.raises(EncoderError, match="changed during the run"):
        EmbedImages(ImageSpec(), Lake(str(tmp_path)), expected=fingerprint(describe_text(TextSpec())))
    EmbedImages(ImageSpec(), Lake(str(tmp_path)), expected=fingerprint(describe_image(ImageSpec())))


def test_texts_are_given_the_longest_first_and_stored_all_the_same(tmp_path: Path) -> None:
    given: list[str] = []

    class Listens(EmbedText):
        def __init__(self) -> None:
            """Loads no model: lengths are vectors enough here."""

        def __call__(self, batch: pa.Table) -> pa.Table:
            texts = batch.column("text").to_pylist()
            given.extend(texts)
            vectors = pa.array([[float(len(text))] for text in texts], pa.list_(pa.float32()))
            nothing = pa.nulls(len(texts), pa.string())
            answer = batch.drop_columns(["text"]).append_column("vector", vectors)
            return answer.append_column("reason", nothing).append_column("detail", nothing)

    texts = ["aa", "a", "aaaa", "bb", "aaa", "ü"]
    items = pl.DataFrame({"item_id": list("fedcba"), "content_hash": list("123456"), "text": texts})
    lake = Lake(str(tmp_path))
    run_embed(lake, InProcess(ComputeSpec()), items, Listens, {})
    assert given == ["aaaa", "aaa", "ü", "bb", "aa", "a"]
    assert lake.rows("vectors") == 6


def deadly() -> type:
    """A stage that workers can be sent: a class of this module they could not import."""

    class Deadly:
        """Its process dies of some contents, as one does in which native code crashes."""

        reads = ("content",)
        adds = ("vector", "reason", "detail")

        def __call__(self, batch: pa.Table) -> pa.Table:
            contents = batch.column("content").to_pylist()
            if "deadly" in contents:
                os.kill(os.getpid(), signal.SIGKILL)
            count = len(contents)
            answer = batch.drop_columns(["content"]).append_column(
                "vector", pa.array([[1.0]] * count, pa.list_(pa.float32()))
            )
            return answer.append_column("reason", pa.nulls(count, pa.string())).append_column(
                "detail", pa.nulls(count, pa.string())
            )

    return Deadly


def test_a_row_that_kills_its_worker_ends_alone_and_no_other_is_lost(tmp_path: Path, ray_cluster: None) -> None:
    lake, compute = Lake(str(tmp_path)), OnRay(ComputeSpec(encoder_workers=1))
    names, contents = ["0", "1"], ["harmless", "deadly"]
    items = pl.DataFrame({"item_id": names, "content_hash": names, "content": contents})
    counts = run_embed(lake, compute, items, deadly(), {})
    assert (counts.rows_in, counts.out, counts.by_reason) == (2, 1, {"encoder_crashed": 1})
    assert open_rows(lake)["subject"].to_list() == ["1"]
    assert lake.frame("vectors")["item_id"].to_list() == ["0"]


def test_where_every_row_is_deadly_the_stage_fails(tmp_path: Path) -> None:
    class Dies:
        name, work, deaths = "dies", LOCAL_THREADS, 0

        def run(self, *_: object) -> None:
            raise NotImplementedError

        def map(self, *_: object) -> Iterator[object]:
            self.deaths += 1
            raise WorkerDied("killed")
            yield

    compute = Dies()
    names = [str(number) for number in range(1000)]
    items = pl.DataFrame({"item_id": names, "content_hash": names, "content": names})
    with pytest.raises(WorkerDied):
        run_embed(Lake(str(tmp_path)), compute, items, deadly(), {})
    assert compute.deaths < 20


def doubling() -> type:
    """Return a job on numbers; workers get its code."""

    class Doubling:
        class stage:  # noqa: N801 - its name is that of a stage
            name = "doubling"

        def start(self) -> Callable[[int], int]:
            def double(number: int) -> int:
                if number < 0:
                    raise DataCorrupt(f"{number} is damaged")
                return 2 * number

            return double

    return Doubling


def test_many_units_are_sent_in_few_blocks_each_is_done_once_and_an_error_is_that_of_the_unit(
    monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    monkeypatch.setattr(executors, "MAX_BLOCKS", 3)
    blocks, place, sizes, send = list[int](), executors.placement, list[object](), ray.data.Dataset.map_batches

    def sized(self: Any, *given: Any, **named: Any) -> Any:
        sizes.append(named["batch_size"])
        return send(self, *given, **named)

    monkeypatch.setattr(ray.data.Dataset, "map_batches", sized)
    monkeypatch.setattr(executors, "placement", lambda *given: blocks.append(given[2]) or place(*given))
    units = list(range(100, 120))
    for compute in (InProcess(ComputeSpec()), OnRay(ComputeSpec(encoder_workers=2))):
        assert sorted(compute.map(doubling()(), units)) == [(number, 200 + 2 * number) for number in range(20)]
        assert list(compute.map(doubling()(), [])) == []
        with pytest.raises(DataCorrupt, match="-1 is damaged"):
            list(compute.map(doubling()(), [-1]))
    assert blocks == [4, 1]
    assert sizes == [6, 1], "where workers take GPUs, Ray Data takes no other size than a number"


@pytest.mark.parametrize(
    ("asked", "cluster", "batches", "expected"),
    [
        ({}, {"CPU": 8, "GPU": 2}, 9, (2, 1.0)),
        ({}, {"CPU": 8}, 99, (machine_cpus(), 0.0)),
        ({"num_gpus": 0.25}, {"CPU": 8, "GPU": 2}, 9, (8, 0.25)),
        ({"num_gpus": 0.25, "workers": 3}, {"CPU": 8, "GPU": 2}, 9, (3, 0.25)),
        ({"num_gpus": 0.25}, {"CPU": 8, "GPU": 2}, 5, (5, 0.25)),
        ({"num_gpus": 0}, {"CPU": 8, "GPU": 2}, 1, (1, 0.0)),
    ],
)
def test_workers_of_a_stage_take_what_the_recipe_says_else_a_gpu_each(
    asked: dict[str, float], cluster: dict[str, float], batches: int, expected: tuple[int, float]
) -> None:
    spec = ComputeSpec.model_validate({"stages": {"embed_text": asked}})
    stage, workers = placement(spec, EmbedText, batches, cluster)
    assert (workers, stage.num_gpus) == expected


@pytest.mark.parametrize("asked", [{"num_gpus": 1}, {"num_cpus": 9}, {"resources": {"fast_disk": 1}}])
def test_a_stage_that_reserves_more_than_the_cluster_has_is_refused_and_does_not_wait(asked: dict[str, Any]) -> None:
    spec = ComputeSpec.model_validate({"stages": {"embed_text": asked}})
    with pytest.raises(StageError, match=r"\[compute.stages.embed_text\] reserves .* the whole cluster has"):
        placement(spec, EmbedText, 3, {"CPU": 8})
