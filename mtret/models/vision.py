"""The tower of images: SigLIP's, and a projection to the space of the text tower's vectors."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from mtret.errors import UserError
from mtret.models.layers import Dense
from mtret.models.siglip import LARGEST_SIDE, SiglipConfig, SiglipTower
from mtret.schema import AT_LEAST_1, setting

SCRATCH = "scratch"


@dataclass(frozen=True)
class VisionConfig:
    """Where the image tower comes from. Without one, tasks of images are left out."""

    source: str = setting("", 'a SigLIP folder or hub id; "scratch": untrained, of the sizes below')
    image_size: int = setting(96, "pixels of a side; images are scaled to it", AT_LEAST_1)
    patch_size: int = setting(12, "pixels of a patch's side", AT_LEAST_1)
    width: int = setting(192, "of a layer's states", AT_LEAST_1)
    layers: int = setting(4, "of the tower", AT_LEAST_1)
    heads: int = setting(6, "of its attention", AT_LEAST_1)

    def siglip(self) -> SiglipConfig:
        """The tower of these sizes. Raises UserError where they do not fit together."""
        if not self.patch_size <= self.image_size <= LARGEST_SIDE:
            raise UserError(
                f"model.vision.image_size: {self.image_size} is not between one patch of {self.patch_size} and "
                f"{LARGEST_SIDE} pixels"
            )
        if self.width % self.heads:
            raise UserError(f"model.vision.width: {self.width} is not a multiple of {self.heads} attention heads")
        return SiglipConfig(
            vocab_size=1,
            max_position_embeddings=1,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
            image_size=self.image_size,
            patch_size=self.patch_size,
            layer_norm_eps=1e-6,
        )


class ImageTower(nn.Module):
    """One vector an image, of as many features as a text's, not yet of length 1."""

    config: SiglipConfig
    features: int

    @nn.compact
    def __call__(
        self, images: UInt8[Array, "images H H 3"], keys: Key[Array, "images"] | None = None
    ) -> Float[Array, "images D"]:
        seen = SiglipTower(self.config, name="vision_model")(images, keys)
        return Dense(self.features, self.config.matmul_dtype, bias=False, name="projection")(jnp.asarray(seen))
