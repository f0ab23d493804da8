"""Building blocks of the towers. Activations are [tokens, features]: every product is one large matrix product."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mtret.kernels.attention import attend
from mtret.kernels.dense import gated_project, gelu_project, layer_norm, project
from mtret.kernels.masks import dropout
from mtret.models.tower_config import TowerConfig


class Rows(NamedTuple):
    """What layers know of the rows in which their tokens stand."""

    segment: Int[Array, "rows L"]
    keys: Key[Array, "rows"] | None  # what dropout draws its masks from
    turns: tuple[Float[Array, "2 rows L half"], ...] = ()  # of rotary positions, as `rotary.angles` makes them
    layer: Int[Array, ""] | int = 0  # the number of the layer that reads them: its dropout depends on it


class TextTower(nn.Module):
    """Packed rows in, the states of their tokens out: embeddings, layers, and what may follow them.

    Each of the three can be run alone as well (train/layerwise.py), so nothing passes between them but states and Rows.
    """

    config: Any  # a TowerConfig
    LAYERS: ClassVar[str]  # where the parameters of layers lie
    END: ClassVar[str | None] = None  # and those of what follows them, if anything does

    def __call__(
        self,
        ids: Int[Array, "rows L"],
        position: Int[Array, "rows L"],
        segment: Int[Array, "rows L"],
        row_keys: Key[Array, "rows"] | None = None,
    ) -> Float[Array, "rows L D"]:
        x, rows = self.begin(ids, position, Rows(segment, row_keys))
        return self.end(self.middle(x, rows)).reshape(*ids.shape, -1)

    def begin(
        self, ids: Int[Array, "rows L"], position: Int[Array, "rows L"], rows: Rows
    ) -> tuple[Float[Array, "tokens D"], Rows]:
        """`embeddings` of the tokens; and the rows, with what else the layers need to know of them."""
        raise NotImplementedError

    def middle(self, x: Float[Array, "tokens D"], rows: Rows) -> Float[Array, "tokens D"]:
        """All layers, by the module that LAYERS begins with."""
        return getattr(self, self.LAYERS.split("/")[0])(x, rows)

    @staticmethod
    def layer(config: Any, number: int, name: str | None = None) -> nn.Module:
        """One of them: (x, rows) -> x. Layers that are equal, as modules without a name, are one function."""
        raise NotImplementedError

    def end(self, x: Float[Array, "tokens D"]) -> Float[Array, "tokens D"]:
        """What follows the layers."""
        return x


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
    matmul_dtype: str
    gelu_first: bool = False
    bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "tokens inner"], factor: Float[Array, "tokens inner"] | None = None
    ) -> Float[Array, "tokens outer"]:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.features))
        if factor is not None:
            found = gated_project(x, factor, kernel, self.matmul_dtype)
        elif self.gelu_first:
            found = gelu_project(x, kernel, self.matmul_dtype)
        else:
            found = project(x, kernel, self.matmul_dtype)
        if not self.bias:
            return found
        return found + self.param("bias", nn.initializers.zeros, (self.features,))[None, :]


def mix(
    config: TowerConfig,
    q: Float[Array, "rows L heads features"],
    k: Float[Array, "rows L heads features"],
    v: Float[Array, "rows L heads features"],
    rows: Rows,
    site: Int[Array, ""] | int,
    window: int | None = None,
) -> Float[Array, "tokens D"]:
    """Attention within segments, computed and dropped as `config` says; heads side by side."""
    mixed = attend(
        q,
        k,
        v,
        rows.segment,
        window=window,
        matmul_dtype=config.matmul_dtype,
        implementation=config.attention,
        row_keys=rows.keys,
        dropout_rate=config.attention_dropout_rate,
        dropout_site=site,
    )
    return mixed.reshape(-1, config.hidden_size)


class Gated(nn.Module):
    """The feed-forward network with a gated GELU, (gelu(x @ gate) * (x @ up)) @ down.

    Both kernels of its wide half are published as one, `names[0]`, in either order.
    """

    width: int
    matmul_dtype: str
    names: tuple[str, str]  # published, of its two halves
    gate_first: bool
    biases: tuple[bool, bool]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "tokens D"],
        keys: Key[Array, "rows"] | None,
        dropout_rate: float,
        site: Int[Array, ""] | int,
    ) -> Float[Array, "tokens D"]:
        both = Dense(2 * self.width, self.matmul_dtype, bias=self.biases[0], name=self.names[0])(x)
        gate, up = jnp.split(both, 2, axis=1) if self.gate_first else jnp.split(both, 2, axis=1)[::-1]
        up = dropout(up, keys, dropout_rate, site)  # as good as dropping their product
        return Dense(x.shape[1], self.matmul_dtype, gelu_first=True, bias=self.biases[1], name=self.names[1])(gate, up)


class Layers(nn.Module):
    """A tower's layers, numbered from 0."""

    config: TowerConfig
    layer: Callable[..., nn.Module]  # (config, number, name)

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows) -> Float[Array, "tokens D"]:
        def run(layer: nn.Module, x: Array, rows: Rows) -> Array:
            return layer(x, rows)  # type: ignore[operator]

        once_more = nn.remat(run) if self.config.remat else run
        for number in range(self.config.num_hidden_layers):
            x = once_more(self.layer(self.config, number, str(number)), x, rows._replace(layer=number))
        return x


class Within(nn.Module):
    """Holds a module under the name that it was published by, a level further down."""

    module: Callable[..., nn.Module]  # (name)
    published: str

    @nn.compact
    def __call__(self, *inputs: Any) -> Float[Array, "tokens features"]:
        return self.module(name=self.published)(*inputs)


class Embeddings(nn.Module):
    """Embeddings of words, of positions where there are learned ones, and that of type 0 where there are types, summed
    and normed."""

    config: Any  # a TowerConfig with types

    @nn.compact
    def __call__(
        self, ids: Int[Array, "rows L"], place: Int[Array, "rows L"] | None, keys: Key[Array, "rows"] | None
    ) -> Float[Array, "tokens D"]:
        config, width = self.config, self.config.hidden_size
        x = Embedding(config.vocab_size, width, name="word_embeddings")(ids.reshape(-1))
        if place is not None:
            x += Embedding(config.max_position_embeddings, width, name="position_embeddings")(place.reshape(-1))
        if config.type_vocab_size:
            types = Embedding(config.type_vocab_size, width, name="token_type_embeddings")
            x += types(jnp.zeros(1, jnp.int32))
        x = LayerNorm(config.layer_norm_eps, name="LayerNorm")(x)
        return dropout(x, keys, config.hidden_dropout_prob, 0)


class LayerNorm(nn.Module):
    """Normalises over features: mean 0, variance 1, then scale and, where there is one, bias."""

    epsilon: float
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "tokens features"]) -> Float[Array, "tokens features"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape) if self.bias else jnp.zeros(shape, scale.dtype)
        return layer_norm(x, scale, bias, self.epsilon)


class Embedding(nn.Module):
    """A table of `size` rows, looked up by index."""

    size: int
    features: int

    @nn.compact
    def __call__(self, index: Int[Array, "tokens"]) -> Float[Array, "tokens features"]:
        table = self.param("embedding", nn.initializers.normal(0.02), (self.size, self.features))
        return table[index]
