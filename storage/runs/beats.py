"""Signs of life: how the last run of each kind ended, also of one that found nothing to do.

They are no table, because a run with nothing to do commits nothing. Each is one small file that the next run of its
kind replaces. Nothing is decided by them; they tell a watcher that runs still happen.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow.fs as pafs

from storage.errors import DataCorrupt
from storage.files.store import Files
from storage.lake import Lake
from storage.runs.details import RunResult

FOLDER = "beats"


@dataclass(frozen=True)
class Beat:
    """End of a run after some `seconds`. `outcome` is finished, failed or cancelled; `result` may be an error."""

    kind: str
    run: str
    at: datetime
    seconds: float
    outcome: str
    result: RunResult

    @property
    def began(self) -> datetime:
        return self.at - timedelta(seconds=self.seconds)

    @property
    def found_nothing(self) -> bool:
        """True if the run finished without a new release, because nothing had arrived."""
        return self.outcome == "finished" and self.result.made is False


def record_beat(lake: Lake, beat: Beat) -> None:
    """Replace the sign of life of the beat's kind."""
    record = {**vars(beat), "at": beat.at.isoformat(), "result": beat.result.as_record()}
    _files(lake).write(_name(beat.kind), json.dumps(record, sort_keys=True, default=str).encode())


def beats(lake: Lake) -> dict[str, Beat]:
    """Return the last beat of each kind of run."""
    files = _files(lake)
    found = files.filesystem.get_file_info(pafs.FileSelector("", allow_not_found=True))
    names = sorted(each.base_name for each in found if each.is_file and each.base_name.endswith(".json"))
    read = [_beat(files, name) for name in names]
    return {each.kind: each for each in read}


def _beat(files: Files, name: str) -> Beat:
    try:
        stored = json.loads(files.read(name))
        parsed = {"at": datetime.fromisoformat(stored["at"]), "result": RunResult.of(stored["result"])}
        return Beat(**{**stored, **parsed})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataCorrupt(
            f"{files.uri}/{name}, which says how the last run of its kind ended, is damaged: delete it; the next such "
            "run writes it anew. `sidmill run list` shows the runs."
        ) from error


def beat_of(kind: str, run: str, seconds: float, outcome: str, result: RunResult) -> Beat:
    """Return the beat of a run that ends now."""
    return Beat(kind, run, datetime.now(UTC), round(seconds, 3), outcome, result)


def _files(lake: Lake) -> Files:
    return Files(f"{lake.uri}/{FOLDER}")


def _name(kind: str) -> str:
    return f"{kind}.json"
