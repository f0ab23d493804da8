"""Building blocks of the towers. Activations are [tokens, features]: every product is one large matrix product."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mtret.models.masks import dropout_words, kept
from mtret.models.tower_config import TowerConfig

OPERANDS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def narrow(x: Float[Array, "..."], operands: str) -> Float[Array, "..."]:
    """As an operand of that type."""
    # float64 inputs (gradient checks) stay float64
    return x if operands == "float32" else x.astype(OPERANDS[operands])


def product(spec: str, x: Float[Array, "..."], y: Float[Array, "..."], wide: Any) -> Float[Array, "..."]:
    """`einsum`, summed in `wide`."""
    # Left to itself, an accelerator would round float32 operands; those who want that ask for narrow ones.
    precision = jax.lax.Precision.HIGHEST if x.dtype == wide else None
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=wide)


def project(
    x: Float[Array, "tokens inner"], kernel: Float[Array, "inner outer"], operands: str
) -> Float[Array, "tokens outer"]:
    """`x @ kernel` of operands rounded to `operands`, summed in float32, forward and backward.

    Only the operands are narrow: activations, norms and softmax stay in float32. Left to autodiff, the backward
    products would mix a float32 cotangent with narrow operands and run at float32 speed.
    """
    return _project(x, kernel, operands)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _project(x: Array, kernel: Array, operands: str) -> Array:
    return product("ti,io->to", narrow(x, operands), narrow(kernel, operands), x.dtype)


def _project_forward(x: Array, kernel: Array, operands: str) -> tuple[Array, tuple[Array, Array]]:
    return _project(x, kernel, operands), (narrow(x, operands), kernel)


def _project_backward(operands: str, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    given = narrow(cotangent, operands)
    to_x = product("to,io->ti", given, narrow(kernel, operands), cotangent.dtype)
    return to_x, product("it,to->io", turned(x), given, cotangent.dtype)


_project.defvjp(_project_forward, _project_backward)


def gelu_project(
    x: Float[Array, "tokens inner"], kernel: Float[Array, "inner outer"], operands: str
) -> Float[Array, "tokens outer"]:
    """`project(gelu(x), kernel)`, the error-function GELU of Hendrycks & Gimpel, 1606.08415.

    For the backward pass it keeps `x` alone. The activation is as large, and made again in a fraction of the time of
    the products around it.
    """
    return _gelu_project(x, kernel, operands)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gelu_project(x: Array, kernel: Array, operands: str) -> Array:
    return _project(x * _normal_cdf(x), kernel, operands)


def _normal_cdf(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_project_forward(x: Array, kernel: Array, operands: str) -> tuple[Array, tuple[Array, Array]]:
    return _gelu_project(x, kernel, operands), (x, kernel)


def _gelu_project_backward(operands: str, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    active, slope = _gelu_and_slope(afresh(x, cotangent))
    to_active, to_kernel = _project_backward(operands, (narrow(active, operands), kernel), cotangent)
    return to_active * slope, to_kernel


_gelu_project.defvjp(_gelu_project_forward, _gelu_project_backward)


def _gelu_and_slope(x: Array) -> tuple[Array, Array]:
    share = _normal_cdf(x)
    return x * share, share + x * jnp.exp(-0.5 * jnp.square(x)) * (1 / math.sqrt(2 * math.pi))


def gated_project(
    gate: Float[Array, "tokens inner"],
    x: Float[Array, "tokens inner"],
    kernel: Float[Array, "inner outer"],
    operands: str,
) -> Float[Array, "tokens outer"]:
    """`project(gelu(gate) * x, kernel)` (Shazeer, 2002.05202); for the backward pass it keeps `gate` and `x` alone."""
    return _gated_project(gate, x, kernel, operands)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _gated_project(gate: Array, x: Array, kernel: Array, operands: str) -> Array:
    return _project(gate * _normal_cdf(gate) * x, kernel, operands)


def _gated_project_forward(
    gate: Array, x: Array, kernel: Array, operands: str
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _gated_project(gate, x, kernel, operands), (gate, x, kernel)


def _gated_project_backward(
    operands: str, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    gate, x, kernel = saved
    active, slope = _gelu_and_slope(afresh(gate, cotangent))
    to_gated, to_kernel = _project_backward(operands, (narrow(active * x, operands), kernel), cotangent)
    return to_gated * x * slope, to_gated * active, to_kernel


_gated_project.defvjp(_gated_project_forward, _gated_project_backward)


def afresh(x: Array, cotangent: Array) -> Array:
    """`x`, of which XLA does not know that it is. What the backward pass makes from it is made then, not kept since the
    forward pass made the same: an optimization barrier would say so, but on a CPU XLA drops those before it merges what
    is equal. (0 times a number is not known to be 0: it may be infinite.)"""
    return x * (1 + 0 * cotangent[(0,) * cotangent.ndim]).astype(x.dtype)


def turned(x: Float[Array, "*batch m n"]) -> Float[Array, "*batch n m"]:
    """The transpose, made for good where it is narrow on a CPU: XLA would put it into the product, and has no narrow
    product over the first dimension there. It would widen both operands, at less than half the speed."""
    *batch, m, n = x.shape
    if x.dtype != jnp.bfloat16 or m % 8 or jax.default_backend() != "cpu":
        return jnp.swapaxes(x, -1, -2)
    return jnp.moveaxis(x.reshape(*batch, m // 8, 8, n), -1, -3).reshape(*batch, n, m)


def dropout(
    x: Float[Array, "rows_or_tokens ..."], row_keys: Key[Array, "rows"] | None, rate: float, site: int
) -> Float[Array, "rows_or_tokens ..."]:
    """Zeroes a share `rate` and scales up the rest. The mask depends on the row's key and the `site` in the network
    only, so a row draws the same mask in whatever chunk or on whatever device it is encoded. No keys: no dropout.

    `x` is by row, or by token, row after row.
    """
    if row_keys is None or rate == 0.0:
        return x
    words = dropout_words(row_keys, site)
    of_rows = x.reshape(len(row_keys), -1)
    number = jax.lax.iota(jnp.uint32, of_rows.shape[1])[None]
    keep = kept(number, words[:, :1], words[:, 1:], rate)
    return jnp.where(keep, of_rows / (1.0 - rate), jnp.zeros((), x.dtype)).reshape(x.shape)


class Weights(nn.Module):
    """The kernel [in, out] and bias [out] of a dense layer, for one that multiplies several at once."""

    features: int

    @nn.compact
    def __call__(self, inner: int) -> tuple[Float[Array, "inner outer"], Float[Array, "outer"]]:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (inner, self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class Dense(nn.Module):
    """x @ kernel + bias; with `gelu_first`, gelu(x) @ kernel + bias, or (gelu(x) * factor) @ kernel + bias."""

    features: int
    operands: str
    gelu_first: bool = False
    bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "tokens inner"], factor: Float[Array, "tokens inner"] | None = None
    ) -> Float[Array, "tokens outer"]:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.features))
        if factor is not None:
            found = gated_project(x, factor, kernel, self.operands)
        elif self.gelu_first:
            found = gelu_project(x, kernel, self.operands)
        else:
            found = project(x, kernel, self.operands)
        if not self.bias:
            return found
        return found + self.param("bias", nn.initializers.zeros, (self.features,))[None, :]


class Gated(nn.Module):
    """The feed-forward network with a gated GELU, (gelu(x @ gate) * (x @ up)) @ down.

    Both kernels of its wide half are published as one, `names[0]`, in either order.
    """

    width: int
    operands: str
    names: tuple[str, str]  # published, of its two halves
    gate_first: bool
    biases: tuple[bool, bool]

    @nn.compact
    def __call__(
        self, x: Float[Array, "tokens D"], keys: Key[Array, "rows"] | None, dropout_rate: float, site: int
    ) -> Float[Array, "tokens D"]:
        both = Dense(2 * self.width, self.operands, bias=self.biases[0], name=self.names[0])(x)
        gate, up = jnp.split(both, 2, axis=1) if self.gate_first else jnp.split(both, 2, axis=1)[::-1]
        up = dropout(up, keys, dropout_rate, site)  # as good as dropping their product
        return Dense(x.shape[1], self.operands, gelu_first=True, bias=self.biases[1], name=self.names[1])(gate, up)


class Layers(nn.Module):
    """A tower's layers, numbered from 0; each gets what the tower gives beside the states."""

    config: TowerConfig
    layer: Callable[..., nn.Module]  # (config, number, name)

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], *context: Any) -> Float[Array, "tokens D"]:
        layer = nn.remat(self.layer) if self.config.remat else self.layer  # type: ignore[arg-type]
        for number in range(self.config.num_hidden_layers):
            x = layer(self.config, number, name=str(number))(x, *context)
        return x


class LayerNorm(nn.Module):
    """Normalises over features: mean 0, variance 1, then scale and, where there is one, bias."""

    epsilon: float
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "tokens features"]) -> Float[Array, "tokens features"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape) if self.bias else jnp.zeros(shape, scale.dtype)
        return _layer_norm(x, scale, bias, self.epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, Array, Array]]:
    centred = x - x.mean(axis=-1, keepdims=True)
    steepness = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    normal = centred * steepness
    return normal * scale[None, :] + bias[None, :], (normal, steepness, scale)


def _layer_norm_backward(
    epsilon: float, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    """Written out, it keeps one array of the size of `x`; autodiff would keep three."""
    # The scale afresh: spread over all tokens, it would be merged with the forward pass's, and kept as large as `x`.
    normal, steepness, scale = saved
    scaled = cotangent * afresh(scale, cotangent)[None, :]
    along = (scaled * normal).mean(axis=-1, keepdims=True)
    to_x = steepness * (scaled - scaled.mean(axis=-1, keepdims=True) - normal * along)
    return to_x, (cotangent * normal).sum(axis=0), cotangent.sum(axis=0)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class Embedding(nn.Module):
    """A table of `size` rows, looked up by index."""

    size: int
    features: int

    @nn.compact
    def __call__(self, index: Int[Array, "tokens"]) -> Float[Array, "tokens features"]:
        table = self.param("embedding", nn.initializers.normal(0.02), (self.size, self.features))
        return table[index]
