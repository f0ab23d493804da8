"""Folders of encoders that others have published: here and in sentence-transformers, each variation and pair of them.

The expected vectors are that library's, so that reader and writer cannot agree on the same mistake.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mtret.model_folder.golden import encoder_of
from mtret.models import hf

pytestmark = [pytest.mark.parity, pytest.mark.slow]

HIDDEN, POSITIONS = 8, 24
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "mo", "ne")
TEXTS = ["ba de fi", "Ba DE", "go", "kula mo. Né [SEP] ba", " ".join(SYLLABLES * 6)]
PROMPT = "query: go "


@dataclass
class Draft:
    """A folder before it is written; variations change it in place."""

    modules: list[tuple[str, str]] = field(
        default_factory=lambda: [
            ("", "sentence_transformers.models.Transformer"),
            ("1_Pooling", "sentence_transformers.models.Pooling"),
            ("2_Normalize", "sentence_transformers.models.Normalize"),
        ]
    )
    pooling: dict[str, Any] = field(
        default_factory=lambda: {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    )
    dense: list[dict[str, Any]] = field(default_factory=list)  # behind the pooling, in order
    normalize: bool = True
    last: str = "normalize"  # or "dense"
    settings: dict[str, Any] = field(default_factory=dict)
    settings_name: str = "sentence_bert_config.json"
    use: dict[str, Any] = field(default_factory=lambda: {"prompts": {"query": PROMPT}})
    tokenizer: dict[str, Any] = field(
        default_factory=lambda: {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    )
    lowercase: bool = True  # in tokenizer.json
    added: bool = True  # special words, in tokenizer.json
    inside: dict[str, Any] = field(default_factory=dict)  # of tokenizer.json: truncation and padding
    config: dict[str, Any] = field(default_factory=dict)
    dropout: bool = False
    half: bool = False
    place: str = ""  # of the Transformer


Vary = Callable[[Draft], None]


def dense(size: int, **config: Any) -> Vary:
    def vary(draft: Draft) -> None:
        draft.dense.append({"out_features": size, **config})

    return vary


def pooling(**config: Any) -> Vary:
    def vary(draft: Draft) -> None:
        kept = {key: draft.pooling[key] for key in ("include_prompt",) if key in draft.pooling}
        draft.pooling = {**kept, **config}

    return vary


def update(part: str, **changes: Any) -> Vary:
    return lambda draft: getattr(draft, part).update(changes)


def put(**changes: Any) -> Vary:
    def vary(draft: Draft) -> None:
        for name, value in changes.items():
            setattr(draft, name, value)

    return vary


def both(*variations: Vary) -> Vary:
    def vary(draft: Draft) -> None:
        for each in variations:
            each(draft)

    return vary


LINEAR = {"activation_function": "torch.nn.modules.linear.Identity"}
GELU = {"activation_function": "torch.nn.modules.activation.GELU"}
# Those of one kind exclude each other.
VARIATIONS: dict[str, tuple[str, Vary]] = {
    "cls": ("pooling", pooling(embedding_dimension=HIDDEN, pooling_mode="cls")),
    "max": ("pooling", pooling(word_embedding_dimension=HIDDEN, pooling_mode_max_tokens=True)),
    "several": (
        "pooling",
        pooling(
            word_embedding_dimension=HIDDEN,
            pooling_mode_mean_sqrt_len_tokens=True,
            pooling_mode_cls_token=True,
            pooling_mode_lasttoken=True,
        ),
    ),
    "list": ("pooling", pooling(embedding_dimension=HIDDEN, pooling_mode=["weightedmean", "max", "mean", "cls"])),
    "prompt left out": ("include_prompt", update("pooling", include_prompt=False)),
    "dense": ("dense", dense(6)),
    "dense, several": ("dense", both(dense(6, bias=False, **LINEAR), dense(10, use_residual=True, **GELU))),
    "dense last": ("normalize", both(dense(HIDDEN, use_residual=True), put(last="dense"))),
    "dot": ("normalize", both(put(normalize=False), update("use", similarity_fn_name="dot"))),
    "truncated": ("truncate_dim", update("use", truncate_dim=5)),
    "lower case": (
        "lower case",
        both(
            put(lowercase=False),
            update("tokenizer", do_lower_case=False, strip_accents=False),
            update("settings", do_lower_case=True),
        ),
    ),
    "cased": ("lower case", both(put(lowercase=False), update("tokenizer", do_lower_case=False))),
    "legacy name": (
        "length",
        both(put(settings_name="sentence_roberta_config.json"), update("settings", max_seq_length=9)),
    ),
    "arguments": (
        "length",
        update(
            "settings",
            max_seq_length=20,
            model_args={"torch_dtype": "float16", "attn_implementation": "eager"},
            tokenizer_args={"model_max_length": 7, "truncation_side": "left"},
            config_args={"trust_remote_code": True},
        ),
    ),
    "limit of the tokenizer": ("length", update("tokenizer", model_max_length=11)),
    "truncation inside": (
        "inside",
        put(
            inside={
                "truncation": {"direction": "Left", "max_length": 6, "strategy": "LongestFirst", "stride": 0},
                "padding": {
                    "strategy": {"Fixed": 16},
                    "direction": "Right",
                    "pad_to_multiple_of": None,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "[PAD]",
                },
            }
        ),
    ),
    "a folder of its own": ("place", put(place="0_Transformer")),
    "dropout": ("dropout", put(dropout=True)),
    "half precision": ("half", both(put(half=True), update("config", torch_dtype="float16"))),
    "default prompt": ("default", update("use", default_prompt_name="query")),
    "special words": ("special", both(put(added=False), update("tokenizer", extra_special_tokens=["ku", "fi"]))),
    "new names": (
        "settings",
        update(
            "settings",
            transformer_task="feature-extraction",
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
        ),
    ),
}


def tokenizer_json(draft: Draft) -> str:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SYLLABLES, *(f"##{each}" for each in SYLLABLES)]
    words += ["query", ":", ".", "B", "##a", "D", "##E", "né", "Né", "##é", "N"]
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=draft.lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    if draft.added:
        tokenizer.add_special_tokens(words[:5])
    return json.dumps({**json.loads(tokenizer.to_str()), **draft.inside})


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    wide, random = 12, np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (64, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "encoder.layer.0.intermediate.dense.weight": (wide, HIDDEN),
        "encoder.layer.0.intermediate.dense.bias": (wide,),
        "encoder.layer.0.output.dense.weight": (HIDDEN, wide),
        "encoder.layer.0.output.dense.bias": (HIDDEN,),
    }
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes[f"encoder.layer.0.attention.{name}.weight"] = (HIDDEN, HIDDEN)
        shapes[f"encoder.layer.0.attention.{name}.bias"] = (HIDDEN,)
    for name in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        shapes |= {f"{name}.LayerNorm.weight": (HIDDEN,), f"{name}.LayerNorm.bias": (HIDDEN,)}
    return {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, draft: Draft) -> Path:
    """The folder that a draft describes."""
    place = folder / draft.place
    place.mkdir(parents=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": 64,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        **draft.config,
    }
    dump(place / "config.json", config)
    dtype = np.float16 if draft.half else np.float32
    save_file({n: x.astype(dtype) for n, x in tensors().items()}, place / "model.safetensors", {"format": "pt"})
    (place / "tokenizer.json").write_text(tokenizer_json(draft), encoding="utf-8")
    dump(place / "tokenizer_config.json", draft.tokenizer)
    if draft.settings:
        dump(place / draft.settings_name, draft.settings)
    dump(folder / "config_sentence_transformers.json", draft.use)
    modules = [(draft.place, draft.modules[0][1]), draft.modules[1]]
    dump(folder / "1_Pooling" / "config.json", draft.pooling)
    after = [f"Dense {number}" for number in range(len(draft.dense))]
    if draft.dropout:
        after.insert(0, "Dropout")
    after = ["Normalize", *after] if draft.last == "dense" else [*after, "Normalize"]
    size = HIDDEN * modes(draft.pooling)
    for kind in after:
        path = f"{len(modules)}_{kind.split()[0]}"
        if kind == "Normalize" and not draft.normalize:
            continue
        if kind == "Normalize":
            (folder / path).mkdir()
        elif kind == "Dropout":
            dump(folder / path / "config.json", {"dropout": 0.3})
        else:
            size = write_dense(folder / path, size, draft.dense[int(kind.split()[1])])
        modules.append((path, f"sentence_transformers.models.{kind.split()[0]}"))
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    dump(folder / "modules.json", listed)
    return folder


def modes(config: dict[str, Any]) -> int:
    mode = config.get("pooling_mode", "")
    return len(mode) if isinstance(mode, list) else max(1, sum(key.startswith("pooling_mode_") for key in config))


def write_dense(folder: Path, size: int, config: dict[str, Any]) -> int:
    out, random = config["out_features"], np.random.default_rng(size)
    dump(folder / "config.json", {"in_features": size, **config})
    arrays = {"linear.weight": random.normal(0, 0.7, (out, size))}
    if config.get("bias", True):
        arrays["linear.bias"] = random.normal(0, 0.7, out)
    if config.get("use_residual") and size != out:
        arrays["residual.weight"] = random.normal(0, 0.7, (out, size))
    save_file({name: x.astype(np.float32) for name, x in arrays.items()}, folder / "model.safetensors")
    return out


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def theirs(folder: Path) -> np.ndarray:
    """Without a prompt, and with one."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    return np.stack([model.encode(TEXTS, prompt=prompt, show_progress_bar=False) for prompt in ("", PROMPT)])


def ours(encoder: hf.Pretrained) -> np.ndarray:
    return encoder_of(encoder, {"none": "", "query": PROMPT})(TEXTS, ["none", "query"])


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And programs that are made quickly: each case has one of its own, for a handful of texts."""
    import jax

    monkeypatch.setattr("mtret.index.encode.BATCH_TOKENS", 256)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def check(folder: Path, out: Path) -> np.ndarray:
    """Here as there, before and after an export; the vectors."""
    encoder = hf.load(str(folder))
    hf.write(out, encoder, encoder.params, encoder.prompts)
    again = hf.load(str(out))
    found, expected = ours(encoder), theirs(folder)
    assert found.shape[2] == encoder.dimension == again.dimension
    for each in (found, ours(again), theirs(out)):
        np.testing.assert_allclose(each, expected, rtol=0, atol=1e-5)
    for name in ("similarity", "prompts", "default_prompt_name", "max_length", "pooling", "pools_prompt", "normalises"):
        assert getattr(again, name) == getattr(encoder, name), name
    return found


def drafted(names: Sequence[str]) -> Draft:
    draft = Draft()
    for name in names:
        VARIATIONS[name][1](draft)
    return draft


# What changes no vector of these texts without a prompt.
UNSEEN = {"prompt left out", "dropout", "a folder of its own", "default prompt", "new names"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The vectors of the encoder that nothing is varied of, without a prompt."""
    return ours(hf.load(str(write(tmp_path_factory.mktemp("plain") / "folder", Draft()))))[0]


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_variation_alone(tmp_path: Path, plain: np.ndarray, name: str) -> None:
    found = check(write(tmp_path / "folder", drafted([name])), tmp_path / "out")[0]
    assert (found.shape == plain.shape and np.allclose(found, plain, atol=1e-4)) == (name in UNSEEN)


ALL_PAIRS = [(a, b) for a, b in combinations(VARIATIONS, 2) if VARIATIONS[a][0] != VARIATIONS[b][0]]
# Each variation stands in several of these; `make pairs` tries all of them, which takes a quarter of an hour.
PAIRS = ALL_PAIRS if os.environ.get("MTRET_ALL_PAIRS") else ALL_PAIRS[::5]


def test_every_variation_stands_in_pairs() -> None:
    for name in VARIATIONS:
        assert sum(name in pair for pair in PAIRS) >= 2


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_two_variations_together(tmp_path: Path, pair: tuple[str, str]) -> None:
    check(write(tmp_path / "folder", drafted(pair)), tmp_path / "out")
