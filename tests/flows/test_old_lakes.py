"""Lakes of earlier versions: a night extends their releases as it did."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.erase import erase_from
from flows.inspect.evaluation_tables import evaluation_tables, rankers, verdicts
from flows.inspect.verify import verify
from flows.nightly import nightly
from sidmill.release import open_trie
from storage.commit import Provenance
from storage.lake import Lake
from storage.migrate import migrate
from storage.releases.evaluation import EvaluationResult
from storage.releases.models import models
from storage.releases.publishing import rollback
from storage.releases.releases import published, read_release


def sids(lake: Lake, release: str) -> dict[str, tuple[int, ...]]:
    trie = open_trie(lake, read_release(lake, release))
    return {item: tuple(codes) for item, codes in zip(trie.item_ids.to_pylist(), trie.codes().tolist(), strict=True)}


def test_a_night_on_a_lake_of_format_1_folds_in_on_its_factors_and_moves_no_sid(old_lake: Lake, tmp_path: Path) -> None:
    """Its factors are a file of Arrow, its files have one row group, and an item that was deleted comes back."""
    list(migrate(old_lake, Provenance("test", "recipe")))
    lake = Lake(old_lake.uri)
    first, second = sids(lake, "r-000001"), sids(lake, "r-000002")
    assert first.keys() - second.keys() == {"i03"}
    items = [
        {"item_id": item, "title": f"music {item}", "brand": "b1", "categories": ["music"]} for item in ("i03", "i99")
    ]
    (tmp_path / "night.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    start = datetime(2024, 1, 10, tzinfo=UTC)
    rows = ["user_id,item_id,event_time,event_type"]
    for user in range(5):
        for place, item in enumerate(("i12", "i99", "i13")):
            rows.append(f"u{user},{item},{(start + timedelta(minutes=place)).isoformat()},click")
    (tmp_path / "night.csv").write_text("\n".join(rows) + "\n")
    made = nightly(lake.uri, items=[str(tmp_path / "night.jsonl")], interactions=[str(tmp_path / "night.csv")])
    assert made["made"]
    third = sids(lake, made["release"])
    assert third.keys() == {*second, "i03", "i99"}
    assert {item: third[item] for item in second} == second
    assert third["i03"] == first["i03"], "its SID was kept for it"
    manifest = read_release(lake, made["release"])
    vectors = lake.frame("vectors", manifest.versions["vectors"], ["item_id", "modality"])
    assert vectors.filter(modality="collaborative", item_id="i99").height == 1
    assert "factors_footer" not in manifest.encoders["collaborative"].details


def test_a_lake_of_format_2_goes_on_with_nights_rollbacks_and_erasures(lake_of_format_2: Lake, tmp_path: Path) -> None:
    lake, who = lake_of_format_2, Provenance("test", "recipe")
    first, second = sids(lake, "r-000001"), sids(lake, "r-000002")
    assert first.keys() ^ second.keys() == {"i03", "i24"}
    current = published(lake)
    assert current is not None
    assert current.model == "m-000001"
    night = [{"item_id": "i77", "title": "late", "brand": "b1", "kind": "k1"}, {"item_id": "i05", "deleted": True}]
    (tmp_path / "night.jsonl").write_text("".join(json.dumps(item) + "\n" for item in night))
    made = nightly(lake.uri, items=[str(tmp_path / "night.jsonl")])
    third = sids(lake, made["release"])
    assert {item: third[item] for item in second if item != "i05"} == {
        item: codes for item, codes in second.items() if item != "i05"
    }
    assert third.keys() - second.keys() == {"i77"}
    assert "i77" in lake.read("interactions")["item_id"].to_pylist(), "its event had waited"
    erase_from(lake, frozenset({"u3"}), frozenset({"i07"}), "", who, 0)
    assert sids(lake, made["release"]).keys() == third.keys() - {"i07"}
    assert sids(lake, "r-000001").keys() == first.keys() - {"i07"}
    assert [each for each in verify(lake) if each.fault] == []
    assert rollback(lake, who, "r-000002").release == "r-000002"


def test_evaluations_of_old_lakes_are_read_in_full_and_written_as_they_were(
    old_lake: Lake, lake_of_format_2: Lake
) -> None:
    for lake in (old_lake, lake_of_format_2):
        stored = lake.read("evaluations")["result"].to_pylist()
        assert len(stored) >= 1
        for text in stored:
            result = EvaluationResult.parse(text)
            assert result.as_json() == text
            assert result.others == {}
            assert {*rankers(result)} == result.rankers.keys() >= {"generator", "popularity"}
            assert evaluation_tables(result)[0].title == "Accuracy"
            assert verdicts(result) or not result.against
        assert models(lake)[0].evaluation == EvaluationResult.parse(stored[-1])
