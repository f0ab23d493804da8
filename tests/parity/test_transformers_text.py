"""Text towers of random weights here and in transformers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.packing import fill, pack
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig

pytestmark = [pytest.mark.parity, pytest.mark.slow]

STRETCH = 8 ** (2 / 64)  # of the published multilingual GTE


def bert(**geometry: Any) -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**geometry))


def xlmr(**geometry: Any) -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    return XLMRobertaModel(XLMRobertaConfig(pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5, **geometry))


def gte(**geometry: Any) -> Any:
    from transformers import GteConfig, GteModel

    rope = {"rope_type": "linear", "rope_theta": 160_000.0, "factor": STRETCH}
    return GteModel(GteConfig(rope_parameters=rope, **geometry))


def gte_without_types(**geometry: Any) -> Any:
    from transformers import GteConfig, GteModel

    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    return GteModel(GteConfig(rope_parameters=rope, type_vocab_size=0, **geometry))


def modernbert(**geometry: Any) -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    return ModernBertModel(ModernBertConfig(pad_token_id=0, **geometry))


# In a tiny geometry no two sizes are the same, so that no axis can stand for another.
WIDE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 50, "vocab_size": 40}
DEEP = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 10, "vocab_size": 40}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MODERN = {"hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12, "intermediate_size": 1152}
TOWERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "bert wide": (bert, {**WIDE, "max_position_embeddings": 18}),
    "bert deep": (bert, {**DEEP, "max_position_embeddings": 18, "layer_norm_eps": 0.1}),
    "xlmr wide": (xlmr, {**WIDE, "max_position_embeddings": 20}),
    "gte wide": (gte, WIDE),
    "gte deep without types": (gte_without_types, DEEP),
    "modernbert wide": (modernbert, {**WIDE, "local_attention": 4}),
    "modernbert deep": (modernbert, {**DEEP, "local_attention": 6}),
}
PUBLISHED: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "bert-base": (bert, {**BASE, "vocab_size": 30522}),
    "multilingual-e5-base": (xlmr, {**BASE, "vocab_size": 250_002, "max_position_embeddings": 514}),
    "gte-multilingual-base": (gte, {**BASE, "vocab_size": 250_048}),
    "ModernBERT-base": (modernbert, {**MODERN, "vocab_size": 50_368}),
}


def randomised(model: Any, spread: float) -> Any:
    """Weights drawn wide, biases and norms too: at their initial values most mistakes would not show."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            weight.copy_(around + spread * torch.randn(weight.shape, generator=generator))
    return model.eval()


def texts(lengths: np.ndarray, vocabulary: int) -> list[np.ndarray]:
    """Without the ids of padding, 0 and 1."""
    random = np.random.default_rng(9)
    return [random.integers(2, vocabulary, length).astype(np.int32) for length in lengths]


def their_states(model: Any, given: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Of each text, its tokens' states after the embeddings and after every layer, from one padded batch."""
    import torch

    padding = model.config.pad_token_id or 0
    ids = torch.full((len(given), max(map(len, given))), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(given):
        ids[row, : len(text)], mask[row, : len(text)] = torch.tensor(text), 1
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    after = [*found.hidden_states[:-1], found.last_hidden_state]
    return [[states[row, : len(text)].numpy() for states in after] for row, text in enumerate(given)]


def our_states(loaded: hf.Pretrained, given: list[np.ndarray], row_length: int, packed: bool) -> list[list[np.ndarray]]:
    """The same, of texts one to a row or packed."""
    lengths = np.array([len(text) for text in given])
    every = np.arange(len(lengths))
    packing = pack(lengths, row_length)
    if not packed:
        packing = type(packing)(every, np.zeros(len(lengths), np.int64), len(lengths))
    assert packed == (packing.rows < len(lengths))
    weights = np.ones(int(lengths.sum()), np.float32)
    rows = fill(np.concatenate(given), weights, lengths, every, packing, (packing.rows, row_length), len(lengths))
    params = jax.tree.map(jnp.asarray, loaded.params)

    def layers(module: Any, _: str) -> bool:
        return type(module).__name__ in ("Embeddings", "Layer")

    # Weights are arguments: as constants of the program they are folded, hashed and kept with it.
    apply = jax.jit(partial(loaded.tower.apply, capture_intermediates=layers))
    last, captured = apply({"params": params}, rows.ids, rows.position, rows.segment)
    kept = captured["intermediates"]
    stack = kept["encoder"]["layer"] if "encoder" in kept else kept["layers"]
    after = [kept["embeddings"]["__call__"][0]]
    after += [stack[str(number)]["__call__"][0] for number in range(loaded.config.num_hidden_layers - 1)]
    states = [np.asarray(x).reshape(*rows.segment.shape, -1) for x in (*after, last)]
    return [[x[rows.segment == text] for x in states] for text in every]


def compare(ours: list[list[np.ndarray]], theirs: list[list[np.ndarray]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for found, reference in zip(one, other, strict=True):
            np.testing.assert_allclose(found, reference, rtol=0, atol=1e-4)
            norms = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
            assert ((found * reference).sum(axis=1) / norms).min() >= 0.99999


@pytest.fixture(params=TOWERS)
def model(request: pytest.FixtureRequest) -> Any:
    build, geometry = TOWERS[request.param]
    return randomised(build(**geometry), 0.3)


@pytest.mark.parametrize("implementation", ["xla", "cpu"])
def test_token_states_after_every_layer(model: Any, tmp_path: Path, implementation: str) -> None:
    model.save_pretrained(tmp_path / "model")
    loaded = hf.load(str(tmp_path / "model"), ModelConfig(attention=implementation))
    given = texts(np.array([12, 3, 7, 1, 16, 5, 9]), 40)
    if model.config.model_type == "xlm-roberta":  # what is written in a text and reads as padding has no place
        given[0][[2, 3, 7]] = given[2][0] = given[6][-1] = model.config.pad_token_id
    theirs = their_states(model, given)
    assert np.std(np.concatenate([text[-1] for text in theirs]), axis=0).mean() > 0.05  # the tokens really differ
    for packed in (False, True):
        compare(our_states(loaded, given, 20, packed), theirs)


def test_saved_again_every_tensor_is_the_published_one(model: Any, tmp_path: Path) -> None:
    """In the file, and as transformers reads it."""
    import torch
    from safetensors.numpy import load_file

    model.save_pretrained(tmp_path / "model")
    loaded = hf.load(str(tmp_path / "model"))
    hf.write(tmp_path / "saved", loaded, loaded.params, {})
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "saved"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
    again = type(model).from_pretrained(tmp_path / "saved").state_dict()
    assert again.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_token_states_at_published_geometry(name: str, tmp_path: Path) -> None:
    build, geometry = PUBLISHED[name]
    model = randomised(build(**geometry), 0.03)
    model.save_pretrained(tmp_path / "model", max_shard_size="500MB")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists() == (name != "bert-base")
    loaded = hf.load(str(tmp_path / "model"))
    given = texts(np.array([200, 31, 20, 7]), geometry["vocab_size"])
    theirs = their_states(model, given)
    compare(our_states(loaded, given, 256, packed=True), theirs)


def test_the_published_gte_is_the_native_one(tmp_path: Path) -> None:
    """Its `config.json` has model_type `new`, and rotary positions in other fields."""
    model = randomised(gte(**BASE | {"num_hidden_layers": 1, "vocab_size": 40}), 0.03)
    model.save_pretrained(tmp_path / "model")
    native = hf.load(str(tmp_path / "model")).config
    path = tmp_path / "model" / "config.json"
    published = json.loads(path.read_text(encoding="utf-8"))
    del published["rope_parameters"]
    published |= {"model_type": "new", "rope_theta": 20_000, "rope_scaling": {"factor": 8.0, "type": "ntk"}}
    path.write_text(json.dumps(published | {"position_embedding_type": "rope", "pack_qkv": True}), encoding="utf-8")
    assert hf.load(str(tmp_path / "model")).config == native
