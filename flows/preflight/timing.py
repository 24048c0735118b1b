"""Estimates of the time that a run takes: the rates of the sample, times the rows."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from flows.preflight.contents import Found
from flows.preflight.report import TIME, Report
from flows.preflight.trial import Trial, Tried
from flows.recipe import Recipe
from pipelines.embed.protocol import EncoderSettings, load_encoder

TIMED = 64
"""Contents that an encoder is timed on."""
T = TypeVar("T")


def estimate_ingest(report: Report, trial: Trial) -> None:
    """Report the seconds of ingest, by those of the sample."""
    for tried in (trial.items, trial.interactions):
        if tried.counts.rows_in:
            report.add(TIME, f"ingest {_kind(tried)}", words(tried.seconds * _scale(tried)))


def estimate_encoding(report: Report, recipe: Recipe, trial: Trial, found: Found, *, quick: bool) -> None:
    """Report the seconds of encoding. With `quick`, no encoder is loaded.

    Only encoders whose weights are in an installed package are loaded: others may be large.
    """
    scale = _scale(trial.items)
    if recipe.text is not None and "text" in found.encoders:
        _encoding(report, "text", recipe.text, found.texts, round(found.items["text"] * scale), quick, list)
    if recipe.image is not None and "image" in found.encoders:
        _encoding(report, "image", recipe.image, found.pictures, round(found.items["image"] * scale), quick, None)
    report.add(TIME, "not estimated", "fetching of pictures, behaviour, fusion, codebook, SIDs, trie")


def _scale(tried: Tried) -> float:
    """Return how many times as many rows as the sample there are."""
    return tried.rows / max(1, tried.counts.rows_in)


def _kind(tried: Tried) -> str:
    return "items" if tried.planned.section == "items" else "log"


def _encoding(
    report: Report,
    name: str,
    spec: EncoderSettings,
    contents: Sequence[T],
    rows: int,
    quick: bool,
    prepare: Callable[[Sequence[T]], Sequence[object]] | None,
) -> None:
    """Report the time that an encoder takes for some rows, by that for some contents."""
    if not contents:
        report.add(TIME, f"embed {name}", "unknown: the sample has nothing to time it on")
    elif quick:
        report.add(TIME, f"embed {name}", f"unknown for about {rows:,} items: not timed, because of --quick")
    elif getattr(spec, "model", ""):
        report.add(TIME, f"embed {name}", f"unknown for about {rows:,} items: {spec.encoder} is not loaded for a check")
    else:
        step = max(1, len(contents) // TIMED)
        some = contents[::step][:TIMED]
        encoder = load_encoder(spec)
        ready = [encoder.prepare(each) for each in some] if prepare is None else prepare(some)
        encoder.encode(ready[:1])  # the first call allocates what later ones reuse
        began = time.monotonic()
        encoder.encode(ready)
        each = (time.monotonic() - began) / len(some)
        told = f"{words(each * rows)} for about {rows:,} items on this machine, by {len(some)} of them"
        report.add(TIME, f"embed {name}", told)


def words(seconds: float) -> str:
    """Return a duration in words, of two digits at most."""
    if seconds < 1.5:
        return "about a second"
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}" if seconds < 99 * size else f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} seconds"
