"""A stage is held to the columns it declares."""

import pyarrow as pa
import pytest

from pipelines.compute import InProcess, apply
from pipelines.spec import ComputeSpec


class Double:
    reads = ("text",)
    adds = ("twice", "reason", "detail")

    def __init__(self, forget: str = "", rows: int | None = None) -> None:
        self._forget, self._rows = forget, rows

    def __call__(self, batch: pa.Table) -> pa.Table:
        twice = [2 * text for text in batch.column("text").to_pylist()]
        answer = batch.append_column("twice", pa.array(twice, pa.string()))
        for name in ("reason", "detail"):
            answer = answer.append_column(name, pa.nulls(batch.num_rows, pa.string()))
        return answer.drop_columns([self._forget] if self._forget else []).slice(0, self._rows)


BATCH = pa.table({"item_id": ["a", "b"], "text": ["x", "y"]})


def test_a_stage_may_drop_what_it_reads_and_nothing_else():
    assert apply(Double(), BATCH).column("twice").to_pylist() == ["xx", "yy"]
    assert "text" not in apply(Double(forget="text"), BATCH).column_names
    for stage in (Double(forget="item_id"), Double(forget="reason"), Double(rows=1)):
        with pytest.raises(TypeError, match="stage Double answered"):
            apply(stage, BATCH)


def test_a_batch_without_the_column_a_stage_reads_is_refused_before_the_stage_sees_it():
    with pytest.raises(TypeError, match=r"reads \['text'\], which its input lacks"):
        list(InProcess(ComputeSpec()).map(Double, {}, BATCH.drop_columns(["text"]), 10))
