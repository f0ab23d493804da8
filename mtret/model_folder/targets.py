"""What some servers need of a model folder beyond what sentence-transformers needs, and what they would get wrong.

Read from text-embeddings-inference 1.9 and Elasticsearch's importer, eland 9.
"""

import json
from pathlib import Path
from typing import Any

from mtret.errors import UserError
from mtret.models import hf

TARGETS = ("tei", "elastic")
# File -> the fields that text-embeddings-inference reads without a default, and their types.
TEI_BERT = {
    "vocab_size": int,
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "intermediate_size": int,
    "max_position_embeddings": int,
    "model_type": str,
}
TEI_FILES: dict[str, dict[str, type]] = {
    "config.json": TEI_BERT,
    "1_Pooling/config.json": {
        "pooling_mode_cls_token": bool,
        "pooling_mode_mean_tokens": bool,
        "pooling_mode_lasttoken": bool,
    },
    "tokenizer.json": {},
    "config_sentence_transformers.json": {"prompts": dict},
}
TEI_OF_TYPE: dict[str, dict[str, type]] = {
    "bert": {"hidden_act": str, "layer_norm_eps": float, "type_vocab_size": int},
    "xlm-roberta": {"hidden_act": str, "layer_norm_eps": float, "type_vocab_size": int, "pad_token_id": int},
    "gte": {
        "hidden_act": str,
        "layer_norm_eps": float,
        "type_vocab_size": int,
        "layer_norm_type": str,
        "position_embedding_type": str,
        "rope_theta": float,
    },
    "modernbert": {
        "hidden_activation": str,
        "norm_eps": float,
        "local_attention": int,
        "global_attn_every_n_layers": int,
        "global_rope_theta": float,
        "local_rope_theta": float,
    },
}
SERVED_POOLINGS = {"tei": ("cls", "mean", "last"), "elastic": ("cls", "mean")}
ELASTIC_TYPES = ("bert", "xlm-roberta")


def check_target(target: str, encoder: hf.Pretrained) -> None:
    """Raises UserError where a server would refuse the model, or serve it wrong without a word."""
    if target and not encoder.pools_prompt:
        raise UserError(
            f"--target={target}: this encoder leaves prompts out of the mean (include_prompt in {hf.POOLING}), which "
            "that server does not do; its vectors would be others"
        )
    head = encoder.config.head
    if target and (head.poolings[1:] or head.pooling not in SERVED_POOLINGS[target] or head.dense or head.truncate_dim):
        raise UserError(
            f"--target={target}: that server reads one pooling of {', '.join(SERVED_POOLINGS[target])}, and Normalize; "
            f"this encoder pools by {head.pooling}, has {len(head.dense)} Dense modules and truncate_dim "
            f"{head.truncate_dim}"
        )
    if target and encoder.settings.do_lower_case:
        raise UserError(f"--target={target}: that server does not read do_lower_case in {hf.SETTINGS[0]}")
    if target == "elastic" and encoder.model_type not in ELASTIC_TYPES:
        raise UserError(
            f"--target=elastic: Elasticsearch's importer knows {' and '.join(ELASTIC_TYPES)}, not "
            f"'{encoder.model_type}'; compute vectors outside and store them as dense_vector"
        )


def check_for_tei(folder: Path) -> None:
    """Raises UserError where a file lacks what text-embeddings-inference requires."""
    for name, wanted in TEI_FILES.items():
        if not (folder / name).exists():
            raise UserError(f"--target=tei: {name} is missing in the export; the source has none")
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        if name == "config.json":
            wanted = wanted | TEI_OF_TYPE.get(str(value.get("model_type")), {})
        _check_fields(name, value, wanted)


def _check_fields(name: str, value: dict[str, Any], wanted: dict[str, type]) -> None:
    for key, kind in wanted.items():
        found = value.get(key)
        fits = isinstance(found, int | float) if kind is float else isinstance(found, kind)
        if not fits:
            raise UserError(f"--target=tei: {name} has {found!r} for '{key}', where a {kind.__name__} is needed")
