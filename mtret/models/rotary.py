"""Rotary positions (Su et al., 2104.09864), in halves: feature i turns with feature i + half."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


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
