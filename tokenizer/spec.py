"""The settings of a codebook: frozen, validated once, stored inside the fitted codebook."""

from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from plugins.options import check_options
from plugins.younger import OmitsYoungerDefaults
from tokenizer.collision_policy import POLICIES, Collision, CollisionPolicy
from tokenizer.registry import QUANTIZERS
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


class CodebookSpec(OmitsYoungerDefaults):
    """The settings of a codebook fit.

    `quantizer`: rq-kmeans (OneRec), pq (codes without order, one per part of the vector), opq (RPG, VQ-Rec: pq of the
    rotated vector), rq-opq (OneSearch: rq-kmeans, then opq of its residual in the last `tail` levels), hierarchical
    (P5-CID: k-means within each cluster), lsh and random (the baselines of TIGER), and two that are trained with the
    settings `vae`: rq-vae (TIGER) and fsq (RecGPT). `normalise` divides the input of an rq-kmeans level by its standard
    deviation in each dimension. Installed packages add other quantizers, with `options` of their own.

    A code of a level with K codes holds at most ceil(slack * planned_items / K) SIDs ever, where planned_items =
    ceil(growth * N) is frozen at the fit on N items. Without `balanced` a code may hold ceil(slack * planned_items).
    `sample` is the number of items to fit on, drawn with `seed`; None fits on all.

    `collision` makes SIDs unique: relocate moves an item to the nearest free SID; suffix (TIGER) adds a token that
    counts the items of a SID, at most `suffix_codes`; item (CAR) adds a token of the item's own. keep lets items share
    SIDs, and the releases report how many do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    younger: ClassVar[frozenset[str]] = frozenset({"options"})

    quantizer: str = "rq-kmeans"
    levels: tuple[LevelSpec, ...] = Field(min_length=1)
    balanced: bool = True
    slack: float = Field(default=1.5, ge=1, allow_inf_nan=False)
    growth: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    collision: Collision = "relocate"
    suffix_codes: int = Field(default=256, ge=1)
    iterations: int = Field(default=20, ge=1)
    sample: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    normalise: bool = False
    tail: int = Field(default=1, ge=1)
    vae: VaeSpec | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def learned(self) -> VaeSpec:
        """Training settings of a learned quantizer, by default those of `VaeSpec`."""
        return self.vae or VaeSpec()

    @property
    def fit_sources(self) -> tuple[str, ...]:
        """The vectors that a fit reads: those of the levels, and those used only in training."""
        also = self.vae.collaborative if self.vae else None
        return tuple(dict.fromkeys([*(level.source for level in self.levels), *([also] if also else [])]))

    @property
    def collision_policy(self) -> CollisionPolicy:
        """The policy that `collision` names."""
        return POLICIES[self.collision]

    @property
    def ordered(self) -> bool:
        """True if a code has meaning only after the codes before it, so that SIDs form a trie."""
        return QUANTIZERS.get(self.quantizer).ordered

    @model_validator(mode="after")
    def _fits_its_quantizer(self) -> "CodebookSpec":
        quantizer = QUANTIZERS.get(self.quantizer)
        quantizer.check(self)
        if self.vae is not None and not quantizer.trained:
            raise ValueError(f"vae is only for rq-vae and fsq, not for {self.quantizer}; remove it")
        check_options(self.quantizer, quantizer.options, self.options)
        return self


class RefitSpec(BaseModel):
    """Settings to refit the published codebook instead of a fresh fit: at most `budget` of the SIDs change.

    The budget is spent in `steps`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float = Field(default=0.05, ge=0, le=1)
    steps: int = Field(default=5, ge=1)
