"""`sidmill recipe init` recognises public data sets by their columns, and says how to convert raw files."""

import gzip
import json
import subprocess
from pathlib import Path

import pytest
from data_shapes import SHAPES
from test_recipe_init import recipe_of, refusals

from flows.cli.main import run_command
from flows.draft.draft import draft_recipe
from flows.recipe import Recipe
from pipelines.profile.presets import presets, raw_file

MAPPED = {  # item, title, image; user, item, time, unit, type, value
    "amazon-2014": ("asin", "title", "imUrl", "reviewerID", "asin", "unixReviewTime", "s", "event_type", "overall"),
    "amazon-2023": (
        "parent_asin",
        "title",
        "images",
        "user_id",
        "parent_asin",
        "timestamp",
        "ms",
        "event_type",
        "rating",
    ),
    "movielens": ("movieId", "title", "image", "userId", "movieId", "timestamp", "s", "event_type", "rating"),
    "mind": ("news_id", "title", "image", "user_id", "news_id", "time", "auto", "clicked", "value"),
    "yelp": ("business_id", "name", "image", "user_id", "business_id", "date", "auto", "event_type", "stars"),
    "kuairand": ("video_id", "title", "image", "user_id", "video_id", "time_ms", "ms", "is_click", "play_time_ms"),
    "hm": ("article_id", "prod_name", "image", "customer_id", "article_id", "t_dat", "auto", "event_type", "price"),
    "merrec": ("item_id", "name", "image", "user_id", "item_id", "stime", "auto", "event_id", "price"),
    "recbole": (
        *("item_id:token", "movie_title:token_seq", "image"),
        *("user_id:token", "item_id:token", "timestamp:float", "s", "event_type", "rating:float"),
    ),
}


def test_every_preset_has_a_shape_here() -> None:
    assert {preset.name for preset in presets()} == set(SHAPES) == set(MAPPED)


@pytest.mark.parametrize("name", SHAPES)
def test_a_public_data_set_is_known_by_its_columns_and_no_row_of_it_is_refused(name: str, tmp_path: Path) -> None:
    items, log = SHAPES[name](tmp_path)
    draft = draft_recipe([str(items)], [str(log)])
    recipe = recipe_of(draft)
    assert (draft.preset, draft.lacking, draft.notes) == (name, (), ())
    catalogue, events = recipe.items, recipe.interactions
    assert MAPPED[name] == (
        *(catalogue.item_id, catalogue.title, catalogue.image),
        *(events.user_id, events.item_id, events.event_time, events.time_unit, events.event_type, events.value),
    )
    lines, errors = refusals(recipe, items, log)
    assert errors == []
    assert [line.split(": ", 1)[1] for line in lines] == ["0 would be refused (0.0%)"] * 2


def test_presets_set_what_the_columns_alone_do_not_say(tmp_path: Path) -> None:
    made: dict[str, Recipe] = {}
    for name, shape in SHAPES.items():
        (tmp_path / name).mkdir()
        items, log = shape(tmp_path / name)
        made[name] = recipe_of(draft_recipe([str(items)], [str(log)]))
    for name in ("mind", "kuairand"):  # shown and not clicked
        assert made[name].train.negative_events == ("0",)
        assert made[name].collaborative is not None
        assert made[name].collaborative.exclude_events == ("0",)
    assert made["mind"].items.csv.quotes == "none"
    assert made["hm"].interactions.repeats == "keep"
    assert made["merrec"].interactions.event_id == ""
    assert made["yelp"].coordinates is not None
    assert made["yelp"].interactions.event_id == "review_id"
    assert made["kuairand"].text is None
    assert made["kuairand"].attributes is not None
    assert made["kuairand"].items.require_title is False


def test_a_catalogue_with_several_rows_an_item_is_told_with_what_the_preset_says(tmp_path: Path) -> None:
    _, log = SHAPES["merrec"](tmp_path)
    notes = draft_recipe([str(log)], []).notes
    assert "46 rows of the catalogue's sample repeat an id in item_id" in notes[0]
    assert "scan_parquet" in notes[1]


def run_advice(path: Path, begin: str, **names: str) -> None:
    """Run the command in the advice about a file, as a reader would who pastes it."""
    raw = raw_file(str(path))
    assert raw is not None
    command = raw.advice[raw.advice.index(begin) :]
    for name, value in names.items():
        command = command.replace(name, value)
    subprocess.run(["bash", "-c", command], cwd=path.parent, check=True)


def test_what_is_advised_for_mind_makes_its_files_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    news = [
        f'N{n}\tsports\tgolf\tThe "best putt number {n}\tA story, told {n} times.\thttps://x.example\t[{{"a": 1}}]\t[]'
        for n in range(9)
    ]
    (tmp_path / "news.tsv").write_text("\n".join(news) + "\n")
    seen = [f"{n}\tU{n % 3}\t11/{n + 1}/2019 12:05:09 AM\tN1 N2\tN{n % 9}-1 N{(n + 1) % 9}-0" for n in range(9)]
    seen[0] = seen[0].replace("12:05:09 AM", "1:05:09 PM")
    (tmp_path / "behaviors.tsv").write_text("\n".join(seen) + "\n")
    words = ["recipe", "init", "--items", str(tmp_path / "news.tsv"), "--output", str(tmp_path / "recipe.toml")]
    assert run_command([*words, "--interactions", str(tmp_path / "behaviors.tsv")]) == 1
    assert "behaviors.tsv of MIND, which has no header" in capsys.readouterr().err
    run_advice(tmp_path / "behaviors.tsv", "awk")
    lines = (tmp_path / "log.tsv").read_text().splitlines()
    assert lines[1:4] == [
        "0\tU0\t2019-11-01T13:05:09\tN0\t1",
        "0\tU0\t2019-11-01T13:05:09\tN1\t0",
        "1\tU1\t2019-11-02T00:05:09\tN1\t1",
    ]
    assert_read(tmp_path / "news.tsv", tmp_path / "log.tsv", "mind")


def assert_read(items: Path, log: Path, preset: str) -> Recipe:
    """Draft a recipe for two files of a public data set; none of their rows is refused."""
    draft = draft_recipe([str(items)], [str(log)])
    assert (draft.preset, draft.lacking, draft.notes) == (preset, (), ())
    recipe = recipe_of(draft)
    lines, errors = refusals(recipe, items, log)
    assert errors == []
    assert [line.split(": ", 1)[1] for line in lines] == ["0 would be refused (0.0%)"] * 2
    return recipe


def test_files_of_movielens_without_a_header_are_read_as_they_are(tmp_path: Path) -> None:
    films = [f"{n}::Caf\xe9 number {n} (199{n % 10})::Drama|Comedy" for n in range(1, 60)]
    (tmp_path / "movies.dat").write_bytes("\n".join(films).encode("latin-1"))
    (tmp_path / "ratings.dat").write_text(
        "".join(f"{n % 7}::{n}::{n % 5 + 1}::{978300760 + n}\n" for n in range(1, 60))
    )
    recipe = assert_read(tmp_path / "movies.dat", tmp_path / "ratings.dat", "movielens")
    assert (recipe.items.csv.delimiter, recipe.items.csv.encoding) == ("::", "cp1252")
    assert recipe.interactions.time_unit == "s"


def test_files_of_movielens_100k_are_read_as_they_are(tmp_path: Path) -> None:
    films = [f"{n}|Film number {n} (1995)|01-Jan-1995||http://x.example/{n}|{'|'.join('0' * 19)}" for n in range(1, 60)]
    (tmp_path / "u.item").write_text("\n".join(films) + "\n")
    (tmp_path / "u.data").write_text("".join(f"{n % 7}\t{n}\t{n % 5 + 1}\t{881250949 + n}\n" for n in range(1, 60)))
    recipe = assert_read(tmp_path / "u.item", tmp_path / "u.data", "movielens")
    assert (recipe.items.item_id, recipe.items.title) == ("movieId", "title")


def test_files_of_yelp_and_reviews_of_amazon_2014_are_read_under_their_names(tmp_path: Path) -> None:
    items, log = SHAPES["yelp"](tmp_path)
    business, review = tmp_path / "yelp_academic_dataset_business.json", tmp_path / "yelp_academic_dataset_review.json"
    items.rename(business)
    log.rename(review)
    assert_read(business, review, "yelp")
    items, log = SHAPES["amazon-2014"](tmp_path)
    reviews = tmp_path / "reviews_Beauty_5.json.gz"
    reviews.write_bytes(gzip.compress(log.read_bytes()))
    assert_read(items, reviews, "amazon-2014")


def test_the_metadata_of_amazon_2014_get_their_advice_under_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"asin": f"B{n}", "title": f"It's mug {n}"} for n in range(5)]
    path = tmp_path / "meta_Beauty.json.gz"
    path.write_bytes(gzip.compress("".join(f"{row!r}\n" for row in rows).encode()))
    for verb, name in (("init", "META"), ("check", "meta_Beauty")):
        assert run_command(["recipe", verb, "--items", str(path)]) == 1
        told = capsys.readouterr()
        assert f"zcat {name}.json.gz | python3 -c" in " ".join((told.out + told.err).split())


def test_what_is_advised_for_the_metadata_of_amazon_2014_makes_it_json(tmp_path: Path) -> None:
    rows = [{"asin": f"B{n}", "title": f"It's mug {n}", "imUrl": f"http://x.example/{n}.jpg"} for n in range(5)]
    (tmp_path / "meta.json").write_text("".join(f"{row!r}\n" for row in rows))
    subprocess.run(["gzip", "meta.json"], cwd=tmp_path, check=True)
    run_advice(tmp_path / "meta.json.gz", "zcat", META="meta")
    assert [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()] == rows
