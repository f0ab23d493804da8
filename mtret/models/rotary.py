"""Rotary positions (Su et al., 2104.09864), in halves: feature i turns with feature i + half. And attention by them."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mtret.models.layers import Dense, Rows, mix
from mtret.models.tower_config import TowerConfig


@dataclass(frozen=True)
class Rotation:
    """Pair i of a head's features turns by theta^(-2i / features) / stretch radians a position."""

    theta: float
    stretch: float = 1.0


def angles(position: Int[Array, "rows L"], rotation: Rotation, features: int) -> Float[Array, "2 rows L half"]:
    """Cosines and sines. Positions restart with every text, so no text is turned by where it lies in its row."""
    speeds = rotation.theta ** (-np.arange(0, features, 2) / features) / rotation.stretch
    turned = position[:, :, None].astype(jnp.float32) * jnp.asarray(speeds, jnp.float32)[None, None]
    return jnp.stack([jnp.cos(turned), jnp.sin(turned)])


def rotate(
    x: Float[Array, "rows L heads features"], turn: Float[Array, "2 rows L half"]
) -> Float[Array, "rows L heads features"]:
    """Queries or keys, turned by `angles`."""
    first, second = jnp.split(x, 2, axis=-1)
    cosine, sine = (each[:, :, None].astype(x.dtype) for each in turn)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


class RotaryAttention(nn.Module):
    """Multi-head attention within segments, queries and keys turned by position, and its output projection.

    Its three kernels on the way in are published as one.
    """

    config: TowerConfig
    names: tuple[str, str]  # published, of the two projections
    bias: bool = True
    rotation: int = 0  # which of the rows' turns
    window: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows, site: Int[Array, ""] | int) -> Float[Array, "tokens D"]:
        config, (inward, outward), turn = self.config, self.names, rows.turns[self.rotation]
        projected = Dense(3 * config.hidden_size, config.matmul_dtype, bias=self.bias, name=inward)(x)
        q, k, v = (part.reshape(*rows.segment.shape, *config.heads) for part in jnp.split(projected, 3, axis=1))
        mixed = mix(config, rotate(q, turn), rotate(k, turn), v, rows, site, self.window)
        return Dense(config.hidden_size, config.matmul_dtype, bias=self.bias, name=outward)(mixed)
