"""ModernBERT (Warner et al., 2412.13663): pre-norm, no biases, rotary positions, gated GELU, mostly local attention.

Modules are named as in the published checkpoints, so that a parameter's path is its published name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from mtret.errors import UserError
from mtret.kernels.masks import dropout
from mtret.models.layers import Embedding, Gated, LayerNorm, Layers, Rows, TextTower
from mtret.models.rotary import RotaryAttention, Rotation, angles
from mtret.models.tower_config import TowerConfig

PREFIXES = ("model.",)
UNUSED = (r"head\..*", r"decoder\..*", r"classifier\..*")
GLOBAL, LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(TowerConfig):
    """As in `config.json`; `rotations` and `layer_types` from their fields of either spelling."""

    TOWER = "ModernBERT"
    DROPOUTS = ("attention_dropout", "mlp_dropout", "embedding_dropout")
    FIXED = {  # noqa: RUF012 (ClassVar in the base)
        "hidden_activation": "gelu",
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
    }

    norm_eps: float
    local_attention: int  # tokens that a token of a local layer sees, one more than that with itself
    layer_types: tuple[str, ...]  # of each layer, GLOBAL or LOCAL
    rotations: tuple[Rotation, Rotation]  # of global layers, and of local ones
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    embedding_dropout: float = 0.0

    @classmethod
    def from_json(cls, published: Mapping[str, Any], where: str) -> Any:
        """See the base."""
        return cls.read(
            published, where, layer_types=_layer_types(published, where), rotations=_rotations(published, where)
        )


def _layer_types(published: Mapping[str, Any], where: str) -> tuple[str, ...]:
    layers, period = int(published.get("num_hidden_layers", 0)), int(published.get("global_attn_every_n_layers", 3))
    types = published.get("layer_types") or [LOCAL if i % period else GLOBAL for i in range(layers)]
    strange = [kind for kind in types if kind not in (GLOBAL, LOCAL)]
    if strange or len(types) != layers:
        raise UserError(f"{where}: layer_types must name {GLOBAL!r} or {LOCAL!r} for each of {layers} layers")
    return tuple(types)


def _rotations(published: Mapping[str, Any], where: str) -> tuple[Rotation, Rotation]:
    native = published.get("rope_parameters") or {}
    if published.get("rope_scaling") is not None or any(
        each.get("rope_type", "default") != "default" for each in native.values()
    ):
        raise UserError(f"{where}: scaled rotary positions; the ModernBERT tower knows rope_type 'default' only")
    old = {GLOBAL: ("global_rope_theta", 160_000.0), LOCAL: ("local_rope_theta", 10_000.0)}
    thetas = [native.get(kind, {}).get("rope_theta", published.get(name, usual)) for kind, (name, usual) in old.items()]
    return Rotation(float(thetas[0])), Rotation(float(thetas[1]))


def exported(published: dict[str, Any], target: str) -> dict[str, Any]:
    """For text-embeddings-inference with the fields that it reads, which transformers writes no more."""
    if target != "tei":
        return published
    types, rotations = _layer_types(published, "config.json"), _rotations(published, "config.json")
    period = next((i for i in range(1, len(types)) if types[i] == GLOBAL), len(types))
    if types != tuple(LOCAL if i % period else GLOBAL for i in range(len(types))):
        raise UserError("--target=tei: it knows global layers at equal distances only, and this encoder has others")
    thetas = {"global_rope_theta": rotations[0].theta, "local_rope_theta": rotations[1].theta}
    return {**published, "global_attn_every_n_layers": period, **thetas}


class Layer(nn.Module):
    """One transformer layer; it owns three dropout sites. The first has no norm before its attention."""

    config: ModernBertConfig
    first: bool
    local: bool  # attends to what is near alone

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows) -> Float[Array, "tokens D"]:
        config, keys, site = self.config, rows.keys, 1 + 3 * rows.layer
        window = config.local_attention // 2 if self.local else None
        normed = x if self.first else LayerNorm(config.norm_eps, bias=False, name="attn_norm")(x)
        names = ("Wqkv", "Wo")
        attention = RotaryAttention(config, names, bias=False, rotation=int(self.local), window=window, name="attn")
        mixed = attention(normed, rows, site)
        x += dropout(mixed, keys, config.attention_dropout, site + 1)
        widths, bare = (config.intermediate_size, config.matmul_dtype), (False, False)
        mlp = Gated(*widths, ("Wi", "Wo"), gate_first=True, biases=bare, name="mlp")
        return x + mlp(LayerNorm(config.norm_eps, bias=False, name="mlp_norm")(x), keys, config.mlp_dropout, site + 2)


class Embeddings(nn.Module):
    """Of words, normed."""

    config: ModernBertConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "rows L"], keys: Key[Array, "rows"] | None) -> Float[Array, "tokens D"]:
        config = self.config
        x = Embedding(config.vocab_size, config.hidden_size, name="tok_embeddings")(ids.reshape(-1))
        return dropout(LayerNorm(config.norm_eps, bias=False, name="norm")(x), keys, config.embedding_dropout, 0)


class ModernBertTower(TextTower):
    """Token states."""

    LAYERS, END = "layers", "final_norm"

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.layers = Layers(self.config, self.layer)
        self.final_norm = LayerNorm(self.config.norm_eps, bias=False)

    def begin(
        self, ids: Int[Array, "rows L"], position: Int[Array, "rows L"], rows: Rows
    ) -> tuple[Float[Array, "tokens D"], Rows]:
        """See the base."""
        config = self.config
        turns = tuple(angles(position, each, config.heads[1]) for each in config.rotations)
        return self.embeddings(ids, rows.keys), rows._replace(turns=turns)

    @staticmethod
    def layer(config: Any, number: int, name: str | None = None) -> nn.Module:
        """See the base."""
        return Layer(config, first=number == 0, local=config.layer_types[number] == LOCAL, name=name)

    def end(self, x: Float[Array, "tokens D"]) -> Float[Array, "tokens D"]:
        """See the base."""
        return self.final_norm(x)
