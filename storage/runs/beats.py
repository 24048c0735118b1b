"""Signs of life: how the last run of each kind ended, also of one that found nothing to do.

They are no table, because a run with nothing to do commits nothing. Each is one small file that the next run of its
kind replaces. Nothing is decided by them; they tell a watcher that runs still happen.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.fs as pafs

from storage.files.store import Files
from storage.lake import Lake

FOLDER = "beats"


@dataclass(frozen=True)
class Beat:
    """End of a run. `outcome` is finished, failed or cancelled; `result` is that of its flow, or its error."""

    kind: str
    run: str
    at: datetime
    seconds: float
    outcome: str
    result: dict[str, Any]

    @property
    def began(self) -> datetime:
        return self.at - timedelta(seconds=self.seconds)

    @property
    def found_nothing(self) -> bool:
        """True if the run finished without a new release, because nothing had arrived."""
        return self.outcome == "finished" and self.result.get("made") is False


def record_beat(lake: Lake, beat: Beat) -> None:
    """Replace the sign of life of the beat's kind."""
    record = {**asdict(beat), "at": beat.at.isoformat()}
    _files(lake).write(_name(beat.kind), json.dumps(record, sort_keys=True, default=str).encode())


def beats(lake: Lake) -> dict[str, Beat]:
    """Return the last beat of each kind of run."""
    files = _files(lake)
    found = files.filesystem.get_file_info(pafs.FileSelector("", allow_not_found=True))
    names = sorted(each.base_name for each in found if each.is_file and each.base_name.endswith(".json"))
    read = [json.loads(files.read(name)) for name in names]
    return {each["kind"]: Beat(**{**each, "at": datetime.fromisoformat(each["at"])}) for each in read}


def beat_of(kind: str, run: str, seconds: float, outcome: str, result: dict[str, Any]) -> Beat:
    """Return the beat of a run that ends now."""
    return Beat(kind, run, datetime.now(UTC), round(seconds, 3), outcome, result)


def _files(lake: Lake) -> Files:
    return Files(f"{lake.uri}/{FOLDER}")


def _name(kind: str) -> str:
    return f"{kind}.json"
