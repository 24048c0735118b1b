"""The pictures that catalogue rows name: bytes, paths, web addresses and object stores, within limits, into blobs."""

import posixpath
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow.fs as pafs

from pipelines.fetch import WEB, Web
from pipelines.ingest import Refused
from pipelines.sources import Source
from pipelines.spec import ItemsSpec
from storage.lake import Lake

T = TypeVar("T")
Reference = str | bytes
"""A picture as its bytes, or as where it lies."""


def references(value: Any) -> list[Reference]:
    """The pictures in a cell: one or a list, each bytes, text, or a Hugging Face image {"bytes": ..., "path": ...}."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, list | tuple):
        return [found for each in value for found in references(each)]
    if not value or value != value:
        return []
    return [value if isinstance(value, bytes) else str(value)]


class Pictures:
    """Stores the pictures of the rows of one source as blobs, several at a time."""

    def __init__(self, lake: Lake, source: Source | None, spec: ItemsSpec) -> None:
        self._lake, self._source, self._spec = lake, source, spec
        self._web = Web(spec.max_image_bytes, spec.image_timeout_s, spec.trusted_hosts)

    def stored(self, rows: Iterable[tuple[T, list[Reference]]]) -> Iterator[tuple[T, list[str | Refused]]]:
        """Each row, in order, with the sha256 of each of its pictures, or why there is none."""
        workers = self._spec.image_workers
        waiting: deque[tuple[T, list[Future[str | Refused]]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for row, wanted in rows:
                waiting.append((row, [pool.submit(self._store, each) for each in wanted]))
                if len(waiting) > 4 * workers:
                    first, done = waiting.popleft()
                    yield first, [each.result() for each in done]
            while waiting:
                first, done = waiting.popleft()
                yield first, [each.result() for each in done]

    def _store(self, reference: Reference) -> str | Refused:
        try:
            return self._lake.blobs.put(self._read(reference))
        except Refused as refused:
            return refused

    def _read(self, reference: Reference) -> bytes:
        limit = self._spec.max_image_bytes
        if isinstance(reference, bytes):
            if len(reference) > limit:
                raise Refused("image_too_large", f"{len(reference)} bytes, at most {limit} are accepted")
            return reference
        if reference.startswith(WEB):
            return self._web.get(reference)
        return _file(*self._place(reference), reference, limit)

    def _place(self, reference: str) -> tuple[pafs.FileSystem, str]:
        """The file behind a path inside the source's folder, or behind a URI below one of `items.image_roots`."""
        if "://" in reference:
            for root in self._spec.image_roots:
                filesystem, path = pafs.FileSystem.from_uri(root.rstrip("/"))
                inside = posixpath.normpath(posixpath.join(path, reference.removeprefix(root.rstrip("/") + "/")))
                if reference.startswith(root.rstrip("/") + "/") and inside.startswith(path + "/"):
                    return filesystem, inside
            raise Refused("image_address", f"{reference!r} lies below none of items.image_roots")
        if self._source is None:
            raise Refused("image_unreadable", f"{reference!r} is known in the folder of its file alone")
        path = posixpath.normpath(posixpath.join(self._source.folder, reference))
        if not path.startswith(self._source.folder + "/"):
            raise Refused("image_outside_folder", f"{reference!r} leaves the folder of {self._source.name}")
        return self._source.filesystem, path


def _file(filesystem: pafs.FileSystem, path: str, told: str, limit: int) -> bytes:
    try:
        info = filesystem.get_file_info(path)
        if info.is_file and info.size > limit:
            raise Refused("image_too_large", f"{info.size} bytes, at most {limit} are accepted")
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        raise Refused("image_unreadable", f"{told!r}: {error}") from error
    if len(data) > limit:
        raise Refused("image_too_large", f"more than the {limit} bytes that are accepted")
    return data
