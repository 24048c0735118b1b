"""Prefetching of batches in another thread during the step before them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Queue
from threading import Event, Thread
from typing import Generic, TypeVar

AHEAD = 4
"""Number of batches prepared in advance."""
T = TypeVar("T")


class Prefetcher(Generic[T]):
    """An iterator run by another thread, up to AHEAD items ahead. `waited` is the time waited for it, in seconds."""

    def __init__(self, items: Iterator[T]) -> None:
        self.waited = 0.0
        self._items = items
        self._made: Queue[tuple[T | None, Exception | None]] = Queue(AHEAD)
        self._over = Event()
        self._maker = Thread(target=self._make, name="batches", daemon=True)

    def __enter__(self) -> Prefetcher[T]:
        self._maker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        while self._maker.is_alive():  # it may be waiting for space in the queue
            while not self._made.empty():
                self._made.get_nowait()
            self._maker.join(0.01)

    def __iter__(self) -> Iterator[T]:
        while True:
            began = time.perf_counter()
            item, error = self._made.get()
            self.waited += time.perf_counter() - began
            if error is not None:
                if isinstance(error, StopIteration):
                    return
                raise error
            assert item is not None
            yield item

    def _make(self) -> None:
        try:
            for item in self._items:
                if self._over.is_set():
                    return
                self._made.put((item, None))
            self._made.put((None, StopIteration()))
        except Exception as error:  # noqa: BLE001  (raised again in the consumer)
            self._made.put((None, error))
