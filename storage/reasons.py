"""Quarantine reasons, each with the stage that gives it, its meaning and its remedy.

The message of an exceeded budget, `sidmill quarantine list`, the report and the table in docs/data.md all read this.
"""

from enum import StrEnum

INGEST = "ingest"
ITEMS, IMAGES, INTERACTIONS = "ingest items", "ingest images", "ingest interactions"
VECTORS = "vectors"
USERS = "sequences, grounding"


class Reason(StrEnum):
    """A quarantine reason. It equals, and is stored as, its plain text."""

    stage: str
    meaning: str
    remedy: str

    def __new__(cls, value: str, stage: str, meaning: str, remedy: str) -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.stage, member.meaning, member.remedy = stage, meaning, remedy
        return member

    INVALID_UTF8 = (
        "invalid_utf8",
        INGEST,
        "bytes or characters that UTF-8 cannot hold",
        "export as UTF-8, or name the encoding of a CSV in `items.csv.encoding` or `interactions.csv.encoding`",
    )
    INVALID_JSON = (
        "invalid_json",
        INGEST,
        "the line is not one JSON object, or it is nested too deeply to be read",
        "mend the line; write one object a line",
    )
    MALFORMED_ROW = (
        "malformed_row",
        INGEST,
        "more or fewer cells than the header, or the header again",
        "quote cells that hold the delimiter or a line break; name another delimiter in `items.csv.delimiter` or "
        "`interactions.csv.delimiter`; join files without their headers",
    )
    UNPAIRED_QUOTE = (
        "unpaired_quote",
        INGEST,
        'a cell begins with `"` and its other `"` is missing, or only pairs with one of a later row',
        'mend the quote; or set `csv.quotes` of the section to `"none"` if quotes are plain characters in this file, '
        'to `"trusted"` if cells really hold such line breaks; to `"escaped"` if a quote is written `\\"`',
    )
    UNREADABLE_PARQUET = (
        "unreadable_parquet",
        INGEST,
        "the file is not Parquet and counts as one row, or a part of it is damaged and counts as the rows it holds",
        "write it again",
    )
    UNREADABLE_ROW = (
        "unreadable_row",
        INGEST,
        "the value of a column that is asked for cannot be read; the detail names the column",
        "mend the cell, leave it empty, or name another column in the recipe",
    )
    NOT_AN_ID = (
        "not_an_id",
        f"{INGEST}, {VECTORS}",
        "an id that is a list, an object, longer than 16,384 characters, or a number whose last digits may be lost: "
        "floating-point from 2^53 on (of 32 bits from 2^24 on), or shortened as `1.23E+11`",
        "write ids as text or integers",
    )
    MISSING_ITEM_ID = (
        "missing_item_id",
        f"{INGEST}, {VECTORS}",
        "no value in the id column, or a word such as `null` or `NA` that stands for none",
        "name the column in `items.item_id`, `interactions.item_id` or `vectors.NAME.id_column`; give an item whose id "
        "really is such a word another one",
    )
    NOT_A_BOOLEAN = (
        "not_a_boolean",
        INGEST,
        "the deleted or impression flag is a word that means neither yes nor no",
        "write `true` or `false` (also t/f, yes/no, y/n, 1/0), or name another column in `items.deleted` or "
        "`interactions.impression`",
    )
    EMPTY_TITLE = (
        "empty_title",
        ITEMS,
        "no title, and titles are required",
        "name the column in `items.title`, or set `items.require_title = false`",
    )
    NO_CONTENT = ("no_content", ITEMS, "neither title, attributes nor image", "give one of them")
    TEXT_TOO_LONG = (
        "text_too_long",
        ITEMS,
        "more characters than `items.max_text_chars`",
        "shorten it, or raise the limit",
    )
    DUPLICATE_ITEM_ID = (
        "duplicate_item_id",
        ITEMS,
        "the id is in this file already; the first row counts",
        "send changes in a later file",
    )
    IMAGE_OUTSIDE_FOLDER = (
        "image_outside_folder",
        IMAGES,
        "the path leaves the folder of the file, by `..` or by a link",
        "put images below that folder",
    )
    IMAGE_REFERENCE_UNKNOWN = (
        "image_reference_unknown",
        IMAGES,
        "an object in the image cell has no field that names a picture, or the cell holds a number or other text",
        "rename the field to `url`, `path` or `bytes`, or name another column in `items.image`",
    )
    IMAGE_UNREADABLE = ("image_unreadable", IMAGES, "nothing can be read at the path", "check the path")
    IMAGE_ADDRESS = (
        "image_address",
        IMAGES,
        "no address to read from: not http(s), a host without a public address, or a URI below none of the roots",
        "name the host in `items.trusted_hosts`, or the folder in `items.image_roots`",
    )
    IMAGE_UNREACHABLE = (
        "image_unreachable",
        IMAGES,
        "the host is not there, answers with an error, breaks off, or does not say where its answer ends",
        "`sidmill quarantine retry` asks again",
    )
    IMAGE_TIMEOUT = (
        "image_timeout",
        IMAGES,
        "not there within `items.image_timeout_s`, or its host, root or folder kept others waiting three times in a "
        "row",
        "`sidmill quarantine retry` asks again for addresses and URIs",
    )
    IMAGE_TOO_LARGE = (
        "image_too_large",
        IMAGES,
        "more bytes than `items.max_image_bytes`",
        "shrink it, or raise the limit",
    )
    MISSING_USER_ID = (
        "missing_user_id",
        INTERACTIONS,
        "no value in the user column, or a word such as `null` or `NA` that stands for none",
        "name the column in `interactions.user_id`; give a user whose id really is such a word another one",
    )
    MISSING_EVENT_TIME = (
        "missing_event_time",
        INTERACTIONS,
        "no value in the time column",
        "name the column in `interactions.event_time`",
    )
    EVENT_TIME_INVALID = (
        "event_time_invalid",
        INTERACTIONS,
        "an event or arrival time that cannot be read, or a number that is hardly meant as seconds since 1970",
        "write ISO 8601; name the unit of numbers since 1970 in `interactions.time_unit`",
    )
    EVENT_IN_FUTURE = (
        "event_in_future",
        INTERACTIONS,
        "the event lies after its arrival, or the arrival after the run, by more than the tolerance",
        "mend the clock or the unit (`interactions.time_unit`), or set `--as-of` to when the log arrived",
    )
    NOT_A_NUMBER = (
        "not_a_number",
        INTERACTIONS,
        "`value` is no number, or `position` no integer of 32 bits",
        'mend the cell or leave it empty; for decimal commas in a CSV set `interactions.csv.decimal = ","`',
    )
    VALUE_NOT_FINITE = ("value_not_finite", INTERACTIONS, "`value` is NaN or infinite", "leave it empty")
    DUPLICATE_EVENT = (
        "duplicate_event",
        "ingest interactions, sequences, grounding",
        "the event is in this file already, or twice in a user's log; the first counts",
        'nothing if it is one event; else give event ids, or set `interactions.repeats = "keep"` if both count, or '
        '`interactions.event_id = ""` if that column holds no ids',
    )
    CONFLICTING_EVENT = (
        "conflicting_event",
        INTERACTIONS,
        "the id is stored with another user, item, type or time",
        'give every event an id of its own, or set `interactions.event_id = ""` if that column holds no ids',
    )
    UNKNOWN_ITEM = (
        "unknown_item",
        INTERACTIONS,
        "the item is not in the catalogue yet",
        "send the item; the event is then let in by itself. Where ids differ in zeros, `.0` or case alone, write them "
        "as text in both files",
    )
    EMPTY_TEXT = (
        "empty_text",
        "embed text",
        "none of the fields in `text.fields` has text",
        "check the names in `text.fields`; leave out `[text]` if items have no text",
    )
    IMAGE_FORMAT = ("image_format", "embed image", "not one of `image.formats`", "convert it")
    IMAGE_TOO_MANY_PIXELS = ("image_too_many_pixels", "embed image", "more than `image.max_pixels`", "shrink it")
    IMAGE_TRUNCATED = ("image_truncated", "embed image", "the file ends too early", "send it again")
    IMAGE_DAMAGED = (
        "image_damaged",
        "embed image",
        "the stored picture does not have the hash it is named by: the disk changed it",
        "restore the file under `blobs` from a backup, then `sidmill quarantine retry`",
    )
    IMAGE_UNDECODABLE = (
        "image_undecodable",
        "embed image",
        "the bytes are no picture, or it is damaged",
        "send it again",
    )
    ENCODER_FAILED = (
        "encoder_failed",
        "embed",
        "the encoder raised an error on this row alone",
        "read the detail; change the content",
    )
    ENCODER_CRASHED = (
        "encoder_crashed",
        "embed",
        "the process that encodes died of this row alone",
        "change the content; see the log of the machine",
    )
    VECTOR_NOT_FINITE = (
        "vector_not_finite",
        "embed",
        "the encoder returned NaN or infinity",
        "change the content or the encoder",
    )
    VECTOR_ZERO = (
        "vector_zero",
        "embed",
        "the encoder returned a vector without direction",
        "change the content or the encoder",
    )
    GIVEN_WIDTH = (
        "given_vector_width",
        VECTORS,
        "a given vector is longer or shorter than the others of its section",
        "make it with the encoder that made the others",
    )
    GIVEN_NOT_FINITE = (
        "given_vector_not_finite",
        VECTORS,
        "a given vector holds a null, NaN, an infinite value, or one beyond 32-bit floats",
        "make the vector again, or leave it out",
    )
    GIVEN_ZERO = (
        "given_vector_zero",
        VECTORS,
        "all values of a given vector are zero, so it has no direction",
        "make the vector again, or leave it out",
    )
    GIVEN_TWICE = (
        "given_vector_twice",
        VECTORS,
        "the source has different vectors for one id; none of them is taken",
        "leave one; equal ones count once",
    )
    NO_VECTOR = (
        "no_vector",
        "fuse",
        "the item has no vector in any modality",
        "give it text, an image, events or a vector in `vectors.NAME`",
    )
    REFIT_DUE = (
        "refit_due",
        "assign",
        "no free SID near the item within capacity",
        "`sidmill run backfill`, with more codes or a larger `codebook.growth`",
    )
    MISSING_SOURCE = (
        "missing_source",
        "assign",
        "a level of the codebook reads a source this item has no vector in",
        "give the item that modality and try it again (`quarantine retry`; behaviour comes with the log), or fit a "
        "codebook without that source",
    )
    ITEM_WITHOUT_SID = (
        "item_without_sid",
        USERS,
        "an event whose item has no SID in the release; counted, not stored",
        "see why the item has none: `sidmill item explain ID`",
    )
    ITEM_DELETED = (
        "item_deleted",
        USERS,
        "an event of an item that is deleted in the release; counted, not stored",
        "nothing",
    )
    NEGATIVE_EVENT = (
        "negative_event",
        "grounding",
        "an impression, or an event of a type in `train.negative_events`; counted, not stored",
        "nothing",
    )
    TEXT_WITH_TOKEN = (
        "text_with_token",
        "grounding",
        "a title or value with a text like `<a_12>`, which would be read as part of a SID",
        "change the text",
    )
    NO_TITLE = (
        "no_title",
        "grounding",
        "an item without a title asks for none; counted, not stored",
        "send a title",
    )
    NO_ATTRIBUTES = (
        "no_attributes",
        "grounding",
        "an item without any of the attributes asked for",
        "check the names in `attributes.fields`",
    )
    NOTHING_FOLLOWS = (
        "nothing_follows",
        "grounding",
        "an item that users took nothing after, often enough",
        "nothing",
    )


def remedy(reason: str) -> str:
    """Return the remedy of a reason as plain text; empty if there is none, or if the reason is of an old lake."""
    known = Reason.__members__.values()
    told = next((each.remedy for each in known if each == reason), "nothing")
    return "" if told == "nothing" else told.replace("`", "")
