"""The modules of a sentence-transformers folder: Transformer, Pooling, then Dense, Normalize and Dropout in any order.

What changes vectors is obeyed or refused by name. The rules are those of sentence-transformers 6: `modules.json`, and
the configuration of each module in the folder that it names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtret.encoder_folder.reading import below, check_inside, check_keys, check_values, read_json, read_value, typed
from mtret.errors import UserError
from mtret.files import AnyPath

MODULES, SENTENCE_TRANSFORMERS = "modules.json", "config_sentence_transformers.json"
# Where a version of the library keeps its modules, and the class's own file where that is named as well.
TYPE = re.compile(r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules)(?:\.\w+)?\.(\w+)")
SUPPORTED = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Published name -> ours and the older key, in the order in which several are laid side by side by default.
POOLINGS = {
    "cls": ("cls", "pooling_mode_cls_token"),
    "max": ("max", "pooling_mode_max_tokens"),
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "mean_sqrt_len_tokens": ("mean_sqrt_len", "pooling_mode_mean_sqrt_len_tokens"),
    "weightedmean": ("weightedmean", "pooling_mode_weightedmean_tokens"),
    "lasttoken": ("last", "pooling_mode_lasttoken"),
}
# Classes of torch.nn, made without arguments.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU", "Mish", "Softplus")
ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.(?:activation|linear)\.)?(\w+)")
SENTENCE = "sentence_embedding"
OUTPUTS = {"module_input_name": (SENTENCE,), "module_output_name": (SENTENCE, None)}


@dataclass(frozen=True)
class DenseLayer:
    """activation(x @ kernel + bias), and x or a projection of it added to that where it is residual."""

    inputs: int
    outputs: int
    activation: str = "Tanh"
    bias: bool = True
    residual: bool = False

    @property
    def projects(self) -> bool:
        """Whether what is added has a kernel of its own."""
        return self.residual and self.inputs != self.outputs


@dataclass(frozen=True)
class Normalize:
    """Length 1."""


@dataclass(frozen=True)
class Head:
    """What makes one vector of a text's token states."""

    pooling: str = "mean"  # one of POOLINGS, by our names; several side by side: "cls+mean"
    layers: tuple[DenseLayer | Normalize, ...] = (Normalize(),)
    truncate_dim: int | None = None  # dimensions that are kept in the end

    @property
    def poolings(self) -> tuple[str, ...]:
        """The modes, in order."""
        return tuple(self.pooling.split("+"))

    @property
    def dense(self) -> tuple[DenseLayer, ...]:
        """The layers that have parameters, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, DenseLayer))

    def check(self, hidden: int, folder: "EncoderFolder") -> None:
        """Raises UserError where a module takes vectors of another size than the one before it makes."""
        if folder.states not in (None, hidden):
            raise UserError(
                f"{folder.root / MODULES}: its Pooling takes {folder.states} dimensions, config.json gives {hidden}"
            )
        size = len(self.poolings) * hidden
        for layer, place in zip(self.dense, folder.dense, strict=True):
            if layer.inputs != size:
                raise UserError(
                    f"{place / 'config.json'}: in_features is {layer.inputs}, but the module before it gives {size}"
                )
            size = layer.outputs

    def whole(self, hidden: int) -> int:
        """Dimensions of a vector before it is truncated, of states of `hidden`."""
        return self.dense[-1].outputs if self.dense else len(self.poolings) * hidden

    def dimensions(self, hidden: int) -> int:
        """Dimensions of a vector."""
        return min(self.whole(hidden), self.truncate_dim or self.whole(hidden))

    def normalises(self, hidden: int) -> bool:
        """Whether vectors come out with length 1."""
        last = bool(self.layers) and isinstance(self.layers[-1], Normalize)
        return last and self.dimensions(hidden) == self.whole(hidden)


@dataclass(frozen=True)
class EncoderFolder:
    """An encoder's folder by its modules, and how sentence-transformers is to use them."""

    root: AnyPath
    transformer: AnyPath  # the folder of config.json, weights and tokenizer
    listed: bool = False  # whether there is a modules.json
    head: Head = field(default_factory=lambda: Head(layers=()))
    dense: tuple[AnyPath, ...] = ()  # the folder of each Dense module
    states: int | None = None  # dimensions of a token's state, as its Pooling has it
    pools_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    remarks: tuple[str, ...] = ()


def read_folder(root: AnyPath) -> EncoderFolder:
    """The modules of a folder. Raises UserError for what is not supported, by its name."""
    path = root / MODULES
    if not path.exists():
        check_inside(root, [root])
        return EncoderFolder(root, root, remarks=(_without_modules(root),))
    kinds, places = _listed(root, read_value(path), str(path))
    check_inside(root, dict.fromkeys([root, *places]))
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]):
        raise UserError(
            f"{path}: its modules are {', '.join(kinds) or 'none'}; supported: one Transformer, one Pooling, then "
            "Dense, Normalize and Dropout in any order"
        )
    pooling, pools_prompt, states = _read_pooling(places[1] / "config.json")
    layers: list[DenseLayer | Normalize] = []
    dense: list[AnyPath] = []
    for kind, place in zip(kinds[2:], places[2:], strict=True):
        file = place / "config.json"
        if kind == "Dense":
            layers.append(_read_dense(file))
            dense.append(place)
        elif kind == "Normalize":
            config = read_json(file, optional=True)
            check_keys(config, tuple(OUTPUTS), str(file))
            check_values(config, OUTPUTS, str(file))
            layers.append(Normalize())
        else:  # no dropout where vectors are made
            check_keys(read_json(file, optional=True), ("dropout",), str(file))
    use = _read_use(root / SENTENCE_TRANSFORMERS)
    head = Head(pooling, tuple(layers), use.pop("truncate_dim"))
    return EncoderFolder(root, places[0], True, head, tuple(dense), states, pools_prompt, **use)


def _without_modules(root: AnyPath) -> str:
    """sentence-transformers passes over the other files then; who has them wants them."""
    others = [name for name in ("1_Pooling", SENTENCE_TRANSFORMERS, *SETTINGS) if (root / name).exists()]
    if others:
        raise UserError(
            f"{root / MODULES}: missing, and without it sentence-transformers does not read {others[0]}; fetch it, or "
            f"remove {', '.join(others)} to read the folder as a Transformer with mean pooling"
        )
    return f"{root}: has no {MODULES}; read as sentence-transformers does, a Transformer with mean pooling"


def _listed(root: AnyPath, modules: Any, where: str) -> tuple[list[str], list[AnyPath]]:
    """Kind and folder of each module."""
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise UserError(f"{where}: is not a list of modules")
    kinds, places = [], []
    for number, module in enumerate(modules):
        here = f"{where}: module {number}"
        check_keys(module, ("idx", "name", "path", "type", "kwargs"), here)
        for key in ("name", "path", "type"):
            if key not in module:
                raise UserError(f"{here}: has no '{key}'")
        found = TYPE.fullmatch(str(module["type"]))
        if found is None or found[1] not in SUPPORTED:
            raise UserError(
                f"{here}: the type {module['type']!r} is not supported; supported: {', '.join(SUPPORTED)} of "
                "sentence_transformers. Code of a model's own is never run"
            )
        check_values(module, {"kwargs": ([], None, {})}, here)
        kinds.append(found[1])
        places.append(below(root, module["path"], here))
    for key, values in (("name", [module["name"] for module in modules]), ("path", places)):
        if len(set(map(str, values))) < len(values):
            raise UserError(f"{where}: two modules have the same {key}")
    return kinds, places


def _read_pooling(path: AnyPath) -> tuple[str, bool, int]:
    """The modes, whether prompts are pooled, and the size of what is pooled. `pooling_mode` overrides the older keys;
    by default the mean."""
    config = read_json(path)
    older = {old: ours for ours, old in POOLINGS.values()}
    sizes = ("word_embedding_dimension", "embedding_dimension")
    check_keys(config, (*sizes, "pooling_mode", *older, "include_prompt"), str(path))
    chosen = [ours for old, ours in older.items() if typed(config, old, bool, False, str(path))] or ["mean"]
    if "pooling_mode" in config:
        given = config["pooling_mode"]
        names = given if isinstance(given, list) else [given]
        unknown = [name for name in names if not isinstance(name, str) or name not in POOLINGS]
        if unknown or not names:
            raise UserError(
                f"{path}: pooling_mode is {given!r}; supported: {', '.join(POOLINGS)}, or a list of some of them"
            )
        chosen = [POOLINGS[name][0] for name in names]
    pools_prompt = typed(config, "include_prompt", bool, True, str(path))
    size = next((key for key in sizes if config.get(key) is not None), None)
    if size is None:
        raise UserError(f"{path}: has no {' or '.join(sizes)}, without which it is not a Pooling; fetch it again")
    return "+".join(chosen), pools_prompt, typed(config, size, int, None, str(path))


def pooling_config(head: Head, hidden: int, pools_prompt: bool) -> dict[str, Any]:
    """The way back, by the keys that every version and server reads; by `pooling_mode` where these cannot say it."""
    published = {ours: name for name, (ours, _) in POOLINGS.items()}
    modes = [published[mode] for mode in head.poolings]
    config: dict[str, Any] = {"word_embedding_dimension": hidden}
    if modes == [name for name in POOLINGS if name in modes]:
        config |= {old: name in modes for name, (_, old) in POOLINGS.items()}
    else:
        config["pooling_mode"] = modes
    return config if pools_prompt else {**config, "include_prompt": False}


def _read_dense(path: AnyPath) -> DenseLayer:
    config, where = read_json(path), str(path)
    names = ("in_features", "out_features", "bias", "activation_function", *OUTPUTS, "use_residual")
    check_keys(config, names, where)
    check_values(config, OUTPUTS, where)
    for key in names[:2]:
        size = typed(config, key, int, None, where)
        if size is None or not 0 < size <= 1_000_000:
            raise UserError(f"{where}: {key} is {size!r}, not a number of dimensions")
    given = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    found = ACTIVATION.fullmatch(given) if isinstance(given, str) else None
    if found is None or found[1] not in ACTIVATIONS:
        raise UserError(
            f"{where}: activation_function is {given!r}; supported: {', '.join(ACTIVATIONS)} of torch.nn.modules"
        )
    return DenseLayer(
        inputs=config["in_features"],
        outputs=config["out_features"],
        activation=found[1],
        bias=typed(config, "bias", bool, True, where),
        residual=typed(config, "use_residual", bool, False, where),
    )


def dense_config(layer: DenseLayer) -> dict[str, Any]:
    """The way back. A residual is named only where there is one: older versions do not know the key."""
    place = "linear" if layer.activation == "Identity" else "activation"
    config = {
        "in_features": layer.inputs,
        "out_features": layer.outputs,
        "bias": layer.bias,
        "activation_function": f"torch.nn.modules.{place}.{layer.activation}",
    }
    return {**config, "use_residual": True} if layer.residual else config


def _read_use(path: AnyPath) -> dict[str, Any]:
    """Prompts, similarity and truncation, as fields of `EncoderFolder` and `Head`."""
    config, where = read_json(path, optional=True), str(path)
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim", "model_type", "requirements")
    check_keys(config, ("__version__", *names), where)
    check_values(config, {"model_type": ("SentenceTransformer", None)}, where)
    check_values(config, {"similarity_fn_name": ("cosine", "dot", None)}, where)
    prompts = typed(config, "prompts", dict, {}, where) if config.get("prompts") is not None else {}
    for name, prompt in prompts.items():
        if not isinstance(prompt, str | None):
            raise UserError(f"{where}: the prompt '{name}' is {prompt!r}, where a string is needed")
    truncate_dim = typed(config, "truncate_dim", int, None, where)
    if truncate_dim is not None and truncate_dim < 1:
        raise UserError(f"{where}: truncate_dim is {truncate_dim}, not a number of dimensions")
    default = typed(config, "default_prompt_name", str, None, where)
    if default is not None and default not in {"query", "document", *prompts}:
        raise UserError(f"{where}: default_prompt_name is '{default}', which is none of its prompts")
    return {
        "truncate_dim": truncate_dim,
        "prompts": {name: prompt or "" for name, prompt in prompts.items()},
        "default_prompt_name": default,
        "similarity": config.get("similarity_fn_name") or "cosine",
    }
