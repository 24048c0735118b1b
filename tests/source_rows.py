"""Rows of sources, one by one."""

from collections.abc import Iterator

from pipelines.sources.protocol import Source, Spec
from pipelines.sources.row import Row


def read_rows(source: Source, spec: Spec) -> Iterator[Row]:
    for part in source.parts(spec, 4096):
        yield from part if isinstance(part, list) else part.rows()
