"""What a codebook is asked to be: frozen, validated once, stored inside the codebook it made."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LevelSpec(BaseModel):
    """One level of a SID: how many codes, and what they encode.

    `source` names the vectors the level reads. With input "residual" it encodes what the former levels of the
    same source left; with "vector" it starts again from the vector itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: int = Field(ge=1)
    source: str = Field(default="fused", min_length=1)
    input: Literal["residual", "vector"] = "residual"


class CodebookSpec(BaseModel):
    """A codebook before it is fitted.

    A code of a level with K codes holds at most ceil(slack * planned_items / K) SIDs ever, where
    planned_items = ceil(growth * N) is frozen at the fit on N items. Without `balanced` a code may hold all
    that is planned. `sample` is the number of items to fit on, drawn with `seed`; None fits on all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantizer: Literal["rq-kmeans"] = "rq-kmeans"
    levels: tuple[LevelSpec, ...] = Field(min_length=1)
    balanced: bool = True
    slack: float = Field(default=1.5, ge=1, allow_inf_nan=False)
    growth: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    collision: Literal["relocate"] = "relocate"
    iterations: int = Field(default=20, ge=1)
    sample: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
