"""Each modality of an item's content is one record: names, sections of the recipe and stages follow from it."""

from flows.candidates import ITEM_STAGES
from flows.recipe import Recipe
from flows.steps.embed import contents
from pipelines.embed.content_modalities import CONTENT_MODALITIES
from pipelines.modalities import CONTENT, ENCODED, MADE_HERE
from pipelines.spec import PLACED, TASKS


def test_records_names_and_sections_agree() -> None:
    names = tuple(each.name for each in CONTENT_MODALITIES)
    assert names == CONTENT
    assert set(names) <= set(Recipe.model_fields) & set(MADE_HERE)
    assert tuple(each.name for each in CONTENT_MODALITIES if not each.light) == ENCODED
    assert {each.stage.name for each in CONTENT_MODALITIES if not each.light} == set(PLACED) - {TASKS}
    assert [f"embed {name}" for name in names] == list(ITEM_STAGES[: len(names)])


def test_a_recipe_has_the_contents_of_its_sections() -> None:
    assert contents(Recipe()) == []
    for each in CONTENT_MODALITIES:
        recipe = Recipe.model_validate({each.name: {}})
        assert [found.name for found, _ in contents(recipe)] == [each.name]
