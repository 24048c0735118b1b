"""The settings of a codebook: frozen, validated once, stored inside the fitted codebook."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokenizer.vae_spec import VaeSpec


class LevelSpec(BaseModel):
    """One level of a SID: the number of codes, and the vectors they encode.

    `source` names the vectors of the level. With input "residual" it encodes what the former levels of the same source
    leave; with "vector" it encodes the vector itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: int = Field(ge=1)
    source: str = Field(default="fused", min_length=1)
    input: Literal["residual", "vector"] = "residual"


QuantizerName = Literal["rq-kmeans", "pq", "opq", "rq-opq", "hierarchical", "lsh", "random", "rq-vae", "fsq"]
LEARNED: tuple[QuantizerName, ...] = ("rq-vae", "fsq")


class CodebookSpec(BaseModel):
    """The settings of a codebook fit.

    `quantizer`: rq-kmeans (OneRec), pq (codes without order, one per part of the vector), opq (RPG, VQ-Rec: pq of the
    rotated vector), rq-opq (OneSearch: rq-kmeans, then opq of its residual in the last `tail` levels), hierarchical
    (P5-CID: k-means within each cluster), lsh and random (the baselines of TIGER), and two that are trained with the
    settings `vae`: rq-vae (TIGER) and fsq (RecGPT). `normalise` divides the input of an rq-kmeans level by its standard
    deviation in each dimension.

    A code of a level with K codes holds at most ceil(slack * planned_items / K) SIDs ever, where planned_items =
    ceil(growth * N) is frozen at the fit on N items. Without `balanced` a code may hold ceil(slack * planned_items).
    `sample` is the number of items to fit on, drawn with `seed`; None fits on all.

    `collision` makes SIDs unique: relocate moves an item to the nearest free SID; suffix (TIGER) adds a token that
    counts the items of a SID, at most `suffix_codes`; item (CAR) adds a token of the item's own. keep lets items share
    SIDs, and the releases report how many do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantizer: QuantizerName = "rq-kmeans"
    levels: tuple[LevelSpec, ...] = Field(min_length=1)
    balanced: bool = True
    slack: float = Field(default=1.5, ge=1, allow_inf_nan=False)
    growth: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    collision: Literal["relocate", "suffix", "item", "keep"] = "relocate"
    suffix_codes: int = Field(default=256, ge=1)
    iterations: int = Field(default=20, ge=1)
    sample: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    normalise: bool = False
    tail: int = Field(default=1, ge=1)
    vae: VaeSpec | None = None

    @property
    def learned(self) -> VaeSpec:
        """Training settings of a learned quantizer, by default those of `VaeSpec`."""
        return self.vae or VaeSpec()

    @property
    def fit_sources(self) -> tuple[str, ...]:
        """The vectors that a fit reads: those of the levels, and those used only in training."""
        also = self.learned.collaborative if self.quantizer in LEARNED else None
        return tuple(dict.fromkeys([*(level.source for level in self.levels), *([also] if also else [])]))

    @property
    def ordered(self) -> bool:
        """True if a code has meaning only after the codes before it, so that SIDs form a trie."""
        return self.quantizer not in ("pq", "opq")

    @model_validator(mode="after")
    def _one_source(self) -> "CodebookSpec":
        if self.quantizer != "rq-kmeans":
            if len({level.source for level in self.levels}) > 1 or any(
                level.input == "vector" for level in self.levels
            ):
                raise ValueError(f"{self.quantizer} reads one source, level after level; only rq-kmeans reads several")
            if self.normalise:
                raise ValueError("normalise is for rq-kmeans")
        if self.quantizer == "rq-opq" and self.tail >= len(self.levels):
            raise ValueError(f"tail = {self.tail} leaves no level for rq-kmeans; there are {len(self.levels)} levels")
        if self.quantizer == "lsh" and any(level.codes & (level.codes - 1) or level.codes < 2 for level in self.levels):
            raise ValueError("lsh has a bit per hyperplane: codes are powers of two, from 2 on")
        return self

    @model_validator(mode="after")
    def _learned(self) -> "CodebookSpec":
        if self.vae is not None and self.quantizer not in LEARNED:
            raise ValueError(f"vae is for {' and '.join(LEARNED)}, not for {self.quantizer}")
        if self.quantizer == "fsq":
            if any(level.codes < 2 for level in self.levels):
                raise ValueError("fsq has a grid of values a level: codes are 2 or more")
            if self.learned.sinkhorn or self.learned.diversity or self.learned.gradient == "rotation":
                raise ValueError("sinkhorn, diversity and rotation are for rq-vae: the grid of fsq is not learnt")
        if self.quantizer in LEARNED and self.learned.collaborative == self.levels[0].source:
            raise ValueError(f"vae.collaborative = {self.learned.collaborative!r} is what the levels read already")
        return self


class RefitSpec(BaseModel):
    """Settings to refit the published codebook instead of a fresh fit: at most `budget` of the SIDs change.

    The budget is spent in `steps`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float = Field(default=0.05, ge=0, le=1)
    steps: int = Field(default=5, ge=1)
