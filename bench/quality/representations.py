"""Comparison of vectors by the SIDs made of them: `python -m bench representations DATA`, as Markdown.

Behaviour vectors use events before the catalogue's cut, without those of the cold items (5 %, by a hash of id and
seed). Pairs are two items of one user's events after the cut, at most WINDOW apart, both ways, including cold items.
The hit-rate@k is the share of pairs whose second item is among the k vectors nearest to the first (cosine, all items;
ties count half). An item without a vector neither finds nor is found. For SIDs, it is the hit-rate of their decoded
vectors. "Folded in" are behaviour vectors that include the cold items: these are folded in as a nightly run does, from
their events before the cut, with a fit that excludes these events.
"""

import argparse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.quality.catalogues import CATALOGUES, Catalogue
from bench.quality.settings import HEADLINE, changed
from bench.quality.split import say
from learning.threads import one_thread
from pipelines.collaborative.sequence_model import Collaborative, fit_collaborative
from pipelines.event_log.visible_log import Histories, histories
from pipelines.fusion.fit import fit_fusion
from pipelines.fusion.frozen import Fusion
from pipelines.fusion.fuse import placed
from pipelines.modalities import COLLABORATIVE, Modality
from pipelines.spec import CollaborativeSpec, FusionSpec, collaborative_spec
from tokenizer.arrays.items import tie_keys
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.registry import quantizer_of
from tokenizer.spec import CodebookSpec
from training.sasrec.item_embeddings import item_embeddings_of
from training.spec import ItemEmbeddingsSpec

# Share of cold items, distance of the events of a pair, and ranks of the hit-rates.
COLD, WINDOW, NEAR = 0.05, 5, (10, 50)
LOG = CollaborativeSpec(min_events=1)
BEHAVIOUR = ("sppmi", "sasrec", "both")
METHODS = {
    "concat": FusionSpec(method="concat"),
    "concat, whitened": FusionSpec(method="concat", whiten=True),
    "concat, chosen": FusionSpec(method="concat"),
    "contrastive": FusionSpec(method="contrastive"),
    "qformer": FusionSpec(method="qformer", hidden=64, blocks=1),
}
CODEBOOK = CodebookSpec.model_validate({"levels": [{"codes": 256}] * 3, "iterations": 10})
# Bootstrap samples of an interval.
RESAMPLED = 200
TABLES = ("amazon-beauty", "movielens-posters")
"""Catalogues that get a table if none are named."""
TRIED = "contrastive"
"""Row that `--try` changes, with behaviour vectors by `both`."""
CHOSEN, WEIGHTS, JUDGED = "concat, chosen", (0.25, 0.5, 1.0, 2.0), 10_000
"""Row whose fusion weights are chosen, the values tried, and the number of pairs used."""


def run(options: argparse.Namespace) -> None:
    """Print a table for each catalogue that exists."""
    if unknown := sorted(set(options.behaviour) - set(BEHAVIOUR)):
        raise ValueError(f"--behaviour {' '.join(unknown)}: choose from {', '.join(BEHAVIOUR)}")
    for name in options.only or TABLES:
        if not (options.data / name).is_dir():
            print(f"\n{options.data} has no folder {name}; its table is left out")
        else:
            read = CATALOGUES[name](options.data)
            table(read.before_the_test() if options.on == "validation" else read, options)


HEAD = (
    "representation",
    "all @10",
    "all @50",
    "cold @10",
    "cold @50",
    "SIDs @10",
    "SIDs @50",
    "text to image @10",
    "purity",
    "relative error",
)


def table(catalogue: Catalogue, options: argparse.Namespace) -> None:
    """Print the mean over seeds with the largest deviation, then the widest 95 % interval of each hit-rate."""
    found: dict[str, list[list[float]]] = {}
    widths: list[list[float]] = []
    for seed in range(options.seeds):
        world = SeededSplit(catalogue, seed, only=options.rows)
        if seed == 0:
            cold = np.count_nonzero(world.cold[world.pairs[:, 0]])
            asked = f"{len(world.pairs):,} pairs of the {options.on}"
            print(f"\n### {catalogue.name}: {len(catalogue.ids):,} items, {asked}, {cold:,} cold\n")
        tried = world.tried(options.tried) if options.tried else world.representations(options.behaviour or BEHAVIOUR)
        for name, vectors, crossed in tried:
            if not world.wants(name):
                continue
            figures, intervals = world.figures(vectors, crossed)
            found.setdefault(name, []).append(figures)
            widths.append(intervals)
            say(f"seed {seed} {name}: " + " ".join(format(each, ".4f") for each in figures))
    if not found:
        raise ValueError(f"--rows {' '.join(options.rows)}: no row of {catalogue.name} has any of these in its name")
    print("\n| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for name, rows in found.items():
        mean, apart = np.mean(rows, axis=0), np.abs(np.array(rows) - np.mean(rows, axis=0)).max(axis=0)
        cells = ["" if np.isnan(one) else f"{one:.4f} ± {two:.4f}" for one, two in zip(mean, apart, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")
    widest = ", ".join(f"{name} ± {width:.4f}" for name, width in zip(HEAD[1:], np.max(widths, axis=0), strict=False))
    print(f"\nThe 95 % intervals, first items of the pairs drawn again {RESAMPLED} times, are at most: {widest}.")


class SeededSplit:
    """A catalogue under one seed: its cold items, its visible log, and the pairs to predict."""

    def __init__(self, catalogue: Catalogue, seed: int, cold: float = COLD, only: Sequence[str] = ()) -> None:
        self.catalogue, self.seed, self._only = catalogue, seed, only
        hashed = tie_keys([f"{seed}:{item}" for item in catalogue.ids])
        self.cold = hashed < np.uint64(int(cold * 2**64))
        visible = [[(time, row) for time, row in h if time < catalogue.held_out] for h in catalogue.histories]
        later = [[(time, row) for time, row in h if time >= catalogue.held_out] for h in catalogue.histories]
        self.log = self._log([[(time, row) for time, row in h if not self.cold[row]] for h in visible])
        self.with_cold = self._log(visible)
        asked = self._log(later)
        self.pairs = self.rows(asked)[asked.pairs(WINDOW, asked.newest(1.0))]
        self.items = pl.DataFrame({"item_id": catalogue.ids})
        self._trained: dict[tuple[ItemEmbeddingsSpec, float], list[NDArray[np.float32]]] = {}

    def _log(self, taken: list[list[tuple[int, int]]]) -> Histories:
        rows = [(f"{user:07d}", time, row) for user, history in enumerate(taken) for time, row in history]
        start = datetime(2000, 1, 1, tzinfo=UTC)
        ids = self.catalogue.ids
        return histories(
            pl.DataFrame(
                {
                    "user_id": [user for user, _, _ in rows],
                    "item_id": [ids[row] for _, _, row in rows],
                    "event_time": [start + timedelta(seconds=time) for _, time, _ in rows],
                    "event_id": [f"{at:09d}" for at in range(len(rows))],
                    "arrival_time": [start] * len(rows),
                    "source": ["histories"] * len(rows),
                    "source_offset": range(len(rows)),
                    "event_type": ["taken"] * len(rows),
                    "impression": [False] * len(rows),
                }
            ),
            LOG,
        )

    def rows(self, log: Histories) -> NDArray[np.int64]:
        """Return the row of the catalogue of each item of a log."""
        place = {item: row for row, item in enumerate(self.catalogue.ids)}
        return np.array([place[name] for name in log.names], np.int64)

    def content(self) -> dict[str, Modality]:
        """Return the modalities of item content."""
        everyone = np.ones(len(self.catalogue.ids), np.bool_)
        modalities = {"text": Modality(self.catalogue.text_vectors(), everyone)}
        attributes, described = self.catalogue.attribute_vectors()
        if described.any():
            modalities["attributes"] = Modality(attributes, described)
        pictures, pictured = self.catalogue.image_vectors()
        if pictured.any():
            modalities["image"] = Modality(pictures, pictured)
        return modalities

    def representations(
        self, behaviour: Sequence[str]
    ) -> Iterator[tuple[str, Modality, tuple[Modality, Modality] | None]]:
        """Yield name, vectors and, if there are pictures, the vectors of text alone and of pictures alone."""
        modalities = self.content()
        with one_thread():
            yield from ((name, each, None) for name, each in modalities.items())
            for method in behaviour:
                yield from self._with_behaviour(method, modalities)

    def _with_behaviour(
        self, method: str, content: dict[str, Modality]
    ) -> Iterator[tuple[str, Modality, tuple[Modality, Modality] | None]]:
        """Yield behaviour vectors of a method: alone, with the cold items folded in, and fused with content."""
        made = self.behaviour(LOG.model_copy(update={"method": method}))
        modalities, before = content | self.beside(made.vectors), self.beside(made.before)
        alone = "collaborative" if method == "sppmi" else method
        yield alone, modalities[COLLABORATIVE], None
        cold = [self.catalogue.ids[row] for row in np.flatnonzero(self.cold)]
        folded = made.factors.fold(self.with_cold).filter(pl.col("item_id").is_in(cold))
        yield f"{alone}, folded in", placed(self.items, pl.concat([made.vectors, folded])), None
        for name, spec in METHODS.items():
            shown = name if method == "sppmi" else f"{name}, {method}"
            if not self.wants(shown):
                continue
            if name == CHOSEN:
                spec = self.chosen(modalities, before)
            fusion = self.fused(spec.model_copy(update={"seed": self.seed}), modalities, before)
            crossed = None
            if "image" in modalities:
                text, image = (fusion.transform({kind: modalities[kind]}) for kind in ("text", "image"))
                crossed = Modality(*text), Modality(*image)
            yield shown, Modality(*fusion.transform(modalities)), crossed

    def tried(self, changes: Sequence[str]) -> Iterator[tuple[str, Modality, None]]:
        """Yield the fused vectors of the headline settings, and of these with each of the changes."""
        content, headline = self.content(), HEADLINE.model_copy(update={"fusion": METHODS[TRIED]})
        sized = len(self.log), len(self.log.names)
        with one_thread():
            for name, settings in {TRIED: headline, **{each: changed(headline, each) for each in changes}}.items():
                behaviour = collaborative_spec(settings.collaborative, *sized)
                made = self.behaviour(behaviour, settings.sasrec, settings.fusion.recent)
                modalities, before = content | self.beside(made.vectors), self.beside(made.before)
                spec = settings.fusion.model_copy(update={"seed": self.seed})
                yield name, Modality(*self.fused(spec, modalities, before).transform(modalities)), None

    def wants(self, name: str) -> bool:
        """Return whether a row is requested: by a part of its name, or because all are."""
        return not self._only or any(part in name for part in self._only)

    def chosen(self, modalities: dict[str, Modality], before: dict[str, Modality]) -> FusionSpec:
        """Return the concat with the whitening and weights that find the newest visible pairs best.

        Behaviour is as it was before these pairs, because the vectors would otherwise contain the answers. Held-out
        events are not used. Text weighs 1, each other modality one of WEIGHTS.
        """
        spec, others, seen = METHODS["concat"], sorted(modalities.keys() - {"text"}), modalities | before
        pairs = self._recent(spec)
        pairs = pairs[np.random.default_rng(self.seed).permutation(len(pairs))[:JUDGED]]
        tried = [
            spec.model_copy(update={"whiten": whiten, "weights": dict(zip(others, weights, strict=True))})
            for whiten in (False, True)
            for weights in product(WEIGHTS, repeat=len(others))
        ]
        found = [
            float((self.ranks(Modality(*fit_fusion(seen, each).transform(seen)), pairs) < NEAR[0]).mean())
            for each in tried
        ]
        best = tried[int(np.argmax(found))]
        weights = ", ".join(f"{name} {weight:g}" for name, weight in best.weights.items())
        say(f"seed {self.seed}, of {len(tried)}: {weights}, {'' if best.whiten else 'not '}whitened; {max(found):.4f}")
        return best

    def behaviour(
        self, spec: CollaborativeSpec, sasrec: ItemEmbeddingsSpec | None = None, recent: float = FusionSpec().recent
    ) -> Collaborative:
        """Fit vectors on the visible events, and on those before the newest share, on which fusion is trained."""
        train = partial(self._item_embeddings, sasrec or ItemEmbeddingsSpec(), recent)
        made = fit_collaborative(self.log, spec, self.log.newest(recent), train)
        assert made is not None
        return made

    def beside(self, vectors: pl.DataFrame) -> dict[str, Modality]:
        """Return behaviour vectors as a modality."""
        return {COLLABORATIVE: placed(self.items, vectors)}

    def fused(self, spec: FusionSpec, modalities: dict[str, Modality], before: dict[str, Modality]) -> Fusion:
        """Fit a fusion on the pairs of items taken together among users' newest visible events."""
        return fit_fusion(modalities, spec, self._recent(spec), before)

    def _recent(self, spec: FusionSpec) -> NDArray[np.int64]:
        """Return items taken together among users' newest visible events, rows (P, 2)."""
        return self.rows(self.log)[self.log.pairs(spec.pair_window, self.log.newest(spec.recent))]

    def _item_embeddings(
        self, spec: ItemEmbeddingsSpec, recent: float, logs: list[list[NDArray[np.int64]]], items: int
    ) -> list[NDArray[np.float32]]:
        """Train item embeddings once for all methods."""
        key = spec.model_copy(update={"seed": self.seed}), recent
        if key not in self._trained:
            self._trained[key] = item_embeddings_of(logs, items, key[0])
        return self._trained[key]

    def figures(self, given: Modality, crossed: tuple[Modality, Modality] | None) -> tuple[list[float], list[float]]:
        """Return the row of HEAD without its name, and half the widths of the intervals of its hit-rates."""
        ranks = self.ranks(given, self.pairs)
        cold = self.cold[self.pairs[:, 0]]
        there = np.flatnonzero(given.present)
        vectors, ids = {"fused": given.vectors[there]}, [self.catalogue.ids[row] for row in there]
        book = fit_codebook(vectors, ids, CODEBOOK)
        made = assign_sids(book, vectors, ids, Occupancy.empty(len(book.sizes)))
        decoded = np.zeros_like(given.vectors)
        decoded[there] = quantizer_of(book.spec).decode(book, made.codes, "fused")
        coded = self.ranks(Modality(decoded, given.present), self.pairs)
        across = np.nan if crossed is None else _retrieved(*crossed)
        every = np.ones_like(cold)
        hits = [(found < k, among) for found, among in ((ranks, every), (ranks, cold), (coded, every)) for k in NEAR]
        figures = [
            *(hit[among].mean() for hit, among in hits),
            across,
            self._purity(there, made.codes[:, 0]),
            made.relative_error,
        ]
        return [float(each) for each in figures], [self._interval(hit[among], among) for hit, among in hits]

    def ranks(self, given: Modality, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Count items nearer to the first of a pair than its second, (P,); infinite if either has no vector."""
        unit = given.vectors / np.maximum(np.linalg.norm(given.vectors, axis=1, keepdims=True), 1e-12)
        ranks = np.full(len(pairs), np.inf)
        known = np.flatnonzero(given.present[pairs].all(axis=1))
        ordered = known[np.argsort(pairs[known, 0], kind="stable")]
        for start in range(0, len(ordered), 512):
            rows = ordered[start : start + 512]
            asking, back = np.unique(pairs[rows, 0], return_inverse=True)
            score = unit[asking] @ unit.T
            score[:, ~given.present] = -np.inf
            score[np.arange(len(asking)), asking] = -np.inf
            score = score[back]
            ranks[rows] = _ahead(score, score[np.arange(len(rows)), pairs[rows, 1]])
        return ranks

    def _interval(self, hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
        """Return half the 95 % interval of a hit-rate over some pairs, by RESAMPLED resamples of their first items."""
        draw = np.random.default_rng(0)
        _, item = np.unique(self.pairs[among, 0], return_inverse=True)
        hits, count = np.bincount(item, hit), np.bincount(item)
        chosen = draw.integers(len(hits), size=(RESAMPLED, len(hits)))
        rates = hits[chosen].sum(axis=1) / count[chosen].sum(axis=1)
        low, high = np.quantile(rates, [0.025, 0.975])
        return float(high - low) / 2

    def _purity(self, rows: NDArray[np.int64], code: NDArray[np.int32]) -> float:
        """Return the share of items whose category is the most common of their first code."""
        _, kind = np.unique([self.catalogue.categories[row] for row in rows], return_inverse=True)
        both = np.zeros((code.max() + 1, kind.max() + 1))
        np.add.at(both, (code, kind), 1)
        return float(both.max(axis=1).sum() / len(rows))


def _retrieved(text: Modality, image: Modality) -> float:
    """Return the share of pictured items whose picture is among the 10 nearest to their text."""
    rows = np.flatnonzero(text.present & image.present)
    score = text.vectors[rows] @ image.vectors[rows].T
    return float((_ahead(score, score.diagonal()) < NEAR[0]).mean())


def _ahead(score: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float64]:
    """Count the scores of each row that exceed its own; other equal scores count half."""
    greater = (score > own[:, None]).sum(axis=1)
    return np.asarray(greater + ((score == own[:, None]).sum(axis=1) - 1) / 2)
