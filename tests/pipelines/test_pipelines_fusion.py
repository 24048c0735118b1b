"""Fusion masks what is missing, ignores batch and order, and nothing fitted sees past the cutoff."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.collaborative import LogSlice, collaborative_vectors
from pipelines.fusion import Fusion, FusionError, Modality, fit_fusion
from pipelines.spec import CollaborativeSpec, FusionSpec
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import INTERACTIONS

START = datetime(2024, 1, 1, tzinfo=UTC)
CUTOFF = START + timedelta(days=10)


def modalities(items: int = 60, seed: int = 0) -> dict[str, Modality]:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((items, 6)).astype(np.float32)
    made = {}
    for name, width, share in (("text", 12, 1.0), ("image", 8, 0.8), ("collaborative", 5, 0.6)):
        vectors = hidden @ rng.standard_normal((6, width)).astype(np.float32)
        made[name] = Modality(vectors.astype(np.float32), rng.random(items) < share)
    return made


def take(given_modalities: dict[str, Modality], rows: list[int]) -> dict[str, Modality]:
    return {name: Modality(each.vectors[rows], each.present[rows]) for name, each in given_modalities.items()}


@pytest.mark.parametrize("method", ["concat", "contrastive"])
def test_the_fused_vector_of_an_item_does_not_depend_on_batch_or_order(method: str) -> None:
    items = modalities()
    fusion = fit_fusion(items, FusionSpec(method=method, dim=16, steps=10))
    whole, _ = fusion.transform(items)
    for rows in ([5], [3, 1, 2], list(range(59, -1, -1))):
        part, _ = fusion.transform(take(items, rows))
        assert part.tobytes() == whole[rows].tobytes()


@pytest.mark.parametrize("method", ["concat", "contrastive"])
def test_a_missing_modality_is_masked_whatever_lies_in_its_row(method: str) -> None:
    items = modalities()
    fusion = fit_fusion(items, FusionSpec(method=method, dim=16, steps=5))
    before, covered = fusion.transform(items)
    for each in items.values():
        each.vectors[~each.present] = 1e6
    after, _ = fusion.transform(items)
    assert before.tobytes() == after.tobytes()
    assert covered.tolist() == np.any([each.present for each in items.values()], axis=0).tolist()
    assert np.allclose(np.linalg.norm(before[covered], axis=1), 1, atol=1e-5)


def test_fitting_twice_gives_the_same_bytes_and_contrast_learns() -> None:
    items, spec = modalities(400), FusionSpec(dim=16, steps=60, learning_rate=1e-2)
    one, two = fit_fusion(items, spec), fit_fusion(items, spec)
    assert one.to_bytes() == two.to_bytes()
    assert one.statistics["loss"]["last"] < 0.8 * one.statistics["loss"]["first"]
    assert Fusion.from_bytes(one.to_bytes()).id == one.id


def test_contrast_brings_content_near_the_behaviour_of_its_item() -> None:
    """Content alone, fused, ranks its item's behaviour vector better after training than before."""
    items = modalities(300)
    shown = {"text": items["text"], "collaborative": Modality(items["collaborative"].vectors, np.ones(300, bool))}

    def rank_share(fusion: Fusion) -> float:
        content, _ = fusion.transform({"text": shown["text"]})
        behaviour, _ = fusion.transform({"collaborative": shown["collaborative"]})
        return float((np.argsort(-content @ behaviour.T, axis=1)[:, :5] == np.arange(300)[:, None]).any(axis=1).mean())

    trained = fit_fusion(shown, FusionSpec(dim=16, steps=200, learning_rate=1e-2))
    untrained = fit_fusion(shown, FusionSpec(dim=16, steps=0))
    assert rank_share(trained) > 2 * rank_share(untrained)


def test_one_modality_needs_no_contrast_and_none_is_refused() -> None:
    only = {"text": modalities()["text"]}
    vectors, covered = fit_fusion(only, FusionSpec(dim=8)).transform(only)
    assert covered.all()
    assert vectors.shape == (60, 8)
    with pytest.raises(FusionError, match="no item"):
        fit_fusion({}, FusionSpec())
    with pytest.raises(FusionError, match="dimensions"):
        fit_fusion(only, FusionSpec(dim=8)).transform({"text": Modality(np.ones((1, 3), np.float32), np.ones(1, bool))})


def events(rows: list[tuple[str, str, datetime]], arrival: datetime | None = None) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "event_id": f"{user}-{item}-{time.isoformat()}",
                "user_id": user,
                "item_id": item,
                "event_type": "click",
                "event_time": time,
                "arrival_time": arrival or time,
                "arrival_date": (arrival or time).date(),
                "session_id": None,
                "request_id": None,
                "impression": None,
                "position": None,
                "value": None,
                "source": "s",
                "source_offset": row,
            }
            for row, (user, item, time) in enumerate(rows)
        ],
        schema=INTERACTIONS.schema,
    )


def history(users: int = 12, length: int = 12) -> list[tuple[str, str, datetime]]:
    return [
        (f"u{user}", f"i{(user * 3 + step * (1 + user % 3)) % 15}", START + timedelta(hours=step))
        for user in range(users)
        for step in range(length)
    ]


@settings(max_examples=10, deadline=None)
@given(
    future=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 20), st.integers(0, 500)), max_size=20),
    late=st.booleans(),
)
def test_events_after_the_cutoff_or_the_as_of_change_no_collaborative_vector(
    tmp_path_factory: pytest.TempPathFactory, future: list[tuple[int, int, int]], late: bool
) -> None:
    """Added events lie at or after the cutoff, or (late) before it but arrive after the as-of time."""
    spec = CollaborativeSpec(dim=4, window=3)
    after = [(f"u{user}", f"i{item}", CUTOFF + timedelta(hours=hour)) for user, item, hour in future]
    vectors = []
    for added in ([], after):
        lake = Lake(str(tmp_path_factory.mktemp("lake")))
        append(lake, "interactions", events(history()), "past", Provenance("t", "r"))
        if added:
            if late:
                added = [(user, item, time - timedelta(days=9)) for user, item, time in added]
            rows = events(added, arrival=CUTOFF)
            append(lake, "interactions", rows, "future", Provenance("t", "r"))
        log = LogSlice(lake.version("interactions"), CUTOFF - timedelta(microseconds=1), CUTOFF)
        vectors.append(collaborative_vectors(lake, log, spec))
    assert vectors[0].equals(vectors[1])
    assert vectors[0].height > 5


def test_items_consumed_together_get_near_vectors(tmp_path: Path) -> None:
    rows = [
        (f"u{user}", f"i{(user % 2) * 5 + (user + step) % 5}", START + timedelta(hours=step))
        for user in range(40)
        for step in range(5)
    ]
    lake = Lake(str(tmp_path))
    append(lake, "interactions", events(rows), "log", Provenance("t", "r"))
    log = LogSlice(lake.version("interactions"), CUTOFF, CUTOFF)
    found = collaborative_vectors(lake, log, CollaborativeSpec(dim=2, window=3))
    vectors = np.array(found["vector"].to_list())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    group = np.array([int(item[1:]) // 5 for item in found["item_id"]])
    similar = unit @ unit.T
    same = group[:, None] == group[None, :]
    assert similar[same].min() > similar[~same].max()
