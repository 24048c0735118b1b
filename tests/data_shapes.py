"""A few rows in the shape of each public data set that has a preset, made by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, object]
SECOND = 1_600_000_000
WORDS = ["red", "blue", "green", "small", "large", "round"]
THINGS = ["mug", "pan", "lamp", "chair", "rope", "book"]


def _titles(count: int = 24) -> list[str]:
    return [f"{WORDS[n % 6]} {THINGS[(n // 6) % 6]}" for n in range(count)]


def _jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _csv(path: Path, rows: list[Row], delimiter: str = ",") -> Path:
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    path.write_text("".join(delimiter.join(line) + "\n" for line in cells))
    return path


def amazon_2014(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "asin": f"B{n:05d}",
            "title": title,
            "imUrl": f"http://images.example/{n}.jpg",
            "brand": WORDS[n % 3].title(),
            "categories": [["Home", THINGS[n % 6]]],
            "related": {"also_bought": ["B00001"]},
            "price": 3.5 + n,
        }
        for n, title in enumerate(_titles())
    ]
    log = [
        {"reviewerID": f"A{n % 7}", "asin": f"B{n % 24:05d}", "overall": 5.0, "unixReviewTime": SECOND + n * 86_400}
        for n in range(70)
    ]
    return _jsonl(folder / "items.jsonl", items), _jsonl(folder / "log.jsonl", log)


def amazon_2023(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "main_category": "Home",
            "title": title,
            "average_rating": 4.2,
            "images": [{"thumb": f"https://images.example/{n}-t.jpg", "large": f"https://images.example/{n}.jpg"}],
            "store": WORDS[n % 3].title(),
            "categories": ["Home", THINGS[n % 6]],
            "features": [],
            "description": [f"A {title} for the {THINGS[n % 5]} shelf."],
            "parent_asin": f"B{n:05d}",
        }
        for n, title in enumerate(_titles())
    ]
    log = [
        {
            "rating": 4.0,
            "title": "Good",
            "text": "I like it",
            "asin": f"C{n % 24:05d}",
            "parent_asin": f"B{n % 24:05d}",
            "user_id": f"U{n % 7}",
            "timestamp": (SECOND + n * 3600) * 1000,
            "verified_purchase": True,
        }
        for n in range(70)
    ]
    return _jsonl(folder / "items.jsonl", items), _jsonl(folder / "log.jsonl", log)


def movielens(folder: Path) -> tuple[Path, Path]:
    items = [
        {"movieId": n + 1, "title": f'"{each} (1995)"', "genres": ["Comedy|Drama", "Crime"][n % 2]}
        for n, each in enumerate(_titles())
    ]
    log = [{"userId": n % 7, "movieId": n % 24 + 1, "rating": 3.5, "timestamp": SECOND + n} for n in range(70)]
    return _csv(folder / "movies.csv", items), _csv(folder / "ratings.csv", log)


def mind(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "news_id": f"N{n}",
            "category": ["news", "sports"][n % 2],
            "subcategory": f"sub {THINGS[n % 6]}",
            "title": f'The "{title} of the year',
            "abstract": f"A story about a {title}, told in two sentences. It ends well.",
            "url": f"https://news.example/{n}.html",
            "title_entities": '[{"Label": "Mug", "Type": "O"}]',
            "abstract_entities": "[]",
        }
        for n, title in enumerate(_titles())
    ]
    log = [
        {
            "impression_id": n,
            "user_id": f"U{n % 7}",
            "time": f"2019-11-{n % 28 + 1:02d}T08:55:22",
            "news_id": f"N{n % 24}",
            "clicked": n % 2,
        }
        for n in range(70)
    ]
    return _csv(folder / "items.tsv", items, "\t"), _csv(folder / "log.tsv", log, "\t")


def yelp(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "business_id": f"biz-{n}",
            "name": title,
            "city": "Reno",
            "state": "NV",
            "latitude": 39.5 + n / 100,
            "longitude": -119.8,
            "stars": 4.5,
            "review_count": 3 + n,
            "is_open": 1,
            "attributes": {"WiFi": "free"},
            "categories": f"Shops, {THINGS[n % 6].title()}s",
        }
        for n, title in enumerate(_titles())
    ]
    log = [
        {
            "review_id": f"r{n}",
            "user_id": f"u{n % 7}",
            "business_id": f"biz-{n % 24}",
            "stars": 4.0,
            "useful": 0,
            "text": "Nice",
            "date": f"2018-07-{n % 28 + 1:02d} 22:09:11",
        }
        for n in range(70)
    ]
    return _jsonl(folder / "business.jsonl", items), _jsonl(folder / "review.jsonl", log)


def kuairand(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "video_id": n,
            "author_id": n % 5,
            "video_type": "NORMAL",
            "upload_dt": "2022-04-01",
            "upload_type": "LongImport",
            "video_duration": 17000.0,
            "music_id": n % 9,
            "tag": n % 6,
        }
        for n in range(24)
    ]
    log = [
        {
            "user_id": n % 7,
            "video_id": n % 24,
            "date": 20220408,
            "hourmin": 1500,
            "time_ms": (SECOND + n) * 1000,
            "is_click": n % 2,
            "is_like": 0,
            "play_time_ms": 5822,
            "duration_ms": 19960,
        }
        for n in range(70)
    ]
    return _csv(folder / "videos.csv", items), _csv(folder / "log.csv", log)


def hm(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "article_id": f"01087750{n:02d}",
            "product_code": 108775,
            "prod_name": title,
            "product_type_name": "Vest top",
            "colour_group_name": WORDS[n % 3],
            "department_name": f"Dept {n % 4}",
            "detail_desc": f"A {title} in soft jersey",
        }
        for n, title in enumerate(_titles())
    ]
    log = [
        {
            "t_dat": f"2018-09-{n % 5 + 20}",
            "customer_id": f"{n % 7:064x}",
            "article_id": f"01087750{n % 24:02d}",
            "price": 0.05,
            "sales_channel_id": 2,
        }
        for n in range(70)
    ]
    return _csv(folder / "articles.csv", items), _csv(folder / "transactions.csv", log)


def merrec(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "item_id": 900 + n,
            "name": title,
            "price": 10.0 + n,
            "color": WORDS[n % 3],
            "c0_name": "Home",
            "c1_name": THINGS[n % 6],
            "c2_name": "Used",
            "brand_name": WORDS[n % 4].title(),
            "size_name": "M",
        }
        for n, title in enumerate(_titles())
    ]
    kinds = ["item_view", "item_view", "item_like", "buy_comp"]
    log = [
        {
            "user_id": n % 7,
            "sequence_id": n % 7,
            "session_id": n % 3,
            "stime": SECOND * 1_000_000 + n,
            "item_id": 900 + n % 24,
            "event_id": kinds[n % 4],
            "name": "x",
            "price": 10.0,
            "c0_name": "Home",
            "brand_name": "Red",
        }
        for n in range(70)
    ]
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    rows = pa.Table.from_pylist(log)
    times = rows["stime"].cast(pa.timestamp("us", "UTC"))
    pq.write_table(rows.set_column(rows.schema.get_field_index("stime"), "stime", times), folder / "log.parquet")
    return folder / "items.parquet", folder / "log.parquet"


def recbole(folder: Path) -> tuple[Path, Path]:
    items = [
        {
            "item_id:token": n + 1,
            "movie_title:token_seq": title,
            "release_year:token": 1995,
            "class:token_seq": f"Comedy {THINGS[n % 6]}",
        }
        for n, title in enumerate(_titles())
    ]
    log = [
        {"user_id:token": n % 7, "item_id:token": n % 24 + 1, "rating:float": 3, "timestamp:float": SECOND + n}
        for n in range(70)
    ]
    return _csv(folder / "shop.item", items, "\t"), _csv(folder / "shop.inter", log, "\t")


SHAPES: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "amazon-2014": amazon_2014,
    "amazon-2023": amazon_2023,
    "movielens": movielens,
    "mind": mind,
    "yelp": yelp,
    "kuairand": kuairand,
    "hm": hm,
    "merrec": merrec,
    "recbole": recbole,
}
