"""`sidmill recipe init` proposes a recipe that loads and runs unchanged, and says why it proposes each line."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_shapes import SHAPES
from deltalake import write_deltalake
from PIL import Image

from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.draft.draft import Draft, draft_recipe
from flows.draft.shape import codes_for
from flows.preflight.preflight import PlannedRun, preflight
from flows.recipe import Recipe, load_recipe, parse_recipe
from pipelines.given.source import open_given
from pipelines.profile.sample import SAMPLE_ROWS
from storage.lake import Lake
from tokenizer.codebook import check_capacity


def recipe_of(draft: Draft) -> Recipe:
    return parse_recipe(tomllib.loads(draft.text))


def refusals(recipe: Recipe, items: Path, log: Path | None = None) -> tuple[list[str], list[str]]:
    """The lines of `recipe check` about rows, and its errors."""
    logs = [str(log)] if log else []
    found = preflight(PlannedRun("ingest", recipe.model_dump(mode="json"), [str(items)], logs))
    return found.lines["in a sample"], found.errors


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shop(count: int = 30) -> list[dict[str, object]]:
    return [{"sku": f"s{n}", "name": f"mug number {n}", "about": f"A mug that holds {n} ml."} for n in range(count)]


@pytest.mark.slow
def test_a_drafted_recipe_runs_unchanged_to_a_published_release(tmp_path: Path) -> None:
    items, log = SHAPES["movielens"](tmp_path)
    file = tmp_path / "recipe.toml"
    arguments = ["--items", str(items), "--interactions", str(log), "--output", str(file)]
    assert run_command(["recipe", "init", *arguments]) == 0
    result = bootstrap(str(tmp_path / "lake"), load_recipe(str(file)).model_dump(mode="json"), [str(items)], [str(log)])
    assert result["published"]
    assert Lake(str(tmp_path / "lake")).rows("sids") == 24


def test_columns_of_any_name_are_told_by_what_they_hold(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "items.jsonl", [{"nr": f"x-{n}", "what": f"a blue mug {n}"} for n in range(20)])
    rows = [f"2026-03-{n % 28 + 1:02d}T10:00:00Z,x-{n % 20},{n % 7}" for n in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["moment,thing,the_customer", *rows]) + "\n")
    recipe = recipe_of(draft_recipe([str(items)], [str(tmp_path / "log.csv")]))
    log = recipe.interactions
    assert (recipe.items.item_id, recipe.items.title) == ("nr", "what")
    assert (log.user_id, log.item_id, log.event_time) == ("the_customer", "thing", "moment")


def test_each_line_says_why_it_is_proposed(tmp_path: Path) -> None:
    rows = shop(30)
    rows[3]["name"] = rows[4]["name"] = ""
    draft = draft_recipe([str(jsonl(tmp_path / "items.jsonl", rows))], [])
    assert 'title = "name"         # 28 of 30 rows have a text' in draft.text
    assert "require_title = false  # 2 of 30 rows have none, and would be refused with true" in draft.text
    assert "#   about: 30 of 30 rows have a text, 30 different" in draft.text
    assert recipe_of(draft).text == Recipe.model_validate({"text": {"fields": ["title", "about"]}}).text


def test_long_texts_stand_behind_short_ones_and_codes_and_addresses_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {
            "id": n,
            "story": f"Chapter {n} of a story. " * 20,
            "title": f"book number {n}",
            "genre": ["crime", "poetry"][n % 2],
            "code": f"ZX{n:05d}",
            "page": f"https://shop.example/{n}",
            "price": f"{n}.5",
            "empty": None,
        }
        for n in range(20)
    ]
    recipe = recipe_of(draft_recipe([str(jsonl(tmp_path / "items.jsonl", rows))], []))
    assert recipe.text is not None
    assert recipe.text.fields == ("title", "genre", "story")


def test_flags_are_no_text(tmp_path: Path) -> None:
    rows = [
        {"id": f"i{n}", "title": f"mug {n}", "on_sale": n % 2 == 0, "gift": "yes" if n % 3 else "no"} for n in range(12)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recipe_of(draft_recipe([str(tmp_path / "items.jsonl")], [])).text.fields == ("title",)


def test_a_semicolon_file_with_decimal_commas_gets_the_setting_that_reads_it(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    rows = [f"s{n};Becher größer {n};{n},5" for n in range(20)]
    items.write_bytes("\n".join(["sku;name;preis", *rows, ""]).encode("cp1252"))
    recipe = recipe_of(draft_recipe([str(items)], []))
    csv = recipe.items.csv
    assert (csv.delimiter, csv.encoding, csv.decimal) == (";", "cp1252", ",")
    lines, errors = refusals(recipe, items)
    assert (errors, len(lines)) == ([], 1)
    assert ": 0 would be refused" in lines[0]


@pytest.mark.parametrize(
    ("cell", "setting", "value"), [("'{n}; a \"b\" {n}'", "quote", "'"), ('"a \\"b; {n}\\" c"', "quotes", "escaped")]
)
def test_quotes_that_are_not_the_usual_ones_are_found_out(tmp_path: Path, cell: str, setting: str, value: str) -> None:
    rows = [f"s{n};{cell.format(n=n)};1,5" for n in range(20)]
    (tmp_path / "items.csv").write_text("\n".join(["sku;name;preis", *rows, ""]))
    recipe = recipe_of(draft_recipe([str(tmp_path / "items.csv")], []))
    assert (recipe.items.csv.delimiter, getattr(recipe.items.csv, setting)) == (";", value)
    lines, errors = refusals(recipe, tmp_path / "items.csv")
    assert errors == []
    assert ": 0 would be refused" in lines[0]


def test_a_text_without_a_header_is_read_whose_first_line_the_usual_quotes_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("".join(f'{n},"\\"b\\", c"\n' for n in range(20)))
    draft = draft_recipe([str(tmp_path / "items.csv")], [])
    assert (draft.items.unreadable, draft.items.csv) == (0, {"quotes": "escaped"})


def test_usual_quotes_of_which_some_are_wrong_stay_the_usual_ones_and_the_reason_is_told(tmp_path: Path) -> None:
    rows = ['i0,"a, mug",1', *(f'i{n},"mug {n}",1' for n in range(20)), 'i20,"a mug,1', "i21,it's,1"]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,price", *rows, ""]))
    draft = draft_recipe([str(tmp_path / "items.csv")], [])
    assert (draft.items.csv, draft.items.unreadable) == ({}, 1)
    assert any("the first because: unpaired_quote: line 23: a quote opens a cell" in note for note in draft.notes)


def test_vectors_in_the_catalogue_become_given_vectors_of_their_width(tmp_path: Path) -> None:
    table = {"id": [f"i{n}" for n in range(12)], "title": [f"mug {n}" for n in range(12)]}
    vectors = pa.array([[float(n), *[1.0] * 15] for n in range(12)], pa.list_(pa.float32()))
    pq.write_table(pa.table({**table, "clip emb": vectors, "sizes": [[1, 2]] * 12}), tmp_path / "items.parquet")
    recipe = recipe_of(draft_recipe([str(tmp_path / "items.parquet")], []))
    assert list(recipe.vectors) == ["clip_emb"]
    assert open_given("clip_emb", recipe.vectors["clip_emb"]).dim == 16
    assert recipe.items.leave_out == ("clip emb",)


@pytest.mark.parametrize("written", [False, True])
def test_vectors_from_which_none_are_read_are_left_out_with_the_way_to_give_them(tmp_path: Path, written: bool) -> None:
    vectors = [[n / 7, *[0.25, -1e-05] * 8] for n in range(30)]
    rows = [{**row, "emb": str(each) if written else each} for row, each in zip(shop(), vectors, strict=True)]
    draft = draft_recipe([str(jsonl(tmp_path / "items.jsonl", rows))], [])
    recipe = recipe_of(draft)
    assert (recipe.items.leave_out, recipe.vectors) == (("emb",), {})
    assert '# [vectors.emb]\n# path = "emb.parquet"' in draft.text
    (note,) = draft.notes
    assert note.startswith("emb: vectors, as it seems, which are left out: given vectors are read from Parquet")
    alone = [{"sku": row["sku"], "emb": row["emb"]} for row in rows]
    (told,) = draft_recipe([str(jsonl(tmp_path / "alone.jsonl", alone))], []).lacking
    assert told.startswith("text.fields: no column holds text, pictures, shared values or readable vectors")


def test_pictures_beside_the_catalogue_are_read_and_those_on_the_web_are_left_to_the_user(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    near = jsonl(tmp_path / "near.jsonl", [{**row, "photo": "a.png"} for row in shop()])
    web = jsonl(tmp_path / "web.jsonl", [{**row, "photo": "https://shop.example/a.png"} for row in shop()])
    assert recipe_of(draft_recipe([str(near)], [])).image is not None
    draft = draft_recipe([str(web)], [])
    assert recipe_of(draft).items.image == "photo"
    assert recipe_of(draft).image is None
    assert "\n# [image]\n" in draft.text


def test_two_events_of_a_day_stay_two_where_the_log_has_days_alone(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "items.jsonl", shop())
    rows = [f"u{n % 5},s{n % 30},2026-03-{n % 28 + 1:02d}" for n in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["customer,sku,date", *rows]) + "\n")
    assert recipe_of(draft_recipe([str(items)], [str(tmp_path / "log.csv")])).interactions.repeats == "keep"


def test_a_file_that_is_there_is_overwritten_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, file = jsonl(tmp_path / "items.jsonl", shop()), tmp_path / "mine.toml"
    file.write_text("# mine\n")
    words = ["recipe", "init", "--items", str(items), "--output", str(file)]
    assert run_command(words) == 1
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "# mine\n"
    assert run_command([*words, "--force"]) == 0
    assert f"sidmill run bootstrap --recipe {file} --items {items}" in capsys.readouterr().out
    assert recipe_of(draft_recipe([str(items)], [])) == load_recipe(str(file))


def test_a_column_that_cannot_be_told_is_left_to_do_and_the_command_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = jsonl(tmp_path / "items.jsonl", shop())
    (tmp_path / "log.csv").write_text(
        "customer,sku,date\n" + "".join(f"u{n},s{n % 9},202204{n:02d}\n" for n in range(1, 29))
    )
    file = tmp_path / "recipe.toml"
    words = [
        "recipe",
        "init",
        "--items",
        str(items),
        "--interactions",
        str(tmp_path / "log.csv"),
        "--output",
        str(file),
    ]
    assert run_command(words) == 1
    told = capsys.readouterr().err
    assert "interactions.event_time: the column date does not fit" in told
    assert "it reads as 2022-04-01: write it with hyphens" in told
    assert "TO DO" in file.read_text()
    assert load_recipe(str(file)).interactions.user_id == "customer"


def test_a_suffix_that_is_not_read_is_answered_with_the_name_under_which_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, told in (("shop.sql", "put sql: before its name"), ("x.xlsx", "convert it")):
        (tmp_path / name).write_text("{}\n")
        assert run_command(["recipe", "init", "--items", str(tmp_path / name)]) == 1
        assert told in capsys.readouterr().err


def test_of_a_large_catalogue_a_sample_is_read_and_the_codes_suit_the_whole(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "items.jsonl", shop(40_000))
    draft = draft_recipe([str(items)], [])
    count = draft.items.count
    assert len(draft.items.rows) == SAMPLE_ROWS
    assert count is not None
    assert not count.exact
    assert abs(count.rows - 40_000) < 2_000
    assert [level.codes for level in recipe_of(draft).codebook.levels] == [256] * 3


@pytest.mark.parametrize("items", [1, 2, 9, 40, 1_000, 12_101, 10**6, 10**8])
def test_the_proposed_codes_hold_the_items_that_are_planned_for(items: int) -> None:
    levels = [{"codes": codes_for(items)}] * 3
    check_capacity(Recipe.model_validate({"codebook": {"levels": levels}}).codebook, items)


@pytest.mark.parametrize("name", ['a"b', "two\nlines", "[section]", "\x1b[31mred", "tab\there", "\x7f", "na = 1 #"])
def test_no_column_name_breaks_the_recipe_or_reaches_the_terminal_raw(name: str, tmp_path: Path) -> None:
    rows = [{name: f"i{n}", "title": f"{name} {n}", f"{name} text": f"words of {name} {n % 3}"} for n in range(12)]
    draft = draft_recipe([str(jsonl(tmp_path / "items.jsonl", rows))], [])
    recipe = recipe_of(draft)
    assert recipe.items.item_id == name
    assert recipe.text is not None
    assert recipe.text.fields == ("title", f"{name} text")
    assert "\x1b" not in draft.text
    assert "\x7f" not in draft.text


@pytest.mark.parametrize("make", [lambda folder: [], lambda folder: ["--items", str(folder)]])
def test_nothing_to_look_at_is_told_and_no_file_is_written(
    make: Callable[[Path], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "recipe.toml"
    assert run_command(["recipe", "init", *make(tmp_path), "--output", str(file)]) == 1
    assert capsys.readouterr().err.startswith("sidmill: error: ")
    assert not file.exists()


def test_a_catalogue_of_which_no_row_can_be_read_is_told_with_the_first_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items.jsonl").write_text("id 1\nid 2\n")
    words = ["recipe", "init", "--items", str(tmp_path / "items.jsonl"), "--output", str(tmp_path / "r.toml")]
    assert run_command(words) == 1
    assert "no row can be read (2 are refused, the first because: invalid_json" in capsys.readouterr().err


def test_secrets_of_addresses_in_the_data_are_not_shown(tmp_path: Path) -> None:
    rows = [{**row, "deleted": f"https://me:hidden@shop.example/{n % 3}?sig=hidden"} for n, row in enumerate(shop())]
    draft = draft_recipe([str(jsonl(tmp_path / "items.jsonl", rows))], [])
    assert recipe_of(draft).items.deleted == ""
    assert "shop.example" in draft.text
    assert "hidden" not in draft.text


def test_items_that_were_only_shown_are_no_behaviour_and_no_targets(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "items.jsonl", shop())
    kinds = ["Impression", "click", "buy"]
    log = jsonl(
        tmp_path / "log.jsonl",
        [
            {"user": f"u{n % 5}", "sku": f"s{n % 30}", "ts": 1_700_000_000 + n, "action": kinds[n % 3]}
            for n in range(60)
        ],
    )
    recipe = recipe_of(draft_recipe([str(items)], [str(log)]))
    assert recipe.interactions.event_type == "action"
    assert recipe.train.negative_events == ("Impression",)
    assert recipe.collaborative is not None
    assert recipe.collaborative.exclude_events == ("Impression",)


def test_a_catalogue_without_texts_is_told_apart_by_the_values_that_items_share(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": n, "maker": 100 + n % 4, "kind": n % 2, "weight": n / 7, "batch": 9} for n in range(40)
    ]
    recipe = recipe_of(draft_recipe([str(jsonl(tmp_path / "items.jsonl", rows))], []))
    assert recipe.text is None
    assert recipe.items.require_title is False
    assert recipe.attributes is not None
    assert recipe.attributes.fields == ("maker", "kind")


def test_a_delta_table_is_looked_at_by_version_and_its_vectors_are_read_from_the_table(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "item_id": [f"i{n}" for n in range(12)],
            "title": [f"blue mug {n}" for n in range(12)],
            "text": pa.array([[float(n)] * 8 for n in range(12)], pa.list_(pa.float32())),
        }
    )
    write_deltalake(str(tmp_path / "items"), rows)
    draft = draft_recipe([f"{tmp_path}/items@v0"], [])
    recipe = recipe_of(draft)
    assert str(draft.items) == "all 12 rows"
    assert recipe.vectors["text_given"].path == f"{tmp_path}/items"  # text is the name of vectors that sidmill makes
    assert open_given("text_given", recipe.vectors["text_given"]).dim == 8


def test_the_unit_of_times_is_left_open_where_their_sizes_differ(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "items.jsonl", shop())
    for scale, unit in ((1, "s"), (1000, "ms"), (10**6, "us"), (10**9, "ns"), (None, "auto")):
        times = [(1_700_000_000 + n) * (scale or (1000 if n % 2 else 1)) for n in range(60)]
        rows = [{"user_id": f"u{n % 5}", "sku": f"s{n % 30}", "time": when} for n, when in enumerate(times)]
        log = jsonl(tmp_path / "log.jsonl", list(rows))
        assert recipe_of(draft_recipe([str(items)], [str(log)])).interactions.time_unit == unit


def test_an_id_in_the_log_is_the_column_that_names_items_of_the_catalogue(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "items.jsonl", [{"isbn": f"97{n}", "title": f"book number {n}"} for n in range(30)])
    rows = [
        {"user_id": f"u{n % 5}", "product_id": f"p{n}", "book": f"97{n % 30}", "date": "2026-03-01"} for n in range(60)
    ]
    log = jsonl(tmp_path / "log.jsonl", list(rows))
    assert recipe_of(draft_recipe([str(items)], [str(log)])).interactions.item_id == "book"
