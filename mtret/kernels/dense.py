"""Matrix products with narrow operands, GELU and layer norm, with hand-written derivatives."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MATMUL_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def differentiated_by_hand(but_for: int) -> Callable[[Callable[..., Array]], jax.custom_vjp[Array]]:
    """`jax.custom_vjp`, constant in the argument of that number."""
    # As a bare `partial`, what a function returns would have no type.
    return partial(jax.custom_vjp, nondiff_argnums=(but_for,))  # pyright: ignore[reportReturnType]


def cast_operand(x: Float[Array, "..."], matmul_dtype: str) -> Float[Array, "..."]:
    """As an operand of that type."""
    # float64 inputs (gradient checks) stay float64
    return x if matmul_dtype == "float32" else x.astype(MATMUL_DTYPES[matmul_dtype])


def product(spec: str, x: Float[Array, "..."], y: Float[Array, "..."], wide: Any) -> Float[Array, "..."]:
    """`einsum`, summed in `wide`."""
    # Left to itself, an accelerator would round float32 operands; those who want that ask for narrow ones.
    precision = jax.lax.Precision.HIGHEST if x.dtype == wide else None
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=wide)


@differentiated_by_hand(but_for=2)
def project(
    x: Float[Array, "tokens inner"], kernel: Float[Array, "inner outer"], matmul_dtype: str
) -> Float[Array, "tokens outer"]:
    """`x @ kernel` of operands rounded to `matmul_dtype`, summed in float32, forward and backward.

    Only the operands are narrow: activations, norms and softmax stay in float32. Left to autodiff, the backward
    products would mix a float32 cotangent with narrow operands and run at float32 speed.
    """
    return product("ti,io->to", cast_operand(x, matmul_dtype), cast_operand(kernel, matmul_dtype), x.dtype)


def _project_forward(x: Array, kernel: Array, matmul_dtype: str) -> tuple[Array, tuple[Array, Array]]:
    return project(x, kernel, matmul_dtype), (cast_operand(x, matmul_dtype), kernel)


def _project_backward(matmul_dtype: str, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    given = cast_operand(cotangent, matmul_dtype)
    to_x = product("to,io->ti", given, cast_operand(kernel, matmul_dtype), cotangent.dtype)
    return to_x, product("it,to->io", materialised_transpose(x), given, cotangent.dtype)


project.defvjp(_project_forward, _project_backward)


@differentiated_by_hand(but_for=2)
def gelu_project(
    x: Float[Array, "tokens inner"], kernel: Float[Array, "inner outer"], matmul_dtype: str
) -> Float[Array, "tokens outer"]:
    """`project(gelu(x), kernel)`, the error-function GELU of Hendrycks & Gimpel, 1606.08415.

    For the backward pass it keeps `x` alone. The activation is as large, and made again in a fraction of the time of
    the products around it.
    """
    return project(x * _normal_cdf(x), kernel, matmul_dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_project_forward(x: Array, kernel: Array, matmul_dtype: str) -> tuple[Array, tuple[Array, Array]]:
    return gelu_project(x, kernel, matmul_dtype), (x, kernel)


def _gelu_project_backward(matmul_dtype: str, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    active, slope = _gelu_and_slope(recompute_barrier(x, cotangent))
    to_active, to_kernel = _project_backward(matmul_dtype, (cast_operand(active, matmul_dtype), kernel), cotangent)
    return to_active * slope, to_kernel


gelu_project.defvjp(_gelu_project_forward, _gelu_project_backward)


def _gelu_and_slope(x: Array) -> tuple[Array, Array]:
    share = _normal_cdf(x)
    return x * share, share + x * jnp.exp(-0.5 * jnp.square(x)) * (1 / math.sqrt(2 * math.pi))


@differentiated_by_hand(but_for=3)
def gated_project(
    gate: Float[Array, "tokens inner"],
    x: Float[Array, "tokens inner"],
    kernel: Float[Array, "inner outer"],
    matmul_dtype: str,
) -> Float[Array, "tokens outer"]:
    """`project(gelu(gate) * x, kernel)` (Shazeer, 2002.05202); for the backward pass it keeps `gate` and `x` alone."""
    return project(gate * _normal_cdf(gate) * x, kernel, matmul_dtype)


def _gated_project_forward(
    gate: Array, x: Array, kernel: Array, matmul_dtype: str
) -> tuple[Array, tuple[Array, Array, Array]]:
    return gated_project(gate, x, kernel, matmul_dtype), (gate, x, kernel)


def _gated_project_backward(
    matmul_dtype: str, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    gate, x, kernel = saved
    active, slope = _gelu_and_slope(recompute_barrier(gate, cotangent))
    to_gated, to_kernel = _project_backward(matmul_dtype, (cast_operand(active * x, matmul_dtype), kernel), cotangent)
    return to_gated * x * slope, to_gated * active, to_kernel


gated_project.defvjp(_gated_project_forward, _gated_project_backward)


def recompute_barrier(x: Array, cotangent: Array) -> Array:
    """`x`, of which XLA does not know that it is. What the backward pass makes from it is made then, not kept since the
    forward pass made the same: an optimization barrier would say so, but on a CPU XLA drops those before it merges what
    is equal. (0 times a number is not known to be 0: it may be infinite.)"""
    return x * (1 + 0 * cotangent[(0,) * cotangent.ndim]).astype(x.dtype)


def materialised_transpose(x: Float[Array, "*batch m n"]) -> Float[Array, "*batch n m"]:
    """The transpose, made for good where it is narrow on a CPU: XLA would put it into the product, and has no narrow
    product over the first dimension there. It would widen both matmul_dtype, at less than half the speed."""
    *batch, m, n = x.shape
    if x.dtype != jnp.bfloat16 or m % 8 or jax.default_backend() != "cpu":
        return jnp.swapaxes(x, -1, -2)
    return jnp.moveaxis(x.reshape(*batch, m // 8, 8, n), -1, -3).reshape(*batch, n, m)


@differentiated_by_hand(but_for=3)
def layer_norm(
    x: Float[Array, "tokens features"], scale: Float[Array, "features"], bias: Float[Array, "features"], epsilon: float
) -> Float[Array, "tokens features"]:
    """Mean 0 and variance 1 over features, then scale and bias."""
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
    # The scale again: spread over all tokens, it would be merged with the forward pass's, and kept as large as `x`.
    normal, steepness, scale = saved
    scaled = cotangent * recompute_barrier(scale, cotangent)[None, :]
    along = (scaled * normal).mean(axis=-1, keepdims=True)
    to_x = steepness * (scaled - scaled.mean(axis=-1, keepdims=True) - normal * along)
    return to_x, (cotangent * normal).sum(axis=0), cotangent.sum(axis=0)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
