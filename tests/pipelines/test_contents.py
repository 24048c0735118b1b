"""Contents of items that are made part by part are those of each item."""

import hashlib
import json
from functools import partial
from typing import Any, TypeAlias

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.embed import contents
from pipelines.embed.attributes import values_of
from storage.files.store import sha256

WORDS = st.text(alphabet='ab é"\\', max_size=3)
VALUES = WORDS | st.lists(WORDS, max_size=2)
ATTRIBUTES = st.dictionaries(st.sampled_from(["brand", "tags", "other"]), VALUES, max_size=3)
Item: TypeAlias = tuple[str | None, dict[str, Any], list[str]]
ITEM = st.tuples(st.none() | WORDS, ATTRIBUTES, st.lists(st.sampled_from(["p" * 64, "q" * 64]), max_size=3))
FIELDS = ("tags", "title", "absent", "brand")


def plain_text(title: str | None, attributes: dict[str, Any]) -> str:
    found = []
    for name in FIELDS:
        value = title if name == "title" else attributes.get(name)
        if value:
            found.append(", ".join(value) if isinstance(value, list) else value)
    return ". ".join(found)


def content_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@settings(max_examples=50, deadline=None)
@given(items=st.lists(ITEM, max_size=9))
def test_contents_of_many_parts_are_those_of_each_item(
    items: list[tuple[str | None, dict[str, Any], list[str]]],
) -> None:
    rows = {
        "item_id": [str(number) for number in range(len(items))],
        "title": [title for title, _, _ in items],
        "attributes": [json.dumps(attributes) for _, attributes, _ in items],
        "images": [pictures for _, _, pictures in items],
    }
    schema = {"item_id": pl.String, "title": pl.String, "attributes": pl.String, "images": pl.List(pl.String)}
    frame = pl.DataFrame(rows, schema)
    texts = contents.items_text(frame, FIELDS)
    values = contents.items_content(frame, partial(values_of, fields=["brand", "tags"]))
    expected = [plain_text(title, attributes) for title, attributes, _ in items]
    assert texts["text"].to_list() == expected
    assert texts["content_hash"].to_list() == [content_hash(text) for text in expected]
    assert texts.drop("text", "content_hash").equals(frame)
    whole = [(number, values_of(attributes, ["brand", "tags"])) for number, (_, attributes, _) in enumerate(items)]
    kept = [(str(number), content, content_hash(content)) for number, content in whole if content is not None]
    assert values.select("item_id", "content", "content_hash").rows() == kept
    pictured = [(str(number), each) for number, (_, _, each) in enumerate(items) if each]
    hashes = [(item, each[0] if len(each) == 1 else sha256("".join(each).encode())) for item, each in pictured]
    assert contents.items_pictures(frame).select("item_id", "content_hash").rows() == hashes
