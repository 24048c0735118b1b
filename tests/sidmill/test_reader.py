"""The public interface: what it reads is what the lake holds, and the page of the documentation runs as it stands."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import sidmill
from infra.settings import configure
from storage.commit import Provenance
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.migrate import migrate
from storage.releases.releases import published
from tokenizer.trie.masks import TrieMasks
from training.data.events import Events
from training.models.trie_tensors import TrieTensors

configure()
PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebook.md"


@pytest.fixture
def reader(old_lake: Lake) -> sidmill.LakeReader:
    list(migrate(old_lake, Provenance("test", "test", "test")))
    return sidmill.open(old_lake.uri)


def test_the_page_runs_as_it_stands(
    reader: sidmill.LakeReader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(Path(reader.uri).parent)
    exec(compile(code, str(PAGE), "exec"), {})
    assert "log_probability" in capsys.readouterr().out


def test_a_release_reads_what_it_pins(reader: sidmill.LakeReader) -> None:
    release = reader.release()
    assert reader.releases() == ["r-000001", "r-000002"]
    assert (release.id, release.manifest.items) == ("r-000002", release.sids().height)
    sids, items, vectors = release.sids(), release.items(), release.vectors()
    assert set(sids["item_id"]) == set(items["item_id"]) == set(vectors["item_id"])
    assert sids["sid"].n_unique() == sids.height
    trie = release.trie()
    for item, sid in sids.iter_rows():
        found = trie.find(item)
        assert found is not None
        assert found.tolist() == sid
    assert reader.release("r-000001").manifest.codebook.id == release.manifest.codebook.id
    assert published(Lake(reader.uri)).release == release.id  # type: ignore[union-attr]


def test_recommendations_are_those_of_scoring_every_item(reader: sidmill.LakeReader) -> None:
    """As many beams as items: the list is that of the log-probabilities of all SIDs, computed one by one."""
    release = reader.release()
    trie, model, sids = release.trie(), release.model(), release.sids()
    ids = sids["item_id"].to_list()
    whole = TrieTensors(TrieMasks.of(trie), torch.device("cpu"))
    histories = [ids[3:6], [*ids[7:8], "unknown"], []]
    found = release.recommend(histories, k=len(ids), beams=len(ids), seen=True)
    for number, history in enumerate(histories):
        codes = torch.tensor([[trie.find(item).tolist() for item in history if item in ids]])  # type: ignore[union-attr]
        count = codes.shape[1]
        codes = codes.reshape(1, count, trie.levels) if count else torch.zeros(1, 1, trie.levels, dtype=torch.long)
        scores = {}
        for item, sid in sids.iter_rows():
            events = Events(
                torch.cat([codes[:, :count], torch.tensor([[sid]])], dim=1).long(),
                torch.zeros(1, count + 1, dtype=torch.long),
                torch.tensor([count + 1]),
            )
            target = torch.zeros(1, count + 1, dtype=torch.bool)
            target[0, -1] = True
            with torch.inference_mode():
                logits = model(events, target, whole if model.spec.constrained else None)
            parts = [level.log_softmax(-1)[0, code].item() for level, code in zip(logits, sid, strict=True)]
            scores[item] = sum(parts)
        ours = found.filter(pl.col("history") == number)
        assert sorted(ours["item_id"]) == sorted(ids)
        wanted = [scores[item] for item in ours["item_id"]]
        np.testing.assert_allclose(ours["log_probability"], wanted, atol=1e-3)
        assert wanted == pytest.approx(sorted(wanted, reverse=True), abs=1e-3)


def test_a_history_is_left_out_unless_it_is_asked_for(reader: sidmill.LakeReader) -> None:
    release = reader.release()
    history = release.sids()["item_id"].head(4).to_list()
    found = release.recommend([history], k=30)
    assert not set(found["item_id"]) & set(history)
    assert found["rank"].to_list() == list(range(1, found.height + 1))
    assert found.height == release.manifest.items - len(history)


def test_what_is_not_there_is_named(tmp_path: Path, reader: sidmill.LakeReader) -> None:
    with pytest.raises(LakeNotFound, match="there is no lake at"):
        sidmill.open(str(tmp_path / "none"))
    with pytest.raises(LakeNotFound, match="r-000009"):
        reader.release("r-000009")
    with pytest.raises(TypeError, match="such as 'r-000003' or 'production': 3 is none"):
        reader.release(3)  # type: ignore[arg-type]
    assert sidmill.__version__
