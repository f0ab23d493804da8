"""What every command needs first: a suite by its name, and the versions that its numbers depend on."""

import importlib.metadata
import platform
from pathlib import Path

from mtret.data.formats import Suite, read_suite
from mtret.errors import UserError

VERSIONS = ("mtret", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "bm25s", "scann")


def load_suite(name: str) -> Suite:
    """A folder of task folders, or the embedded `enterprise`. Raises UserError for the first mistake in it."""
    if not name:
        raise UserError("no suite: give --suite=FOLDER, --suite=enterprise, or `suite` in the configuration")
    if name != "enterprise":
        return read_suite(Path(name).expanduser())
    from mtret.data.enterprise.suite import load_enterprise

    return load_enterprise()


def versions() -> dict[str, str]:
    """Of mtret, Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
