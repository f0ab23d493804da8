"""What every command is made of: flags, and the answers to missing ones."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from absl import flags

from mtret.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

Flags = flags.FlagValues


@dataclass(frozen=True)
class Command:
    """One verb: what it does, its flags and an example."""

    purpose: str
    example: str
    define: Callable[[Flags], None]
    run: Callable[[Flags, list[str]], int | None]  # flags and `key=value` overrides -> exit code, None for 0
    files: str = ""  # a flag that takes what is not a flag
    more: tuple[str, ...] = ()  # further examples, where one does not suffice


def required(values: Flags, name: str) -> str:
    """The value of a flag. Raises UserError where it is not given."""
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is needed: {values[name].help}")
    return value


def console(shown: bool = True) -> "Console":
    """Where lines and bars go; nowhere unless `shown`."""
    from rich.console import Console

    if not shown:
        return Console(quiet=True, file=io.StringIO())
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def no_overrides(overrides: list[str]) -> None:
    """Raises UserError for any."""
    if overrides:
        raise UserError(f"--config.{overrides[0]}: only train has a configuration")


def define_suite(values: Flags) -> None:
    """--suite."""
    flags.DEFINE_string(
        "suite", "", "a folder of task folders, 'enterprise' (embedded), or tfds:NAME, a data set", flag_values=values
    )


def define_model(values: Flags) -> None:
    """--model."""
    flags.DEFINE_string(
        "model",
        "",
        "a run's folder, a checkpoint in it (best.safetensors, weights/...), a model folder, a hub id, or 'minilm'",
        flag_values=values,
    )


def of_the_system(error: OSError) -> UserError:
    """One line of it."""
    where = f"{error.filename}: " if error.filename else ""
    return UserError(f"{where}{error.strerror or error}. Check the path, its permissions and the disk")


def of_a_store(error: Exception) -> UserError | None:
    """Where the client of a store raised it: they have exceptions of their own."""
    from mtret.files import store_complaint

    complaint = store_complaint(error)
    return UserError(f"the store of a remote path {complaint}") if complaint else None
