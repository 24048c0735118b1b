"""Options that several verbs share. Each is declared once; a verb takes the dataclass, and its fields become options.

Their help is the text below each field. Nothing heavy is imported here before a verb runs, so `--help` stays quick.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from infra.addresses import SETTINGS, refuse_parameters

if TYPE_CHECKING:
    from storage.lake import Lake

OPTIONS = Group("Options", sort_key=1)
SOURCES = Group("Sources", sort_key=2)
RECIPE = Group("Recipe", sort_key=3)
BOUNDS = Group("Time bounds", sort_key=4, help="ISO 8601, in UTC without a zone: 2026-03-01 or 2026-03-01T12:00:00.")
COMMON = Group("Common options", sort_key=5)

AsJson = Annotated[bool, Parameter(name="--json", group=COMMON, help="Print JSON.")]
DryRun = Annotated[
    bool,
    Parameter(
        name="--dry-run",
        group=COMMON,
        help="Report what the run would read, about how long it would take, and faults; write nothing.",
    ),
]
ReleaseName = Annotated[str, Parameter(metavar="RELEASE")]
OptionalRelease = Annotated[str | None, Parameter(metavar="RELEASE")]
OptionalModel = Annotated[str | None, Parameter(metavar="MODEL")]
Time = Annotated[str | None, Parameter(metavar="TIME")]
Paths = Annotated[tuple[str, ...], Parameter(metavar="PATH...", consume_multiple=1)]


@Parameter(name="*", group=COMMON)
@dataclass(frozen=True)
class Debug:
    """The option of every verb."""

    debug: bool = False
    """Show the traceback of a failure."""


@Parameter(name="*", group=COMMON)
@dataclass(frozen=True)
class Common(Debug):
    """The options of every verb that works on a lake."""

    lake: Annotated[str, Parameter(metavar="URI")] = "./lake"
    """Folder or object-store URI of the lake."""

    def open(self) -> "Lake":
        """Return the lake, which may not exist yet."""
        from storage.lake import Lake

        return Lake(self.lake)

    def existing(self) -> "Lake":
        """Return the lake. Raise LakeNotFound if there is none."""
        from storage.errors import LakeNotFound

        lake = self.open()
        if not any(lake.exists(table) for table in ("items", "releases", "runs")):
            raise LakeNotFound(
                f"there is no lake at {lake.uri}: give its folder or URI with --lake, or make a lake with "
                "`sidmill run bootstrap --items FILE --interactions FILE`."
            )
        return lake


@Parameter(name="*", group=RECIPE)
@dataclass(frozen=True)
class RecipeOptions:
    """The recipe of a run, and changes of single fields."""

    recipe: Annotated[str | None, Parameter(metavar="FILE")] = None
    """TOML file, or the name of a recipe that comes with sidmill: default, demo, production."""

    overrides: Annotated[tuple[str, ...], Parameter(name="--set", metavar="SECTION.FIELD=VALUE")] = ()
    """Change one field of the recipe. May be given several times."""

    def resolve(self, base: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
        """Return the named recipe, else `base`, else the default one, and the overrides that apply to this run only."""
        from flows.recipe import load_recipe, split_overrides

        lasting, ours = split_overrides(list(self.overrides))
        recipe = load_recipe(self.recipe, lasting, base).model_dump(mode="json")
        load_recipe(None, ours, recipe)
        return recipe, ours

    def resolve_whole(self, base: dict[str, Any]) -> dict[str, Any]:
        """Return the recipe with all overrides, for runs that do not store it in a release."""
        from flows.recipe import load_recipe

        return load_recipe(self.recipe, self.overrides, base).model_dump(mode="json")


@Parameter(name="*", group=BOUNDS)
@dataclass(frozen=True)
class Arrival:
    """The arrival time of a run that only reads sources."""

    as_of: Time = None
    """See arrivals up to this time only, and stamp new rows with it. Default: now."""

    def check(self) -> None:
        """Raise ValueError if a time cannot be read."""
        from flows.runtime.times import parse_time

        parse_time(self.as_of)


@Parameter(name="*", group=BOUNDS)
@dataclass(frozen=True)
class Bounds(Arrival):
    """The two times that bound what a run may see."""

    cutoff: Time = None
    """Hold out events at or after this time, for evaluation. Default: what `split.holdout` of the recipe gives."""

    def check(self) -> None:
        """Raise ValueError if a time cannot be read."""
        from flows.runtime.times import bounds

        bounds(self.as_of, self.cutoff)


@Parameter(name="*", group=BOUNDS)
@dataclass(frozen=True)
class FitBounds(Bounds):
    """The two times that bound what a backfill fits its codebook on."""

    as_of: Time = None
    """Fit the codebook on arrivals up to this time; later ones are added to the candidate. Default: production's."""
    cutoff: Time = None
    """Hold out events at or after this time, for evaluation. Default: production's, or --as-of if that is earlier."""


@Parameter(name="*", group=SOURCES)
@dataclass(frozen=True)
class Sources:
    """The files that a run reads: the catalogue and the logs."""

    items: Paths = ()
    """Catalogue: JSONL, CSV, TSV or Parquet files, folders of them, a Delta table (FOLDER or FOLDER@v12), or others."""

    interactions: Paths = ()
    """Logs: as the catalogue, or iceberg:CATALOG.TABLE, sql:FILE.sql, kafka://HOST:PORT/TOPIC, redis://HOST:PORT/NAME."""

    def absolute(self) -> tuple[list[str], list[str]]:
        """Return the addresses with absolute paths. Raise SecretInAddress."""
        for option, paths in (("--items", self.items), ("--interactions", self.interactions)):
            for path in paths:
                refuse_parameters(path, option, SETTINGS)
        items, interactions = _absolute(self.items), _absolute(self.interactions)
        if [*items, *interactions].count("-") > 1:
            raise ValueError("standard input (-) can be read once: give one of the sources as a file.")
        return items, interactions

    def found(self) -> tuple[list[str], list[str]]:
        """Return the addresses as `absolute` does. Raise SourceError for one that cannot be read."""
        from pipelines.registry import source_kind_of

        items, interactions = self.absolute()
        for uri in (*items, *interactions):
            source_kind_of(uri).check(uri)
        return items, interactions


def _absolute(paths: tuple[str, ...]) -> list[str]:
    from pipelines.registry import source_kind_of

    return [source_kind_of(path).absolute(path) for path in paths]
