"""Public catalogues for benchmarks on real data: items, texts, histories.

The folder holds amazon-beauty/ and movielens-posters/ (docs/tokenizers.md describes their content), and ml-100k/ with
the RecBole files that `make demo` leaves in .cache/movielens.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.quality.made_by import code_hash, hash_of_files
from infra.settings import configure
from pipelines.embed.attributes import MultiHot
from pipelines.embed.images import decode_image
from pipelines.embed.protocol import load_encoder
from pipelines.embed.text import TextEncoder
from pipelines.embed.vision import ImageEncoder
from pipelines.spec import AttributesSpec, ImageSpec, TextSpec

CACHE = Path(".cache/vectors")
# Lowest rating that counts as an item taken.
POSITIVE = 4.0
# Items encoded at a time.
AT_ONCE = 256


@dataclass(frozen=True)
class Catalogue:
    """A catalogue in rows: id, text, attributes, category and picture (or None) of each item.

    A history is (time, row) of the items a user took, oldest first. Times are integers; events from `held_out` on are
    held out. `inputs` is a hash of the bytes of all files it was read from.
    """

    name: str
    ids: list[str]
    texts: list[str]
    attributes: list[list[str]]
    categories: list[str]
    pictures: list[Path | None]
    histories: list[list[tuple[int, int]]]
    held_out: int
    inputs: str

    def before_the_test(self) -> "Catalogue":
        """Return the catalogue without its held-out events, with the same share of the rest held out, for tuning.

        If its cut is leave-last-out, the test event, which is the last of each user, is removed.
        """
        if self.held_out < 0:
            return replace(self, histories=[each[:-1] for each in self.histories]).leave_last_out()
        seen = [[(time, row) for time, row in each if time < self.held_out] for each in self.histories]
        return replace(self, histories=seen, held_out=_newest_tenth(seen))

    def leave_last_out(self) -> "Catalogue":
        """Return the catalogue with events numbered back from each user's last.

        One cut, two events before the end, is then leave-last-out for all users.
        """
        numbered = [[(at - len(each), row) for at, (_, row) in enumerate(each)] for each in self.histories]
        return replace(self, histories=numbered, held_out=-2)

    def text_vectors(self) -> NDArray[np.float32]:
        """Return MiniLM vectors, float32 (N, 384), cached; an empty text becomes the word "untitled"."""
        encoder = TextEncoder(TextSpec(encoder="packaged-minilm", fields=("title",)))
        order = np.argsort([len(text) for text in self.texts], kind="stable")

        def encode(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return encoder.encode([self.texts[row].strip() or "untitled" for row in rows])

        return _kept(self._file("text"), len(self.ids), order, encode)

    def attribute_vectors(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return multi-hot vectors of the attributes, float32 (N, 256), and a mask of the items with some."""
        encoder = MultiHot(AttributesSpec(fields=("attributes",)))
        present = np.array([bool(values) for values in self.attributes])
        contents = [json.dumps([["attributes", value] for value in values]) for values in self.attributes]
        return encoder.encode(contents), present

    def image_vectors(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return ViT-S/14 vectors, float32 (N, 384), cached, and a mask of the items with one."""
        present = np.array([picture is not None for picture in self.pictures])
        if not present.any():
            return np.zeros((len(self.ids), 1), np.float32), present
        spec = ImageSpec()
        encoder: ImageEncoder = load_encoder(spec)

        def encode(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            paths = [path for path in (self.pictures[row] for row in rows) if path is not None]
            pictures = (decode_image(path.read_bytes(), spec.max_pixels, spec.formats) for path in paths)
            return encoder.encode([encoder.prepare(picture) for picture in pictures])

        return _kept(self._file("images"), len(self.ids), np.flatnonzero(present), encode), present

    def _file(self, what: str) -> Path:
        """Return the file of cached vectors, which differs for other input files or other code."""
        return CACHE / f"{self.name}-{what}-{self.inputs}-{code_hash()}.npy"


def _kept(
    path: Path, items: int, rows: NDArray[np.int64], encode: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    if not path.exists():
        configure()
        parts = [encode(rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE)]
        found = np.zeros((items, parts[0].shape[1]), np.float32)
        found[rows] = np.concatenate(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
    return np.asarray(np.load(path), np.float32)


def beauty(folder: Path, category: str = "") -> Catalogue:
    """Read Amazon Beauty, or one category of it with users who took 4 of its items. It has order, not times."""
    folder = folder / "amazon-beauty"
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    ids = [str(row["item_id"]) for row in rows]
    place = {item: row for row, item in enumerate(ids)}
    taken = [[place[item] for item in line.split()[1:]] for line in (folder / "sequences.txt").read_text().splitlines()]
    if category:
        kept = [row for row, each in enumerate(rows) if category in each["attributes"]]
        rows, ids, among = [rows[row] for row in kept], [ids[row] for row in kept], set(kept)
        taken = [[row for row in history if row in among] for history in taken]
        taken = [np.searchsorted(kept, history).tolist() for history in taken if len(history) > 3]
    common = _common([row["attributes"] for row in rows])
    return Catalogue(
        name=f"amazon-beauty {category}".strip().lower().replace(" ", "-"),
        ids=ids,
        texts=[row["title"] for row in rows],
        attributes=[row["attributes"] for row in rows],
        categories=[next((each for each in row["attributes"] if each in common), "") for row in rows],
        pictures=[None] * len(ids),
        histories=[list(enumerate(history)) for history in taken],
        held_out=0,
        inputs=hash_of_files(folder, [folder / "items.jsonl", folder / "sequences.txt"]),
    ).leave_last_out()


def movielens(folder: Path) -> Catalogue:
    """Read MovieLens with posters: ratings of 4 or more, the newest tenth held out. The category is the first genre."""
    folder = folder / "movielens-posters"
    with (folder / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = [folder / row["poster"] if row["poster"] else None for row in rows]
    place = {row["movieId"]: number for number, row in enumerate(rows)}
    histories: dict[str, list[tuple[int, int]]] = {}
    with (folder / "ratings.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if float(row["rating"]) >= POSITIVE and row["movieId"] in place:
                histories.setdefault(row["userId"], []).append((int(row["timestamp"]), place[row["movieId"]]))
    return Catalogue(
        name="movielens-posters",
        ids=[row["movieId"] for row in rows],
        texts=[f"{row['title']} {row['genres'].replace('|', ', ')}" for row in rows],
        attributes=[[] for _ in rows],  # the text contains the genres
        categories=[row["genres"].split("|")[0] for row in rows],
        pictures=pictures,
        histories=[sorted(history) for history in histories.values()],
        held_out=_newest_tenth([sorted(history) for history in histories.values()]),
        inputs=hash_of_files(folder, {folder / "items.csv", folder / "ratings.csv", *filter(None, pictures)}),
    )


def ml_100k(folder: Path) -> Catalogue:
    """Read MovieLens-100K: ratings of 4 or more, the newest tenth held out. The category is the first genre."""
    folder = folder / "ml-100k"
    films, ratings = folder / "ml-100k.item", folder / "ml-100k.inter"
    rows = [line.split("\t") for line in films.read_text().splitlines()[1:]]
    place = {row[0]: number for number, row in enumerate(rows)}
    histories: dict[str, list[tuple[int, int]]] = {}
    for line in ratings.read_text().splitlines()[1:]:
        user, item, rating, time = line.split("\t")
        if float(rating) >= POSITIVE:
            histories.setdefault(user, []).append((int(time), place[item]))
    return Catalogue(
        name="ml-100k",
        ids=[row[0] for row in rows],
        texts=[f"{title} {year} {genres}" for _, title, year, genres in rows],
        attributes=[[] for _ in rows],  # the text contains the genres
        categories=[genres.split(" ")[0] for _, _, _, genres in rows],
        pictures=[None] * len(rows),
        histories=[sorted(history) for history in histories.values()],
        held_out=_newest_tenth(list(histories.values())),
        inputs=hash_of_files(folder, [films, ratings]),
    )


def _newest_tenth(histories: list[list[tuple[int, int]]]) -> int:
    """Return the first time of the newest tenth of all events."""
    times = np.sort([time for history in histories for time, _ in history])
    return int(times[int(0.9 * len(times))])


CATALOGUES: dict[str, Callable[[Path], Catalogue]] = {
    "amazon-beauty": beauty,
    "amazon-beauty-skin-care": partial(beauty, category="Skin Care"),
    "movielens-posters": movielens,
    "ml-100k": ml_100k,
}


def _common(attributes: list[list[str]], least: float = 0.03) -> set[str]:
    """Return the attributes that at least this share of the items has."""
    names, counts = np.unique([each for row in attributes for each in row], return_counts=True)
    return set(names[counts >= least * len(attributes)])
