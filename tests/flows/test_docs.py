"""The reference pages name what the code has: fields of a recipe, reasons of the quarantine, tables of the lake."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from flows.recipe import Recipe
from pipelines.sources.source_spec import CsvSpec
from storage.reasons import Reason
from storage.schemas import TABLES

ROOT = Path(__file__).resolve().parents[2]
DATA = (ROOT / "docs" / "data.md").read_text()
RECIPES = (ROOT / "docs" / "recipes.md").read_text()

REFUSALS = {"Refused", "_Refused", "ImageRefused", "Reject", "Row", "_refused", "refuse", "lit"}
REASON = re.compile(r"[a-z]+(_[a-z0-9]+)+")


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, also inside unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


SECTIONS = {name: model for name, field in Recipe.model_fields.items() for model in models(field.annotation)}
NAMED = {name for name, field in Recipe.model_fields.items() if get_origin(field.annotation) is dict}
"""Sections of which there may be several, each with a name of its own."""


def titled(section: str) -> str:
    """The section as docs/recipes.md writes it."""
    return f"{section}.NAME" if section in NAMED else section


def documented(section: str) -> str:
    """The part of docs/recipes.md below the heading of a section."""
    found = re.search(rf"^## \[{titled(section)}\]\n(.*?)(?=^## |\Z)", RECIPES, re.MULTILINE | re.DOTALL)
    assert found, f"docs/recipes.md has no heading ## [{section}]"
    return found[1]


def defaults(section: str) -> dict[str, str]:
    """Field to default, from the rows `section.field` of a section's table."""
    rows = re.findall(rf"^\| `{titled(section)}\.(\w+)` \| [^|]+ \| (.+?) \| .+ \|$", documented(section), re.MULTILINE)
    return {name: default.strip("`") for name, default in rows}


def reasons(tree: ast.AST) -> Iterator[str]:
    """Every quarantine reason that a module writes: a member of Reason, or as text an argument of a refusal, inside an
    outcome, under a name."""
    for node in ast.walk(tree):
        candidates: list[ast.expr] = []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
            yield Reason[node.attr]
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in REFUSALS:
            candidates = node.args
        elif isinstance(node, ast.Tuple) and len(node.elts) == 3:
            candidates = [node.elts[1]]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value, name = node.value, node.targets[0].id
            if name.isupper() or name == "reason":
                candidates = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        for each in candidates:
            if isinstance(each, ast.Constant) and isinstance(each.value, str) and REASON.fullmatch(each.value):
                yield each.value


def test_every_section_of_a_recipe_is_documented_and_no_other() -> None:
    assert re.findall(r"^## \[([\w.]+)\]$", RECIPES, re.MULTILINE) == [titled(section) for section in SECTIONS]
    for name in Recipe.model_fields.keys() - SECTIONS.keys():
        assert f"`{name}`" in RECIPES.split("## [", 1)[0]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_of_a_section_is_documented_and_no_other(section: str) -> None:
    assert list(defaults(section)) == list(SECTIONS[section].model_fields)
    for field in SECTIONS[section].model_fields.values():
        for inner in models(field.annotation):
            for name in inner.model_fields:
                told = documented(section) + (documented("items") if inner is CsvSpec else "")
                assert re.search(rf"^\| `{name}` \|", told, re.MULTILINE), name


@pytest.mark.parametrize("section", SECTIONS)
def test_the_documented_defaults_read_as_a_recipe_are_the_defaults(section: str) -> None:
    given = {name: "there" for name, default in defaults(section).items() if default == "needed"}
    lines = [f"{name} = {default}" for name, default in defaults(section).items() if default not in ("none", "needed")]
    stated = SECTIONS[section].model_validate({**tomllib.loads("\n".join(lines)), **given})
    assert stated == ((section not in NAMED and getattr(Recipe(), section)) or SECTIONS[section](**given))


def test_every_quarantine_reason_in_the_code_is_a_reason_and_every_reason_is_given_somewhere() -> None:
    sources = [*(ROOT / "pipelines").rglob("*.py"), ROOT / "flows" / "steps" / "vectors.py"]
    assert {reason for path in sources for reason in reasons(ast.parse(path.read_text()))} == set(Reason)


def test_the_documented_reasons_are_those_of_the_code_with_their_stages_and_remedies() -> None:
    table = DATA.split("## Quarantine", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    assert rows == [(reason.value, reason.stage, reason.meaning, reason.remedy) for reason in Reason]


def test_every_table_of_the_lake_is_documented_with_its_key() -> None:
    table = DATA.split("## What the lake holds", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.+?`) \|", table, re.MULTILINE))
    assert rows == {name: ", ".join(f"`{column}`" for column in spec.key) for name, spec in TABLES.items()}


def test_every_column_mapping_is_documented_with_its_default() -> None:
    for section in ("items", "interactions"):
        for name, field in SECTIONS[section].model_fields.items():
            if field.default == name:
                assert f"| `{section}.{name}` | `{name}` |" in DATA
