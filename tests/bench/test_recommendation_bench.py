"""The recommendation benchmark on a small folder: its split, its simple rows against plain definitions, its tables."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import trained_here

from bench.__main__ import main
from bench.quality import generative
from bench.quality.catalogues import beauty
from bench.quality.generative import key_of
from bench.quality.made_by import HASHED_PACKAGES, code_hash
from bench.quality.recommendation import ROWS, item_knn, popularity
from bench.quality.representations import SeededSplit
from bench.quality.settings import HEADLINE, Settings
from bench.quality.split import WIDTH, Recommend, Split, split_of

ITEMS, USERS = 40, 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Users of two kinds: the items of one are even, those of the other odd."""
    folder = tmp_path / "amazon-beauty"
    folder.mkdir()
    items = [{"item_id": row + 1, "title": f"item {row}", "attributes": ["x"]} for row in range(ITEMS)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    draw = np.random.default_rng(0)
    taken = [draw.permutation(np.arange(user % 2, ITEMS, 2))[: draw.integers(5, 12)] + 1 for user in range(USERS)]
    lines = [" ".join(map(str, [user + 1, *rows])) for user, rows in enumerate(taken)]
    (folder / "sequences.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def split(data: Path) -> Split:
    return split_of(beauty(data))


def test_the_last_item_is_the_test_and_the_one_before_it_the_validation(data: Path, split: Split) -> None:
    lines = (data / "amazon-beauty" / "sequences.txt").read_text().splitlines()
    whole = [[int(name) - 1 for name in line.split()[1:]] for line in lines]
    assert [rows.tolist() for rows in split.train] == [rows[:-2] for rows in whole]
    assert [rows.tolist() for rows in split.given] == [rows[:-1] for rows in whole]
    assert split.test.tolist() == [rows[-1] for rows in whole]


def test_vectors_are_fitted_on_what_is_trained_on_whatever_the_times(data: Path) -> None:
    catalogue = beauty(data)
    draw = np.random.default_rng(0)
    timed = [
        list(zip(sorted(draw.integers(0, 1000, len(each)).tolist()), [row for _, row in each], strict=True))
        for each in catalogue.histories
    ]
    split = split_of(replace(catalogue, histories=timed, held_out=900))
    seen = SeededSplit(split.catalogue, 0, cold=0.0).with_cold
    names = [[catalogue.ids[row] for row in rows] for rows in split.train]
    assert [seen.names[item] for item in seen.item] == [name for each in names for name in each]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_neighbours_are_ranked_by_their_summed_cosine(split: Split, exclude_seen: bool) -> None:
    taken = np.zeros((USERS, ITEMS))
    for user, rows in enumerate(split.train):
        taken[user, rows] = 1
    length = np.maximum(1e-9, np.linalg.norm(taken, axis=0))
    cosine = taken.T @ taken / length[:, None] / length[None, :]
    np.fill_diagonal(cosine, 0.0)
    for history, row in zip(split.given, item_knn(split)(split.given, exclude_seen), strict=True):
        scores = cosine[history].sum(axis=0)
        if exclude_seen:
            scores[history] = 0.0
        row = row[row >= 0]
        assert len(row) == min(WIDTH, np.count_nonzero(scores))
        np.testing.assert_allclose(scores[row], np.sort(scores)[::-1][: len(row)])


def test_the_popular_are_those_of_the_training_events(split: Split) -> None:
    counts = np.bincount(np.concatenate(split.train), minlength=ITEMS)
    everyone = popularity(split)(split.given, False)
    assert (counts[everyone] == np.sort(counts)[::-1][:WIDTH]).all()
    unseen = popularity(split)(split.given, True)
    assert not any(np.isin(row, rows).any() for row, rows in zip(unseen, split.given, strict=True))


def test_it_prints_a_table_with_and_without_what_was_seen(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommendation", str(data), "--rows", "popularity", "item-knn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0 of the test items were taken by their user before." in lines
    assert sum(line.startswith("| item-knn |") for line in lines) == 2
    assert {line.count("|") for line in lines if line.startswith("|")} == {10}


def test_a_row_that_is_not_there_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommendation", str(data), "--rows", "popular"]) == 1
    assert "--rows popular: there is no such row; choose from popularity, item-knn, sasrec" in capsys.readouterr().err


class Sealed(Split):
    """A split that tells its test to nobody."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("test", "given"):
            raise AssertionError(f"{name} was read while a row was trained or chosen")
        return super().__getattribute__(name)


def small_settings() -> Settings:
    """The headline with all its parts, each of them small."""
    changes: dict[str, dict[str, Any]] = {
        "fusion": {"dim": 16, "hidden": 16, "heads": 2, "epochs": 1, "steps": 5},
        "codebook": {"levels": tuple(level.model_copy(update={"codes": 8}) for level in HEADLINE.codebook.levels)},
        "generator": {"dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ff": 16, "prefix_buckets": 64},
        "train": {"epochs": 2, "align_epochs": 1, "workers": 1, "checkpoint_steps": 0},
    }
    parts = {name: getattr(HEADLINE, name).model_copy(update=values) for name, values in changes.items()}
    return HEADLINE.model_copy(update=parts)


def kinds_of_rows() -> dict[str, Callable[[Split], Recommend]]:
    """A row of each kind, small where it has settings."""
    settings = small_settings()
    generators = {"dense": generative.dense, "generator": generative.generator, "reranked": generative.reranked}
    plain = {name: ROWS[name] for name in ("popularity", "item-knn", "sasrec")}
    return plain | {name: partial(row, settings=settings) for name, row in generators.items()}


def test_no_row_is_trained_or_chosen_on_the_test(
    data: Path, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of row, made of two splits whose tests differ and are sealed, names the same items."""
    monkeypatch.setattr(generative, "launch", trained_here)
    monkeypatch.setattr(generative, "connect", lambda compute: None)
    monkeypatch.setattr(generative, "machine_cpus", lambda: 1)
    last_changed = [[*each[:-1], (each[-1][0], (each[-1][1] + 2) % ITEMS)] for each in split.catalogue.histories]
    catalogues = (split.catalogue, replace(split.catalogue, histories=last_changed))
    found = []
    for number, catalogue in enumerate(catalogues):
        folder = tmp_path / f"cache-{number}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        parts = {each.name: getattr(split, each.name) for each in fields(Split)}
        sealed = Sealed(**{**parts, "catalogue": catalogue})
        recommend = {name: row(sealed) for name, row in kinds_of_rows().items()}
        found.append(
            {
                name: [ask(split.given, without_seen) for without_seen in (False, True)]
                for name, ask in recommend.items()
            }
        )
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


def test_settings_are_chosen_by_what_does_not_know_the_test(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With other test items every figure of the validation is the same, and no pair of it holds one of them."""
    command = ["recommendation", str(data), "--rows", "popularity", "item-knn", "--on"]

    def tables(part: str) -> list[str]:
        assert main([*command, part]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]

    before, validation, test = beauty(data), tables("validation"), tables("test")
    file = data / "amazon-beauty" / "sequences.txt"
    lines = [line.split() for line in file.read_text().splitlines()]
    file.write_text("".join(" ".join([*line[:-1], str((int(line[-1]) + 1) % ITEMS + 1)]) + "\n" for line in lines))
    assert tables("validation") == validation
    assert tables("test") != test
    seen, asked = beauty(data).before_the_test(), SeededSplit(beauty(data).before_the_test(), 0)
    assert seen.histories == before.before_the_test().histories
    newest = {(each[-2][1], each[-1][1]) for each in seen.histories}
    assert {tuple(pair) for pair in asked.pairs.tolist()} == newest | {(two, one) for one, two in newest}


def test_a_change_to_try_that_no_recipe_has_is_refused_before_anything_is_made(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommendation", str(data), "--rows", "dense", "--try", "fusion.hiden=3"]) == 1
    assert "fusion.hiden = 3: no such field; did you mean 'hidden'?" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_trained_once_is_not_trained_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["recommendation", str(data), "--rows", "sasrec", "dense", "reranked", "generator"]
    tables = []
    for _ in range(2):
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        tables.append([line for line in lines if line.startswith("|")])
        epochs = [line for line in lines if " epoch " in line]
        assert bool(epochs) == (len(tables) == 1)
    assert tables[0] == tables[1]
    recalls = {line.split("|")[1].strip(): float(line.split("|")[3]) for line in tables[0] if line[2] in "sdrg"}
    # One who knows of what kind a user is, and no more, finds half of what is taken among ten of twenty items.
    assert min(recalls["dense"], recalls["reranked"]) > 0.5, recalls


def test_what_is_kept_is_of_the_bytes_of_its_input_files_and_of_its_code(data: Path, tmp_path: Path) -> None:
    """A title changed, a source file edited, moved or added, a setting: each has a place of its own."""
    root = tmp_path / "code"
    for package in HASHED_PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "a.py").write_text("one = 1\n")

    def code() -> str:
        code_hash.cache_clear()
        return code_hash(root)

    first, hashes = code(), set[str]()
    assert code() == first
    for package in HASHED_PACKAGES:
        (root / package / "a.py").write_text("one = 2\n")
        hashes.add(code())
        (root / package / "a.py").rename(root / package / "b.py")
        hashes.add(code())
        (root / package / "c.py").touch()
        hashes.add(code())
    assert len(hashes | {first}) == 3 * len(HASHED_PACKAGES) + 1
    (root / "bench" / "notes.md").write_text("decides nothing")
    assert code() in hashes
    code_hash.cache_clear()

    split, spec = split_of(beauty(data)), small_settings().generator
    keys = [key_of(split, split.train, spec), key_of(split, split.train[1:], spec), key_of(split, split.train)]
    file = data / "amazon-beauty" / "items.jsonl"
    file.write_text(file.read_text().replace("item 7", "item seven"))
    other = split_of(beauty(data))
    keys.append(key_of(other, other.train, spec))
    assert len(set(keys)) == 4
    assert key_of(split_of(beauty(data)), split.train, spec) == keys[-1]


def test_vectors_that_are_kept_are_not_those_of_other_titles(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = beauty(data).text_vectors()
    file = data / "amazon-beauty" / "items.jsonl"
    file.write_text(file.read_text().replace('"item 7"', '"a red rose"'))
    after = beauty(data).text_vectors()
    assert (before != after).any(axis=1).nonzero()[0].tolist() == [7]
    np.testing.assert_array_equal(beauty(data).text_vectors(), after)
