"""What a model folder is made of: the hash of every file, so that a changed, torn or missing one is named at once."""

import json
from pathlib import Path

from mtret.errors import UserError
from mtret.files import AnyPath, replace_json
from mtret.models.weights import file_sha256

MANIFEST = "manifest.json"
PAGES = ("README.md", "INTEGRATE.md")  # people add to these


def write(folder: Path) -> None:
    """The manifest of a finished folder, into it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    listed = {name: file_sha256(folder / name) for name in names if name not in (*PAGES, MANIFEST)}
    replace_json(folder / MANIFEST, {"sha256": listed})


def verify(folder: AnyPath) -> int:
    """How many files are as they were written; 0 for a folder without a manifest, of an older mtret.

    Raises UserError for the first that is missing or another.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name in listed:
            if not isinstance(listed[name], str) or name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"'{name}' is not a file of it")
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST}: damaged ({error}); fetch the folder again") from error
    for name, sha256 in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing, a part of this model; fetch the whole folder again")
        if file_sha256(path) != sha256:
            raise UserError(f"{path}: is not the file that was exported (its SHA-256 is another); fetch it again")
    return len(listed)
