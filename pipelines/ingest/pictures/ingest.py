"""Read the pictures that catalogue rows name, from files, the web or object stores, and store them as blobs."""

import posixpath
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pyarrow.fs as pafs

from infra.addresses import printable_address
from pipelines.ingest.pictures.fetch import HostTimeouts, Web
from pipelines.ingest.pictures.references import Reference, data_uri
from pipelines.ingest.pictures.unreadable import why_unreadable
from pipelines.sources.cells import Refused, shown
from pipelines.sources.protocol import Source
from pipelines.sources.source_spec import ItemsSpec
from storage.lake import Lake

T = TypeVar("T")
LONGEST_PATH = 4096
"""Most characters of a path on Linux."""
_WEB = re.compile("https?://", re.IGNORECASE)


class Pictures:
    """Reader that stores the pictures of one source's rows as blobs, several at a time."""

    def __init__(self, lake: Lake, source: Source | None, spec: ItemsSpec) -> None:
        self._lake, self._source, self._spec = lake, source, spec
        self._web = Web(spec.max_image_bytes, spec.image_timeout_s, spec.trusted_hosts)
        self._timeouts = HostTimeouts(spec.image_timeout_s)
        self._opened = lru_cache(pafs.FileSystem.from_uri)

    def stored(self, rows: Iterable[tuple[T, list[Reference]]]) -> Iterator[tuple[T, list[str | Refused]]]:
        """Yield each row, in order, with the sha256 of each of its pictures, or the refusal."""
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
        if isinstance(reference, Refused):
            raise reference
        if isinstance(reference, bytes):
            if len(reference) > limit:
                raise Refused("image_too_large", f"{len(reference)} bytes, at most {limit} are accepted")
            return reference
        if reference[:5].lower() == "data:":
            return data_uri(reference, limit)
        if _WEB.match(reference):
            return self._web.get(reference)
        if len(reference) > LONGEST_PATH and "://" not in reference:
            detail = f"{shown(reference)} is too long for a path; put image bytes in a binary column or a data: URI"
            raise Refused("image_reference_unknown", detail)
        if reference.startswith("//"):
            shown_address = printable_address(reference)
            raise Refused("image_address", f"{shown_address!r} has no scheme: write https:{shown_address}")
        return self._timeouts.answer(
            self._timeout_key(reference), reference, lambda seconds: _within(seconds, lambda: self._file(reference))
        )

    def _timeout_key(self, reference: str) -> str:
        """Return the key under which timeouts are counted: one of `items.image_roots`, or the folder of the source."""
        return self._root(reference) or (self._source.folder if self._source else "")

    def _root(self, reference: str) -> str | None:
        roots = (root.rstrip("/") for root in self._spec.image_roots)
        return next((root for root in roots if reference.startswith(root + "/")), None)

    def _file(self, reference: str) -> bytes:
        filesystem, path = self._place(reference)
        shown_address = printable_address(reference)
        try:
            return _bytes(filesystem, path, shown_address, self._spec.max_image_bytes)
        except (OSError, ValueError) as error:
            folder = self._source.folder if self._source and "://" not in reference else ""
            why = why_unreadable(filesystem, folder, reference, error) if folder else str(error)
            raise Refused("image_unreadable", f"{shown_address!r}: {why}") from error

    def _place(self, reference: str) -> tuple[pafs.FileSystem, str]:
        """Return the file of a path inside the source's folder, or of a URI below one of `items.image_roots`."""
        shown_address = printable_address(reference)
        if "://" in reference:
            root = self._root(reference)
            if root is not None:
                filesystem, path = self._opened(root)
                inside = posixpath.normpath(posixpath.join(path, reference.removeprefix(root + "/")))
                if inside.startswith(path + "/"):
                    return filesystem, inside
            raise Refused("image_address", f"{shown_address!r} is not below a folder of items.image_roots")
        if self._source is None:
            raise Refused(
                "image_unreadable",
                f"{shown_address!r} is a relative path, but this source is not a file; give a full address",
            )
        path = posixpath.normpath(posixpath.join(self._source.folder, reference))
        if not path.startswith(self._source.folder + "/"):
            raise Refused("image_outside_folder", f"{shown_address!r} is outside the folder of {self._source.name}")
        if isinstance(self._source.filesystem, pafs.LocalFileSystem):
            return self._source.filesystem, self._within_folder(path, shown_address)
        return self._source.filesystem, path

    def _within_folder(self, path: str, shown_address: str) -> str:
        """Return the path with links resolved, which must be inside the folder; opening it follows no link."""
        assert self._source is not None
        try:
            folder, real = Path(self._source.folder).resolve(), Path(path).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # an impossible name, or circular links
            raise Refused("image_unreadable", f"{shown_address!r}: {error}") from error
        if not real.is_relative_to(folder):
            raise Refused(
                "image_outside_folder", f"{shown_address!r} is a link out of the folder of {self._source.name}"
            )
        return str(real)


def _within(seconds: float, read: Callable[[], bytes]) -> bytes:
    """Read on a separate thread, because Arrow's file systems take no deadline; a late read is abandoned.

    Raise TimeoutError after these seconds.
    """
    done: Future[bytes] = Future()

    def run() -> None:
        try:
            done.set_result(read())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is awaited
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(seconds)


def _bytes(filesystem: pafs.FileSystem, path: str, shown_address: str, limit: int) -> bytes:
    """Return the content of a file. Raise OSError or ValueError."""
    info = filesystem.get_file_info(path)
    if info.is_file and info.size > limit:
        raise Refused("image_too_large", f"{info.size} bytes, at most {limit} are accepted")
    with filesystem.open_input_stream(path) as stream:
        data: bytes = stream.read(limit + 1)
    if isinstance(filesystem, pafs.LocalFileSystem) and str(Path(path).resolve()) != path:
        raise Refused("image_outside_folder", f"{shown_address!r} was replaced by a link while it was read")
    if len(data) > limit:
        raise Refused("image_too_large", f"more than the {limit} bytes that are accepted")
    return data
