"""Settings that a recipe leaves at "auto": what they become for a catalogue and a log of some size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec import LOGITS, CollaborativeSection, collaborative_spec
from training.auto_settings import Scale, generator_spec, matches_auto_settings, train_spec
from training.spec import GeneratorSection, GeneratorSpec, TrainSection

BEAUTY = Scale(items=12_101, levels=3, windows=22_580, targets=153_776)
SIZES = st.integers(0, 10**10)


def test_at_the_size_they_were_chosen_at_they_are_what_was_chosen() -> None:
    train = train_spec(TrainSection(), BEAUTY)
    assert (train.epochs, train.batch_size, train.warmup_steps, train.align_epochs) == (14, 128, 300, 20)
    model = generator_spec(GeneratorSection(), BEAUTY)
    assert (model.prefix_buckets, model.prefix_outputs) == (32_768, True)


@given(items=SIZES, levels=st.integers(1, 8), windows=SIZES, targets=SIZES, more=st.integers(2, 100))
def test_any_size_has_settings_and_a_larger_one_no_more_passes(
    items: int, levels: int, windows: int, targets: int, more: int
) -> None:
    small, large = (Scale(items * by, levels, windows * by, targets * by) for by in (1, more))
    before, after = (train_spec(TrainSection(), scale) for scale in (small, large))
    assert 1 <= after.epochs <= before.epochs
    assert 1 <= after.align_epochs <= before.align_epochs
    assert after.batch_size == before.batch_size or not targets
    rows = [generator_spec(GeneratorSection(), scale).prefix_buckets for scale in (small, large)]
    assert rows[0] <= rows[1] <= 2**20


def test_long_histories_share_a_step_with_fewer_others() -> None:
    short, long = (Scale(1_000, 3, 2_000, 2_000 * events) for events in (5, 40))
    assert train_spec(TrainSection(), long).batch_size < train_spec(TrainSection(), short).batch_size


def test_what_a_recipe_says_stands() -> None:
    said = TrainSection(epochs=3, batch_size=7, warmup_steps=11, align_epochs=0)
    assert train_spec(said, BEAUTY).model_dump() == said.model_dump()
    shape = GeneratorSection(prefix_buckets=64, prefix_outputs=False)
    assert generator_spec(shape, BEAUTY).model_dump() == shape.model_dump()


@pytest.mark.parametrize("section", [GeneratorSection(constrained=False), GeneratorSection(prefix_buckets=0)])
def test_outputs_of_prefixes_are_left_out_where_they_have_no_place(section: GeneratorSection) -> None:
    assert not generator_spec(section, BEAUTY).prefix_outputs


def test_a_model_agrees_with_a_section_whatever_size_its_catalogue_had() -> None:
    small, large = (generator_spec(GeneratorSection(), Scale(items, 3, 10, 10)) for items in (10_000, 1_000_000))
    assert small != large
    assert matches_auto_settings(GeneratorSection(), small)
    assert matches_auto_settings(GeneratorSection(), large)
    assert not matches_auto_settings(GeneratorSection(prefix_buckets=32_768), large)
    assert not matches_auto_settings(GeneratorSection(dim=64), GeneratorSpec())


@pytest.mark.parametrize(
    ("section", "events", "method"),
    [
        (CollaborativeSection(), LOGITS // 1_000, "both"),
        (CollaborativeSection(), LOGITS // 1_000 + 1, "sppmi"),
        (CollaborativeSection(half_life_days=30.0), 1_000, "sppmi"),
        (CollaborativeSection(method="both"), LOGITS, "both"),
    ],
)
def test_a_sequence_model_gives_vectors_where_the_log_allows_it(
    section: CollaborativeSection, events: int, method: str
) -> None:
    assert collaborative_spec(section, events, 1_000).method == method
