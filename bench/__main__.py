"""Run a benchmark: `python -m bench NAME`. Each figure is printed beside a limit or a peer measured in the same run."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bench.gpu import SECTIONS
from flows.runtime.terminal import printable_lines
from infra.settings import configure
from pipelines.spec import FIT_ITEMS


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
    tokenizer = _benchmark(names, "speed.tokenizer", "time and memory to fit a codebook, assign SIDs and append items")
    tokenizer.add_argument(
        "--items", type=_count, default=1_000_000, help="number of items of the synthetic skewed mixture (1e6)"
    )
    tokenizer.add_argument("--width", type=int, default=128, help="dimensions of the synthetic vectors (128)")
    tokenizer.add_argument(
        "--vectors", metavar="FILE.npy", help="use the rows of this matrix instead of synthetic vectors"
    )
    tokenizer.add_argument("--codes", type=int, default=256, help="codes per level (256)")
    tokenizer.add_argument("--levels", type=int, default=3)
    trie = _benchmark(names, "speed.trie", "time to build and update a trie, look up SIDs and make masks")
    trie.add_argument("--items", type=_count, default=10_000_000, help="number of SIDs (1e7)")
    quantizers = _benchmark(names, "quality.quantizers", "compare all quantizers on real vectors, as Markdown")
    quantizers.add_argument("data", type=Path, help="folder with amazon-beauty/ and movielens-posters/")
    quantizers.add_argument("only", nargs="*", help="only quantizers with one of these in the name (all)")
    refit = _benchmark(
        names, "quality.refit", "error and changed SIDs of a refit and of alternatives to it, as Markdown"
    )
    refit.add_argument("data", type=Path, help="folder with amazon-beauty/")
    refit.add_argument("--seed", type=int, default=0, help="seed of the fits (0)")
    representations = _benchmark(
        names, "quality.representations", "compare item vectors and the SIDs made of them, as Markdown"
    )
    representations.add_argument("data", type=Path, help="folder with amazon-beauty/ and movielens-posters/")
    representations.add_argument("only", nargs="*", help="only catalogues with these names (all)")
    representations.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    representations.add_argument(
        "--behaviour", nargs="+", default=[], help="only these behaviour vectors: sppmi, sasrec, both (all)"
    )
    representations.add_argument("--rows", nargs="+", default=[], help="only rows with one of these in the name (all)")
    _choosing(representations)
    behaviour = _benchmark(
        names,
        "quality.behaviour",
        "compare behaviour vectors fitted on some items with those fitted on all, as Markdown",
    )
    behaviour.add_argument("data", type=Path, help="folder with amazon-beauty/ and movielens-posters/")
    behaviour.add_argument("only", nargs="*", help="only catalogues with these names (all)")
    _judged(behaviour)
    encoders = _benchmark(
        names, "speed.encoders", "texts and pictures per second through Ray Data, compared with the bare encoders"
    )
    encoders.add_argument(
        "data",
        nargs="?",
        type=Path,
        default=Path(os.environ.get("SIDMILL_DATA", "data")),
        help="folder with amazon-beauty/ and movielens-posters/ ($SIDMILL_DATA, else data)",
    )
    encoders.add_argument(
        "--static", type=_count, default=0, help="print only the speed of a static encoder, on so many made titles"
    )
    encoders.add_argument("--items", type=_count, default=12_000, help="number of texts (12,000)")
    encoders.add_argument("--pictures", type=_count, default=400, help="number of pictures (400)")
    encoders.add_argument("--rounds", type=int, default=3, help="number of measurements of each figure (3)")
    encoders.add_argument(
        "--memory", type=_count, default=4_000, help="number of texts for the smaller memory figure (4,000)"
    )
    recommendation = _benchmark(
        names, "quality.recommendation", "compare next-item recommenders on real histories, as Markdown"
    )
    recommendation.add_argument(
        "data",
        nargs="?",
        type=Path,
        default=Path(os.environ.get("SIDMILL_DATA", "data")),
        help="folder that contains the folders of the catalogues ($SIDMILL_DATA, else data)",
    )
    recommendation.add_argument(
        "--dataset",
        default="amazon-beauty",
        help="name of the catalogue: amazon-beauty, amazon-beauty-skin-care, movielens-posters or ml-100k",
    )
    recommendation.add_argument(
        "--rows", nargs="+", default=[], help="only these recommenders; docs/recommendation.md lists them (all)"
    )
    _choosing(recommendation)
    loader = _benchmark(
        names, "speed.loader", "time to join a log with SIDs and to read an epoch of batches, compared with bare scans"
    )
    loader.add_argument("--events", type=_count, default=10_000_000, help="number of events of the synthetic log (1e7)")
    decoding = _benchmark(
        names, "speed.decoding", "users per second of the beam search, and the share of its time that masks take"
    )
    decoding.add_argument("--json", action="store_true", help="print JSON")
    decoding.add_argument("--items", type=_count, default=100_000, help="number of SIDs (1e5)")
    decoding.add_argument("--rounds", type=int, default=15, help="number of measurements of each figure (15)")
    _benchmark(
        names,
        "speed.training",
        "training steps of the generators compared with bare matrix products, and Ray Train with the bare loop",
    )
    gpu = _benchmark(names, "gpu.run", "figures of one GPU, each beside its limit; takes at most eight minutes", "gpu")
    gpu.add_argument("--json", type=Path, metavar="FILE", help="write the figures and the machine here as well")
    gpu.add_argument("--only", nargs="+", metavar="SECTION", choices=SECTIONS, help=f"of {', '.join(SECTIONS)} (all)")
    gpu.add_argument("--quick", action="store_true", help="small sizes, on a CPU too: shows that the code runs")
    gpu.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    _benchmark(names, "quality.learned", "compare learned quantizers with rq-kmeans; takes five minutes")
    _benchmark(names, "speed.lake", "idempotent appends compared with bare Parquet writes")
    ingest = _benchmark(
        names,
        "speed.ingest",
        "rows per second of an ingest from Parquet, CSV and JSON lines, compared with polars",
    )
    ingest.add_argument("--events", type=_count, default=1_000_000, help="number of events of the log (1e6)")
    ingest.add_argument("--items", type=_count, default=100_000, help="number of items of the catalogue (1e5)")
    ingest.add_argument("--rounds", type=int, default=3, help="number of measurements of each figure (3)")
    ingest.add_argument("--workers", action="store_true", help="measure Parquet read by workers of Ray, and no texts")
    memory = _benchmark(names, "speed.ingest_memory", "memory of an ingest of a log, by its number of events")
    memory.add_argument("--events", type=_count, default=10_000_000, help="number of events of the log (1e7)")
    stream = _benchmark(names, "speed.stream", "events per second of an ingest from Kafka, compared with a file")
    stream.add_argument("--events", type=_count, default=200_000, help="number of messages (2e5)")
    stream.add_argument("--items", type=_count, default=10_000, help="number of items of the catalogue (1e4)")
    stream.add_argument("--rounds", type=int, default=3, help="number of measurements of each figure (3)")
    log_fit = _benchmark(names, "runs.log_fit", "time and memory of the behaviour of a bootstrap alone")
    log_fit.add_argument("--items", type=_count, default=100_000, help="number of items of the catalogue (1e5)")
    log_fit.add_argument("--events", type=_count, help="number of events of the log (5 an item)")
    log_fit.add_argument("--fit-items", type=_count, default=FIT_ITEMS, help=f"items of the fit ({FIT_ITEMS:,})")
    pipeline = _benchmark(
        names,
        "runs.pipeline",
        "time, memory and bytes of each stage of a bootstrap, a night and a backfill, on a synthetic shop",
    )
    pipeline.add_argument("--items", type=_count, default=100_000, help="number of items of the catalogue (1e5)")
    pipeline.add_argument("--events", type=_count, help="number of events of the log (5 an item)")
    pipeline.add_argument("--lake", help="address of the lake, where there is none yet (a folder that is removed)")
    pipeline.add_argument(
        "--texts", action="store_true", help="make vectors of titles, by a static encoder; else given"
    )
    pipeline.add_argument("--night", action="store_true", help="then run a night of 1,000 items and 20,000 events")
    pipeline.add_argument(
        "--nights", type=_count, default=0, help="or run so many nights in a row, with `lake gc` after each tenth"
    )
    pipeline.add_argument("--backfill", action="store_true", help="then run backfills on one core and on two")
    pipeline.add_argument(
        "--scratch", type=Path, help="new folder to keep what is made and printed (one that is removed)"
    )
    store = _benchmark(
        names, "runs.store", "requests and bytes of a bootstrap and of nights on a lake in an object store (moto)"
    )
    store.add_argument("--items", type=_count, default=2_000, help="number of items of the catalogue (2,000)")
    nights = _benchmark(names, "runs.nights", "what many nights leave in a small lake, with `lake gc` or without")
    nights.add_argument("--nights", type=_count, default=100, help="number of nights (100)")
    nights.add_argument("--every", type=_count, default=10, help="nights between two `lake gc` (10)")
    nights.add_argument("--keep", type=_count, default=10, help="releases to keep; 0 runs no `lake gc` (10)")
    nights.add_argument("--grace", type=float, default=30.0, help="grace period in seconds (30)")
    contention = _benchmark(
        names, "faults.contention", "writers and readers on one lake at once: times of commits, what is lost or mixed"
    )
    contention.add_argument("--writers", type=_count, default=8, help="number of processes that write (8)")
    contention.add_argument("--seconds", type=float, default=60.0, help="seconds for which they write (60)")
    contention.add_argument("--moves", type=_count, default=200, help="publications and rollbacks under readers (200)")
    contention.add_argument("--store", action="store_true", help="with the lake in an object store (moto)")
    faults = _benchmark(
        names, "faults.faults", "runs that are killed at every crash point and at random moments, and run again"
    )
    faults.add_argument("--kills", type=_count, default=60, help="kills at random moments, over all verbs (60)")
    faults.add_argument("--points", type=_count, help="crash points of each verb to kill at, evenly spread (all)")
    faults.add_argument("--seed", type=int, default=0, help="seed of the random moments (0)")
    faults.add_argument(
        "--verbs",
        default="bootstrap,night,backfill,train,gc,stream,erase",
        help="comma-separated, of bootstrap, night, backfill, train, gc, stream, erase (all)",
    )
    soak = _benchmark(
        names,
        "faults.soak",
        "simulated days with a fault in every other step, compared with a plain account of the lake",
    )
    soak.add_argument("--minutes", type=float, default=60.0, help="minutes for which days follow each other (60)")
    soak.add_argument("--seed", type=int, default=0, help="seed of the first day; the next day has the next one (0)")
    soak.add_argument("--hours", type=_count, default=24, help="hours of a day (24)")
    soak.add_argument("--days", type=_count, default=1_000, help="end after so many days (when the time is over)")
    soak.add_argument("--share", type=float, default=0.5, help="share of the steps that meet a fault (0.5)")
    soak.add_argument("--scratch", type=Path, help="new folder to keep the lake and its sources (one that is removed)")
    return parser


def _benchmark(
    names: "argparse._SubParsersAction[argparse.ArgumentParser]", module: str, text: str, name: str = ""
) -> argparse.ArgumentParser:
    parser = names.add_parser(name or module.partition(".")[2], help=text, description=text)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    parser.set_defaults(benchmark=module)
    return parser


def _judged(parser: argparse.ArgumentParser) -> None:
    """Add the option for the events that are scored."""
    parser.add_argument(
        "--on",
        choices=("validation", "test"),
        default="test",
        help="score on the validation events, which come before the test, to choose settings; or on the test (test)",
    )


def _choosing(parser: argparse.ArgumentParser) -> None:
    """Add the options for choosing settings."""
    _judged(parser)
    parser.add_argument(
        "--try",
        dest="tried",
        nargs="+",
        default=[],
        metavar="CHANGES",
        help="add rows with changed settings: SECTION.FIELD=VALUE, or several of these in quotes",
    )


def _count(text: str) -> int:
    """Parse a number of items, also written as 1e6."""
    return int(float(text))


if __name__ == "__main__":
    sys.exit(main())
