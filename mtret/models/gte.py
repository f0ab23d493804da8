"""Multilingual GTE (Zhang et al., 2407.19669): post-norm, rotary positions, gated GELU.

Modules are named as in the published checkpoints, so that a parameter's path is its published name. The same network is
published under model_type `new`, with code of its own, and `gte`, which transformers has from 5.19 on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int

from mtret.errors import UserError
from mtret.kernels.masks import dropout
from mtret.models.layers import Embeddings, Gated, LayerNorm, Layers, Rows, TextTower, Within
from mtret.models.rotary import RotaryAttention, Rotation, angles
from mtret.models.tower_config import TowerConfig

PREFIXES = ("new.", "gte.")
UNUSED = (r"pooler\..*", r"classifier\..*", r"lm_head\..*", r"embeddings\.position_ids")


@dataclass(frozen=True, kw_only=True)
class GteConfig(TowerConfig):
    """As in `config.json`; `rotation` from its fields for rotary positions, of either spelling."""

    TOWER = "GTE"
    DROPOUTS = ("attention_probs_dropout_prob", "hidden_dropout_prob")
    FIXED = {  # noqa: RUF012 (ClassVar in the base)
        "hidden_act": "gelu",
        "position_embedding_type": "rope",
        "layer_norm_type": "layer_norm",
        "pack_qkv": True,
        "logn_attention_scale": False,
    }

    type_vocab_size: int
    layer_norm_eps: float
    rotation: Rotation
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0

    @classmethod
    def from_json(cls, published: Mapping[str, Any], where: str) -> Any:
        """See the base."""
        return cls.read(published, where, rotation=_rotation(published, where))


def _rotation(published: Mapping[str, Any], where: str) -> Rotation:
    """Of `rope_theta` and `rope_scaling`, as published, or of `rope_parameters`, as transformers writes them."""
    scaling = published.get("rope_scaling")
    if scaling is None and published.get("rope_parameters"):
        native = published["rope_parameters"]
        kind = native.get("rope_type", "default")
        if kind not in ("default", "linear"):
            raise UserError(
                f"{where}: rope_parameters.rope_type is {kind!r}; the GTE tower knows 'default' and 'linear'"
            )
        return Rotation(float(native.get("rope_theta", 160_000.0)), float(native.get("factor", 1.0)))
    theta = float(published.get("rope_theta", 10_000.0))
    if scaling is None:
        return Rotation(theta)
    if scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None:
        raise UserError(f"{where}: rope_scaling is {scaling}; the GTE tower knows the type 'ntk' without mixed_b")
    factor = float(scaling["factor"])
    features = int(published["hidden_size"]) // int(published["num_attention_heads"])
    return Rotation(theta * factor, factor ** (2 / features))


def exported(published: dict[str, Any], target: str) -> dict[str, Any]:
    """Without the code that it was published with: transformers has the network itself, under another name.

    It reads rotary positions in `rope_parameters`. Text-embeddings-inference reads the published fields, and passes
    over those of transformers without a word: for it alone they are kept.
    """
    rotation = _rotation(published, "config.json")
    kept = {
        key: value for key, value in published.items() if key not in ("auto_map", "rope_parameters", "rope_scaling")
    }
    native = {"model_type": "gte", "architectures": ["GteModel"]}
    fixed = {"layer_norm_type": "layer_norm", "position_embedding_type": "rope"}
    if target == "tei":
        features = published["hidden_size"] // published["num_attention_heads"]
        factor = rotation.stretch ** (features / 2)
        scaling = {} if factor == 1.0 else {"rope_scaling": {"type": "ntk", "factor": factor}}
        return {**kept, **native, **fixed, "rope_theta": rotation.theta / factor, **scaling}
    rope = {"rope_type": "linear", "rope_theta": rotation.theta, "factor": rotation.stretch}
    if rotation.stretch == 1.0:
        rope = {"rope_type": "default", "rope_theta": rotation.theta}
    kept.pop("rope_theta", None)
    return {**kept, **native, **fixed, "rope_parameters": rope}


class Layer(nn.Module):
    """One transformer layer; it owns four dropout sites."""

    config: GteConfig

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"], rows: Rows) -> Float[Array, "tokens D"]:
        config, site = self.config, 1 + 4 * rows.layer
        rate, keys = config.hidden_dropout_prob, rows.keys
        mixed = RotaryAttention(config, ("qkv_proj", "o_proj"), name="attention")(x, rows, site)
        x = LayerNorm(config.layer_norm_eps, name="attn_ln")(x + dropout(mixed, keys, rate, site + 1))
        names = ("up_gate_proj", "down_proj")
        mlp = Gated(
            config.intermediate_size, config.matmul_dtype, names, gate_first=False, biases=(False, True), name="mlp"
        )
        return LayerNorm(config.layer_norm_eps, name="mlp_ln")(
            x + dropout(mlp(x, keys, rate, site + 2), keys, rate, site + 3)
        )


class GteTower(TextTower):
    """Token states."""

    LAYERS = "encoder/layer"

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.encoder = Within(partial(Layers, self.config, self.layer), "layer")

    def begin(
        self, ids: Int[Array, "rows L"], position: Int[Array, "rows L"], rows: Rows
    ) -> tuple[Float[Array, "tokens D"], Rows]:
        """See the base."""
        turns = angles(position, self.config.rotation, self.config.heads[1])
        return self.embeddings(ids, None, rows.keys), rows._replace(turns=(turns,))

    @staticmethod
    def layer(config: Any, number: int, name: str | None = None) -> nn.Module:
        """See the base."""
        return Layer(config, name=name)
