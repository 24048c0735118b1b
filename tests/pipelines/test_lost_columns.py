"""A delivery whose items have no value any more in a column, such as a file that lacks it, is noticed."""

from pathlib import Path

import pytest
from source_rows import ingest_new

from pipelines.sources.source_spec import ItemsSpec
from storage.lake import Lake
from storage.releases.catalogue import catalogue

FIRST = "item_id,title,brand,price\n1,mug,acme,3\n2,cup,acme,4\n"


@pytest.mark.parametrize(
    ("later", "lost"),
    [
        ("item_id,title,price\n1,mug,3\n2,cup,4\n", ("brand",)),
        ("item_id,brand,price\n1,acme,3\n", ("title",)),
        ("item_id,title,brand,price\n1,mug,,3\n2,cup,,4\n", ("brand",)),
        ("item_id,title,brand,price\n1,mug,,3\n2,cup,other,4\n", ()),
        ("item_id,title\n3,jug\n", ()),
        ("item_id,deleted\n1,true\n", ()),
        ("item_id,title,brand,price\n1,mug,acme,3\n", ()),
    ],
)
def test_columns_that_changed_items_lose_are_told(tmp_path: Path, later: str, lost: tuple[str, ...]) -> None:
    lake, spec = Lake(str(tmp_path / "lake")), ItemsSpec(require_title=False)
    for name, text in (("first.csv", FIRST), ("later.csv", later)):
        (tmp_path / name).write_text(text)
        (done,) = ingest_new(lake, str(tmp_path / name), spec)
    assert done.lost == lost
    assert len(catalogue(lake)) == (3 if "jug" in later else 2)


def test_a_column_that_the_recipe_leaves_out_from_now_on_is_no_loss(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (tmp_path / "a.csv").write_text(FIRST)
    ingest_new(lake, str(tmp_path / "a.csv"))
    (done,) = ingest_new(lake, str(tmp_path / "a.csv"), ItemsSpec(leave_out=["brand"]))
    assert done.lost == ()
    assert catalogue(lake)["attributes"].to_list() == ['{"price": "3"}', '{"price": "4"}']
