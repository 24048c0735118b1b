"""The files in infra/ name commands, versions and folders that exist, and are valid by the schemas of their readers."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from test_structure import PACKAGES

from flows.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SCHEMAS = os.environ.get("SIDMILL_SCHEMAS", "")
"""Folder with compose-spec.json and with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of KubeRay."""


def commands() -> dict[str, list[str]]:
    """The commands of sidmill in the files, by the file."""
    unit = (INFRA / "sidmill.service").read_text()
    started = re.search(r"^ExecStart=\S*/sidmill (.*)$", unit, re.MULTILINE)
    assert started is not None
    entrypoint = yaml.safe_load((INFRA / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    return {
        "sidmill.service": shlex.split(started[1]),
        "compose.yaml": COMPOSE["services"]["sidmill"]["command"],
        "rayjob.yaml": shlex.split(entrypoint)[1:],
    }


@pytest.mark.parametrize("file", ["sidmill.service", "compose.yaml", "rayjob.yaml"])
def test_a_command_is_one_of_ours(file: str) -> None:
    verb, bound, unused = app.parse_args(commands()[file], exit_on_error=False, print_error=False)
    assert not unused
    assert callable(verb)
    assert bound.arguments


def test_the_image_has_all_packages_and_the_cluster_its_version_of_ray() -> None:
    image = (INFRA / "Dockerfile").read_text()
    assert [each for each in PACKAGES if f"COPY {each} {each}\n" not in image] == []
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    named = [f'"ray[default]=={pinned[1]}"' in image]
    for file in ("kuberay.yaml", "rayjob.yaml"):
        named.append(f'rayVersion: "{pinned[1]}"' in (INFRA / file).read_text())
    assert all(named)


def test_every_variable_of_the_compose_file_is_named_in_its_example() -> None:
    text = (INFRA / "compose.yaml").read_text()
    example = "".join(line for line in text.splitlines() if line.startswith("#   export"))
    assert [name for name in re.findall(r"\$\{(\w+)", text) if f"{name}=" not in example] == []


def strict(schema: Any) -> Any:
    """A schema of Kubernetes that refuses fields which it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(each) for name, each in schema.items() if name != "x-kubernetes-validations"}
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def kubernetes(kind: str) -> dict[str, Any]:
    definition = yaml.safe_load((Path(SCHEMAS) / f"ray.io_{kind}.yaml").read_text())
    (served,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return strict({**served["schema"]["openAPIV3Schema"]}) | {"additionalProperties": True}


@pytest.mark.skipif(not SCHEMAS, reason="SIDMILL_SCHEMAS names no folder with the schemas of Compose and KubeRay")
@pytest.mark.parametrize("file", ["compose.yaml", "kuberay.yaml", "rayjob.yaml"])
def test_a_file_is_valid_by_the_schema_of_what_reads_it(file: str) -> None:
    if file == "compose.yaml":
        schema = json.loads((Path(SCHEMAS) / "compose-spec.json").read_text())
    else:
        schema = kubernetes("rayclusters" if file == "kuberay.yaml" else "rayjobs")
    checked = Draft7Validator(schema)
    content = yaml.safe_load((INFRA / file).read_text())
    assert [f"{each.json_path}: {each.message[:200]}" for each in checked.iter_errors(content)] == []
    wrong = "services" if file == "compose.yaml" else "spec"
    assert list(checked.iter_errors({**content, wrong: {**content[wrong], "no-such-field": 1}})) != []
