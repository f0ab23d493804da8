"""Published tensors: read from safetensors, in one file or several, and matched with a tower's parameters, strictly."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError

from mtret.encoder_folder.reading import read_json
from mtret.errors import UserError
from mtret.files import AnyPath, load_arrays
from mtret.pytrees import Tree, flatten, unflatten

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # where there are several: tensor -> file
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}  # ours -> torch's, where they differ
# What the first BERT checkpoints, among them bert-base-uncased, were published with -> what came later.
LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
NAMED = 3  # tensors that a message lists of many


def file_sha256(path: AnyPath) -> str:
    """SHA-256 of a file's bytes. Raises UserError if it cannot be read."""
    try:
        if not isinstance(path, Path):
            return hashlib.sha256(path.read_bytes()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def files(folder: AnyPath) -> list[AnyPath]:
    """Those that hold a model's tensors. Raises UserError where there are none, or the index names what is none."""
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        return [single]
    if index.exists():
        return [folder / name for name in _shards(index)]
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{single}: missing; {pickled[0]} is pickled, and reading it could run any code in it: convert it to "
            "safetensors where you trust its source, e.g. by load and save_pretrained in transformers"
        )
    raise UserError(f"{single}: missing; is this a model folder?")


def place(folder: AnyPath) -> AnyPath:
    """The file that names a model's tensors, for messages: that of the weights, or the index of several."""
    return folder / INDEX if not (folder / SINGLE).exists() and (folder / INDEX).exists() else folder / SINGLE


def _shards(index: AnyPath) -> list[str]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{index}: has no weight_map from tensors to files")
    names = sorted({name if isinstance(name, str) else repr(name) for name in listed.values()})
    for name in names:
        # Nothing but a file of the folder itself: an index comes from the network.
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise UserError(f"{index}: names the file {name!r}; a shard is a .safetensors file beside the index")
    return names


def sha256(*folders: AnyPath) -> str:
    """Of the tensors' file; of several, of their hashes."""
    hashes = [file_sha256(path) for folder in folders for path in files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def read(folder: AnyPath) -> dict[str, np.ndarray]:
    """Every tensor in a model's files. Raises UserError where one is damaged, or the index disagrees with the files."""
    tensors: dict[str, np.ndarray] = {}
    paths = files(folder)
    for path in paths:
        found = read_file(path)
        twice = sorted(found.keys() & tensors.keys())
        if twice:
            raise UserError(f"{path}: holds the tensor '{twice[0]}', which another file of the folder holds as well")
        tensors |= found
    if len(paths) > 1 or not (folder / SINGLE).exists():
        listed = read_json(folder / INDEX)["weight_map"]
        differing = sorted(listed.keys() ^ tensors.keys())
        if differing:
            where = "in no file" if differing[0] in listed else "in a file, but not in the index"
            raise UserError(f"{folder / INDEX}: disagrees with the files, the tensor '{differing[0]}' is {where}")
    return tensors


def read_file(path: AnyPath) -> dict[str, np.ndarray]:
    """Every tensor of one file. Raises UserError where it is missing or damaged."""
    try:
        return load_arrays(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, but another file speaks of it; fetch it") from error
    except (SafetensorError, OSError, ValueError, KeyError, MemoryError) as error:
        raise UserError(f"{path}: damaged or truncated ({error}); fetch it again") from error


class Matched(NamedTuple):
    """A published file, sorted."""

    params: Tree
    unused: Mapping[str, np.ndarray]  # carried along, for who needs them
    prefix: str  # of the published names


def match(
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    prefixes: Sequence[str],
    unused: Sequence[str],
    where: AnyPath,
) -> Matched:
    """Published tensors as parameters, in float32 and finite; all of them, or a UserError that says what differs.

    Args:
      wanted: the tower's parameters by path, with shapes.
      prefixes: optional ones of published names.
      unused: expressions for tensors that the tower has no use for.
      where: the file, for messages.
    """
    tensors = _by_later_names(tensors, where)
    prefix = next((p for p in prefixes if any(name.startswith(p) for name in tensors)), "")
    names = {path: prefix + published_name(path) for path in wanted}
    missing = sorted(set(names.values()) - tensors.keys())
    left = {name: value for name, value in tensors.items() if name not in set(names.values())}
    strange = [n for n in left if not any(re.fullmatch(p, n.removeprefix(prefix)) for p in unused)]
    if missing or strange:
        difference = [
            f"{len(found)} tensors {what} ({', '.join(sorted(found)[:NAMED])}{', ...' if len(found) > NAMED else ''})"
            for found, what in ((missing, "are missing"), (strange, "have no place in this tower"))
            if found
        ]
        raise UserError(f"{where}: {'; '.join(difference)}")
    params = {path: _parameter(tensors[name], path, name, wanted[path].shape, where) for path, name in names.items()}
    return Matched(unflatten(params), left, prefix)


def _parameter(value: np.ndarray, path: str, name: str, shape: tuple[int, ...], where: AnyPath) -> np.ndarray:
    published = shape[::-1] if path.endswith("/kernel") else shape
    if value.shape != published:
        raise UserError(
            f"{where}: tensor '{name}' has shape {list(value.shape)}, config.json asks for {list(published)}"
        )
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        raise UserError(f"{where}: tensor '{name}' is {value.dtype}, not floating point")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        found = np.ascontiguousarray(value.T if path.endswith("/kernel") else value, dtype=np.float32)
    check_finite(found, name, where)
    return found


def check_finite(tensor: np.ndarray, name: str, where: AnyPath) -> None:
    """Raises UserError for a tensor, `name` in the file, with NaN or infinity: no vector would be a number."""
    spoilt = tensor.size - np.count_nonzero(np.isfinite(tensor))
    if spoilt:
        raise UserError(
            f"{where}: tensor '{name}' holds {spoilt:,} values that are not finite (NaN or infinite); fetch the file "
            "again, or take an earlier checkpoint"
        )


def _by_later_names(tensors: Mapping[str, np.ndarray], where: AnyPath) -> Mapping[str, np.ndarray]:
    """As transformers reads `LEGACY` names. Raises UserError where a tensor stands under both."""
    later = {
        name: name.removesuffix(old) + new for name in tensors for old, new in LEGACY.items() if name.endswith(old)
    }
    for name, new in later.items():
        if new in tensors:
            raise UserError(f"{where}: holds both '{name}' and '{new}', two names of one tensor; remove one")
    return {later.get(name, name): value for name, value in tensors.items()}


def published(params: Tree, prefix: str) -> dict[str, np.ndarray]:
    """The way back: parameters under their published names, laid out as published."""
    arrays = {path: np.asarray(value) for path, value in flatten(params).items()}
    return {
        prefix + published_name(path): np.ascontiguousarray(value.T if path.endswith("/kernel") else value)
        for path, value in arrays.items()
    }


def published_name(path: str) -> str:
    """`encoder/layer/0/output/dense/kernel` -> `encoder.layer.0.output.dense.weight`."""
    *parents, leaf = path.split("/")
    return ".".join([*parents, LEAVES.get(leaf, leaf)])
