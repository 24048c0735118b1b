"""`release audit`: held-out events are changed and everything is made anew; a leak is found."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flows.audit.leakage import PRODUCTS, LeakFound, audit_release, require_no_leak
from flows.snapshot import Snapshot
from pipelines.event_log.visible_log import LogSlice
from storage.lake import Lake


def test_a_release_is_made_of_what_it_has_seen_alone(lake_of_format_2: Lake) -> None:
    """Other events before the cutoff change all that is made of events, so the audit could see a leak."""
    said: list[str] = []
    held_out, seen = audit_release(lake_of_format_2, "production", said.append)
    assert held_out.events + seen.events == lake_of_format_2.rows("interactions")
    assert (held_out.differ, seen.differ) == ((), PRODUCTS)
    require_no_leak([held_out, seen])
    assert "events held out changed: factors, fusion, codebook, SIDs, training sequences the same" in said[1]


@pytest.mark.slow
def test_a_fit_that_reads_later_events_is_found(lake_of_format_2: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaks(snapshot: Snapshot) -> LogSlice:
        log = LogSlice(snapshot.interactions.version, snapshot.as_of, snapshot.cutoff)
        return replace(log, cutoff=log.cutoff + timedelta(days=9))

    monkeypatch.setattr(Snapshot, "log", property(leaks))
    found = audit_release(lake_of_format_2, "r-000001", print)
    with pytest.raises(LeakFound, match="held-out events decide factors, fusion, codebook, SIDs"):
        require_no_leak(found)
