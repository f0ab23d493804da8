"""Building blocks of the towers. Activations are [tokens, features]: every product is one large matrix product."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mtret.models.masks import dropout_words, kept

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
    x = afresh(x, cotangent)
    share = _normal_cdf(x)
    to_active, to_kernel = _project_backward(operands, (narrow(x * share, operands), kernel), cotangent)
    slope = share + x * jnp.exp(-0.5 * jnp.square(x)) * (1 / math.sqrt(2 * math.pi))
    return to_active * slope, to_kernel


_gelu_project.defvjp(_gelu_project_forward, _gelu_project_backward)


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
    x: Float[Array, "rows ..."], row_keys: Key[Array, "rows"] | None, rate: float, site: int
) -> Float[Array, "rows ..."]:
    """Zeroes a share `rate` and scales up the rest. The mask depends on the row's key and the `site` in the network
    only, so a row draws the same mask in whatever chunk or on whatever device it is encoded. No keys: no dropout."""
    if row_keys is None or rate == 0.0:
        return x
    words = dropout_words(row_keys, site).reshape(-1, 2, *[1] * (x.ndim - 1))
    number = jax.lax.iota(jnp.uint32, math.prod(x.shape[1:])).reshape(1, *x.shape[1:])
    return jnp.where(kept(number, words[:, 0], words[:, 1], rate), x / (1.0 - rate), jnp.zeros((), x.dtype))


class Weights(nn.Module):
    """The kernel [in, out] and bias [out] of a dense layer, for one that multiplies several at once."""

    features: int

    @nn.compact
    def __call__(self, inner: int) -> tuple[Float[Array, "inner outer"], Float[Array, "outer"]]:
        return _kernel_and_bias(self, inner, self.features)


def _kernel_and_bias(
    module: nn.Module, inner: int, outer: int
) -> tuple[Float[Array, "inner outer"], Float[Array, "outer"]]:
    kernel = module.param("kernel", nn.initializers.normal(0.02), (inner, outer))
    return kernel, module.param("bias", nn.initializers.zeros, (outer,))


class Dense(nn.Module):
    """x @ kernel + bias, or gelu(x) @ kernel + bias."""

    features: int
    operands: str
    gelu_first: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "tokens inner"]) -> Float[Array, "tokens outer"]:
        kernel, bias = _kernel_and_bias(self, x.shape[-1], self.features)
        multiply = gelu_project if self.gelu_first else project
        return multiply(x, kernel, self.operands) + bias[None, :]


class LayerNorm(nn.Module):
    """Normalises over features: mean 0, variance 1, then scale and bias."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "tokens features"]) -> Float[Array, "tokens features"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
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
