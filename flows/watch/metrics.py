"""Metrics of a lake in the text format of Prometheus: for a file that an agent collects, or an HTTP endpoint."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.inspect.lake_state import LakeState, lake_state
from flows.watch.health import NIGHT, Problem, current_since, problems
from flows.watch.lag import lags
from flows.watch.spec import WatchSpec
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.manifest import Manifest
from storage.releases.releases import read_release
from storage.runs.beats import beats
from storage.runs.record import runs
from storage.schemas import TABLES

MetricSample = tuple[tuple[str, ...], float]


class LakeMetrics(Collector):
    """Metrics of a lake as it is when they are asked for. Each has the label `lake`."""

    def __init__(self, lake: Lake, watch: WatchSpec) -> None:
        self._lake, self._watch = lake, watch

    def collect(self) -> Iterable[Metric]:
        now = datetime.now(UTC)
        state = lake_state(self._lake, now)
        yield from self._production(state, now)
        yield from self._runs()
        yield from self._tables()
        yield self._gauge("held", "1 if runs may not move production", [((), float(state.held is not None))])
        reasons = sorted(by_reason(self._lake).items())
        yield self._gauge(
            "quarantine_rows", "rows in quarantine", [((reason,), float(rows)) for reason, rows in reasons], "reason"
        )
        yield from self._streams(now)
        found: list[Problem] = problems(self._lake, self._watch, now)
        yield self._gauge("problem", "1 for each problem", [((each.name,), 1.0) for each in found], "problem")
        yield self._gauge("problems", "number of problems", [((), float(len(found)))])

    def _gauge(self, name: str, says: str, samples: Iterable[MetricSample], *labels: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"sidmill_{name}", says, labels=("lake", *labels))
        for values, value in samples:
            family.add_metric([self._lake.uri, *values], value)
        return family

    def _production(self, state: LakeState, now: datetime) -> Iterator[Metric]:
        since = current_since(state, beats(self._lake).get(NIGHT))
        if state.production is None or since is None:
            return
        manifest = read_release(self._lake, state.production.release)
        model = state.production.model or ""
        pair = [((manifest.id, model), 1.0)]
        yield self._gauge("production_info", "the release and model in production", pair, "release", "model")
        age = (now - since).total_seconds()
        says = "time since production was last published or confirmed"
        yield self._gauge("production_age_seconds", says, [((), age)])
        yield self._gauge("production_items", "items of the release", [((), float(manifest.items))])
        yield from self._gates(manifest)
        evaluation = state.production.evaluation
        figures = [((name,), float(value)) for name, value in (evaluation.figures if evaluation else {}).items()]
        yield self._gauge("model_figure", "figures of the model in production", figures, "figure")

    def _streams(self, now: datetime) -> Iterator[Metric]:
        """Yield what waits at the servers of streams: nothing is pushed to a run, so that is where messages back up."""
        found = lags(self._lake)
        known = [each for each in found if not each.fault]
        lag = [((each.address,), float(each.messages)) for each in known]
        yield self._gauge("lag_messages", "messages of a stream that are not read yet", lag, "stream")
        waits = [((each.address,), (now - each.last_read).total_seconds() if each.messages else 0.0) for each in known]
        yield self._gauge("lag_seconds", "time since the last read of a stream of which messages wait", waits, "stream")
        read = [((each.address,), float(each.read)) for each in found]
        yield self._gauge("stream_messages_read", "messages of a stream that were read so far", read, "stream")

    def _gates(self, manifest: Manifest) -> Iterator[Metric]:
        for field in ("value", "limit", "passed"):
            samples = [((gate.name,), float(getattr(gate, field))) for gate in manifest.gates]
            yield self._gauge(f"gate_{field}", f"{field} of a gate of production", samples, "gate")
        counts = [((name,), float(count)) for name, count in sorted(manifest.counts.items())]
        yield self._gauge("release_count", "counts of the release in production", counts, "what")

    def _runs(self) -> Iterator[Metric]:
        ends = sorted(beats(self._lake).values(), key=lambda beat: beat.kind)
        last = [((beat.kind,), beat.at.timestamp()) for beat in ends]
        yield self._gauge("run_end_timestamp_seconds", "time at which the last run of a kind ended", last, "kind")
        well = [((beat.kind,), float(beat.outcome == "finished")) for beat in ends]
        yield self._gauge("run_finished", "1 if the last run of a kind finished, 0 if it failed", well, "kind")
        took = [((beat.kind,), beat.seconds) for beat in ends]
        yield self._gauge("run_seconds", "duration of the last run of a kind", took, "kind")
        for field in ("read_bytes", "written_bytes"):
            moved = {beat.kind: getattr(beat.result, field) for beat in ends}
            known = [((kind,), float(count)) for kind, count in moved.items() if count is not None]
            yield self._gauge(f"run_{field}", f"{field} of the driver of the last run of a kind", known, "kind")
        newest = {run.kind: run for run in runs(self._lake)}
        seconds, rows = dict[tuple[str, ...], float](), dict[tuple[str, ...], float]()
        for kind, run in sorted(newest.items()):
            for stage in run.stages:
                place = (kind, stage.name)
                seconds[place] = seconds.get(place, 0.0) + (stage.seconds or 0.0)
                rows[place] = rows.get(place, 0.0) + (stage.rows_in or 0)
        yield self._gauge("stage_seconds", "duration of a stage of the last run", seconds.items(), "kind", "stage")
        yield self._gauge("stage_rows", "rows that went into a stage of the last run", rows.items(), "kind", "stage")

    def _tables(self) -> Iterator[Metric]:
        files = {name: self._lake.data_files(name) for name in TABLES if self._lake.exists(name)}
        yield self._gauge("table_files", "data files", [((n,), float(len(each))) for n, each in files.items()], "table")
        sizes = [((name,), float(sum(file.size for file in each))) for name, each in files.items()]
        yield self._gauge("table_bytes", "bytes of data files", sizes, "table")
        rows = [((name,), float(self._lake.rows(name))) for name in files]
        yield self._gauge("table_rows", "rows", rows, "table")


def metrics_text(lake: Lake, watch: WatchSpec) -> bytes:
    """Return the metrics of a lake as text."""
    registry = CollectorRegistry()
    registry.register(LakeMetrics(lake, watch))
    return generate_latest(registry)


def serve_metrics(lake: Lake, watch: WatchSpec, port: int) -> str:
    """Serve the metrics on loopback from a thread; return their address."""
    registry = CollectorRegistry()
    registry.register(LakeMetrics(lake, watch))
    server, _ = start_http_server(port, addr="127.0.0.1", registry=registry)
    return f"http://127.0.0.1:{server.server_port}/metrics"


def write_metrics(path: Path, text: bytes) -> None:
    """Write a file at once, so that an agent never reads half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(text)
    partial.replace(path)
