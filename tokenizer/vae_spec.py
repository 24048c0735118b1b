"""The settings of a learned quantizer: the shape of its network, its losses and its training."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learning.spec import Positive

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class VaeSpec(BaseModel):
    """An encoder and decoder with a quantized latent between them.

    The default shape is TIGER's (arXiv 2305.05065): 768-512-256-128-32 and back. `latent` is the latent width of
    rq-vae; fsq has one dimension per level. An epoch is `steps` steps of `batch_size` items over all workers, for any
    number of items. Between epochs a checkpoint is written and code vectors are updated: by a few rounds of "k-means"
    on the latents of a sample, or only dead ones, which no latent of the sample is nearest to, are moved ("revive").

    The loss is a weighted sum; weight 0 leaves a part out. `reconstruction` is the squared error in units of the
    squared distance to the mean. `contrastive` is InfoNCE between decoded and input vectors (CoST, arXiv 2404.14774).
    The VQ loss has `commitment` as the weight of its second part. Two parts are of LETTER (arXiv 2405.07314):
    `alignment`, InfoNCE between the quantized latent and the vectors of the source `collaborative`, and `diversity` of
    the code vectors of a level, in `diversity_clusters` clusters. InfoNCE uses `temperature`. `gradient` is the
    gradient through the quantizer: straight-through, or the rotation trick (arXiv 2410.06424). `sinkhorn` above 0
    spreads each step's items evenly over the codes by optimal transport with that regularisation (LC-Rec, arXiv
    2311.09049).

    `refit` fits the code vectors again in the trained latent space, by k-means under capacity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[Positive, ...] = (512, 256, 128)
    latent: Positive = 32
    epochs: Positive = 20
    steps: Positive = 100
    batch_size: Annotated[int, Field(ge=2)] = 1024
    learning_rate: Above = 0.01
    warmup_steps: Positive = 50
    weight_decay: Weight = 0.0
    reconstruction: Weight = 1.0
    commitment: Weight = 0.25
    contrastive: Weight = 0.0
    temperature: Above = 0.1
    collaborative: Annotated[str, Field(min_length=1)] | None = None
    alignment: Weight = 0.02
    diversity: Weight = 0.0
    diversity_clusters: Positive = 10
    gradient: Literal["straight-through", "rotation"] = "straight-through"
    sinkhorn: Weight = 0.0
    sinkhorn_rounds: Positive = 50
    between: Literal["k-means", "revive", "nothing"] = "k-means"
    refit: bool = False
    workers: Positive = 1

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.reconstruction and not self.contrastive:
            raise ValueError(
                "with reconstruction = 0 and contrastive = 0 the decoder has nothing to learn; set one of them above 0"
            )
        return self
