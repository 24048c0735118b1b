"""The recipe: the whole configuration of a run, read once from TOML, frozen, hashed, stored with its results."""

import difflib
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from flows.gates.spec import GatesSpec
from flows.gates.sql_checks import CheckSpec
from flows.watch.spec import WatchSpec
from infra.addresses import refuse_secrets_within, without_secrets
from pipelines.modalities import MADE_HERE
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.spec import (
    AttributesSpec,
    BudgetSpec,
    CollaborativeSection,
    ComputeSpec,
    CoordinatesSpec,
    FusionSpec,
    GivenSpec,
    ImageSpec,
    SequencesSpec,
    TextSpec,
)
from plugins.registry import UnknownMember
from plugins.younger import OmitsYoungerDefaults
from storage.json_hash import json_hash
from tokenizer.spec import CodebookSpec, LevelSpec, RefitSpec
from training.spec import EvaluateSpec, GeneratorSection, ItemEmbeddingsSpec, TrainSection


class RecipeError(ValueError):
    """Raised when a recipe, or an override of it, is invalid."""


class SplitSpec(BaseModel):
    """Split of the log: events at or after the cutoff are held out, for evaluation only.

    `holdout` is the share of events (the newest by event time) that is held out if a run names no cutoff; 0 sets the
    cutoff to the run's as-of time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    holdout: float = Field(0.1, ge=0, lt=1)


def _is_free(name: str) -> str:
    if name in MADE_HERE:
        raise ValueError(f"{name} is the name of vectors that sidmill makes; give these another name")
    return name


VectorsName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"), AfterValidator(_is_free)]


CheckName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


FITTED_SECTIONS = {"collaborative", "sasrec", "fusion", "codebook"}
"""Sections that a fit alone applies; nights go on with what was fitted."""
NAMED = 6
"""Most settings that a message names."""


class Recipe(OmitsYoungerDefaults):
    """All sections of a recipe. A modality without a section is not extracted. The report shows `about`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    younger: ClassVar[frozenset[str]] = frozenset({"vectors", "checks", "watch"})

    about: str = ""
    items: ItemsSpec = ItemsSpec()
    interactions: InteractionsSpec = InteractionsSpec()
    split: SplitSpec = SplitSpec()
    text: TextSpec | None = None
    image: ImageSpec | None = None
    attributes: AttributesSpec | None = None
    coordinates: CoordinatesSpec | None = None
    vectors: dict[VectorsName, GivenSpec] = Field(default_factory=dict)
    collaborative: CollaborativeSection | None = None
    sasrec: ItemEmbeddingsSpec = ItemEmbeddingsSpec()
    fusion: FusionSpec = FusionSpec()
    codebook: CodebookSpec = CodebookSpec(levels=(LevelSpec(codes=256),) * 3)
    refit: RefitSpec | None = None
    gates: GatesSpec = GatesSpec()
    checks: dict[CheckName, CheckSpec] = Field(default_factory=dict)
    budget: BudgetSpec = BudgetSpec()
    sequences: SequencesSpec = SequencesSpec()
    generator: GeneratorSection = GeneratorSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSpec = EvaluateSpec()
    compute: ComputeSpec = ComputeSpec()
    watch: WatchSpec = WatchSpec()

    @model_validator(mode="after")
    def _shared_sids_are_allowed_for(self) -> "Recipe":
        if self.codebook.collision_policy.shares and self.gates.collision_rate.limit == 0:
            raise ValueError(
                f'codebook.collision = "{self.codebook.collision}" lets items share SIDs, but '
                "gates.collision_rate.limit = 0 allows none to; set the limit to the share of items that may share one"
            )
        return self

    @property
    def hash(self) -> str:
        """16 hex digits over all settings that determine a release.

        `compute`, `watch`, `about`, the gate of models, and where given vectors lie are left out.
        """
        left_out: dict[str, Any] = {
            "compute": True,
            "watch": True,
            "about": True,
            "gates": {"model_against_baselines"},
            "vectors": {"__all__": {"path", "id_column", "column", "ids"}},
        }
        return json_hash(self.model_dump(mode="json", exclude=left_out))

    @property
    def model_hash(self) -> str:
        """16 hex digits over the settings that determine a model.

        HOW_IT_RUNS (workers, checkpoint interval, ..) is left out, so a stopped training can resume with other values.
        """
        sections = self.model_dump(mode="json", include={"sequences", "generator", "train"})
        return json_hash({**sections, "train": {k: v for k, v in sections["train"].items() if k not in HOW_IT_RUNS}})


HOW_IT_RUNS = ("workers", "cpus_per_worker", "checkpoint_steps", "since_production")
"""Fields of [train] that choose the placement and the start of a training. They are not in the key of a model."""


def recipes_folder() -> Path:
    """Return the folder of sidmill's own recipes."""
    return Path(str(files("infra"))) / "recipes"


RUN_ONLY_SECTIONS = (
    "budget",
    "gates",
    "checks",
    "watch",
)  # sections that judge a run: `--set` changes them for that run only


def unapplied_by_nights(release: str, before: dict[str, Any], now: Recipe) -> str | None:
    """Return what a night says of settings that only a fit applies and that differ from those of the fit.

    `before` is the recipe of the release that was fitted. None if there are none.
    """
    old, new = (each.model_dump(include=FITTED_SECTIONS) for each in (parse_recipe(before), now))
    names = list[str]()
    for section, was in old.items():
        if was is None or new[section] is None:
            names += [section] * (was != new[section])
        else:
            names += [f"{section}.{name}" for name, value in was.items() if new[section][name] != value]
    if not names:
        return None
    few = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return (
        f"{few} differ from the recipe of {release}, which was fitted, and a night does not apply them: it goes on "
        "with the vectors and the codebook of that fit. `sidmill run backfill` fits anew under these settings."
    )


def split_overrides(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those that become part of the recipe, and those for one run, not stored in its release."""
    ours = [each for each in overrides if each.partition("=")[0].strip().split(".")[0] in RUN_ONLY_SECTIONS]
    return [each for each in overrides if each not in ours], ours


def load_recipe(
    name: str | None, overrides: list[str] | tuple[str, ...] = (), base: dict[str, Any] | None = None
) -> Recipe:
    """Load a recipe from a TOML file, or one of ours by name (`default`, `demo`, ...), and apply `a.b=c` overrides.

    Without a name, the overrides apply to `base`, the settings of an earlier recipe.
    """
    if name is None and base is not None:
        settings, where = json.loads(json.dumps(base)), "recipe"
    else:
        settings, where = _read(name or "default")
    for override in overrides:
        override_setting(settings, override)
    return parse_recipe(settings, where)


def _read(name: str) -> tuple[dict[str, Any], str]:
    path = Path(name)
    if not path.is_file():
        path = recipes_folder() / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in recipes_folder().glob("*.toml")))
        raise RecipeError(f"there is no recipe {name!r}: give a TOML file, or one of {known}.")
    try:
        return tomllib.loads(path.read_text("utf-8-sig")), str(path)
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the recipe {path} is not text in UTF-8 (byte {error.start:,}): save it as UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"the recipe {path} is not valid TOML: {error}") from error


def parse_recipe(settings: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate settings; RecipeError names every fault with its place and value."""
    refuse_secrets_within(settings, prose=frozenset({"about"}))
    try:
        return Recipe.model_validate(settings)
    except UnknownMember as error:
        raise RecipeError(f"{where}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{_place(fault)}: {_format_validation_error(fault)}" for fault in error.errors())
        raise RecipeError(f"{where}: {faults}") from error


def _place(fault: Any) -> str:
    """Return the field of a fault with its value, or only the name of a section whose fields conflict."""
    name = ".".join(str(part) for part in fault["loc"])
    whole = fault["type"] == "value_error" and isinstance(fault["input"], dict)
    return name if whole else f"{name} = {without_secrets(repr(fault['input']))}"


def _format_validation_error(fault: Any) -> str:
    """Return a fault in words; for an unknown field, add the nearest field name and all field names."""
    if fault["type"] != "extra_forbidden":
        message = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
        message = message.replace("String should have", "must be a text of")
        return next((text for kind, text in _WANTED.items() if str(fault["type"]).startswith(kind)), message)
    model: Any = Recipe
    for part in fault["loc"][:-1]:
        if get_origin(model) is dict:
            model = get_args(model)[1]
            continue
        found = getattr(model, "model_fields", {}).get(part) if isinstance(part, str) else None
        model = model if found is None else _section_of(found.annotation)
    if not hasattr(model, "model_fields"):
        return "no such field"
    near = difflib.get_close_matches(str(fault["loc"][-1]), model.model_fields, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"no such field; {meant}the fields here are {', '.join(sorted(model.model_fields))}"


def _section_of(annotation: Any) -> Any:
    """Return the model in an annotation such as `TextSpec | None` or `tuple[LevelSpec, ...]`; a dict is kept."""
    if get_origin(annotation) is dict:
        return annotation
    return next((each for each in get_args(annotation) if each is not type(None)), annotation)


# Messages by the beginning of pydantic's error type.
_WANTED = {
    "tuple": "must be a list",
    "too_short": "must be a list with at least one entry",
    "dict": "must be a table, such as { name = 1 }",
    "model": "must be a table of fields",
    "string_type": "must be text",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "missing": "is required",
}


def override_setting(settings: dict[str, Any], override: str) -> None:
    """Apply `a.b=c`; c is read as a TOML value, else as text."""
    path, separator, text = override.partition("=")
    shown = without_secrets(repr(override))
    names = path.strip().split(".")
    if not separator or not all(names):
        raise RecipeError(f"{shown}: write it as section.field=value, for example codebook.slack=1.25.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    place = settings
    for name in names[:-1]:
        if place.get(name) is None:  # a section that the recipe does not have
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise RecipeError(
                f"{shown}: {name!r} is a field, not a section; write SECTION.FIELD=VALUE with the name of a section."
            )
    place[names[-1]] = value
