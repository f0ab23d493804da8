"""BERT (Devlin et al., 1810.04805) and its distilled relatives such as MiniLM: post-norm, learned positions, erf GELU.

Modules are named as in the published checkpoints, so that a parameter's path is its published name.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtret.kernels.dense import project
from mtret.kernels.masks import dropout
from mtret.models.layers import Dense, Embeddings, LayerNorm, Layers, Rows, TextTower, Weights, Within, mix
from mtret.models.tower_config import TowerConfig

PREFIXES = ("bert.",)  # some checkpoints were saved from inside a larger model
UNUSED = (r"pooler\..*", r"cls\..*", r"embeddings\.position_ids")  # published, but no part of a sentence embedding


@dataclass(frozen=True, kw_only=True)
class BertConfig(TowerConfig):
    """As in `config.json`."""

    TOWER = "BERT"
    DROPOUTS = ("attention_probs_dropout_prob", "hidden_dropout_prob")
    FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}  # noqa: RUF012 (ClassVar in the base)

    type_vocab_size: int
    layer_norm_eps: float
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    first_position: int = 0  # of a text's first token, in the table of positions

    @property
    def max_length(self) -> int:
        """The table of positions ends there."""
        return self.max_position_embeddings - self.first_position


class SelfAttention(nn.Module):
    """Multi-head attention within segments, before its output projection."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows, site: Int[Array, ""] | int) -> Float[Array, "tokens D"]:
        config = self.config
        width = config.hidden_size
        kernels, biases = zip(*(Weights(width, name=name)(width) for name in ("query", "key", "value")), strict=True)
        projected = project(x, jnp.concatenate(kernels, axis=1), config.matmul_dtype) + jnp.concatenate(biases)[None, :]
        q, k, v = (part.reshape(*rows.segment.shape, *config.heads) for part in jnp.split(projected, 3, axis=1))
        return mix(config, q, k, v, rows, site)


class AddNorm(nn.Module):
    """Projection, dropout, residual, norm: the published `output` blocks."""

    config: BertConfig
    gelu_first: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "tokens inner"],
        residual: Float[Array, "tokens D"],
        rows: Rows,
        site: Int[Array, ""] | int,
    ) -> Float[Array, "tokens D"]:
        config = self.config
        x = Dense(config.hidden_size, config.matmul_dtype, self.gelu_first, name="dense")(x)
        x = dropout(x, rows.keys, config.hidden_dropout_prob, site)
        return LayerNorm(config.layer_norm_eps, name="LayerNorm")(x + residual)


class Attention(nn.Module):
    """Self-attention and its output block."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows, site: Int[Array, ""] | int) -> Float[Array, "tokens D"]:
        mixed = SelfAttention(self.config, name="self")(x, rows, site)
        return AddNorm(self.config, name="output")(mixed, x, rows, site + 1)


class Layer(nn.Module):
    """One transformer layer; it owns three dropout sites."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows) -> Float[Array, "tokens D"]:
        config, site = self.config, 1 + 3 * rows.layer
        x = Attention(config, name="attention")(x, rows, site)
        wide = Within(partial(Dense, config.intermediate_size, config.matmul_dtype), "dense", name="intermediate")(x)
        return AddNorm(config, gelu_first=True, name="output")(wide, x, rows, site + 2)


def places(ids: Int[Array, "rows L"], position: Int[Array, "rows L"], first: int) -> Int[Array, "rows L"]:
    """Rows of the table of positions as XLM-R counts them, from `first` on: a padding token that is written in a text
    has the row before, which bears its id, and does not count for the tokens behind it."""
    padding = (ids == first - 1).astype(jnp.int32)
    earlier = jnp.cumsum(padding, axis=1) - padding  # in the row; then in the text alone
    start = jnp.arange(ids.shape[1])[None, :] - position
    earlier -= jnp.take_along_axis(earlier, start, axis=1)
    return jnp.where(padding == 1, first - 1, first + position - earlier)


class BertTower(TextTower):
    """Token states; every token has type 0."""

    LAYERS = "encoder/layer"

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.encoder = Within(partial(Layers, self.config, self.layer), "layer")

    def begin(
        self, ids: Int[Array, "rows L"], position: Int[Array, "rows L"], rows: Rows
    ) -> tuple[Float[Array, "tokens D"], Rows]:
        """See the base."""
        first = self.config.first_position
        return self.embeddings(ids, places(ids, position, first) if first else position, rows.keys), rows

    @staticmethod
    def layer(config: Any, number: int, name: str | None = None) -> nn.Module:
        """See the base."""
        return Layer(config, name=name)
