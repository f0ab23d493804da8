"""A folder with the geometry of a published encoder and random weights, to measure what cannot be fetched here.

    python experiments/007_large_vocabularies/geometry.py --name=me5-base --like=ENCODER --out=FOLDER

Words, tokenizer and pooling are those of ENCODER, a sentence-transformers folder of BERT's kind.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mtret.models import hf, towers, weights
from mtret.pytrees import flatten, unflatten

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
GEOMETRIES: dict[str, dict[str, Any]] = {
    # intfloat/multilingual-e5-base
    "me5-base": {
        **BASE,
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    },
    # Alibaba-NLP/gte-multilingual-base
    "mgte-base": {
        **BASE,
        "model_type": "new",
        "hidden_act": "gelu",
        "max_position_embeddings": 8192,
        "type_vocab_size": 1,
        "layer_norm_type": "layer_norm",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "rope",
        "rope_theta": 20000,
        "rope_scaling": {"type": "ntk", "factor": 8.0},
        "pack_qkv": True,
        "pad_token_id": 1,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
    },
}


def write(name: str, like: Path, out: Path) -> None:
    """The folder."""
    shutil.copytree(like, out, ignore=shutil.ignore_patterns("*.safetensors"))
    words = json.loads((like / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    published = {**GEOMETRIES[name], "vocab_size": words}
    (out / "config.json").write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
    pooling = out / "1_Pooling" / "config.json"
    own = json.loads(pooling.read_text(encoding="utf-8")) | {"word_embedding_dimension": published["hidden_size"]}
    pooling.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
    kind = towers.TOWERS[published["model_type"]]
    shapes = flatten(hf.abstract_params(kind.module(kind.config.from_json(published, str(out)))))
    random = np.random.default_rng(0)

    def drawn(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("scale"):
            return np.ones(shape, np.float32)
        return random.normal(0, 0.02, shape).astype(np.float32)

    params = unflatten({path: drawn(path, leaf.shape) for path, leaf in shapes.items()})
    tensors = weights.published(params, "")
    save_file(tensors, out / weights.SINGLE, {"format": "pt"})
    print(f"wrote {out}: {sum(value.size for value in tensors.values()):,} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=GEOMETRIES, required=True)
    parser.add_argument("--like", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    own = parser.parse_args()
    write(own.name, own.like, own.out)
