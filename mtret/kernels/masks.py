"""Which tokens see each other, and which elements dropout keeps: the same for every way to compute attention."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32


def visible(segment: Int[Array, "rows L"], window: int | None) -> Bool[Array, "rows L L"]:
    """Tokens of one segment, at most `window` positions apart (None: any). The same seen from key and from query."""
    seen = segment[:, :, None] == segment[:, None, :]
    if window is None:
        return seen
    place = jnp.arange(segment.shape[1])
    return seen & (jnp.abs(place[:, None] - place[None, :]) <= window)[None]


def dropout(
    x: Float[Array, "rows_or_tokens ..."],
    row_keys: Key[Array, "rows"] | None,
    rate: float,
    site: Int[Array, ""] | int,
) -> Float[Array, "rows_or_tokens ..."]:
    """Zeroes a share `rate` and scales up the rest. The mask depends on the row's key and the `site` in the network
    only, so a row draws the same mask in whatever chunk or on whatever device it is encoded. No keys: no dropout.

    `x` is by row, or by token, row after row.
    """
    if row_keys is None or rate == 0.0:
        return x
    return dropped(x, dropout_words(row_keys, site), rate)


def dropped(
    x: Float[Array, "rows_or_tokens ..."], words: UInt32[Array, "rows 2"], rate: float
) -> Float[Array, "rows_or_tokens ..."]:
    """As `dropout`, by its words."""
    of_rows = x.reshape(len(words), -1)
    number = jax.lax.iota(jnp.uint32, of_rows.shape[1])[None]
    keep = dropout_mask(number, words[:, :1], words[:, 1:], rate)
    return jnp.where(keep, of_rows / (1.0 - rate), jnp.zeros((), x.dtype)).reshape(x.shape)


def dropout_words(row_keys: Key[Array, "rows"], site: Int[Array, ""] | int) -> UInt32[Array, "rows 2"]:
    """What a row's dropout masks at one `site` of the network are drawn from."""
    words = jax.random.key_data(jax.vmap(lambda key: jax.random.fold_in(key, site))(row_keys))
    return jnp.stack([words[:, 0], words[:, -1]], axis=1)


def dropout_mask(
    number: UInt32[Array, "..."], first: UInt32[Array, "..."], second: UInt32[Array, "..."], rate: float
) -> Bool[Array, "..."]:
    """Which elements dropout of `rate` keeps, by their number in the row and the row's two words.

    They are mixed by MurmurHash3's finaliser, twice. JAX's own generator, made for more than masks, would cost several
    times the rest of the softmax.
    """
    return _mix(_mix(number ^ first) + second) >= jnp.uint32(dropout_threshold(rate))


def dropout_threshold(rate: float) -> int:
    """Hashed words below it are dropped."""
    return min(round(rate * 2**32), 2**32 - 1)


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
