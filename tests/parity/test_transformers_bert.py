"""A BERT of random weights here and in transformers."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.packing import fill, pack
from mtret.models import hf

pytestmark = [pytest.mark.parity, pytest.mark.slow]

LENGTHS = np.array([12, 3, 7, 1, 16, 5, 9])
ROW = 20
# In each geometry no two sizes are the same, so that no axis can stand for another.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "wide": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 50},
    "deep": {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 10},
    "coarse": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "layer_norm_eps": 0.1},
}


@pytest.fixture(params=GEOMETRIES)
def bert(request: pytest.FixtureRequest) -> Any:
    """Weights drawn wide, biases and norms too: at their initial values most mistakes would not show."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=40, max_position_embeddings=18, type_vocab_size=2, **GEOMETRIES[request.param])
    model = BertModel(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            weight.copy_(around + 0.3 * torch.randn(weight.shape, generator=generator))
    return model


def write(folder: Path, bert: Any, prefix: str) -> hf.Pretrained:
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {prefix + name: value.contiguous() for name, value in bert.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(bert.config.to_dict()), encoding="utf-8")
    return hf.load(str(folder))


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(9)
    return [random.integers(1, 40, length).astype(np.int32) for length in LENGTHS]


def their_states(bert: Any) -> list[np.ndarray]:
    """Token states of each text, from one padded batch."""
    import torch

    ids, mask = (torch.zeros(len(LENGTHS), LENGTHS.max(), dtype=torch.long) for _ in range(2))
    for row, text in enumerate(texts()):
        ids[row, : len(text)], mask[row, : len(text)] = torch.tensor(text), 1
    with torch.no_grad():
        states = bert(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    return [states[row, :length] for row, length in enumerate(LENGTHS)]


def our_states(loaded: hf.Pretrained, packed: bool) -> list[np.ndarray]:
    """Token states of each text, one to a row or packed."""
    packing = pack(LENGTHS, ROW)
    if not packed:
        packing = type(packing)(np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), np.int64), len(LENGTHS))
    assert packing.rows == (3 if packed else 7)
    every = np.arange(len(LENGTHS))
    weights = np.ones(int(LENGTHS.sum()), np.float32)
    rows = fill(np.concatenate(texts()), weights, LENGTHS, every, packing, (packing.rows, ROW), len(LENGTHS))
    params = jax.tree.map(jnp.asarray, loaded.params)
    apply = jax.jit(partial(loaded.tower.apply, {"params": params}))
    states = np.asarray(apply(rows.ids, rows.position, rows.segment))
    return [states[rows.segment == text] for text in every]


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_token_states(bert: Any, tmp_path: Path, prefix: str) -> None:
    loaded = write(tmp_path / "model", bert, prefix)
    theirs = their_states(bert)
    assert np.std(np.concatenate(theirs), axis=0).mean() > 0.2  # the texts' tokens really differ
    for packed in (False, True):
        for ours, reference in zip(our_states(loaded, packed), theirs, strict=True):
            np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4)


def test_saved_weights_load_there(bert: Any, tmp_path: Path) -> None:
    import torch
    from transformers import BertModel

    loaded = write(tmp_path / "model", bert, "")
    hf.save(tmp_path / "saved", loaded, loaded.params, {}, "card")
    again = BertModel.from_pretrained(tmp_path / "saved").state_dict()
    assert again.keys() == bert.state_dict().keys()
    for name, value in bert.state_dict().items():
        assert torch.equal(value, again[name]), name
