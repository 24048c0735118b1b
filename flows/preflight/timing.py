"""Estimates of the time that a run takes: the rates of the sample, times the rows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.preflight.contents import Contents
from flows.preflight.report import TIME, Report
from flows.preflight.trial import Trial, Tried
from flows.recipe import Recipe
from pipelines.embed.protocol import EncoderError, encode_all, load_encoder
from pipelines.modalities import IMAGE, TEXT
from pipelines.spec import ImageSpec, TextSpec, collaborative_spec
from storage.lake import Lake
from storage.runs.record import runs

TIMED = 64
"""Contents that an encoder is timed on, and least rows of a recorded stage whose rate is used."""
FITS = ((10_000, 48.0), (1_000_000, 142.0), (10_000_000, 637.0))
"""Items of a bootstrap, and its seconds from behaviour to gates on two cores (docs/benchmarks.md). Fits have one size:
fewer items take as long.
"""
SEQUENCE_MODEL_S = 420 / (154_000 * 12_101)
"""Seconds of the training of a sequence model, by events times items, on one core: see LOGITS in pipelines/spec.py."""
READING = ("ingest ", "read ", "vectors ", "embed ", "admit ", "check ")
"""Beginnings of the names of stages that read, and that store what was given or encoded."""


@dataclass(frozen=True)
class Rate:
    """Seconds that an encoder takes for an item, and how that is known."""

    seconds: float
    by: str


def estimate_ingest(report: Report, trial: Trial) -> None:
    """Report the seconds of ingest, by those of the sample."""
    for tried in (trial.items, trial.interactions):
        if tried.counts.rows_in:
            report.add(TIME, f"ingest {_kind(tried)}", words(tried.seconds * scale(tried)))


def estimate_encoding(
    report: Report, recipe: Recipe, trial: Trial, found: Contents, lake: Lake | None, *, quick: bool
) -> None:
    """Report the seconds of encoding, by those of some contents, or by those of an earlier run on the lake.

    Only encoders whose weights are in an installed package are loaded: others may be large. With `quick`, none is.
    """
    factor = scale(trial.items)
    for name, spec, contents in ((TEXT, recipe.text, found.texts), (IMAGE, recipe.image, found.pictures)):
        if spec is None or name not in found.encoders:
            continue
        rows = round(found.items[name] * factor)
        loads = bool(contents) and not quick and not spec.model
        try:
            rate = _measured(spec, contents) if loads else recorded_rate(lake, f"embed {name}")
        except EncoderError as error:
            report.errors.append(f"the {name} encoder cannot be loaded: {error}")
            continue
        if rate is not None:
            estimate = f"{words(rate.seconds * rows)} for about {rows:,} items, {rate.by}"
        else:
            why = "of --quick" if quick else "the sample has none" if not contents else f"{spec.encoder} was not loaded"
            estimate = f"unknown for about {rows:,} items, because {why}"
        report.add(TIME, f"embed {name}", estimate)
    if recipe.image is not None:
        report.add(TIME, "not estimated", "fetching of pictures")


def estimate_the_rest(report: Report, kind: str, recipe: Recipe, items: int, events: int, lake: Lake | None) -> None:
    """Report the seconds from behaviour to gates, by the newest such run on the lake, else by docs/benchmarks.md."""
    made = "behaviour, fusion, codebook, SIDs, trie, gates"
    for run in reversed(runs(lake)) if lake is not None and lake.exists("runs") else ():
        if run.kind == kind and run.state == "finished" and run.result.made:
            seconds = sum(each.seconds or 0.0 for each in run.stages if not each.name.startswith(READING))
            report.add(TIME, "the rest", f"{words(seconds)}, as in {run.run}: {made}")
            return
    if kind == "nightly":
        report.add(TIME, "not estimated", made)
        return
    seconds = fits_s(items)
    if recipe.collaborative is not None and collaborative_spec(recipe.collaborative, events, items).trains_sasrec:
        seconds += SEQUENCE_MODEL_S * events * items
    report.add(TIME, "the rest", f"{words(seconds)} on two cores, by docs/benchmarks.md: {made}")


def fits_s(items: int) -> float:
    """Return the seconds from behaviour to gates of a bootstrap whose behaviour is counted, between measured sizes."""
    sizes, seconds = np.log(np.array(FITS).T)
    within = float(np.exp(np.interp(np.log(max(1, items)), sizes, seconds)))
    return within * max(1.0, items / FITS[-1][0])


def scale(tried: Tried) -> float:
    """Return the number of all rows divided by that of the sample."""
    return tried.rows / max(1, tried.counts.rows_in)


def _kind(tried: Tried) -> str:
    return "items" if tried.planned.section == "items" else "log"


def _measured(spec: TextSpec | ImageSpec, contents: Sequence[Any]) -> Rate:
    """Time an encoder on some contents, spread evenly. Raise EncoderError if it cannot be loaded."""
    step = max(1, len(contents) // TIMED)
    some = contents[::step][:TIMED]
    encoder = load_encoder(spec)
    ready = [encoder.prepare(each) for each in some] if isinstance(spec, ImageSpec) else some
    encode_all(encoder.encode, ready[:1])  # the first call allocates what later ones reuse
    began = time.monotonic()
    encode_all(encoder.encode, ready)
    return Rate((time.monotonic() - began) / len(some), f"by {len(some)} of them on this machine")


def recorded_rate(lake: Lake | None, stage: str) -> Rate | None:
    """Return the rate of the newest run on a lake that encoded enough rows; the start of the encoder counts."""
    for run in reversed(runs(lake)) if lake is not None and lake.exists("runs") else ():
        for each in run.stages:
            if each.name == stage and each.seconds is not None and each.rows_out is not None and each.rows_out >= TIMED:
                return Rate(each.seconds / each.rows_out, f"by the rate of {run.run}")
    return None


def words(seconds: float) -> str:
    """Return a duration in words, with at most two significant digits."""
    if seconds < 1.5:
        return "about a second"
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}" if seconds < 99 * size else f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} seconds"
