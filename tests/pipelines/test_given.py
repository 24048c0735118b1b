"""Vectors that were made elsewhere are stored bit for bit; a bad row costs that row, a bad source is one message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deletion_vectors import mark_deleted
from deltalake import WriterProperties, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from flows.inspect.status import refused_rows
from pipelines.given.inventory import current_pairs, inventory_of, store_inventory
from pipelines.given.source import GivenSource, open_given
from pipelines.sources.row import SourceError
from pipelines.spec import GivenSpec
from pipelines.vector_store import matrix
from storage.commit import Provenance
from storage.hashing.packed import as_text
from storage.lake import Lake
from storage.quarantine import open_rows

FINGERPRINT = "f" * 16
RUN = Provenance("run", "recipe")
DIM = 4


def catalogue(*ids: str) -> pl.DataFrame:
    return pl.DataFrame({"item_id": sorted(ids)}, schema={"item_id": pl.String})


def lists(values: Any) -> pa.Array:
    return pa.array(list(values), pa.list_(pa.from_numpy_dtype(values.dtype)))


def fixed(values: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def parquet(path: Path, ids: Any, vectors: Any, **options: Any) -> GivenSpec:
    pq.write_table(pa.table({"item_id": ids, "vector": vectors}), path, **options)
    return GivenSpec(path=str(path))


def stored(lake: Lake) -> dict[str, bytes]:
    rows = lake.frame("vectors").sort("item_id")
    return dict(zip(rows["item_id"], (row.tobytes() for row in matrix(rows)), strict=True))


def read(lake: Lake, spec: GivenSpec, *ids: str) -> dict[str, int]:
    """Read and store a source for a catalogue of these ids; return its counts with the reasons."""
    found = inventory_of(open_given("mine", spec), lambda _: catalogue(*ids))
    counts = store_inventory(lake, found, FINGERPRINT, RUN, lambda rows: None)
    plain = {"stored": counts.out, "unchanged": counts.unchanged, **counts.by_reason}
    return {str(name): rows for name, rows in {**plain, "unknown": found.unknown, "absent": found.absent}.items()}


def as_matrix_file(folder: Path, values: Any, ids: list[str]) -> GivenSpec:
    np.save(folder / "m.npy", values)
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    return GivenSpec(path=str(folder / "m.npy"), ids=str(folder / "ids.txt"))


def as_table(folder: Path, values: Any, ids: list[str]) -> GivenSpec:
    write_deltalake(str(folder / "table"), pa.table({"item_id": ids, "vector": lists(values)}))
    return GivenSpec(path=str(folder / "table"))


def as_folder(folder: Path, values: Any, ids: list[str]) -> GivenSpec:
    (folder / "parts").mkdir()
    half = len(ids) // 2
    for part in (slice(None, half), slice(half, None)):
        parquet(folder / "parts" / f"{part.start}.parquet", ids[part], lists(values[part]), row_group_size=2)
    return GivenSpec(path=str(folder / "parts"))


WAYS: dict[str, Callable[[Path, Any, list[str]], GivenSpec]] = {
    "lists": lambda folder, values, ids: parquet(folder / "a.parquet", ids, lists(values), row_group_size=3),
    "fixed-size lists": lambda folder, values, ids: parquet(folder / "a.parquet", ids, fixed(values)),
    "a folder": as_folder,
    "a matrix": as_matrix_file,
    "a Delta table": as_table,
}
CELLS = [  # Delta has no float16
    (np.float16, st.floats(width=16, allow_nan=False, allow_infinity=False)),
    (np.float32, st.floats(-(2.0**60), 2.0**60, width=32)),
    (np.float64, st.floats(-1e18, 1e18)),
    (np.int8, st.integers(-128, 127)),
]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_stored_vectors_are_the_given_ones_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, way: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("given")
    dtype, cells = data.draw(st.sampled_from(CELLS[way == "a Delta table" :]))
    values = data.draw(arrays(dtype, (7, DIM), elements=cells))
    values[:, 0] = 1  # none is all zero
    ids = [f"i{row}" for row in range(7)]
    lake = Lake(str(folder / "lake"))
    assert read(lake, WAYS[way](folder, values, ids), *ids)["stored"] == 7
    assert stored(lake) == {item: row.astype(np.float32).tobytes() for item, row in zip(ids, values, strict=True)}


def test_what_is_stored_is_neither_written_nor_read_again_and_a_changed_vector_is_new(tmp_path: Path) -> None:
    lake, ids = Lake(str(tmp_path / "lake")), [f"i{row}" for row in range(6)]
    values = np.arange(24, dtype=np.float32).reshape(6, DIM)
    spec = parquet(tmp_path / "a.parquet", ids, lists(values), row_group_size=2)
    assert read(lake, spec, *ids)["stored"] == 6
    version = lake.version("vectors")
    assert read(lake, spec, *ids) == {"stored": 0, "unchanged": 6, "unknown": 0, "absent": 0}
    assert lake.version("vectors") == version
    values[5] += 1
    parquet(tmp_path / "a.parquet", ids, lists(values), row_group_size=2)
    source, reads = counted(open_given("mine", spec))
    found = inventory_of(source, lambda _: catalogue(*ids))
    assert reads == [0, 1, 2]
    assert store_inventory(lake, found, FINGERPRINT, RUN, lambda rows: None).out == 1
    assert reads == [0, 1, 2, 2], "of the second reading, only the part with the new vector"
    pairs = current_pairs(lake, "mine", FINGERPRINT, catalogue(*ids), found.pairs)
    assert pairs.equals(found.pairs)


def counted(source: GivenSource) -> tuple[GivenSource, list[int]]:
    """The source, and the numbers of its parts in the order in which they are read."""
    from dataclasses import replace

    reads: list[int] = []

    def noted(number: int) -> Callable[[int], Any]:
        def read(rows: int) -> Any:
            reads.append(number)
            return source.parts[number].read(rows)

        return read

    parts = tuple(replace(part, read=noted(number)) for number, part in enumerate(source.parts))
    return replace(source, parts=parts), reads


def test_an_item_that_a_later_source_does_not_name_keeps_its_vector(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    read(lake, parquet(tmp_path / "a.parquet", ["a", "b"], lists(np.eye(2, DIM))), "a", "b")
    later = inventory_of(
        open_given("mine", parquet(tmp_path / "a.parquet", ["c"], lists(np.ones((1, DIM))))),
        lambda _: catalogue("a", "b", "c"),
    )
    store_inventory(lake, later, FINGERPRINT, RUN, lambda rows: None)
    pairs = current_pairs(lake, "mine", FINGERPRINT, catalogue("a", "b", "c", "d"), later.pairs)
    assert sorted(pairs["item_id"]) == ["a", "b", "c"]
    kept = lake.frame("vectors").select("item_id", "content_hash").sort("item_id")
    assert pairs.with_columns(as_text(pairs["content_hash"])).equals(kept)


ROW = st.tuples(st.sampled_from([*"abcdef", None]), st.sampled_from([None, [0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, min_size=1), known=st.sets(st.sampled_from("abcdef")), whole=st.booleans())
def test_an_inventory_is_that_of_a_loop_over_the_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, Any]], known: set[str], whole: bool
) -> None:
    """Vectors are read in parts of two rows, by a catalogue that is there or that is asked."""
    folder = tmp_path_factory.mktemp("given")
    ids, vectors = (list(each) for each in zip(*rows, strict=True))
    spec = parquet(
        folder / "a.parquet", pa.array(ids, pa.string()), pa.array(vectors, pa.list_(pa.float32())), row_group_size=2
    )
    source = open_given("mine", spec.model_copy(update={"dim": 2})) if any(vectors) else None
    if source is None:
        return
    asked: list[str] = []

    def some(items: pl.Series) -> pl.DataFrame:
        asked.extend(items)
        return catalogue(*(known & set(items)))

    found = inventory_of(source, catalogue(*known) if whole else some)
    good = {item: [v for i, v in rows if i == item and v and any(v)] for item in sorted(known)}
    several = {item for item, each in good.items() if len(set(map(tuple, each))) > 1}
    first = {item: each[0] for item, each in good.items() if each and item not in several}
    assert found.pairs["item_id"].to_list() == list(first)
    assert [vectors[row] for row in found.rows] == list(first.values())
    refused = [
        (number, item)
        for number, (item, vector) in enumerate(rows)
        if item is None or (item in known and vector and (item in several or not any(vector)))
    ]
    assert [(row, item) for row, item in found.refused.select("row", "item_id").iter_rows()] == refused
    assert found.repeated == sum(len(good[item]) - 1 for item in first)
    assert found.absent == sum(item in known and not vector for item, vector in rows)
    assert found.unknown == sum(item is not None and item not in known for item, _ in rows)
    assert whole or len(asked) == len(set(asked))


def test_each_bad_row_is_refused_for_its_own_reason_and_the_others_are_stored(tmp_path: Path) -> None:
    rows = {
        "short": [1.0],
        "good": [1.0, 2.0],
        "not-finite": [float("nan"), 1.0],
        "infinite": [1.0, float("inf")],
        "too-large": [1e300, 1.0],
        "hole": [None, 1.0],
        "zero": [0.0, -0.0],
        "nothing": None,
        "stranger": [3.0, 4.0],
        "": [5.0, 6.0],
        "NA": [7.0, 8.0],
        "1.5E+11": [7.0, 8.0],
    }
    spec = parquet(tmp_path / "a.parquet", list(rows), pa.array(list(rows.values()), pa.list_(pa.float64())))
    lake = Lake(str(tmp_path / "lake"))
    counts = read(lake, spec, *(set(rows) - {"stranger", ""}))
    assert counts == {
        "stored": 1,
        "unchanged": 0,
        "unknown": 1,
        "absent": 1,
        "given_vector_width": 1,
        "given_vector_not_finite": 4,
        "given_vector_zero": 1,
        "missing_item_id": 2,
        "not_an_id": 1,
    }
    assert list(stored(lake)) == ["good"]
    refused = {row["subject"] or row["source_row"]: row for row in open_rows(lake).to_dicts()}
    assert refused["short"]["detail"] == "width 1 instead of 2"
    assert refused["zero"]["source_row"] == 6
    assert {10, 11} <= refused.keys()

    rows["not-finite"] = [1.0, 1.0]
    parquet(tmp_path / "a.parquet", list(rows), pa.array(list(rows.values()), pa.list_(pa.float64())))
    read(lake, spec, *(set(rows) - {"stranger", ""}))
    assert "not-finite" not in open_rows(lake)["subject"].to_list(), "a mended row is resolved"
    assert "zero" in open_rows(lake)["subject"].to_list()


def test_an_id_with_two_vectors_gets_neither_and_an_equal_one_counts_once(tmp_path: Path) -> None:
    vectors = np.array([[1, 2], [3, 4], [1, 2], [9, 9]], np.float32)
    lake = Lake(str(tmp_path / "lake"))
    spec = parquet(tmp_path / "a.parquet", ["same", "two", "same", "two"], lists(vectors), row_group_size=1)
    counts = read(lake, spec, "same", "two")
    assert counts == {"stored": 1, "unchanged": 1, "unknown": 0, "absent": 0, "given_vector_twice": 2}
    assert list(stored(lake)) == ["same"]


@pytest.mark.parametrize(
    "ids",
    [pa.array([17, 18]), pa.array([17.0, 18.0]), pa.array([" 17", "18\0"]), pa.array([b"17", b"18"])],
    ids=["integers", "floats", "padded", "bytes"],
)
def test_ids_are_read_as_those_of_a_catalogue(tmp_path: Path, ids: pa.Array) -> None:
    lake = Lake(str(tmp_path / "lake"))
    read(lake, parquet(tmp_path / "a.parquet", ids, lists(np.eye(2))), "17", "18")
    assert list(stored(lake)) == ["17", "18"]


@pytest.mark.parametrize("kind", ["txt", "npy", "texts.npy", "big.npy", "parquet", "csv", "tsv"])
def test_ids_of_a_matrix_lie_beside_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"ids.{kind}"
    if kind == "txt":
        path.write_bytes(b"1\r\n2\r\n")
    elif kind.endswith("npy"):
        np.save(
            path,
            np.array(["1", "2"]) if kind == "texts.npy" else np.array([1, 2], ">i8" if kind == "big.npy" else "<i8"),
        )
    elif kind == "parquet":
        pl.DataFrame({"item_id": [1, 2]}).write_parquet(path)
    else:
        path.write_text("name,item_id\na,1\nb,2\n".replace(",", "\t" if kind == "tsv" else ","))
    np.save(tmp_path / "m.npy", np.asfortranarray(np.eye(2, dtype=">f4")))
    lake = Lake(str(tmp_path / "lake"))
    read(lake, GivenSpec(path=str(tmp_path / "m.npy"), ids=str(path)), "1", "2")
    assert stored(lake) == {"1": np.float32([1, 0]).tobytes(), "2": np.float32([0, 1]).tobytes()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,item_id\nred, small,1\nb,2\n", "malformed_row: line 2: 3 cells, the header has 2"),
        ("item_id,item_id\n1,8\n2,9\n", "its header has 'item_id' twice"),
        ("item_id;name\n1;a\n2;b\n", "its delimiter is ';'"),
        ("id\n1\n2\n", "it has no column 'item_id'; there are id"),
        ('name,item_id\n"red,1\nb,2\n', "unpaired_quote: line 2"),
    ],
)
def test_a_csv_of_ids_that_is_torn_is_refused_as_a_catalogue_would_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ids.csv").write_text(text)
    np.save(tmp_path / "m.npy", np.eye(2))
    with pytest.raises(SourceError, match=message):
        open_given("mine", GivenSpec(path=str(tmp_path / "m.npy"), ids=str(tmp_path / "ids.csv")))


def test_a_vector_whose_length_32_bit_floats_cannot_hold_is_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    values = np.array([[3e37, 3e37], [1e-25, 0], [1e18, 1e18], [1e-18, 0]])
    counts = read(lake, parquet(tmp_path / "a.parquet", ["a", "b", "c", "d"], lists(values)), "a", "b", "c", "d")
    assert (counts["given_vector_not_finite"], counts["given_vector_zero"], list(stored(lake))) == (1, 1, ["c", "d"])


def bad_sources(folder: Path) -> dict[str, tuple[GivenSpec, str]]:
    """Sources that cannot be used, each with what its message says."""
    good = parquet(folder / "good.parquet", ["a"], lists(np.ones((1, 3))))
    texts = parquet(folder / "texts.parquet", ["a"], pa.array([["x"]]))
    numbers = parquet(folder / "numbers.parquet", ["a"], pa.array([1.0]))
    none = parquet(folder / "none.parquet", ["a"], pa.array([None], pa.list_(pa.float32())))
    (folder / "damaged.parquet").write_bytes((folder / "good.parquet").read_bytes()[:-9])
    (folder / "empty").mkdir()
    (folder / "two").mkdir()
    for width in (2, 3):
        parquet(folder / "two" / f"{width}.parquet", ["a"], fixed(np.ones((1, width))))
    np.save(folder / "flat.npy", np.ones(3))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "m.npy", np.ones((2, 3)))
    (folder / "ids.txt").write_text("a\n")

    def at(name: str, **more: Any) -> GivenSpec:
        return GivenSpec(path=str(folder / name), **more)

    ids = {"ids": str(folder / "ids.txt")}
    return {
        "no file": (at("absent.parquet"), r"vectors.mine.path: no file or folder"),
        "no Parquet": (at("empty"), r"vectors.mine.path: the folder .* holds no"),
        "another suffix": (at("ids.txt"), r"vectors.mine.path: .*ids.txt"),
        "damaged": (at("damaged.parquet"), r"damaged.parquet cannot be read"),
        "no such column": (
            good.model_copy(update={"column": "v"}),
            r"no column 'v'; there are item_id, vector.*column",
        ),
        "no such id": (good.model_copy(update={"id_column": "v"}), r"no column 'v'.*vectors.mine.id_column"),
        "texts": (texts, r"is list<.*string>, and vectors are lists of numbers"),
        "numbers": (numbers, r"is double, and vectors are lists of numbers"),
        "no vector": (none, r"holds no vector"),
        "another width": (good.model_copy(update={"dim": 8}), r"have width 3, and vectors.mine.dim is 8"),
        "two widths": (at("two"), r"2.parquet have width 2, those of .*3.parquet 3"),
        "no matrix": (at("flat.npy", **ids), r"float64 of shape \(3,\)"),
        "objects": (at("objects.npy", **ids), r"objects.npy cannot be read"),
        "no matrix file": (at("absent.npy", **ids), r"absent.npy cannot be read"),
        "too few ids": (at("m.npy", **ids), r"has 2 rows, and .* has 1 ids"),
        "no ids file": (at("m.npy", ids=str(folder / "absent.txt")), r"absent.txt cannot be read"),
        "ids of another kind": (at("m.npy", ids="ids.json"), r"vectors.mine.ids: ids.json is no .txt"),
    }


def test_a_source_that_cannot_be_used_is_told_in_one_message_when_it_is_opened(tmp_path: Path) -> None:
    for spec, message in bad_sources(tmp_path).values():
        with pytest.raises(SourceError, match=message):
            open_given("mine", spec)


def test_a_file_that_changes_between_its_two_readings_stops_the_run(tmp_path: Path) -> None:
    spec = parquet(tmp_path / "a.parquet", ["a"], lists(np.ones((1, DIM))))
    found = inventory_of(open_given("mine", spec), lambda _: catalogue("a"))
    parquet(tmp_path / "a.parquet", ["a"], lists(2 * np.ones((1, DIM))))
    with pytest.raises(SourceError, match="changed while it was read"):
        store_inventory(Lake(str(tmp_path / "lake")), found, FINGERPRINT, RUN, lambda rows: None)


def test_rows_that_a_deletion_vector_marks_are_not_read(tmp_path: Path) -> None:
    ids, values = [f"i{number}" for number in range(9)], np.random.default_rng(0).random((9, DIM), np.float32)
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    rows = pa.table({"item_id": ids, "vector": lists(values)})
    write_deltalake(path, rows, writer_properties=WriterProperties(max_row_group_size=4))
    for gone in ("i2", "i5"):
        mark_deleted(path, "item_id", gone)
    spec = GivenSpec(path=path)
    assert [(each.first, each.rows) for each in open_given("mine", spec).parts] == [(0, 3), (3, 3), (6, 1)]
    assert read(lake, spec, *ids)["stored"] == 7
    kept = zip(ids, values, strict=True)
    assert stored(lake) == {item: row.tobytes() for item, row in kept if item not in ("i2", "i5")}


def test_ids_are_asked_for_with_a_matrix_and_with_nothing_else() -> None:
    with pytest.raises(ValidationError, match="name the file that has them"):
        GivenSpec(path="m.npy")
    with pytest.raises(ValidationError, match=r"ids is the file of a \.npy matrix"):
        GivenSpec(path="v.parquet", ids="ids.txt")


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", ["a"], lists(np.ones((1, DIM))))
    (tmp_path / "items.csv").write_text("item_id\n")
    (tmp_path / "_SUCCESS").write_text("")
    source = open_given("mine", GivenSpec(path=str(tmp_path)))
    assert source.warning.startswith("1 file is not read: items.csv (read are .parquet files")
    (tmp_path / "day=1").mkdir()
    parquet(tmp_path / "day=1" / "_hidden.parquet", ["b"], lists(np.ones((1, DIM))))
    source = open_given("mine", GivenSpec(path=str(tmp_path)))
    assert source.warning == (
        "2 files are not read: day=1/_hidden.parquet, items.csv (read are .parquet files whose name and folders do not "
        "begin with . or _)"
    )


def test_a_matrix_in_an_object_store_and_its_ids_are_fetched(tmp_path: Path, s3_bucket: str) -> None:
    as_matrix_file(tmp_path, np.arange(1.0, 9.0).reshape(2, DIM), ["a", "b"])
    store, place = pafs.FileSystem.from_uri(s3_bucket)
    for name in ("m.npy", "ids.txt"):
        with store.open_output_stream(f"{place}/{name}") as out:
            out.write((tmp_path / name).read_bytes())
    lake = Lake(str(tmp_path / "lake"))
    spec = GivenSpec(path=f"{s3_bucket}/m.npy", ids=f"{s3_bucket}/ids.txt")
    assert read(lake, spec, "a", "b")["stored"] == 2
    assert stored(lake)["b"] == np.array([5, 6, 7, 8], np.float32).tobytes()
    with pytest.raises(SourceError, match=r"vectors.mine: s3://\S+/none.npy cannot be read"):
        open_given("mine", spec.model_copy(update={"path": f"{s3_bucket}/none.npy"}))


def test_refused_rows_of_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        parquet(tmp_path / folder / "a.parquet", [None, "a"], pa.array([[1.0, 2.0], [1.0, 2.0]]))
    lake = Lake(str(tmp_path / "lake"))
    assert read(lake, GivenSpec(path=str(tmp_path)), "a")["missing_item_id"] == 2
    refused = open_rows(lake)
    assert sorted(refused["source"]) == ["one/a.parquet", "two/a.parquet"]
    assert refused_rows(lake).select("file", "row").rows() == [(source, 0) for source in refused["source"]]
