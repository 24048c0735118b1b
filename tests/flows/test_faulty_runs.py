"""Runs with bad input, failed gates, failed tasks and kills: production stays, and the same command goes on."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from test_runs import Recipe, sids, start

from conftest import write_items
from flows.bootstrap import bootstrap
from flows.inspect.verify import verify
from flows.nightly import nightly
from storage.errors import GateBlocked, QuarantineBudgetExceeded
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.releases import published, releases
from storage.runs.record import runs


def test_a_blocking_gate_keeps_production_and_the_candidate_can_be_looked_at(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    write_items(small / "night.jsonl", 40, 4)
    strict = {**recipe, "gates": {"capacity_used": {"limit": 0.01, "severity": "block"}}}
    with pytest.raises(GateBlocked, match="capacity_used"):
        nightly(lake.uri, strict, [str(small / "night.jsonl")])
    assert published(lake).release == "r-000001"  # type: ignore[union-attr]
    assert len(sids(lake, "r-000002")) == 44
    assert runs(lake)[-1].state == "failed"
    # The same night with a better recipe goes on from what is there.
    assert nightly(lake.uri, recipe)["release"] == "r-000003"
    assert sids(lake, "r-000003").keys() == sids(lake, "r-000002").keys()


def test_bad_input_lands_in_quarantine_from_file_to_table_and_the_rest_goes_on(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    """Every kind of poison at once, through all stages; at each, rows in = out + there already + quarantined."""
    pictures = {
        "good.jpg": picture("JPEG", (64, 48)),
        "truncated.jpg": picture("JPEG", (640, 480))[:900],
        "gif.png": picture("GIF", (20, 20)),
        "bomb.png": picture("PNG", (20_000, 10_000), "1"),
    }
    for name, data in pictures.items():
        (small / name).write_bytes(data)
    bad: list[dict[str, object]] = [
        *({"item_id": name, "title": f"a picture {name}", "image": name} for name in pictures),
        {"item_id": "untitled", "title": " "},
        {"item_id": "i0000", "title": "the same id again"},
        {"item_id": "long", "title": "x" * 5_000_000},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in bad).encode() + b'{"item_id": "latin", "title": "caf\xe9"}\n'
    (small / "items.jsonl").write_bytes((small / "items.jsonl").read_bytes() + lines)
    events = "u0,i0004,2024-01-02,click,NaN\nu0,nobody,2024-01-02,click,1\nu0,i0004,2190-01-01,click,1\n"
    (small / "log.csv").write_text((small / "log.csv").read_text() + events)
    lake = start(str(tmp_path / "lake"), small, {**recipe, "image": {}})
    assert by_reason(lake) == {
        "duplicate_item_id": 1,
        "empty_title": 1,
        "event_in_future": 1,
        "image_format": 1,
        "image_too_many_pixels": 1,
        "image_truncated": 1,
        "invalid_utf8": 1,
        "text_too_long": 1,
        "unknown_item": 1,
        "value_not_finite": 1,
    }
    assert len(sids(lake, "production")) == 44
    stages = {stage.name: stage for stage in runs(lake)[-1].stages if stage.rows_in is not None}
    assert {"ingest items", "ingest log", "embed text", "embed image", "fuse", "assign SIDs"} <= stages.keys()
    for stage in stages.values():
        assert stage.rows_in == stage.rows_out + stage.unchanged + stage.quarantined
    assert stages["embed image"].by_reason == {
        "image_format": 1,
        "image_too_many_pixels": 1,
        "image_truncated": 1,
    }


def picture(kind: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    image = Image.new(mode, size) if mode == "1" else Image.effect_noise(size, 60).convert(mode)
    image.save(stream, kind)
    return stream.getvalue()


def test_too_much_quarantine_stops_the_run_before_anything_is_published_and_also_its_rerun(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    good = (small / "items.jsonl").read_text()
    (small / "items.jsonl").write_text(good + "".join(f'{{"item_id": "bad{n}", "title": ""}}\n' for n in range(30)))
    for _ in range(2):
        with pytest.raises(QuarantineBudgetExceeded, match=r"30 of 70 rows"):
            start(str(tmp_path / "lake"), small, recipe)
    lake = Lake(str(tmp_path / "lake"))
    assert published(lake) is None
    assert by_reason(lake) == {"empty_title": 30}
    start(lake.uri, small, {**recipe, "budget": {"quarantine_share": 0.5}})
    assert published(lake).release == "r-000001"  # type: ignore[union-attr]


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_that_fails_once_is_retried_and_the_run_finishes(
    tmp_path: Path, small: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.steps.fit as fitting

    monkeypatch.setattr("flows.steps.task.RETRY_DELAYS_S", (0, 0))
    calls = []
    real = fitting.train_fusion

    def fails_once(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("a worker was lost")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting, "train_fusion", fails_once)
    lake = start(str(tmp_path / "lake"), small, recipe)
    assert len(calls) == 2
    assert runs(lake)[-1].state == "finished"
    assert 2 in attempts("fit")


def attempts(task: str) -> list[int]:
    """Return how often each of the newest runs of a task was started, once the Prefect server has a second start."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
    from prefect.client.schemas.sorting import TaskRunSort

    chosen = TaskRunFilter(name=TaskRunFilterName(like_=task))
    newest = TaskRunSort.EXPECTED_START_TIME_DESC
    found: list[int] = []
    with get_client(sync_client=True) as client:
        for _ in range(30):  # the server records task runs from their events, a moment later
            found = [run.run_count for run in client.read_task_runs(task_run_filter=chosen, sort=newest, limit=5)]
            if 2 in found:
                break
            time.sleep(1)
    return found


def test_a_quarantined_item_is_tried_again_on_request(tmp_path: Path, small: Path, recipe: Recipe) -> None:
    """An item without text or image has no vector; once it has one, its next night gives it a SID."""
    rows = (small / "items.jsonl").read_text() + '{"item_id": "bare", "title": "", "genres": []}\n'
    (small / "items.jsonl").write_text(rows)
    loose = {**recipe, "items": {"require_title": False}}
    lake = start(str(tmp_path / "lake"), small, loose)
    assert by_reason(lake) == {"no_content": 1}
    (small / "fixed.jsonl").write_text('{"item_id": "bare", "title": "a title now", "genres": ["space"]}\n')
    nightly(lake.uri, None, [str(small / "fixed.jsonl")])
    assert "bare" in sids(lake, "production")
    assert by_reason(lake) == {}


@pytest.mark.parametrize("after", [pytest.param("vectors", marks=pytest.mark.slow), "sids"])
def test_a_run_killed_after_a_commit_is_finished_by_the_same_command(
    tmp_path: Path, small: Path, recipe: Recipe, after: str
) -> None:
    """kill -9 as soon as a table has grown; the rerun completes and equals an undisturbed run."""
    settings = tmp_path / "recipe.json"
    settings.write_text(json.dumps(recipe))
    uri = str(tmp_path / "killed")
    script = (
        "import json, sys; from infra.settings import configure; configure(); from flows.bootstrap import bootstrap; "
        "bootstrap(sys.argv[1], json.load(open(sys.argv[2])), [sys.argv[3]], [sys.argv[4]], '2024-03-01')"
    )
    command = [sys.executable, "-c", script, uri, str(settings), str(small / "items.jsonl"), str(small / "log.csv")]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=root, start_new_session=True)
    lake = Lake(uri)
    deadline = time.monotonic() + 240
    while lake.version(after) < 1 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert lake.version(after) >= 1
    bootstrap(uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")], "2024-03-01")
    whole = start(str(tmp_path / "whole"), small, recipe, as_of="2024-03-01")
    assert sids(lake, "production") == sids(whole, "production")
    assert [finding for finding in verify(lake) if finding.fault] == []
    assert len(releases(lake)) == 1
    keys = lake.frame("vectors").select("item_id", "modality", "content_hash", "fingerprint")
    assert not keys.is_duplicated().any()
    assert lake.frame("sids").filter(pl.col("item_id").is_duplicated()).is_empty()
