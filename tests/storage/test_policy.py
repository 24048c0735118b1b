"""Releases and models that `lake gc` keeps, each with its reason, decided from records alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from made_releases import TIME, WHO, candidate, model, publish

from storage.lake import Lake
from storage.releases.models import recorded_models
from storage.releases.pointers import pointer_history
from storage.releases.releases import recorded_releases
from storage.retention.policy import Kept, Policy, kept
from storage.runs.details import RunResult
from storage.runs.record import RunSummary

NOW = datetime.now(UTC) + timedelta(days=1)
NONE = timedelta()


def running(started: datetime, **parameters: Any) -> RunSummary:
    return RunSummary(
        "nightly-1", "nightly", "running", started, None, parameters, RunResult(), [], "here", 1, "", started
    )  # fmt: skip


def asked(lake: Lake, policy: Policy, *runs: RunSummary) -> Kept:
    return kept(policy, recorded_releases(lake), recorded_models(lake), lake.read("pointers"), runs, NOW)


def test_each_that_stays_has_the_first_reason_that_holds(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = [candidate(lake, f"k{number}", ["a"]) for number in range(7)]
    for each in made[:5]:
        publish(lake, each.id, WHO)
    moves = pointer_history(lake, "production")[1:]
    third = moves[2].at
    assert third is not None
    one = Policy(keep=1, grace=NONE)
    assert asked(lake, one).releases == {"r-000005": "production points to it", "r-000007": "one of the 1 made last"}
    assert asked(lake, one, running(third)).releases == {
        "r-000005": "production points to it",
        "r-000003": "nightly-1 is running",
        "r-000004": "nightly-1 is running",
        "r-000007": "one of the 1 made last",
    }
    named = running(NOW, parent="r-000001", since="m-000009", release="r-000002", cutoff="r-000006")
    assert asked(lake, one, named).releases == {
        "r-000005": "production points to it",
        "r-000001": "nightly-1 is running",
        "r-000002": "nightly-1 is running",
        "r-000007": "one of the 1 made last",
    }
    assert asked(lake, Policy(keep=2, grace=NONE)).releases == {
        "r-000005": "production points to it",
        "r-000004": "one of the 2 published last",
        "r-000006": "one of the 2 made last",
        "r-000007": "one of the 2 made last",
    }
    young = Policy(keep=1, grace=NOW - TIME + timedelta(seconds=1))
    assert set(asked(lake, young).releases.values()) == {
        "production points to it",
        "one of the 1 made last",
        "made within the grace period",
    }
    assert len(asked(lake, young).releases) == 7
    assert len(asked(lake, Policy(keep=1, grace=NOW - TIME)).releases) == 2, "made just as the grace period began"


def test_models_stay_with_their_releases_and_keep_those_they_were_trained_on(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = [candidate(lake, f"k{number}", ["a"]) for number in range(5)]
    old, served, own, lost = (
        model(lake, key, made[number].id, made[0].codebook.vocabulary)
        for key, number in zip("abcd", (0, 1, 3, 0), strict=True)
    )
    publish(lake, made[2].id, WHO, old)
    publish(lake, made[3].id, WHO, served)
    found = asked(lake, Policy(keep=1, grace=NONE))
    assert found.models == {served: "production points to it", own: "trained on r-000004"}
    assert found.releases == {
        "r-000004": "production points to it",
        "r-000005": "one of the 1 made last",
        "r-000002": f"{served} was trained on it",
    }
    wider = asked(lake, Policy(keep=2, grace=NONE))
    assert wider.models[old] == "published with r-000003"
    assert wider.releases["r-000001"] == f"{old} was trained on it"
    assert lost not in wider.models
    run = asked(lake, Policy(keep=1, grace=NONE), running(NOW, model=lost))
    assert run.models[lost] == "nightly-1 is running"
    young = asked(lake, Policy(keep=1, grace=timedelta(days=2)))
    assert young.models[lost] == "made within the grace period"
