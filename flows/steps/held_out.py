"""Evaluation cases of a release: contexts and targets from events at or after its cutoff."""

from datetime import UTC, datetime

from pipelines.counts import Counts
from pipelines.event_log.user_buckets import EventsByUser, TrainedSlice, bucket_count, in_buckets
from pipelines.event_log.visible_log import LogSlice
from storage.lake import Lake
from tokenizer.trie.trie import Trie
from training.evaluation.cases import HeldOutEvents, held_out_events
from training.spec import GeneratorSpec

# Later than all events: as a bound it excludes none.
FOREVER = datetime.max.replace(tzinfo=UTC)


def evaluation_cases(
    lake: Lake, trained_on: LogSlice, trie: Trie, version: int, negative_events: tuple[str, ...], model: GeneratorSpec
) -> HeldOutEvents | None:
    """Return a case per user with a positive event at or after the cutoff of `trained_on`, or None.

    The context is the user's earlier events on items of the trie, also those after the cutoff: the model was not
    trained on them, but a recommender in service sees them. The items that users took in the slice `trained_on` are
    returned too, for popularity and neighbours.

    The log is read by buckets of users; a row and a kind are kept of each event.
    """
    log = LogSlice(version, FOREVER, FOREVER)
    known = TrainedSlice(trained_on, trie.item_ids)
    wanted = EventsByUser(log, trie.item_ids, bucket_count(lake, log), known)
    buckets = in_buckets(lake, wanted, Counts("evaluation"))
    return held_out_events(buckets, trie.codes(), trained_on.cutoff, negative_events, model)
