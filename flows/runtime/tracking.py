"""Figures of a training, epoch by epoch: files of TensorBoard in the lake, and a run of MLflow where one is wanted.

TensorBoard reads the folder `tensorboard` of a lake. MLflow gets figures if the environment names a server or a folder
by MLFLOW_TRACKING_URI. Neither may end a training: what cannot be written is told once.
"""

import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from infra.addresses import without_secrets
from infra.scratch import ScratchFolder
from storage.releases.evaluation import EvaluationResult
from storage.retention.garbage import FIGURES

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from flows.runtime.run import Run

RECEIVER = "MLFLOW_TRACKING_URI"
EXPERIMENT = "sidmill"
KEY = "sidmill.key"
"""Tag of MLflow's run with the key of the training. A resumed training finds its run by it."""

Scalars = Mapping[str, float]


@cache
def _tensorboard() -> tuple[Any, Any]:
    """Return the writer of events, and the event, of tensorboardX.

    Its package imports PyTorch, which takes 0.3 GB in a process that has no other use for it. So an empty package
    stands in its place while the two modules are imported.
    """
    known = "tensorboardX" in sys.modules
    if not known:
        spec = find_spec("tensorboardX")
        sys.modules["tensorboardX"] = bare = ModuleType("tensorboardX")
        bare.__path__ = list(spec.submodule_search_locations or ()) if spec is not None else []
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
    finally:
        if not known:
            del sys.modules["tensorboardX"]
    return EventsWriter, Event


class Figures:
    """Writes the figures of one training, named by its key; `tags` say what it is trained on.

    Trainings that make no generator, such as that of a fusion, have the id of their run as their key.
    """

    def __init__(self, run: "Run", key: str, tags: Mapping[str, str]) -> None:
        self._run, self._key, self._tags = run, key, {KEY: key, "sidmill.lake": run.lake.uri, **tags}
        self._told = set[str]()
        self._file = f"events.out.tfevents.{int(time.time())}.{run.id}.{secrets.token_hex(4)}"
        self._written = b""
        self._client: MlflowClient | None = None
        self._mlflow_run = ""

    def epoch(self, label: str, row: Scalars) -> None:
        """Write the row of an epoch; `label` says of which part of the training."""
        step = int(row["epoch"])
        self._write({f"{label}/{name}": value for name, value in row.items() if name != "epoch"}, step)

    def evaluated(self, result: EvaluationResult, step: int) -> None:
        """Write the metrics of an evaluation, of each ranker."""
        self._write(
            {
                f"{ranker}/{name}".replace("@", "_at_"): float(value)
                for ranker, row in result.rankers.items()
                for name, value in row.as_record().items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            },
            step,
        )

    def _write(self, scalars: Scalars, step: int) -> None:
        for name, write in (("TensorBoard", self._to_tensorboard), ("MLflow", self._to_mlflow)):
            try:
                write(scalars, step)
            except Exception as error:  # noqa: BLE001 - a receiver is foreign code, and must not end the training
                if name not in self._told:
                    self._run.say(f"  warning: {name} got no figures: {without_secrets(str(error))}")
                self._told.add(name)

    def _to_tensorboard(self, scalars: Scalars, step: int) -> None:
        """Store the file of events anew, with these scalars at its end: an object store cannot append."""
        events_writer, event = _tensorboard()
        now = time.time()
        with ScratchFolder("figures") as folder:
            writer = events_writer(f"{folder}/events")
            for name, value in scalars.items():
                tag = re.sub(r"[^-/.\w]", "_", name)  # as TensorBoard wants it
                summary = {"value": [{"tag": tag, "simple_value": value}]}
                writer.write_event(event(wall_time=now, step=step, summary=summary))
            writer.close()
            (path,) = Path(folder).iterdir()
            self._written += path.read_bytes()  # each writer begins with the version of the format, which may repeat
        self._run.lake.files.write(f"{FIGURES}/{self._key}/{self._file}", self._written)

    def _to_mlflow(self, scalars: Scalars, step: int) -> None:
        if not os.environ.get(RECEIVER):
            return
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ImportError("install sidmill with the extra `mlflow`") from error
        if self._client is None:
            self._client = MlflowClient()
            self._mlflow_run = self._begun(self._client)
        for name, value in scalars.items():
            self._client.log_metric(self._mlflow_run, name, value, step=step)

    def _begun(self, client: "MlflowClient") -> str:
        """Return the id of the training's run of MLflow, which is made if there is none."""
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        runs = client.search_runs([experiment], f"tags.`{KEY}` = '{self._key}'")
        run = runs[0] if runs else client.create_run(experiment, tags=dict(self._tags), run_name=self._key)
        return str(run.info.run_id)
