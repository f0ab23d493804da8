"""A tiny model folder, written by hand: a published checkpoint as hf.py must read it, with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "bert",
    "vocab_size": 16,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
MODULES = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}"}
    for i, path in enumerate(("", "1_Pooling", "2_Normalize"))
]
POOLING = {"word_embedding_dimension": CONFIG["hidden_size"], "pooling_mode_mean_tokens": True}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def published_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor that a BERT of CONFIG is published with, torch's [out, in] layout, pooler and positions included."""
    d, wide = 8, 12
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (16, d),
        "embeddings.position_embeddings.weight": (32, d),
        "embeddings.token_type_embeddings.weight": (2, d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
        "pooler.dense.weight": (d, d),
        "pooler.dense.bias": (d,),
    }
    for i in range(2):
        layer = f"encoder.layer.{i}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{layer}.{name}.weight": (d, d), f"{layer}.{name}.bias": (d,)}
        shapes |= {f"{layer}.intermediate.dense.weight": (wide, d), f"{layer}.intermediate.dense.bias": (wide,)}
        shapes |= {f"{layer}.output.dense.weight": (d, wide), f"{layer}.output.dense.bias": (d,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}.{name}.weight": (d,), f"{layer}.{name}.bias": (d,)}
    random = np.random.default_rng((seed, 5))
    tensors: dict[str, np.ndarray] = {
        name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()
    }
    tensors["embeddings.position_ids"] = np.arange(32, dtype=np.int64)[None]
    return tensors


WriteModel = Callable[..., Path]


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """`write_model(name, tensors=..., files={...}, prefix="bert.", **config)`: a folder that loads but for what is
    given. A `None` among the files is left out; a `None` in the config too."""

    def write(
        name: str = "tiny",
        tensors: dict[str, np.ndarray] | None = None,
        files: dict[str, str | bytes | None] | None = None,
        prefix: str = "",
        **config: Any,
    ) -> Path:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace
        from tokenizers.processors import TemplateProcessing

        folder = tmp_path / name
        folder.mkdir(parents=True)
        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        tokenizer.save(str(folder / "tokenizer.json"))
        published = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(published), encoding="utf-8")
        (folder / "modules.json").write_text(json.dumps(MODULES), encoding="utf-8")
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(POOLING), encoding="utf-8")
        named = {prefix + key: value for key, value in (tensors or published_tensors()).items()}
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
        for place, content in (files or {}).items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write
