"""Run a benchmark: `python -m bench NAME`. Each figure is printed beside a limit or a peer measured in the same run."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from flows.runtime.terminal import printable_lines
from infra.settings import configure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names. Returns 0, or 1 after a message if it failed."""
    configure()
    options = build_parser().parse_args(arguments)
    try:
        import_module(f"bench.{options.benchmark}").run(options)
    except Exception as error:
        if options.debug:
            raise
        print(f"bench: error: {printable_lines(str(error)) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return a parser of all benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = parser.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    tokenizer = _benchmark(names, "speed.tokenizer", "fit, assign and append at size")
    tokenizer.add_argument("--items", type=_count, default=1_000_000, help="size of a skewed mixture (1e6)")
    tokenizer.add_argument("--width", type=int, default=128, help="width of the mixture (128)")
    tokenizer.add_argument("--vectors", metavar="FILE.npy", help="take the rows of this matrix instead")
    tokenizer.add_argument("--codes", type=int, default=256, help="codes per level (256)")
    tokenizer.add_argument("--levels", type=int, default=3)
    trie = _benchmark(names, "speed.trie", "build, update, look up, masks")
    trie.add_argument("--items", type=_count, default=10_000_000, help="SIDs (1e7)")
    quantizers = _benchmark(names, "quality.quantizers", "all quantizers on real vectors, as Markdown")
    quantizers.add_argument("data", type=Path, help="folder with amazon-beauty/ and movielens-posters/")
    quantizers.add_argument("only", nargs="*", help="parts of the names of the quantizers wanted (all)")
    refit = _benchmark(names, "quality.refit", "what a refit buys and what it moves, beside its peers, as Markdown")
    refit.add_argument("data", type=Path, help="folder with amazon-beauty/")
    refit.add_argument("--seed", type=int, default=0, help="seed of the fits (0)")
    representations = _benchmark(names, "quality.representations", "vectors and the SIDs made of them, as Markdown")
    representations.add_argument("data", type=Path, help="folder with amazon-beauty/ and movielens-posters/")
    representations.add_argument("only", nargs="*", help="names of the catalogues wanted (all)")
    representations.add_argument("--seeds", type=int, default=3, help="how many seeds (3)")
    representations.add_argument(
        "--behaviour", nargs="+", default=[], help="vectors from behaviour wanted, of sppmi, sasrec and both (all)"
    )
    representations.add_argument("--rows", nargs="+", default=[], help="parts of the names of the rows wanted (all)")
    _choosing(representations)
    encoders = _benchmark(
        names, "speed.encoders", "texts and pictures a second through Ray Data beside the bare encoders"
    )
    encoders.add_argument("data", type=Path, help="folder with amazon-beauty/ and movielens-posters/")
    encoders.add_argument("--items", type=_count, default=12_000, help="texts (12,000)")
    encoders.add_argument("--pictures", type=_count, default=400, help="pictures (400)")
    encoders.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    encoders.add_argument("--memory", type=_count, default=4_000, help="texts of the smaller memory figure (4,000)")
    recommendation = _benchmark(
        names, "quality.recommendation", "next-item recommenders on real histories, as Markdown"
    )
    recommendation.add_argument(
        "data",
        nargs="?",
        type=Path,
        default=Path(os.environ.get("SIDMILL_DATA", "data")),
        help="folder with the folders of the catalogues ($SIDMILL_DATA, else data)",
    )
    recommendation.add_argument(
        "--dataset",
        default="amazon-beauty",
        help="name of the catalogue: amazon-beauty, amazon-beauty-skin-care, movielens-posters or ml-100k (the first)",
    )
    recommendation.add_argument("--rows", nargs="+", default=[], help="recommenders wanted (docs/recommendation.md)")
    _choosing(recommendation)
    loader = _benchmark(names, "speed.loader", "a log joined with SIDs, and an epoch of batches, beside bare scans")
    loader.add_argument("--events", type=_count, default=10_000_000, help="events of a synthetic log (1e7)")
    decoding = _benchmark(names, "speed.decoding", "users a second of the beam search, and what masks take of it")
    decoding.add_argument("--json", action="store_true", help="print JSON")
    decoding.add_argument("--items", type=_count, default=100_000, help="SIDs (1e5)")
    decoding.add_argument("--rounds", type=int, default=15, help="how often each is measured (15)")
    _benchmark(
        names, "speed.training", "steps of the generators beside bare products, and Ray Train beside the bare loop"
    )
    _benchmark(names, "quality.learned", "learned quantizers beside rq-kmeans; five minutes")
    _benchmark(names, "speed.lake", "idempotent appends beside bare Parquet")
    ingest = _benchmark(names, "speed.ingest", "rows a second from Parquet beside scan, cast, join, hash and write")
    ingest.add_argument("--events", type=_count, default=1_000_000, help="events of the log (1e6)")
    ingest.add_argument("--items", type=_count, default=100_000, help="items of the catalogue (1e5)")
    ingest.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    return parser


def _benchmark(
    names: "argparse._SubParsersAction[argparse.ArgumentParser]", module: str, text: str
) -> argparse.ArgumentParser:
    parser = names.add_parser(module.partition(".")[2], help=text, description=text)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    parser.set_defaults(benchmark=module)
    return parser


def _choosing(parser: argparse.ArgumentParser) -> None:
    """Add the options for choosing settings."""
    parser.add_argument(
        "--on",
        choices=("validation", "test"),
        default="test",
        help="score all rows on what comes before the test, to choose settings, or on the test (test)",
    )
    parser.add_argument(
        "--try",
        dest="tried",
        nargs="+",
        default=[],
        metavar="CHANGES",
        help="rows under other settings besides, each SECTION.FIELD=VALUE, or several of these in quotes",
    )


def _count(text: str) -> int:
    """Parse a number of items, also written as 1e6."""
    return int(float(text))


if __name__ == "__main__":
    sys.exit(main())
