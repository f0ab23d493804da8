"""Which tokens see each other, and which elements dropout keeps: the same for every way to compute attention."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt32


def visible(segment: Int[Array, "rows L"], window: int | None) -> Bool[Array, "rows L L"]:
    """Tokens of one segment, at most `window` positions apart (None: any). The same seen from key and from query."""
    seen = segment[:, :, None] == segment[:, None, :]
    if window is None:
        return seen
    place = jnp.arange(segment.shape[1])
    return seen & (jnp.abs(place[:, None] - place[None, :]) <= window)[None]


def dropout_words(row_keys: Key[Array, "rows"], site: int) -> UInt32[Array, "rows 2"]:
    """What a row's dropout masks at one `site` of the network are drawn from."""
    words = jax.random.key_data(jax.vmap(lambda key: jax.random.fold_in(key, site))(row_keys))
    return jnp.stack([words[:, 0], words[:, -1]], axis=1)


def kept(
    number: UInt32[Array, "..."], first: UInt32[Array, "..."], second: UInt32[Array, "..."], rate: float
) -> Bool[Array, "..."]:
    """Which elements dropout of `rate` keeps, by their number in the row and the row's two words.

    They are mixed by MurmurHash3's finaliser, twice. JAX's own generator, made for more than masks, would cost several
    times the rest of the softmax.
    """
    return _mix(_mix(number ^ first) + second) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
