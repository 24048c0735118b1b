"""Presets: columns and settings of public data sets, one TOML file each, recognised by the columns that data has."""

import re
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, Field

from pipelines.sources.file import File

SectionName = Literal["items", "interactions"]
FIRST_BYTES = 1 << 12
"""First bytes of a raw file that are read. The first line, which identifies the preset, must end in them."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SectionPreset(_Frozen):
    """A catalogue or log of a data set.

    Data that has all columns of the `signature` is recognised as it. `columns` maps fields of the section to columns,
    `settings` are further fields of the section. `text` and `attributes` are fields of the sections of that name.
    """

    signature: tuple[str, ...] = Field(min_length=1)
    columns: dict[str, str]
    settings: dict[str, Any] = Field(default_factory=dict)
    text: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


class RawFile(_Frozen):
    """A file without a header, known by a regular expression of its first line.

    `csv` says how it is read; a file that has to be converted first has the advice to print, `say`, instead.
    """

    begins: str
    csv: dict[str, Any] = Field(default_factory=dict)
    say: str = ""

    @property
    def advice(self) -> str:
        """`say` without the line breaks that a backslash takes away."""
        return self.say.replace("\\\n", "")


class Preset(_Frozen):
    """A data set. `sections` are fields of other sections of a recipe, where data has its log."""

    name: str
    about: str
    items: SectionPreset
    interactions: SectionPreset
    sections: dict[str, dict[str, Any]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    raw: tuple[RawFile, ...] = ()

    def section(self, name: SectionName) -> SectionPreset:
        """Return the preset of a section."""
        return self.items if name == "items" else self.interactions


@cache
def presets() -> tuple[Preset, ...]:
    """Return all presets by name."""
    folder = Path(str(files("infra"))) / "presets"
    return tuple(
        Preset.model_validate({"name": path.stem, **tomllib.loads(path.read_text())})
        for path in sorted(folder.glob("*.toml"))
    )


@cache
def column_names() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the names that columns often have, by section and field, the most specific first."""
    found = tomllib.loads((Path(str(files("infra"))) / "column-names.toml").read_text())
    return {section: {field: tuple(names) for field, names in fields.items()} for section, fields in found.items()}


def recognised(section: SectionName, columns: tuple[str, ...]) -> Preset | None:
    """Return the preset whose signature the columns have, the longest if there are several."""
    fitting = [each for each in presets() if set(columns).issuperset(each.section(section).signature)]
    return max(fitting, key=lambda each: len(each.section(section).signature), default=None)


def raw_file(uri: str) -> RawFile | None:
    """Return what is known of a file of a public data set that has no header; None for all others."""
    if "://" in uri or not Path(uri).expanduser().is_file():
        return None
    try:
        with File(str(Path(uri).expanduser()), pafs.LocalFileSystem()).open_stream() as stream:
            first = stream.read(FIRST_BYTES).decode("utf-8", "replace").split("\n", 1)[0]
    except OSError:  # damaged; the reader of the source says so with its name
        return None
    return next((raw for preset in presets() for raw in preset.raw if re.match(raw.begins, first)), None)
