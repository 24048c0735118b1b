"""What `serve` deploys: the form of each flow in Prefect, and the same deployments for a work pool."""

import pytest
from prefect.utilities.callables import parameter_schema

from flows.backfill import backfill
from flows.nightly import nightly
from flows.train import train


@pytest.mark.parametrize("deployed", [nightly, backfill, train], ids=lambda flow: flow.name)
def test_the_form_of_a_run_describes_each_parameter(deployed: object) -> None:
    properties = parameter_schema(deployed).properties  # type: ignore[arg-type]
    assert [name for name, field in properties.items() if not field.get("description")] == []
