"""Files written whole or not at all."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes beside `path` and moves it there in one step; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile: its files are their owner's alone, and these are to be shared as any other.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """As `replace_bytes`, in UTF-8."""
    replace_bytes(path, text.encode())


def replace_json(path: Path, value: Any) -> None:
    """As `replace_bytes`, indented. Raises ValueError for a number that JSON does not have (nan, infinity)."""
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def replace_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """As `replace_bytes`, in safetensors format."""
    from safetensors.numpy import save

    replace_bytes(path, save({name: np.asarray(value, order="C") for name, value in arrays.items()}, metadata))


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `replace_arrays` wrote; None where there is nothing, or nothing readable: a cache is only a cache."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def read_metadata(path: Path) -> dict[str, str]:
    """The strings that `replace_arrays` wrote beside the arrays."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return file.metadata() or {}
