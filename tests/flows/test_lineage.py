"""Lineage: events of OpenLineage for each run, valid by the schema of OpenLineage, and none where nobody asked."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from flows.bootstrap import bootstrap
from flows.nightly import nightly
from flows.watch.lineage import dataset
from storage.errors import QuarantineBudgetExceeded
from storage.lake import Lake

RECIPE: dict[str, Any] = {
    "attributes": {"fields": ["kind"], "dim": 8},
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 4}, {"codes": 4}]},
    "gates": {"utilisation": {"limit": 0.0}, "relative_error": {"limit": 2.0}},
}
SCHEMAS = [json.loads(each.read_text()) for each in (Path(__file__).parents[1] / "openlineage").glob("*.json")]
BY_ID = {each["$id"]: each for each in SCHEMAS}
REGISTRY = Registry().with_resources([(name, Resource.from_contents(each)) for name, each in BY_ID.items()])


def faults(event: dict[str, Any], schema: str) -> list[str]:
    """What is wrong with an event or with facets by a schema of OpenLineage."""
    checked = Draft202012Validator(BY_ID[schema], registry=REGISTRY, format_checker=FormatChecker())
    return [f"{schema} {each.json_path}: {each.message}" for each in checked.iter_errors(event)]


def all_faults(event: dict[str, Any]) -> list[str]:
    """What is wrong with an event, with the schema it names and with the schema that each of its facets names."""
    found = faults(event, event["schemaURL"].split("#")[0])
    owners = (event["run"], event["job"], *event["inputs"], *event["outputs"])
    for name, facet in [each for owner in owners for each in owner["facets"].items()]:
        found += faults({name: facet}, facet["_schemaURL"].split("#")[0])
    return found


def items(path: Path, *names: str) -> str:
    path.write_text("item_id,title,kind\n" + "".join(f"{name},{name},{name[:1]}\n" for name in names))
    return str(path)


def test_events_name_what_a_run_read_and_wrote_by_the_schema_and_none_is_sent_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, RECIPE, [items(tmp_path / "items.csv", "a1", "a2", "b1", "b2")])
    sent = tmp_path / "events.jsonl"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(sent))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    new = items(tmp_path / "new.csv", "c1")
    nightly(lake.uri, None, [new])
    with pytest.raises(QuarantineBudgetExceeded):
        nightly(lake.uri, None, [items(tmp_path / "bad.csv", "", "")], overrides=["budget.quarantine_rows=0"])
    monkeypatch.delenv("OPENLINEAGE__TRANSPORT__TYPE")
    nightly(lake.uri)
    events = [json.loads(line) for line in sent.read_text().splitlines()]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE", "START", "FAIL"]
    assert [fault for event in events for fault in all_faults(event)] == []
    begun, done, _, failed = events
    assert begun["run"]["runId"] == done["run"]["runId"] != failed["run"]["runId"]
    assert (done["job"]["namespace"], done["job"]["name"]) == (lake.uri, "sidmill.nightly")
    assert [(each["namespace"], each["name"]) for each in done["inputs"]] == [("file", new)]
    written = {each["name"]: each["facets"]["version"]["datasetVersion"] for each in done["outputs"]}
    assert written[lake.path("sids")] == str(lake.version("sids"))
    assert lake.path("releases") in written
    assert lake.path("interactions") not in written
    assert "QuarantineBudgetExceeded" in failed["run"]["facets"]["errorMessage"]["message"]
    del failed["run"]["facets"]["errorMessage"]["message"]
    assert all_faults(failed) != [], "the schemas are read"


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("/data/in", ("file", "/data/in")),
        ("s3://bucket/in/log", ("s3://bucket", "in/log")),
        ("kafka://a:9092,b:9092/clicks", ("kafka://a:9092,b:9092", "clicks")),
        ("s3://bucket/log?region=eu", ("s3://bucket", "log")),
    ],
)
def test_data_sets_are_named_by_store_and_path(address: str, named: tuple[str, str]) -> None:
    assert dataset(address) == named
