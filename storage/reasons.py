"""Quarantine reasons, each with the stage that gives it, its meaning and its remedy.

The message of an exceeded budget, `sidmill quarantine list`, the report and the table in docs/data.md all read this.
"""

from enum import StrEnum

INGEST, INTERACTIONS = "ingest", "ingest interactions"
ITEMS, ATTRIBUTES, IMAGES = "ingest items", "ingest attributes", "ingest images"
VECTORS, USERS = "vectors", "sequences, grounding"


class Reason(StrEnum):
    """A quarantine reason. It equals, and is stored as, its plain text."""

    stage: str
    meaning: str
    remedy: str

    def __new__(cls, value: str, stage: str, meaning: str, remedy: str = "nothing") -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.stage, member.meaning, member.remedy = stage, meaning, remedy
        return member

    INVALID_UTF8 = (
        "invalid_utf8",
        INGEST,
        "bytes or characters that are not valid UTF-8, or UTF-8 in a file that is declared to have another encoding",
        "export the whole file as UTF-8, or set its encoding in `items.csv.encoding` or `interactions.csv.encoding`; "
        "write ids as text, and leave a column of bytes out by `items.leave_out`",
    )
    INVALID_JSON = (
        "invalid_json",
        INGEST,
        "the line is not one JSON object, or it is nested too deeply to be read",
        "correct the line; write one JSON object a line",
    )
    MALFORMED_ROW = (
        "malformed_row",
        INGEST,
        "the row has more or fewer cells than the header, or it repeats the header",
        "put cells with the delimiter or a line break in quotes; set `csv.delimiter` of the section, `csv.quote` where "
        "another character quotes cells, and where there is no header all names in `csv.columns`; concatenate files "
        "without their headers",
    )
    UNPAIRED_QUOTE = (
        "unpaired_quote",
        INGEST,
        'a cell begins with `"` and its closing `"` is missing, or is found only in a later row',
        'add the missing quote; or set `csv.quotes` of the section: `"none"` if quotes are plain characters in '
        'this file, `"trusted"` if cells really contain such line breaks, `"escaped"` if a quote is written `\\"`',
    )
    UNREADABLE_PARQUET = (
        "unreadable_parquet",
        INGEST,
        "the file is not Parquet (counted as one row), or a part of it is damaged (counted as the rows of that part)",
        "export the file again",
    )
    UNREADABLE_TEXT = (
        "unreadable_text",
        INGEST,
        "a compressed text breaks off, or is damaged: one row stands for all that cannot be read. Of a text that "
        "breaks off the whole lines before are read; of a damaged one no row. The next run reads the file again",
        "copy or export the file again",
    )
    UNREADABLE_ROW = (
        "unreadable_row",
        INGEST,
        "the value of a column that the recipe reads cannot be read; the detail names the column",
        "correct the cell, leave it empty, or name another column",
    )
    UNREADABLE_ATTRIBUTE = (
        "unreadable_attribute",
        ATTRIBUTES,
        "cells of attributes cannot be read; the item is stored without them, and the detail names the columns",
        "correct the cells and send the item again, or leave the columns out by `items.leave_out`",
    )
    NOT_AN_ID = (
        "not_an_id",
        f"{INGEST}, {VECTORS}",
        "an id or event type: a list, object or boolean, over 16,384 characters, or one whose last digits may be "
        "lost: floating-point from 2^53 on (of 32 bits from 2^24 on), or shortened: `1.23E+11`, `1e+05`",
        "write ids and event types as text or integers",
    )
    MISSING_ITEM_ID = (
        "missing_item_id",
        f"{INGEST}, {VECTORS}",
        "the item id is empty, or a word such as `null` or `NA` that stands for no value",
        "set `items.item_id`, `interactions.item_id` or `vectors.NAME.id_column` to the column with the ids; if such "
        "a word really is the id of an item, give the item another id",
    )
    NOT_A_BOOLEAN = (
        "not_a_boolean",
        INGEST,
        "the deleted or impression flag is neither a word for yes nor one for no",
        "write `true` or `false` (or t/f, yes/no, y/n, 1/0), or change `items.deleted` or `interactions.impression`",
    )
    EMPTY_TITLE = (
        "empty_title",
        ITEMS,
        "the item has no title, and titles are required",
        "set `items.title` to the column with the titles, named alike in all files, or `items.require_title = false`",
    )
    NO_CONTENT = "no_content", ITEMS, "the item has neither title, attributes nor image", "give it at least one of them"
    TEXT_TOO_LONG = (
        "text_too_long",
        ITEMS,
        "the text of the item has more characters than `items.max_text_chars`",
        "shorten the text, or raise the limit",
    )
    DUPLICATE_ITEM_ID = (
        "duplicate_item_id",
        ITEMS,
        "an earlier row of this file has the same id; the first row is kept",
        "send changes of an item in a later file",
    )
    IMAGE_OUTSIDE_FOLDER = (
        "image_outside_folder",
        IMAGES,
        "the path of the image leads out of the folder of the file, by `..` or by a link",
        "put images below that folder",
    )
    IMAGE_REFERENCE_UNKNOWN = (
        "image_reference_unknown",
        IMAGES,
        "the image cell holds an object that names no picture, or a number or text that is no path or address",
        "rename the field to `url`, `path` or `bytes`, or set `items.image` to another column",
    )
    IMAGE_UNREADABLE = (
        "image_unreadable",
        IMAGES,
        "the file at the path of the image is missing or cannot be read",
        "check the path and the permissions of the file",
    )
    IMAGE_ADDRESS = (
        "image_address",
        IMAGES,
        "not http(s), a `data:` URI that is not whole, a host without a public address, or a URI below no image root",
        "correct the address; a host that is not public, add to `items.trusted_hosts`, a folder to `items.image_roots`",
    )
    IMAGE_UNREACHABLE = (
        "image_unreachable",
        IMAGES,
        "the host cannot be reached, answers with an error, breaks off, or sends an answer of unknown length",
        "run `sidmill quarantine retry`, which fetches the image again",
    )
    IMAGE_TIMEOUT = (
        "image_timeout",
        IMAGES,
        "the image took longer than `items.image_timeout_s`, or its host, root or folder did so three times in a row",
        "run `sidmill quarantine retry`, which fetches addresses and URIs again",
    )
    IMAGE_TOO_LARGE = (
        "image_too_large",
        IMAGES,
        "the image has more bytes than `items.max_image_bytes`",
        "shrink the image, or raise the limit",
    )
    MISSING_USER_ID = (
        "missing_user_id",
        INTERACTIONS,
        "the user id is empty, or a word such as `null` or `NA` that stands for no value",
        "set `interactions.user_id` to the column with the ids; if such a word is the id of a user, change that id",
    )
    MISSING_EVENT_TIME = (
        "missing_event_time",
        INTERACTIONS,
        "the time of the event is empty",
        "set `interactions.event_time` to the column with the times",
    )
    EVENT_TIME_INVALID = (
        "event_time_invalid",
        INTERACTIONS,
        "an event or arrival time cannot be read, or is a number that is unlikely to be seconds since 1970",
        "write times as ISO 8601; for numbers since 1970 set the unit in `interactions.time_unit`",
    )
    EVENT_IN_FUTURE = (
        "event_in_future",
        INTERACTIONS,
        "the event is later than its arrival, or that than the run, by more than `interactions.future_tolerance_hours`",
        "correct the clock or the unit (`interactions.time_unit`), or set `--as-of` to the time when the log arrived",
    )
    NOT_A_NUMBER = (
        "not_a_number",
        INTERACTIONS,
        "`value` is not a number, or `position` is not an integer of 32 bits",
        'correct the cell or leave it empty; for decimal commas in a CSV set `interactions.csv.decimal = ","`',
    )
    VALUE_NOT_FINITE = ("value_not_finite", INTERACTIONS, "`value` is NaN or infinite", "leave the cell empty")
    DUPLICATE_EVENT = (
        "duplicate_event",
        "ingest interactions, sequences, grounding",
        "the event is in this file already, or twice in a user's log; the first is kept",
        "if it is one event, do nothing, or raise the budget of one run if repeats exceed it; if both count, give them "
        'event ids, or set `interactions.repeats = "keep"`; if no column holds ids, set `interactions.event_id = ""`',
    )
    CONFLICTING_EVENT = (
        "conflicting_event",
        INTERACTIONS,
        "an event with this id is stored already, with another user, item, type or time",
        'give every event an id of its own; if that column holds no ids, set `interactions.event_id = ""`',
    )
    UNKNOWN_ITEM = (
        "unknown_item",
        INTERACTIONS,
        "the item of the event is not in the catalogue yet",
        "send the item; its events are then admitted automatically. If ids of log and catalogue differ only in "
        "zeros, `.0` or case, write them as text in both files",
    )
    EMPTY_TEXT = (
        "empty_text",
        "embed text",
        "none of the fields in `text.fields` has text",
        "check the names in `text.fields`; remove `[text]` from the recipe if items have no text",
    )
    IMAGE_FORMAT = (
        "image_format",
        "embed image",
        "the format of the image is not one of `image.formats`",
        "convert the image to one of these formats",
    )
    IMAGE_TOO_MANY_PIXELS = (
        "image_too_many_pixels",
        "embed image",
        "the image has more pixels than `image.max_pixels`",
        "shrink the image, or raise the limit",
    )
    IMAGE_TRUNCATED = ("image_truncated", "embed image", "the image file ends too early", "send the image again")
    IMAGE_DAMAGED = (
        "image_damaged",
        "embed image",
        "the stored image does not match the hash in its name: its bytes changed on disk",
        "restore the file under `blobs` from a backup, then run `sidmill quarantine retry`",
    )
    IMAGE_UNDECODABLE = (
        "image_undecodable",
        "embed image",
        "the bytes are not an image, or the image is damaged",
        "send the image again",
    )
    ENCODER_FAILED = (
        "encoder_failed",
        "embed",
        "the encoder raised an error for this row, also when it was encoded alone",
        "read the detail; change the content of the row",
    )
    ENCODER_CRASHED = (
        "encoder_crashed",
        "embed",
        "the process of the encoder died on this row, also when it was encoded alone",
        "change the content of the row; the log of the machine may show the cause",
    )
    VECTOR_NOT_FINITE = (
        "vector_not_finite",
        "embed",
        "the encoder returned NaN or infinity",
        "change the content of the row, or the encoder",
    )
    VECTOR_ZERO = (
        "vector_zero",
        "embed",
        "the encoder returned a vector of zeros, which has no direction",
        "change the content of the row, or the encoder",
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
        "a given vector holds a null, NaN, an infinite value, or a length beyond 32-bit floats",
        "make the vector again, or leave it out",
    )
    GIVEN_ZERO = (
        "given_vector_zero",
        VECTORS,
        "a given vector is zero, or too short for 32-bit floats, so it has no direction",
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
        "no SID near the item is free within the capacity of the codebook",
        "run `sidmill run backfill`, with more codes or a larger `codebook.growth`",
    )
    MISSING_SOURCE = (
        "missing_source",
        "assign",
        "a level of the codebook encodes a modality in which this item has no vector",
        "give the item that modality, then run `sidmill quarantine retry` (behaviour comes with the log); or fit a "
        "codebook that does not use that modality",
    )
    ITEM_WITHOUT_SID = (
        "item_without_sid",
        USERS,
        "the item of the event has no SID in the release; the event is counted, not stored",
        "run `sidmill item explain ID`, which shows why the item has none",
    )
    ITEM_DELETED = (
        "item_deleted",
        USERS,
        "the item of the event is deleted in the release; the event is counted, not stored",
    )
    NEGATIVE_EVENT = (
        "negative_event",
        "grounding",
        "the event is an impression or of a type in `train.negative_events`; it is counted, not stored",
    )
    TEXT_WITH_TOKEN = (
        "text_with_token",
        "grounding",
        "a title or value contains text such as `<a_12>`, which would be read as part of a SID",
        "change the text",
    )
    NO_TITLE = (
        "no_title",
        "grounding",
        "the item has no title, so there are no pairs with its title; it is counted, not stored",
        "send a title",
    )
    NO_ATTRIBUTES = (
        "no_attributes",
        "grounding",
        "the item has none of the attributes that the corpus uses: those in `attributes.fields`, else all",
        "check the names in `attributes.fields`",
    )
    NOTHING_FOLLOWS = "nothing_follows", "grounding", "no other item was taken after this item often enough"


def remedy(reason: str) -> str:
    """Return the remedy of a reason as plain text; empty if there is none, or if the reason is of an old lake."""
    text = next((each.remedy for each in Reason if each == reason), "nothing")
    return "" if text == "nothing" else text.replace("`", "")
