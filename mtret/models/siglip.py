"""The image tower of SigLIP (Zhai et al., 2303.15343) at fixed resolution: patches in, one vector an image out.

Modules are named as in the published checkpoints, so that a parameter's path is its published name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from mtret.errors import UserError
from mtret.models.layers import Dense, Embedding, LayerNorm, Layers, Rows, Within, mix
from mtret.models.tower_config import TowerConfig

PREFIXES = ("vision_model.",)
LARGEST_SIDE = 4096  # pixels
# Of transformers' SiglipVisionConfig, which published files may leave out.
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
UNUSED = (r"text_model\..*", r"logit_(scale|bias)", r"embeddings\.position_ids")


@dataclass(frozen=True, kw_only=True)
class SiglipConfig(TowerConfig):
    """As in `config.json`, or in its `vision_config` where text and image towers are published together."""

    TOWER = "SigLIP vision"
    DROPOUTS = ("attention_dropout",)
    FIXED = {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3, "vision_use_head": True}  # noqa: RUF012

    image_size: int  # pixels of a side
    patch_size: int
    layer_norm_eps: float
    attention_dropout: float = 0.0

    @classmethod
    def from_json(cls, published: Mapping[str, Any], where: str) -> Any:
        """See the base."""
        own = published.get("vision_config", {}) if published.get("model_type") == "siglip" else published
        if not isinstance(own, Mapping):
            raise UserError(f"{where}: vision_config holds a {type(own).__name__}, not an object")
        config = cls.read({**DEFAULTS, **own}, where, vocab_size=1, max_position_embeddings=1)  # it has neither
        if not config.patch_size <= config.image_size <= LARGEST_SIDE:
            raise UserError(
                f"{where}: image_size {config.image_size} is not between one patch of {config.patch_size} and "
                f"{LARGEST_SIDE} pixels"
            )
        return config

    @property
    def patches(self) -> int:
        """Of an image; what a side has beyond a whole patch is cut off."""
        return (self.image_size // self.patch_size) ** 2


class SelfAttention(nn.Module):
    """Multi-head attention among the patches of one image."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows, site: Int[Array, ""] | int) -> Float[Array, "tokens D"]:
        config = self.config
        names = ("q_proj", "k_proj", "v_proj")
        projected = (Dense(config.hidden_size, config.matmul_dtype, name=name)(x) for name in names)
        q, k, v = (part.reshape(*rows.segment.shape, *config.heads) for part in projected)
        mixed = mix(config, q, k, v, rows, site)
        return Dense(config.hidden_size, config.matmul_dtype, name="out_proj")(mixed)


class Mlp(nn.Module):
    """The feed-forward network, with the GELU that goes by tanh."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"]) -> Float[Array, "tokens D"]:
        config = self.config
        wide = Dense(config.intermediate_size, config.matmul_dtype, name="fc1")(x)
        return Dense(config.hidden_size, config.matmul_dtype, name="fc2")(jax.nn.gelu(wide, approximate=True))


class Layer(nn.Module):
    """One transformer layer; it owns one dropout site."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows) -> Float[Array, "tokens D"]:
        epsilon = self.config.layer_norm_eps
        normed = LayerNorm(epsilon, name="layer_norm1")(x)
        x += SelfAttention(self.config, name="self_attn")(normed, rows, rows.layer)
        return x + Mlp(self.config, name="mlp")(LayerNorm(epsilon, name="layer_norm2")(x))


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its size: one product over whole patches."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, images: Float[Array, "images H H 3"]) -> Float[Array, "tokens D"]:
        config, size = self.config, self.config.patch_size
        side = config.image_size // size
        # Published as [out, channel, row, column]; read backwards, as all kernels are.
        shape = (size, size, 3, config.hidden_size)
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
        bias = self.param("bias", nn.initializers.zeros, (config.hidden_size,))
        cut = images[:, : side * size, : side * size].reshape(-1, side, size, side, size, 3)
        patches = cut.transpose(0, 1, 3, 4, 2, 5).reshape(-1, size * size * 3)  # pixels by column, row, channel
        return patches @ kernel.reshape(-1, config.hidden_size) + bias[None]


class Embeddings(nn.Module):
    """Patches, each at its place."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, images: Float[Array, "images H H 3"]) -> Float[Array, "tokens D"]:
        config = self.config
        x = PatchEmbedding(config, name="patch_embedding")(images)
        place = Embedding(config.patches, config.hidden_size, name="position_embedding")(jnp.arange(config.patches))
        return (x.reshape(-1, config.patches, config.hidden_size) + place[None]).reshape(x.shape)


class ProbeAttention(nn.Module):
    """A learned query over an image's patches, its three projections published as one, in torch's layout."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, probe: Float[Array, "1 1 D"], x: Float[Array, "images L D"]) -> Float[Array, "images D"]:
        width, (heads, features) = self.config.hidden_size, self.config.heads
        weight = self.param("in_proj_weight", nn.initializers.normal(0.02), (3 * width, width))
        bias = self.param("in_proj_bias", nn.initializers.zeros, (3 * width,))
        to_q, to_k, to_v = jnp.split(weight, 3)
        of_q, of_k, of_v = jnp.split(bias, 3)
        q = (probe[0] @ to_q.T + of_q[None]).reshape(heads, features)
        k = (x @ to_k.T + of_k[None, None]).reshape(*x.shape[:2], heads, features)
        v = (x @ to_v.T + of_v[None, None]).reshape(*x.shape[:2], heads, features)
        weights = jax.nn.softmax(jnp.einsum("hf,ilhf->ihl", q, k) * features**-0.5)
        mixed = jnp.einsum("ihl,ilhf->ihf", weights, v).reshape(-1, width)
        return Dense(width, self.config.matmul_dtype, name="out_proj")(mixed)


class Head(nn.Module):
    """Pools an image's patches by attention."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, x: Float[Array, "images L D"]) -> Float[Array, "images D"]:
        probe = self.param("probe", nn.initializers.normal(1.0), (1, 1, self.config.hidden_size))
        pooled = ProbeAttention(self.config, name="attention")(probe, x)
        normed = LayerNorm(self.config.layer_norm_eps, name="layernorm")(pooled)
        return pooled + Mlp(self.config, name="mlp")(normed)


class SiglipTower(nn.Module):
    """One vector an image, not yet of length 1."""

    config: SiglipConfig

    @nn.compact
    def __call__(
        self, images: UInt8[Array, "images H H 3"], keys: Key[Array, "images"] | None = None
    ) -> Float[Array, "images D"]:
        config = self.config
        x = Embeddings(config, name="embeddings")(images.astype(jnp.float32) / 127.5 - 1.0)
        segment = jnp.zeros((images.shape[0], config.patches), jnp.int32)
        layers = partial(Layers, config, lambda config, _, name: Layer(config, name=name))
        x = Within(layers, "layers", name="encoder")(x, Rows(segment, keys))
        x = LayerNorm(config.layer_norm_eps, name="post_layernorm")(x)
        return Head(config, name="head")(x.reshape(images.shape[0], config.patches, -1))
