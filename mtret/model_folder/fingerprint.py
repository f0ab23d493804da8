"""One fingerprint of a model: of all that changes its vectors. It keys every cache of vectors, tells whether a run goes
on with the encoder that it began with, and whether a baseline is the encoder that a model was finetuned from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from mtret.models import hf, hf_images
from mtret.models.weights import file_sha256

# Raised with every change of the code by which the same files give other vectors.
NUMBERS = 1
# Of an encoder as loaded, what is not part of it: where it lies, what its other fields tell already, and words. A field
# that somebody adds is part of the fingerprint unless it is named here.
NOT_IN_FINGERPRINT = ("folder", "transformer", "tower", "params", "unused", "prefix", "remarks")
# Of a tower's configuration, how it is run; of these `key` adds what changes vectors.
RUNNING = ("matmul_dtype", "attention", "remat")


def parts_of(encoder: hf.Pretrained) -> dict[str, Any]:
    """What makes its vectors what they are, by name, as JSON. Raises UserError where a file cannot be read."""
    own = {
        each.name: _plain(getattr(encoder, each.name))
        for each in fields(encoder)
        if each.name not in NOT_IN_FINGERPRINT
    }
    paths = [encoder.transformer / name for name in hf.TOKENIZER_FILES]
    tokenizer = {path.name: file_sha256(path) for path in paths if path.exists()}
    return {"code": NUMBERS, **own, "tower": _tower(encoder.config), "tokenizer": tokenizer}


def parts_of_images(images: hf_images.PretrainedImages) -> dict[str, Any]:
    """As `parts_of`, of an image tower."""
    return {"code": NUMBERS, "sha256": images.sha256, "tower": _tower(images.config)}


def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 of parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def key(encoder: hf.Pretrained) -> str:
    """Of an encoder's vectors as they are computed here: its fingerprint, and how it is run."""
    running = {"operands": encoder.config.matmul_dtype, "attention": encoder.config.attention}
    return fingerprint({**parts_of(encoder), "running": running})


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """`part: ours, there theirs` for every part in which two encoders differ; nothing of what only one of them wrote
    down, as an older mtret knew fewer parts."""
    a, b = _flat(ours), _flat(theirs)
    both = a.keys() & b.keys()
    both |= {name for name in {*a, *b} if name.startswith("tokenizer.")}  # a file more is another tokenizer
    changed = [name for name in sorted(both) if a.get(name) != b.get(name)]
    return [f"{name}: {a.get(name)!r}, there {b.get(name)!r}" for name in changed]


def _flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    nested = {name: value for name, value in parts.items() if name in ("tower", "tokenizer", "dropout")}
    plain = {name: value for name, value in parts.items() if name not in nested}
    return plain | {f"{name}.{key}": one for name, value in nested.items() for key, one in value.items()}


def dropouts(encoder: hf.Pretrained) -> dict[str, float]:
    """The rates that a training runs with. They change no vector of what is deployed."""
    return {name: float(getattr(encoder.config, name)) for name in encoder.config.DROPOUTS}


def _tower(config: Any) -> dict[str, Any]:
    apart = (*RUNNING, *config.DROPOUTS)
    return {each.name: _plain(getattr(config, each.name)) for each in fields(config) if each.name not in apart}


def _plain(value: Any) -> Any:
    """As JSON; of an array its hash. Raises TypeError for what has no text of its own."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        return {"type": type(value).__name__, **own}
    if isinstance(value, np.ndarray):
        return [str(value.dtype), *value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} cannot stand in a fingerprint; name its field in NOT_IN_FINGERPRINT")
