"""Building blocks of the towers. Activations are [tokens, features]: every product is one large matrix product."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

OPERANDS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def contract(spec: str, x: Float[Array, "..."], y: Float[Array, "..."], operands: str) -> Float[Array, "..."]:
    """`einsum(spec, x, y)` of operands rounded to `operands`, accumulated in float32, forward and backward.

    Only the operands are narrow: activations, norms and softmax stay in float32. Left to autodiff, the backward
    products would mix a float32 cotangent with narrow operands and run at float32 speed.
    """
    return _contract(spec, x, y, operands)


def _product(spec: str, x: Array, y: Array, operands: str) -> Array:
    wide = jnp.promote_types(jnp.float32, x.dtype)
    narrow = OPERANDS[operands] if operands != "float32" else wide  # float64 inputs (gradient checks) stay float64
    # Left to itself, an accelerator would round float32 operands; those who want that ask for narrow ones.
    precision = jax.lax.Precision.HIGHEST if operands == "float32" else None
    return jnp.einsum(spec, x.astype(narrow), y.astype(narrow), precision=precision, preferred_element_type=wide)


def _contract_forward(spec: str, x: Array, y: Array, operands: str) -> tuple[Array, tuple[Array, Array]]:
    return _product(spec, x, y, operands), (x, y)


def _contract_backward(spec: str, operands: str, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, y = saved
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    return (
        _product(f"{output},{right}->{left}", cotangent, y, operands),
        _product(f"{left},{output}->{right}", x, cotangent, operands),
    )


_contract = jax.custom_vjp(_product, nondiff_argnums=(0, 3))
_contract.defvjp(_contract_forward, _contract_backward)


def dropout(
    x: Float[Array, "rows ..."], row_keys: Key[Array, "rows"] | None, rate: float, site: int
) -> Float[Array, "rows ..."]:
    """Zeroes a share `rate` and scales up the rest. The mask depends on the row's key and the `site` in the network
    only, so a row draws the same mask in whatever chunk or on whatever device it is encoded. No keys: no dropout."""
    if row_keys is None or rate == 0.0:
        return x
    keys = jax.vmap(lambda key: jax.random.fold_in(key, site))(row_keys)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def attend(
    q: Float[Array, "rows L heads features"],
    k: Float[Array, "rows L heads features"],
    v: Float[Array, "rows L heads features"],
    segment: Int[Array, "rows L"],
    *,
    window: int | None = None,
    implementation: str = "float32",
    row_keys: Key[Array, "rows"] | None = None,
    dropout_rate: float = 0.0,
    dropout_site: int = 0,
) -> Float[Array, "rows L heads features"]:
    """Softmax attention among the tokens of one segment; the one interface that every tower calls.

    `window`: attend to tokens at most that many positions away (None: the whole segment). `implementation`: the type of
    the products' operands, "float32" or "bfloat16". Every token sees itself at least, so no softmax is empty.
    """
    rows, length, heads, features = q.shape
    q, k, v = (x.transpose(0, 2, 1, 3).reshape(rows * heads, length, features) for x in (q, k, v))
    scores = contract("bqd,bkd->bqk", q * features**-0.5, k, implementation)
    visible = segment[:, :, None] == segment[:, None, :]
    if window is not None:
        offset = jnp.arange(length)
        visible &= (jnp.abs(offset[:, None] - offset[None, :]) <= window)[None]
    scores = jnp.where(visible[:, None], scores.reshape(rows, heads, length, length), -jnp.inf)
    # The division comes after the product with the values: it then touches [L, features], not [L, L].
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1).reshape(rows * heads, length, 1)
    weights = dropout(weights, row_keys, dropout_rate, dropout_site).reshape(rows * heads, length, length)
    mixed = contract("bqk,bkd->bqd", weights, v, implementation) / total
    return mixed.reshape(rows, heads, length, features).transpose(0, 2, 1, 3)


class Dense(nn.Module):
    """x @ kernel + bias, kernel [in, out]."""

    features: int
    operands: str

    @nn.compact
    def __call__(self, x: Float[Array, "tokens inner"]) -> Float[Array, "tokens outer"]:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return contract("ti,io->to", x, kernel, self.operands) + bias[None, :]


class LayerNorm(nn.Module):
    """Normalises over features: mean 0, variance 1, then scale and bias."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "tokens features"]) -> Float[Array, "tokens features"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * scale[None, :] + bias[None, :]


class Embedding(nn.Module):
    """A table of `size` rows, looked up by index."""

    size: int
    features: int

    @nn.compact
    def __call__(self, index: Int[Array, "tokens"]) -> Float[Array, "tokens features"]:
        table = self.param("embedding", nn.initializers.normal(0.02), (self.size, self.features))
        return table[index]
