"""JSON lines read as columns, block by block; a block with anything unusual is read line by line.

`json_rows` has the rules for one line. Arrow's reader is told the type of every column: a value of another type fails,
and the block is cut in two. What stays small is read line by line, and teaches new columns and types.
"""

import io
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from pipelines.sources.cells import EXACT_FLOAT
from pipelines.sources.row import Row
from pipelines.sources.text.blocks import MAX_BYTES_OF_COLUMNS, Blocks
from pipelines.sources.text.json_rows import json_rows
from pipelines.sources.text.text_rows import Ends, TextColumns, array_of, has, line_ends, line_starts

MAX_FIELDS = 200
"""A catalogue with more columns is read line by line."""
MAX_NESTING = 400
"""Opening brackets of a line that the interpreter surely parses, however deep they are nested."""
_NO_NUMBER = re.compile(rb"[:,\[\s-]Inf|-NaN")
"""Numbers that Arrow's reader accepts in more spellings than Python's."""
_NEGATIVE_ZERO = re.compile(rb"-0(?![.\deE])")
"""An integer, and so 0 in Python; as a float it would be -0.0."""
_KINDS: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    type(None): pa.null(),
}


def json_columns(
    blocks: Blocks, asked: Collection[str] | None, folders: Collection[str] = ()
) -> Iterator[TextColumns | Row]:
    """Yield the rows of a text in order, as `json_rows` gives them; all columns if `asked` is None.

    `folders` are columns that rows get from folder names where they lack them.
    """
    plain, number = PlainJson(asked, folders), 0
    block = blocks.next()
    while block:
        table = plain.table(block)
        if table is not None:
            yield TextColumns(number, table, tuple(table.schema.names), block, _again)
            number += table.num_rows
            blocks.taken()
        elif plain.is_given_up or not blocks.halve(block):
            for row in json_rows(io.BytesIO(blocks.alone(block)), number):
                plain.learn(row)
                yield row
                number += 1
        block = blocks.next()


def _again(number: int, lines: bytes) -> Iterator[Row]:
    return json_rows(io.BytesIO(lines), number)


class PlainJson:
    """Reader of blocks as columns of the types that earlier rows had."""

    def __init__(self, asked: Collection[str] | None, folders: Collection[str]) -> None:
        self._asked = asked
        self._types: dict[str, pa.DataType] = dict.fromkeys(sorted(set(asked or ()) - set(folders)), pa.null())
        self._folders = {name: json.dumps(name).encode() for name in folders}
        self.is_given_up = not all(name.isascii() for name in folders)

    def learn(self, row: Row) -> None:
        """Take note of the types of a row that was read alone."""
        if row.reason is not None or self.is_given_up:
            return
        for name, value in row.values.items():
            if (self._asked is None or name in self._asked) and name not in self._folders:
                self._learn(name, value)

    def _has_learned(self) -> bool:
        return any(kind != pa.null() for kind in self._types.values())

    def _learn(self, name: str, value: Any) -> None:
        known, kind = self._types.get(name, pa.null()), _kind_of(value)
        if kind is None:
            self.is_given_up |= known == pa.null()
        elif known == pa.null() or (known == pa.int64() and kind == pa.float64()):
            if name not in self._types:
                self.is_given_up |= len(self._types) == MAX_FIELDS or not _is_utf8(name)
            self._types[name] = kind

    def table(self, block: bytes) -> pa.Table | None:
        """Return the rows of a block; None if its lines have to be looked at one by one."""
        if self.is_given_up or not self._has_learned() or len(block) > MAX_BYTES_OF_COLUMNS:
            return None
        ends = line_ends(block)
        if not self._is_plain(block, ends):
            return None
        options = pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1)
        parse = pa.json.ParseOptions(
            explicit_schema=pa.schema(list(self._types.items())),
            newlines_in_values=False,
            unexpected_field_behavior="error" if self._asked is None else "ignore",
        )
        try:
            table = pa.json.read_json(pa.BufferReader(block), options, parse)
        except (pa.ArrowException, UnicodeDecodeError):  # a message may quote bytes that are not UTF-8
            return None
        if table.num_rows != len(ends) or not all(map(_is_exact, table.columns)):
            return None
        return table.select([name for name, kind in self._types.items() if kind != pa.null()])

    def _is_plain(self, block: bytes, ends: Ends) -> bool:
        """Return whether each line is an object that Python parses if Arrow does, as far as single bytes show."""
        if b"\0" in block or (b"\r" in block and block.count(b"\r") != block.count(b"\r\n")) or not _is_utf8(block):
            return False
        if (has(block, b"Inf") or has(block, b"NaN")) and _NO_NUMBER.search(block):
            return False
        if pa.float64() in self._types.values() and b"-0" in block and _NEGATIVE_ZERO.search(block):
            return False
        if self._folders and (b"\\" in block or any(name in block for name in self._folders.values())):
            return False
        return _are_objects(block, ends)


def _kind_of(value: Any) -> pa.DataType | None:
    """Return the type of a column for a value; None for one that is read line by line."""
    if type(value) is list:
        inner = {type(each) for each in value} - {type(None)}
        return pa.list_(_KINDS[inner.pop()]) if inner in ({str}, {int}) else (pa.null() if not inner else None)
    return _KINDS.get(type(value))


def _are_objects(block: bytes, ends: Ends) -> bool:
    """Return whether each line begins an object, ends one, and is not nested deeply.

    Within an object no `{` follows a `}`, so that a line break between them is one between objects.
    """
    bytes_of, starts = array_of(block), line_starts(ends)
    last = ends - 1 - (bytes_of[ends - 1] == ord("\n"))
    last -= bytes_of[last] == ord("\r")
    if not (bytes_of[starts] == ord("{")).all() or not (bytes_of[last] == ord("}")).all():
        return False
    if (ends - starts).max() < 2 * MAX_NESTING:
        return True
    opening = (bytes_of == ord("{")) | (bytes_of == ord("["))
    return bool((np.add.reduceat(opening, starts, dtype=np.int64) <= MAX_NESTING).all())


def _is_exact(column: pa.ChunkedArray) -> bool:
    """Return whether floats may have been integers: those from 2^53 on may not."""
    if column.type != pa.float64():
        return True
    return not pc.any(pc.greater_equal(pc.abs(column), EXACT_FLOAT)).as_py()


def _is_utf8(text: bytes | str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True
