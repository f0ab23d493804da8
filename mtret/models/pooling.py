"""From token states to one vector per text. How a text is pooled is decided on the host, as one weight per token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

POOLINGS = ("mean", "cls", "last")


def pool(
    states: Float[Array, "C G R L D"], weights: Float[Array, "C G R L"], segment: Int[Array, "C G R L"], n_texts: int
) -> Float[Array, "G n_texts D"]:
    """Weighted sum of each text's token states, by group. Padding (segment n_texts) falls off the end."""
    groups, features = states.shape[1], states.shape[-1]
    weighted = (states * weights[..., None]).transpose(1, 0, 2, 3, 4).reshape(groups, -1, features)
    index = segment.transpose(1, 0, 2, 3).reshape(groups, -1)
    return jax.vmap(lambda x, i: jax.ops.segment_sum(x, i, num_segments=n_texts))(weighted, index)


def normalise(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """L2 norm 1. A text that is not there pools to zero and stays zero, with a zero gradient."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
