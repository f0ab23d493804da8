"""What a path is, local or in an object store, and files written whole or not at all.

Local paths are `pathlib.Path`. `gs://BUCKET/...` and `s3://BUCKET/...` are `etils.epath.Path`, which reaches them
through fsspec. An object store has no folders, no renaming and no appending, but it replaces an object as a whole.
"""

import importlib.util
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mtret.errors import UserError, first_line

AnyPath = Path | epath.Path
CLIENTS = {"gs": "gcsfs", "s3": "s3fs"}  # what fsspec reaches a store by
PROBE = ".mtret-"  # how the name of what tries a folder begins
CLIENT_PARTS = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "s3fs")


def locate(name: str) -> AnyPath:
    """The path that a user names. Raises UserError for a kind of place that is unknown, or whose client is missing."""
    scheme, separator, _ = name.partition("://")
    if "\0" in name:
        raise UserError(f"{name!r}: a path cannot hold the character \\0; correct it")
    if not separator:
        return at_home(name)
    if scheme not in CLIENTS:
        raise UserError(f"{name}: '{scheme}://' is not known; give a local path, gs://BUCKET/... or s3://BUCKET/...")
    if importlib.util.find_spec(CLIENTS[scheme]) is None:
        raise UserError(f"{name}: needs {CLIENTS[scheme]}, which is not installed; pip install 'mtret[remote]'")
    from fsspec.config import conf

    # A listing that is remembered knows nothing of what another process has written since.
    conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    os.environ.setdefault(
        "EPATH_USE_TF", "false"
    )  # else an installed TensorFlow would be imported, which knows no s3://
    return epath.Path(name)


def at_home(name: str) -> Path:
    """A local path, with `~` as the user's home. Raises UserError where there is no home."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}: there is no home folder for '~' here; set HOME, or write the whole path") from error


def split_places(text: str) -> list[str]:
    """The places between commas; a comma is a part of a name where something local is called so (`FAQ, final.csv`).
    A place may hold `*`, and have a name before it (`dev=FAQ, final.csv`)."""
    parts, found = text.split(","), []
    while parts:
        end = next((end for end in range(len(parts), 1, -1) if _is_there(",".join(parts[:end]))), 1)
        found.append(",".join(parts[:end]))
        parts = parts[end:]
    return [part for part in found if part]


def _is_there(place: str) -> bool:
    named = place.partition("=")[2]
    local = [at_home(one) for one in (place, named) if one and "://" not in one]
    return any(one.exists() or glob(str(one)) for one in local)


def inside(folder: AnyPath) -> list[AnyPath]:
    """What lies in a folder, by name; nothing where there is none."""
    try:
        found: Iterator[AnyPath] = iter(list(folder.iterdir()))
    except FileNotFoundError:
        return []
    # Some tools mark a folder of a store by an object of its own name, which would be listed inside it.
    return sorted((path for path in found if path != folder), key=lambda path: path.name)


@contextmanager
def reaching(place: AnyPath) -> Iterator[None]:
    """Turns what a store's client raises into a UserError that names the place."""
    try:
        yield
    except Exception as error:
        if isinstance(place, Path) or (complaint := store_complaint(error)) is None:
            raise
        raise UserError(f"{place}: {complaint}") from error


def store_complaint(error: Exception) -> str | None:
    """One line for an error of a store or of its client, with the remedy; None for any other error."""
    kind = type(error)
    if not isinstance(error, OSError) and kind.__module__.split(".")[0] not in CLIENT_PARTS:
        return None
    return (
        f"cannot be reached ({kind.__name__}: {first_line(error)[:200]}). "
        "Check bucket, credentials, permissions and network"
    )


def replace_bytes(path: AnyPath, content: bytes) -> None:
    """Writes beside `path` and moves it there in one step; a reader sees the old file or the new one."""
    if not isinstance(path, Path):
        from fsspec.core import url_to_fs

        store, key = url_to_fs(str(path))
        store.pipe_file(key, content)
        return
    # Not by tempfile: its files are their owner's alone, and these are to be shared as any other.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with parents_of(path):
        try:
            with draft.open("xb") as file:
                file.write(content)
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Makes the folders above `path` that are not there; after an error they go again, as far as nothing is in them."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def remove(path: AnyPath) -> None:
    """Removes a file, if there is one."""
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
        return
    from fsspec.core import url_to_fs

    store, key = url_to_fs(str(path))
    with suppress(FileNotFoundError):
        store.rm_file(key)  # not by `path.unlink`, which takes a name with brackets for a pattern


def check_writable(folder: AnyPath, flag: str) -> None:
    """Raises UserError where `folder` could not be made or written: before the work whose result is to go there."""
    if not isinstance(folder, Path):  # nothing but writing tells what is allowed there
        probe = folder / f"{PROBE}{secrets.token_hex(4)}"
        with reaching(folder):
            replace_bytes(probe, b"")
            remove(probe)
        return
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{flag}={folder}: {place} is not writable; choose another place")


def check_new(path: AnyPath, flag: str) -> None:
    """Raises UserError where something is there already."""
    if path.exists():
        raise UserError(f"{path}: exists already and is never overwritten; give another {flag}")


def is_probe(path: AnyPath) -> bool:
    """Whether `check_writable` wrote it, here or in another process, perhaps one that was killed."""
    return path.name.startswith(PROBE)


def size_of(path: AnyPath) -> int:
    """Bytes of a file."""
    return path.stat().st_size if isinstance(path, Path) else int(path.stat().length)


def replace_text(path: AnyPath, text: str) -> None:
    """As `replace_bytes`, in UTF-8."""
    replace_bytes(path, text.encode())


def replace_json(path: AnyPath, value: Any) -> None:
    """As `replace_bytes`, indented. Raises ValueError for a number that JSON does not have (nan, infinity)."""
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def replace_arrays(path: AnyPath, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """As `replace_bytes`, in safetensors format."""
    from safetensors.numpy import save

    replace_bytes(path, save({name: np.asarray(value, order="C") for name, value in arrays.items()}, metadata))


def load_arrays(path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises OSError where it cannot be read, SafetensorError where it is damaged."""
    from safetensors.numpy import load, load_file

    return load_file(path) if isinstance(path, Path) else load(path.read_bytes())


def read_arrays(path: AnyPath) -> dict[str, np.ndarray] | None:
    """What `replace_arrays` wrote; None where there is nothing, or nothing readable: a cache is only a cache."""
    from safetensors import SafetensorError

    try:
        return load_arrays(path)
    except (OSError, SafetensorError):
        return None


def read_metadata(path: AnyPath) -> dict[str, str]:
    """The strings that `replace_arrays` wrote beside the arrays."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {})


@contextmanager
def folder_draft(folder: AnyPath) -> Iterator[Path]:
    """An empty local folder to be filled and handed to `replace_folder`; what is left of it goes in the end."""
    local = isinstance(folder, Path)
    with parents_of(folder) if isinstance(folder, Path) else nullcontext():
        # Named before it is made, so that an interruption at any moment finds it.
        room = Path(folder.parent if local else tempfile.gettempdir()) / f".{folder.name}.{secrets.token_hex(4)}"
        try:
            draft = room / folder.name
            room.mkdir(mode=0o700)
            draft.mkdir()
            yield draft
        finally:
            try:
                shutil.rmtree(room, ignore_errors=True)
            except KeyboardInterrupt:
                shutil.rmtree(room, ignore_errors=True)
                raise


def replace_folder(draft: Path, folder: AnyPath, last: Sequence[str] = ()) -> None:
    """Moves a finished `draft` to `folder`; what stood there goes only when the new one is complete.

    In a store, files are replaced one by one: those named by `last` go first and come last, so that a folder which has
    them is whole. What stood there is lost to a failure in between.
    """
    if not isinstance(folder, Path):
        _upload(draft, folder, last)
        return
    old = None
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        os.replace(folder, old / folder.name)
    os.replace(draft, folder)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _upload(draft: Path, folder: epath.Path, last: Sequence[str]) -> None:
    from fsspec.core import url_to_fs

    for name in reversed(last):
        remove(folder / name)
    store, key = url_to_fs(str(folder))
    for old in store.find(key):
        store.rm_file(old)
    names = [path.relative_to(draft).as_posix() for path in sorted(draft.rglob("*")) if path.is_file()]
    for name in [name for name in names if name not in last] + [name for name in last if name in names]:
        replace_bytes(folder / name, (draft / name).read_bytes())


@contextmanager
def written_locally(folder: AnyPath) -> Iterator[Path]:
    """For what only writes to local folders: `folder` itself, or one whose files are copied there in the end."""
    if isinstance(folder, Path):
        yield folder
        return
    with folder_draft(folder) as draft:
        yield draft
        replace_folder(draft, folder)
