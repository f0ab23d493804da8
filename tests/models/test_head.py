"""From token states to vectors: every pooling and every layer behind it, against NumPy, text by text."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mtret.data.tokenize import Tokenizer
from mtret.model_folder.golden import encoder_of
from mtret.models import hf
from mtret.models.pooling import ACTIVATIONS

pytestmark = pytest.mark.unoptimised  # programs of a line or two, behind a tower that others look at

WriteModel = Callable[..., Path]
TEXTS = ["a b c", "d", "b b a c d a", ""]
PROMPT = "c d"
TYPES = "sentence_transformers.models"
WIDE, NARROW = 8, 5

POOLINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "cls": lambda x, skip: x[skip],
    "max": lambda x, skip: x[skip:].max(axis=0),
    "mean": lambda x, skip: x[skip:].mean(axis=0),
    "mean_sqrt_len_tokens": lambda x, skip: x[skip:].sum(axis=0) / math.sqrt(len(x) - skip),
    "weightedmean": lambda x, skip: np.average(x[skip:], axis=0, weights=np.arange(skip, len(x)) + 1.0),
    "lasttoken": lambda x, skip: x[-1],
}
LEGACY = {
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}


def states_of(encoder: hf.Pretrained, texts: list[str], prompt: str) -> list[np.ndarray]:
    """Of each text alone, as the tower gives them."""
    found = []
    tokens = Tokenizer(encoder.folder)([prompt + " " + text if prompt else text for text in texts])
    for i in range(len(texts)):
        ids = np.zeros((1, 16), np.int32)
        own = tokens.take(np.array([i]), 16)
        ids[0, : len(own)] = own
        segment = (np.arange(16) >= len(own)).astype(np.int32)[None]
        position = np.arange(16, dtype=np.int32)[None]
        found.append(np.asarray(run(encoder.tower, encoder.params, ids, position, segment))[0, : len(own)])
    return found


@jax.jit(static_argnums=0)
def run(tower: Any, params: Any, *row: np.ndarray) -> Any:
    return tower.apply({"params": params}, *row)


def folder_with(write_model: WriteModel, pooling: dict[str, Any], *layers: Any, **use: Any) -> Path:
    """`layers`: "Normalize", "Dropout", or (configuration, tensors) of a Dense."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    files: dict[str, Any] = {"1_Pooling/config.json": json.dumps({"word_embedding_dimension": WIDE, **pooling})}
    dense = {}
    for layer in layers:
        kind = layer if isinstance(layer, str) else "Dense"
        path = f"{len(modules)}_{kind}"
        modules.append((path, kind))
        if kind == "Dense":
            files[f"{path}/config.json"] = json.dumps(layer[0])
            dense[path] = layer[1]
    listed = [{"idx": i, "name": str(i), "path": p, "type": f"{TYPES}.{k}"} for i, (p, k) in enumerate(modules)]
    files["modules.json"] = json.dumps(listed)
    files["config_sentence_transformers.json"] = json.dumps(use)
    folder = write_model(files=files)
    for path, tensors in dense.items():
        save_file(tensors, folder / path / "model.safetensors")
    return folder


def embedded(encoder: hf.Pretrained, prompt: str = "") -> np.ndarray:
    return encoder_of(encoder, {"it": prompt and prompt + " "})(TEXTS, ["it"])[0]


def weights(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {n.replace("_", "."): random.normal(0, 0.6, shape).astype(np.float32) for n, shape in shapes.items()}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtret.index.encode.BATCH_TOKENS", 64)


@pytest.mark.slow
@pytest.mark.parametrize("pools_prompt", [True, False])
def test_all_poolings_side_by_side_in_the_order_of_their_list(write_model: WriteModel, pools_prompt: bool) -> None:
    names = [*reversed(POOLINGS), "mean"]
    pooling = {"pooling_mode": names, "include_prompt": pools_prompt}
    encoder = hf.load(str(folder_with(write_model, pooling)))
    assert encoder.dimension == 7 * WIDE and not encoder.normalises
    skip = 0 if pools_prompt else 3  # [CLS] c d
    wanted = [np.concatenate([POOLINGS[name](x, skip) for name in names]) for x in states_of(encoder, TEXTS, PROMPT)]
    np.testing.assert_allclose(embedded(encoder, PROMPT), wanted, atol=2e-6)


def test_older_keys_lay_the_modes_side_by_side_in_their_own_order(write_model: WriteModel) -> None:
    encoder = hf.load(str(folder_with(write_model, dict.fromkeys(LEGACY, True), "Normalize")))
    names = ["cls", "max", "mean_sqrt_len_tokens", "lasttoken"]
    pooled = [np.concatenate([POOLINGS[name](x, 0) for name in names]) for x in states_of(encoder, TEXTS, "")]
    wanted = [x / np.linalg.norm(x) for x in pooled]
    np.testing.assert_allclose(embedded(encoder), wanted, atol=2e-6)
    assert encoder.pooling == "cls+max+mean_sqrt_len+last"


def test_layers_stand_behind_the_pooling_in_their_order(write_model: WriteModel) -> None:
    """Normalised in between and not in the end; cut last."""
    sizes = {"in_features": WIDE, "out_features": NARROW}
    first = sizes, weights(1, linear_weight=(NARROW, WIDE), linear_bias=(NARROW,))
    second = (
        {
            "in_features": NARROW,
            "out_features": WIDE,
            "bias": False,
            "activation_function": "torch.nn.modules.activation.ReLU",
            "use_residual": True,
        },
        weights(2, linear_weight=(WIDE, NARROW), residual_weight=(WIDE, NARROW)),
    )
    layers = first, "Normalize", "Dropout", second
    folder = folder_with(write_model, {}, *layers, truncate_dim=6, similarity_fn_name="dot")
    encoder = hf.load(str(folder))
    wanted = []
    for states in states_of(encoder, TEXTS, ""):
        x = np.tanh(first[1]["linear.weight"] @ states.mean(axis=0) + first[1]["linear.bias"])
        x = x / np.linalg.norm(x)
        x = np.maximum(second[1]["linear.weight"] @ x, 0) + second[1]["residual.weight"] @ x
        wanted.append(x[:6])
    np.testing.assert_allclose(embedded(encoder), wanted, atol=2e-6)
    assert (encoder.dimension, encoder.normalises, encoder.similarity) == (6, False, "dot")
    np.testing.assert_array_equal(encoder.comparable(np.ones((1, 6), np.float32)), 1)


def test_a_vector_that_is_cut_behind_normalize_is_compared_by_cosine(write_model: WriteModel) -> None:
    encoder = hf.load(str(folder_with(write_model, {}, "Normalize", truncate_dim=3)))
    found = embedded(encoder)
    means = [x.mean(axis=0) for x in states_of(encoder, TEXTS, "")]
    np.testing.assert_allclose(found, [x[:3] / np.linalg.norm(x) for x in means], atol=2e-6)
    np.testing.assert_allclose(encoder.comparable(found), [x[:3] / np.linalg.norm(x[:3]) for x in means], atol=1e-5)


def test_training_ends_in_normalize_and_cosine_and_says_so(write_model: WriteModel) -> None:
    encoder = hf.load(str(folder_with(write_model, {"pooling_mode": "cls"}, similarity_fn_name="dot"))).to_train()
    assert encoder.normalises and encoder.similarity == "cosine"
    assert encoder.remarks[-1].endswith("trained and exported with Normalize as its last module, compared by cosine")
    wanted = [x[0] / np.linalg.norm(x[0]) for x in states_of(encoder, TEXTS, "")]
    np.testing.assert_allclose(embedded(encoder), wanted, atol=2e-6)
    assert encoder.to_train() is encoder


# By the formulas in PyTorch's documentation, at -1.5, 0 and 2.
@pytest.mark.parametrize(
    ("name", "wanted"),
    {
        "Identity": (-1.5, 0, 2),
        "Tanh": (-0.9051482536, 0, 0.9640275801),
        "ReLU": (0, 0, 2),
        "GELU": (-0.1002107983, 0, 1.954499736),
        "SiLU": (-0.2736382907, 0, 1.761594156),
        "Sigmoid": (0.1824255238, 0.5, 0.880797078),
        "LeakyReLU": (-0.015, 0, 2),
        "ELU": (-0.7768698399, 0, 2),
        "Mish": (-0.2980996955, 0, 1.943958998),
        "Softplus": (0.2014132779, 0.6931471806, 2.126928011),
    }.items(),
)
def test_activations(name: str, wanted: tuple[float, ...]) -> None:
    found = ACTIVATIONS[name](np.array([-1.5, 0, 2], np.float32))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-7)
