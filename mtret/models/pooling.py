"""From token states to one vector per text. Which tokens count, and how much, is decided on the host, as weights."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from mtret.encoder_folder.modules import DenseLayer, Head
from mtret.pytrees import Tree

DENSE = "dense"  # where a tower's parameters hold those of its dense layers, by their number


def pool(
    states: Float[Array, "C S R L D"],
    weights: Float[Array, "C S R L *modes"],
    segment: Int[Array, "C S R L"],
    n_texts: int,
    poolings: Sequence[str] = ("mean",),
) -> Float[Array, "S n_texts modes_D"]:
    """Weighted sum of each text's token states, by shard; of several modes, side by side. Padding (segment n_texts)
    falls off the end. `max` takes the largest of the states whose weight is not 0."""
    shards, features = states.shape[1], states.shape[-1]
    flat = states.transpose(1, 0, 2, 3, 4).reshape(shards, -1, features)
    index = segment.transpose(1, 0, 2, 3).reshape(shards, -1)
    by_mode = weights.reshape(*weights.shape[:4], len(poolings)).transpose(4, 1, 0, 2, 3)
    pooled = []
    for mode, weight in zip(poolings, by_mode.reshape(len(poolings), shards, -1), strict=True):
        one = _largest if mode == "max" else _sum
        pooled.append(jax.vmap(lambda x, w, i, one=one: one(x, w, i, n_texts))(flat, weight, index))
    return pooled[0] if len(pooled) == 1 else jnp.concatenate(pooled, axis=-1)


def _sum(
    states: Float[Array, "tokens D"], weight: Float[Array, "tokens"], index: Int[Array, "tokens"], n_texts: int
) -> Float[Array, "n_texts D"]:
    return jax.ops.segment_sum(states * weight[:, None], index, num_segments=n_texts)


def _largest(
    states: Float[Array, "tokens D"], weight: Float[Array, "tokens"], index: Int[Array, "tokens"], n_texts: int
) -> Float[Array, "n_texts D"]:
    """As a sum of those states that are the largest, which has a derivative; and of a text without tokens, zero."""
    counted = jnp.where(weight[:, None] > 0, jax.lax.stop_gradient(states), -jnp.inf)
    chosen = counted == jax.ops.segment_max(counted, index, num_segments=n_texts)[index]
    ties = jax.ops.segment_sum(chosen.astype(states.dtype), index, num_segments=n_texts)
    share = jnp.where(chosen, 1 / jnp.maximum(ties, 1)[index], 0).astype(states.dtype)
    return jax.ops.segment_sum(states * share, index, num_segments=n_texts)


def finish(pooled: Float[Array, "S n modes_D"], params: Tree, head: Head) -> Float[Array, "S n out"]:
    """A text's vector of its pooled states, by the modules behind the pooling. `params`: the tower's. A text that is
    not there pools to zero and stays zero, with a zero gradient."""
    there = jnp.any(pooled != 0, axis=-1, keepdims=True)
    number, x = 0, pooled
    for layer in head.layers:
        if isinstance(layer, DenseLayer):
            x = _dense(x, params[DENSE][str(number)], layer)
            number += 1
        else:
            x = normalise(x)
    x = jnp.where(there, x, jnp.zeros((), x.dtype)) if number else x
    return x if head.truncate_dim is None else x[..., : head.truncate_dim]


def dense_shapes(layer: DenseLayer) -> dict[str, jax.ShapeDtypeStruct]:
    """Of a dense layer's parameters, by their paths."""
    kernel = jax.ShapeDtypeStruct((layer.inputs, layer.outputs), jnp.float32)
    shapes = {"linear/kernel": kernel}
    if layer.bias:
        shapes["linear/bias"] = jax.ShapeDtypeStruct((layer.outputs,), jnp.float32)
    return {**shapes, "residual/kernel": kernel} if layer.projects else shapes


def _dense(x: Float[Array, "S n inner"], params: Tree, layer: DenseLayer) -> Float[Array, "S n outer"]:
    """In float32 whatever the tower multiplies in: it is a text's product, not a token's."""

    def product(kernel: Array) -> Array:
        return jnp.einsum("gni,io->gno", x, kernel, precision=jax.lax.Precision.HIGHEST)

    made = product(params["linear"]["kernel"])
    if layer.bias:
        made = made + params["linear"]["bias"][None, None, :]
    made = ACTIVATIONS[layer.activation](made)
    if not layer.residual:
        return made
    return made + (product(params["residual"]["kernel"]) if layer.projects else x)


# torch.nn's, as they are made without arguments.
ACTIVATIONS = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
    "LeakyReLU": lambda x: jax.nn.leaky_relu(x, 0.01),
    "ELU": jax.nn.elu,
    "Mish": jax.nn.mish,
    "Softplus": jax.nn.softplus,
}


def unit(vectors: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """As `normalise`, on the host."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def normalise(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """L2 norm 1. A text that is not there pools to zero and stays zero, with a zero gradient."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
