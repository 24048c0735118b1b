"""The lease of those who change committed entries of the logs of tables: an erasure, or `lake gc`, one at a time.

An erasure rewrites entries and checkpoints one after another, and until its end some name former files and others their
successors. By such a log `lake gc` would delete files that versions need. It also deletes entries, and records the
hashes of checkpoints, of which the erasure would not know.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from learning.progress import emit
from storage.commit import Provenance
from storage.errors import LeaseLost, LeaseTaken
from storage.lake import Lake
from storage.runs.lease import LOST_S, Lease

KIND = "logs"


@contextmanager
def changing_logs(lake: Lake, provenance: Provenance, wait_s: float) -> Iterator[Callable[[], None]]:
    """Hold the lease of logs; raise LeaseTaken if another command holds it for longer than `wait_s` seconds.

    What is yielded raises LeaseLost if another command took the lease over, because this one stood still. It is called
    before anything is written that goes by what was read before.
    """
    lease = Lease(lake, KIND, replace(provenance, run=f"{KIND}-{secrets.token_hex(6)}"))
    try:
        lease.take(wait_s, emit)
    except LeaseTaken as error:
        raise LeaseTaken(
            f"another `sidmill lake gc` or `sidmill lake erase` changes the logs of the lake {lake.uri}, and did not "
            f"end in {wait_s / 60:.0f} minutes. Nothing was removed. Run the same command again when it has ended."
        ) from error

    def require_held() -> None:
        try:
            lease.require(lake.read("pointers"))
        except LeaseLost as error:
            raise LeaseLost(
                f"another `sidmill lake gc` or `sidmill lake erase` took the place of this command in the lake "
                f"{lake.uri}, because it gave no sign of life for {LOST_S:.0f} s. It changes nothing more. Run the "
                "same command again."
            ) from error

    try:
        yield require_held
    finally:
        lease.close()
