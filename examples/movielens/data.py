"""Cut MovieLens-100K by arrival: a first catalogue with its log, one night, and the later data.

The films and ratings are in the wheel of recbole 1.2.1, unpacked into a cache folder and read as plain files. A film
arrives with its first rating. The wheel has no pictures: a cover is rendered from title, year and genres, unless a
folder of posters has one.
"""

import colorsys
import csv
import hashlib
import json
import shutil
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw, ImageFont

FIRST, SECOND, LAST = "1998-02-15", "1998-03-15", "1998-04-23"
SLICES = {"1-bootstrap": FIRST, "2-night": SECOND, "3-later": LAST}
COVER_SIZE = (200, 300)


def prepare(movielens: Path, folder: Path, posters: Path | None) -> dict[str, Path]:
    """Write the three slices below `folder` once; return the folder of each."""
    name = hashlib.sha256(str(posters.resolve()).encode()).hexdigest()[:8] if posters else "rendered"
    target = folder / name
    if not (target / "complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        films, ratings = _films(movielens), _ratings(movielens)
        pictures = _posters(posters) if posters else {}
        lower = datetime(1970, 1, 1, tzinfo=UTC)
        for slice_name, date in SLICES.items():
            upper = datetime.fromisoformat(date).replace(tzinfo=UTC)
            _write_slice(target / slice_name, films, ratings, pictures, lower, upper)
            lower = upper
        (target / "complete").touch()
    return {slice_name: target / slice_name for slice_name in SLICES}


def _films(movielens: Path) -> list[dict[str, str]]:
    with (movielens / "ml-100k.item").open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return [
            {"movie_id": movie, "title": title, "year": year, "genres": ", ".join(genres.split())}
            for movie, title, year, genres in rows
        ]


def _ratings(movielens: Path) -> pl.DataFrame:
    table = pl.read_csv(movielens / "ml-100k.inter", separator="\t")
    renamed = table.rename({name: name.split(":")[0] for name in table.columns})
    return renamed.select(
        "user_id",
        pl.col("item_id").alias("movie_id"),
        "rating",
        pl.col("timestamp").cast(pl.Int64),
        pl.from_epoch(pl.col("timestamp").cast(pl.Int64)).dt.replace_time_zone("UTC").alias("time"),
        event_type=pl.lit("rating"),
    ).sort("timestamp", maintain_order=True)  # file order at equal times: film order would be learnable


def _posters(folder: Path) -> dict[str, Path]:
    """Return poster files by film, from DIR/items.csv with columns title ("Name (Year)") and poster (path or empty)."""
    with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
        return {row["title"]: folder / row["poster"] for row in csv.DictReader(file) if row["poster"]}


def _write_slice(
    folder: Path,
    films: list[dict[str, str]],
    ratings: pl.DataFrame,
    posters: dict[str, Path],
    lower: datetime,
    upper: datetime,
) -> None:
    first_rated = dict(ratings.group_by("movie_id").agg(pl.col("time").min()).iter_rows())
    (folder / "covers").mkdir(parents=True)
    with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
        for film in films:
            if not lower <= first_rated[int(film["movie_id"])] < upper:
                continue
            cover = folder / "covers" / f"{film['movie_id']}.jpg"
            poster = posters.get(f"{film['title']} ({film['year']})")
            if poster is not None and poster.is_file():
                shutil.copyfile(poster, cover)
            else:
                _render(film, cover)
            file.write(json.dumps({**film, "cover": f"covers/{cover.name}"}) + "\n")
    window = ratings.filter((pl.col("time") >= lower) & (pl.col("time") < upper))
    window.drop("time").write_csv(folder / "interactions.csv")


def _render(film: dict[str, str], path: Path) -> None:
    """Render a plain cover: the first genre decides the colour; title and year are written on it."""
    genre = film["genres"].split(",")[0]
    hue = hashlib.sha256(genre.encode()).digest()[0] / 255
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.55, 0.65))
    image = Image.new("RGB", COVER_SIZE, (red, green, blue))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 190, *COVER_SIZE), fill=(red // 3, green // 3, blue // 3))
    title = "\n".join(textwrap.wrap(film["title"], 14)[:5])
    draw.multiline_text((14, 20), title, font=ImageFont.load_default(24), fill="white", spacing=6)
    draw.text((14, 205), film["year"], font=ImageFont.load_default(36), fill="white")
    draw.text((14, 262), film["genres"][:26], font=ImageFont.load_default(14), fill="white")
    image.save(path, "JPEG", quality=85)
