"""Recipe sections of source files: columns and formats of catalogues and logs."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from plugins.younger import OmitsYoungerDefaults


class Section(BaseModel):
    """A section of a recipe: frozen, and no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CsvSpec(OmitsYoungerDefaults, Section):
    """Format of CSV and TSV files. Without `delimiter` the suffix decides; without `encoding` it is UTF-8.

    A `delimiter` may have several characters, as `::`; quotes are then ordinary characters. `columns` names the
    columns of files without a header. `quotes` sets the meaning of the character `quote`: "checked" quotes cells,
    unless a quote seems to be missing; "escaped" quotes cells in which a backslash precedes a quote; "trusted" quotes
    cells, whatever they hold; "none" is an ordinary character. With `decimal = ","` a cell that is a number with a
    decimal comma is read as that number, and a point separates thousands in columns of numbers.
    """

    younger: ClassVar[frozenset[str]] = frozenset({"columns", "quote"})

    delimiter: str = Field("", max_length=8)
    encoding: str = ""
    decimal: Literal[".", ","] = "."
    quotes: Literal["checked", "escaped", "trusted", "none"] = "checked"
    quote: str = Field('"', min_length=1, max_length=1)
    columns: tuple[str, ...] = ()

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, value: str) -> str:
        if set(value) & set('"\r\n'):
            raise ValueError("must be characters other than a quote or a line break")
        return value

    @field_validator("quote")
    @classmethod
    def _is_a_sign(cls, value: str) -> str:
        if not value.isprintable() or not value.isascii() or value.isalnum() or value in " \\":
            raise ValueError("must be a sign of ASCII other than a backslash, such as '")
        return value

    @field_validator("columns")
    @classmethod
    def _names_each_column(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bare = [name.strip() for name in value]
        if not all(bare):
            raise ValueError("must have a name for each column of the file; items.leave_out names those not to keep")
        if twice := next((name for name in bare if bare.count(name) > 1), None):
            raise ValueError(f"has {twice!r} twice; every column has a name of its own")
        return tuple(bare)

    @model_validator(mode="after")
    def _quotes_fit(self) -> "CsvSpec":
        if len(self.delimiter) > 1 and (self.quotes in ("escaped", "trusted") or self.quote != '"'):
            raise ValueError(
                "has a delimiter of several characters, beside which quotes are ordinary characters: leave out "
                "`quotes` and `quote`"
            )
        if self.quote in (self.delimiter or ","):
            raise ValueError(f"has {self.quote!r} as the quote and as the delimiter")
        return self

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            b"ab".decode(value or "utf-8", "replace")
        except (LookupError, UnicodeError) as error:
            raise ValueError("is no encoding that Python knows, such as utf-16, cp1252 or latin-1") from error
        return value


class ItemsSpec(Section):
    """Mapping of a catalogue's columns to item fields. A column that is not named here becomes an attribute.

    Of a cell in several languages (an object from tags such as `en` or `pt_BR` to text, or a list of objects with
    `language_tag` and `value`), the first of `languages` that is present is used, else any; without `languages`, all.
    `image` names a column of pictures, one or a list: paths (relative to the file, inside its folder), bytes, web
    addresses, or URIs below one of `image_roots`. `image_workers` pictures are fetched at once, each within
    `image_timeout_s`; a host without a public address must be one of `trusted_hosts`. `partitions` names the folders
    `name=value` that become attributes, and `leave_out` columns that become none, such as vectors.
    """

    section: ClassVar[str] = "items"

    item_id: str = Field("item_id", min_length=1)
    title: str = "title"
    image: str | None = "image"
    deleted: str | None = "deleted"
    languages: tuple[str, ...] = ()
    require_title: bool = True
    max_text_chars: int = 50_000
    max_image_bytes: int = 20_000_000
    image_roots: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    image_timeout_s: float = Field(10.0, gt=0)
    image_workers: int = Field(16, ge=1)
    partitions: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    csv: CsvSpec = CsvSpec()

    @property
    def not_attributes(self) -> frozenset[str]:
        """Columns that become no attribute: those that fields name, and those that are left out."""
        return self.mapped_columns | set(self.leave_out)

    @property
    def unread_columns(self) -> frozenset[str]:
        """Columns that need not be read."""
        return frozenset(self.leave_out) - self.mapped_columns

    @property
    def selected_columns(self) -> None:
        """None for all columns: those that no field names are attributes."""
        return None

    @property
    def mapped_columns(self) -> frozenset[str]:
        """Columns that fields name."""
        return frozenset(name for name in (self.item_id, self.title, self.image, self.deleted) if name)

    @property
    def number_columns(self) -> frozenset[str]:
        """Columns whose cells have to be numbers: none."""
        return frozenset()

    @property
    def from_folders(self) -> frozenset[str]:
        """Columns that are taken from folder names (`name=value`) if a file lacks them."""
        return self.mapped_columns | {name for name in self.partitions if name}


class ItemsWithoutImages(ItemsSpec):
    """Mapping of a recipe without [image]: no picture is read, and a recipe with [image] reads the file again.

    `pictures` is always False. Because that is not its default, it enters the hash of the mapping.
    """

    pictures: bool = True

    @classmethod
    def of(cls, spec: ItemsSpec) -> "ItemsWithoutImages":
        """Return the mapping `spec` without pictures."""
        return cls(**spec.model_dump(), pictures=False)


class InteractionsSpec(OmitsYoungerDefaults, Section):
    """Mapping of a log's columns to event fields. A column that the log lacks is null; the name "" means no column.

    Times are ISO 8601 (UTC if no zone is given) or numbers since 1970 in `time_unit`, by default inferred from their
    size. `repeats` applies to rows of one file that are equal and have no event id: "refuse" makes them one event,
    "keep" keeps all. With `pseudonyms` a user id is replaced by its keyed hash before it is stored anywhere; the key is
    in the environment variable SIDMILL_USER_KEY.
    """

    section: ClassVar[str] = "interactions"
    younger: ClassVar[frozenset[str]] = frozenset({"pseudonyms"})

    user_id: str = Field("user_id", min_length=1)
    item_id: str = Field("item_id", min_length=1)
    event_time: str = Field("event_time", min_length=1)
    event_id: str = "event_id"
    event_type: str = "event_type"
    arrival_time: str = "arrival_time"
    session_id: str = "session_id"
    request_id: str = "request_id"
    impression: str = "impression"
    position: str = "position"
    value: str = "value"
    default_event_type: str = "interaction"
    future_tolerance_hours: float = Field(24.0, ge=0)
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    repeats: Literal["refuse", "keep"] = "refuse"
    pseudonyms: bool = False
    csv: CsvSpec = CsvSpec()

    @property
    def unread_columns(self) -> frozenset[str]:
        """Columns that need not be read, beside those that are not selected: none."""
        return frozenset()

    @property
    def selected_columns(self) -> frozenset[str]:
        """Columns that are read of a file; others are ignored."""
        columns = (
            *(self.user_id, self.item_id, self.event_time, self.event_id, self.event_type, self.arrival_time),
            *(self.session_id, self.request_id, self.impression, self.position, self.value),
        )
        return frozenset(name for name in columns if name)

    @property
    def mapped_columns(self) -> frozenset[str]:
        """Columns that fields name."""
        return self.selected_columns

    @property
    def number_columns(self) -> frozenset[str]:
        """Columns whose cells have to be numbers."""
        return frozenset(name for name in (self.position, self.value) if name)

    @property
    def from_folders(self) -> frozenset[str]:
        """Columns that are taken from folder names (`name=value`) if a file lacks them."""
        return self.selected_columns
