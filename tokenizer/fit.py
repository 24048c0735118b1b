"""The entry point for fitting a codebook with any quantizer."""

from collections.abc import Mapping
from dataclasses import replace

from learning.threads import one_thread
from learning.trainer import Trainer, train_in_process
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.items import ItemIds, checked_items
from tokenizer.arrays.types import Array
from tokenizer.arrays.vectors import Rows
from tokenizer.codebook import Codebook
from tokenizer.codebook_report import quality, slack_report
from tokenizer.registry import QUANTIZERS, quantizer_of
from tokenizer.spec import CodebookSpec


def fit_codebook(
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    spec: CodebookSpec,
    work: Executor = LOCAL_THREADS,
    train: Trainer = train_in_process,
) -> Codebook:
    """Fit a codebook of `spec` to the vectors (N, D per source) of a catalogue.

    The bytes do not depend on item order. `train` trains the network of a learned quantizer, by default in this
    process. Raises VectorError for vectors that are missing, misshapen or not finite, CapacityExhausted when the levels
    hold fewer SIDs than planned, ValueError for ids that occur twice, CodebookDiverged when a loss is not finite.
    """
    with one_thread():
        items = checked_items(vectors, item_ids, spec.fit_sources, work)
        made = quantizer_of(spec).fit(items, spec, work, train)
        book = made.codebook
        member = QUANTIZERS.members[spec.quantizer]
        by = {} if member.ours else {"quantizer_from": member.origin}
        record = {
            **by,
            **book.statistics,
            **quality(book, made.items, made.codes, work),
            **slack_report(book, items, work),
        }
        return replace(book, statistics=record)
