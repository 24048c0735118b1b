"""Events of OpenLineage: which run read which sources and wrote which tables, at which versions.

Nothing is sent unless the environment names a receiver, by the variables of the OpenLineage client (OPENLINEAGE_URL,
OPENLINEAGE_CONFIG or OPENLINEAGE__TRANSPORT__TYPE).
"""

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from infra.addresses import printable_address, without_secrets
from plugins.registry import code_version
from storage.lake import Lake
from storage.schemas import TABLES

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Job, Run

RECEIVERS = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT__TYPE")
PRODUCER = f"urn:sidmill:{code_version()}"
ENDS = {"finished": "COMPLETE", "failed": "FAIL", "cancelled": "ABORT"}


def is_wanted() -> bool:
    """Return whether the environment names a receiver."""
    return any(os.environ.get(name) for name in RECEIVERS) and not os.environ.get("OPENLINEAGE_DISABLED")


@dataclass
class LineageEvents:
    """Events of one run; `sources` are the addresses that it was given."""

    lake: Lake
    run: str
    kind: str
    sources: list[str]
    _before: dict[str, int] = field(default_factory=dict)

    def start(self) -> str:
        """Send the event of the start; return why it could not be sent."""
        self._before = _versions(self.lake)
        return self._send("START", {}, {})

    def end(self, outcome: str, result: Mapping[str, Any]) -> str:
        """Send the event of the end with the tables that the run changed; return why it could not be sent."""
        changed = {
            table: version for table, version in _versions(self.lake).items() if version != self._before.get(table, -1)
        }
        return self._send(ENDS[outcome], changed, result)

    def _send(self, state: str, changed: Mapping[str, int], result: Mapping[str, Any]) -> str:
        try:
            self._emit(state, changed, result)
        except ImportError as error:
            return f"OpenLineage needs the package {error.name}: install sidmill with the extra `lineage`"
        except Exception as error:  # noqa: BLE001 - a receiver is foreign code, and must not end the run
            return f"the OpenLineage event {state} was not sent: {without_secrets(str(error))}"
        return ""

    def _emit(self, state: str, changed: Mapping[str, int], result: Mapping[str, Any]) -> None:
        from openlineage.client import OpenLineageClient
        from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState
        from openlineage.client.facet_v2 import dataset_version_dataset

        facet = dataset_version_dataset.DatasetVersionDatasetFacet
        outputs = [
            OutputDataset(*dataset(self.lake.path(table)), facets={"version": facet(str(version))})
            for table, version in sorted(changed.items())
        ]
        event = RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            producer=PRODUCER,
            eventType=RunState[state],
            run=self._run(result),
            job=self._job(),
            inputs=[InputDataset(*dataset(address)) for address in self.sources],
            outputs=outputs,
        )
        OpenLineageClient().emit(event)

    def _run(self, result: Mapping[str, Any]) -> "Run":
        from openlineage.client.event_v2 import Run
        from openlineage.client.facet_v2 import error_message_run

        error = result.get("error")
        facets: dict[str, Any] = {}
        if error:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(without_secrets(str(error)), "PYTHON")
        return Run(str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.lake.uri}#{self.run}")), facets)

    def _job(self) -> "Job":
        from openlineage.client.event_v2 import Job

        return Job(self.lake.uri, f"sidmill.{self.kind}")


def dataset(address: str) -> tuple[str, str]:
    """Return namespace and name of an address, by OpenLineage's rules of naming: store and path."""
    shown = printable_address(address)
    if "://" not in shown:
        return "file", shown
    parts = urlsplit(shown)
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")


def addresses_of(parameters: Mapping[str, Any]) -> list[str]:
    """Return the addresses of sources among the parameters of a run."""
    given: Iterable[list[str] | None] = (parameters.get("items"), parameters.get("interactions"))
    return [address for addresses in given for address in addresses or []]


def _versions(lake: Lake) -> dict[str, int]:
    return {table: lake.version(table) for table in TABLES if lake.exists(table)}
