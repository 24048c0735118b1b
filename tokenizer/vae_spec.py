"""What a learned quantizer is asked to be: the shape of its network, its losses, how it is trained."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class VaeSpec(BaseModel):
    """An encoder and decoder with a quantized latent between them.

    The default shape is TIGER's (arXiv 2305.05065): 768-512-256-128-32 and back; `latent` is the width for rq-vae, fsq
    has one dimension a level. An epoch is `steps` steps of `batch_size` items over all workers, however many items
    there are. Checkpoints are written between epochs, and code vectors moved: a few rounds of "k-means" among the
    latents of a sample, or only those that nothing of the sample came to (dead ones) are revived ("revive").

    The loss is a weighted sum, 0 leaving a part out: `reconstruction`, the squared error in units of the squared
    distance to the mean; `contrastive`, InfoNCE between what is decoded and what went in (CoST, arXiv 2404.14774);
    the VQ loss with `commitment` as the weight of its second part; of LETTER (arXiv 2405.07314) `alignment`, InfoNCE
    between the quantized latent and the vectors of the source `collaborative`, and `diversity` of the code vectors of
    a level, in `diversity_clusters` clusters. InfoNCE is at `temperature`. `gradient` says how the gradient passes the
    quantizer: straight through, or by the rotation trick (arXiv 2410.06424). `sinkhorn` above 0 spreads each step's
    items evenly over the codes by optimal transport at that regularisation (LC-Rec, arXiv 2311.09049).

    `refit` fits the code vectors anew in the trained latent space, by k-means under capacity.
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
            raise ValueError("reconstruction = 0 and contrastive = 0 leave the decoder nothing to learn; give one")
        return self
