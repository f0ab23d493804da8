"""ConfigDict to frozen dataclasses, strictly. The only reader of configurations.

The dataclasses live beside what they configure; here they are put together, and a key that none of them has is refused.
"""

import ast
import copy
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from mtret.data.mixture import MixtureConfig
from mtret.data.templates import TemplateConfig
from mtret.data.training_tasks import BatchConfig
from mtret.errors import UserError, nearest
from mtret.evaluation.dev_sample import DevConfig
from mtret.losses import LossConfig
from mtret.models.dual_encoder import ModelConfig
from mtret.schema import AT_LEAST_0, check_limits, setting, walk
from mtret.train.loop import LoopConfig
from mtret.train.optim import OptimConfig
from mtret.train.sharding import MeshConfig

LARGEST = 2**62  # no whole number of a configuration has to be beyond


@dataclass(frozen=True)
class RunConfig:
    """All of a training run. Batches and shares are checked where they are planned, templates where they are made.

    Raises UserError for a value that makes no sense, naming its key.
    """

    suite: str = setting("", 'a folder of task folders, "enterprise" or "tfds:NAME"; --suite goes before it')
    seed: int = setting(0, "of everything: order, samples, dropout, dev sample", AT_LEAST_0)
    model: ModelConfig = setting(ModelConfig)
    mixture: MixtureConfig = setting(MixtureConfig)
    templates: TemplateConfig = setting(TemplateConfig)
    batch: BatchConfig = setting(BatchConfig)
    loss: LossConfig = setting(LossConfig)
    optim: OptimConfig = setting(OptimConfig)
    mesh: MeshConfig = setting(MeshConfig)
    loop: LoopConfig = setting(LoopConfig)
    dev: DevConfig = setting(DevConfig)

    def __post_init__(self) -> None:
        check_limits(self, "config")
        if self.model.lora.rank and self.model.documents == "separate":
            raise UserError(
                "config model.lora: adapts the tower of the queries, and model.documents='separate' trains another; "
                "model.documents='frozen' leaves documents as they are"
            )
        for path, rate in self.optim.rates:
            if not 0 <= rate < float("inf"):
                raise UserError(f"config optim.rates: the rate of '{path}' must be at least 0, is {rate!r}")
        rules = [(f"optim.{name}", getattr(self.optim, name)) for name in ("decay", "train", "rates")]
        rules.append(("mesh.shard", self.mesh.shard))
        expressions = [(path, expression) for path, each in rules for expression, _ in each]
        for path, expression in [*expressions, ("model.lora.targets", self.model.lora.targets)]:
            try:
                re.compile(expression)
            except re.error as error:
                raise UserError(f"config {path}: '{expression}' is no regular expression ({error})") from error


def read_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a file `path.py` or `path.py:argument`, with `overrides` such as `batch.queries=128` put in.

    The file defines `get_config()` (or `get_config(argument)`), which returns a ConfigDict or a dict. Raises UserError,
    naming the key, for one that is unknown or of the wrong type.
    """
    values = _as_dict(_call(source))
    if not isinstance(values, dict):
        raise UserError(f"{source}: get_config() must return a ConfigDict or a dict, got {values!r}")
    return build(RunConfig, with_overrides(values, overrides), "")


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested values with `a.b=value` put in, one after the other. A value is a Python literal where it can be
    read as one, else a text (`x:1,y:2`)."""
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _put(changed, override)
    return changed


def _call(source: str) -> Any:
    path, _, argument = source.partition(":")
    file = Path(path)
    if not file.is_file():
        siblings = [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UserError(f"--config: no file '{path}'.{nearest(path, siblings)}")
    if file.suffix != ".py":
        raise UserError(f"--config: {file} is no Python file (.py); `mtret init` writes one to imitate")
    module = types.ModuleType(f"mtret_config_{file.stem}")
    module.__file__ = str(file)
    try:
        # Not imported, which would leave a __pycache__ beside the user's file.
        exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
        if not hasattr(module, "get_config"):
            raise UserError(f"{file}: defines no get_config(); `mtret init` writes one to imitate")
        return module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:  # whatever the user's file raises is the user's to mend
        line = _line_in(error, str(file))
        raise UserError(f"{file}{line}: {type(error).__name__}: {error}") from error


def _line_in(error: Exception, file: str) -> str:
    import traceback

    if isinstance(error, SyntaxError) and str(error.filename).endswith(file):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return f":{lines[-1]}" if lines else ""


def _as_dict(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    return {key: _as_dict(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _put(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--config.{path}: give it a value, --config.{path}=...")
    *parents, name = path.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--config.{path}: '{parent}' is a value, it has no keys")
    try:
        node[name] = _meant(ast.literal_eval(text), text, _wanted(path))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        node[name] = {"true": True, "false": False}.get(text, text)


def _wanted(path: str) -> Any:
    """The type of a key; None where no such key is known."""
    kind: Any = RunConfig
    for name in path.split("."):
        if not is_dataclass(kind):
            return None
        kind = typing.get_type_hints(kind).get(name)
    return kind


def _meant(value: Any, text: str, wanted: Any) -> Any:
    """The text that was given, where text is wanted: a folder may be called 2024, a family 404."""
    if wanted is str and not isinstance(value, str):
        return text
    if wanted == tuple[str, ...] and isinstance(value, tuple | list) and text[0] in "([":
        return tuple(map(str, value))
    return text if wanted == tuple[str, ...] and not isinstance(value, str) else value


def build(kind: type, values: Any, path: str) -> Any:
    """A dataclass from nested mappings; what is not given keeps its default. Raises UserError, naming the key."""
    if not isinstance(values, Mapping):
        raise UserError(f"config {path or 'file'}: needs keys and values, got {values!r}")
    hints = typing.get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}
    for key in map(str, values):
        if key not in known:
            elsewhere = [where for where, _, _ in walk(RunConfig) if where.rpartition(".")[2] == key]
            close = f" Did you mean '{elsewhere[0]}'?" if elsewhere else nearest(key, known)
            raise UserError(f"config: unknown key '{_join(path, key)}'.{close} Known: {', '.join(known)}")
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise UserError(f"config: '{_join(path, missing[0])}' is missing")
    given = {key: _convert(value, hints[key], _join(path, key)) for key, value in values.items()}
    return kind(**given)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)


def _convert(value: Any, wanted: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), path)
    if is_dataclass(wanted):
        return build(typing.cast(type, wanted), value, path)
    if origin is not None and issubclass(origin, Mapping):
        pairs = _mapping(value, path)
        return {str(key): _convert(item, arguments[1], _join(path, str(key))) for key, item in pairs.items()}
    if origin is tuple:
        return _tuple(value, arguments, path)
    return _scalar(value, wanted, path)


def _mapping(value: Any, path: str) -> Mapping[Any, Any]:
    if isinstance(value, str):  # a:1,b:2
        pairs = [item.partition(":") for item in value.split(",") if item.strip()]
        try:
            return {name.strip(): ast.literal_eval(number.strip()) for name, _, number in pairs}
        except (ValueError, SyntaxError, TypeError) as error:
            raise UserError(f"config {path}: '{value}' is not of the form name:number,name:number") from error
    if not isinstance(value, Mapping):
        raise UserError(f"config {path}: needs names and values, got {value!r}")
    return value


def _tuple(value: Any, arguments: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list | tuple):
        raise UserError(f"config {path}: needs a list, got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise UserError(f"config {path}: needs {len(arguments)} entries, got {value!r}")
    return tuple(
        _convert(item, kind, f"{path}[{i}]") for i, (item, kind) in enumerate(zip(value, arguments, strict=True))
    )


def _scalar(value: Any, wanted: type, path: str) -> Any:
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise UserError(f"config {path}: must be between -2^62 and 2^62, is {value}")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool):
        return value
    kind = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[wanted]
    raise UserError(f"config {path}: needs {kind}, got {value!r}")


def as_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values, to be written with a run and compared with it."""
    return _jsonable(asdict(config))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str = "") -> list[str]:
    """`key: ours, theirs` for every key in which two configurations differ."""
    found = []
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, _join(path, key))
        elif a != b:
            found.append(f"{_join(path, key)}: {a!r}, there {b!r}")
    return found
