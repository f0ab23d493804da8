"""What every command is made of: flags, and the answers to missing ones."""

import io
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from absl import flags

from mtret.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

PROMPTS = ("query_prompt", "document_prompt")
FULL = ("No space left on device", "database or disk is full", "disk I/O error", "RESOURCE_EXHAUSTED: Error writing")


class _Places(flags.ListParser):
    """Of a list of places, in whose names a comma may be."""

    def parse(self, argument: Any) -> list[str]:
        if not isinstance(argument, str) or '"' in argument:  # as CSV has it
            return super().parse(argument)
        from mtret.files import split_places

        return [place.strip() for place in split_places(argument)]


class Flags(flags.FlagValues):
    """The flags of one command. Each method defines one: its name, what it is for, its default."""

    def text(self, name: str, words: str, default: str | None = "") -> None:
        """Any text."""
        flags.DEFINE_string(name, default, words, self)

    def switch(self, name: str, words: str, default: bool = False) -> None:
        """--name or --noname."""
        flags.DEFINE_boolean(name, default, words, self)

    def choice(self, name: str, words: str, options: Sequence[str], default: str | None) -> None:
        """One of a few texts."""
        flags.DEFINE_enum(name, default, list(options), words, self)

    def whole(self, name: str, words: str, default: int | None = None, least: int | None = None) -> None:
        """An integer, not below `least`."""
        flags.DEFINE_integer(name, default, words, least, flag_values=self)

    def names(self, name: str, words: str, default: Sequence[str] = ()) -> None:
        """Texts, with commas between them."""
        flags.DEFINE_list(name, list(default), words, self)

    def places(self, name: str, words: str) -> None:
        """Files or folders, with commas between them."""
        flags.DEFINE(_Places(), name, [], words, self, flags.CsvListSerializer(","))

    def repeated(self, name: str, words: str) -> None:
        """Texts, one each time that the flag is given."""
        flags.DEFINE_multi_string(name, [], words, self)


@dataclass(frozen=True)
class Command:
    """One verb: what it does, its flags and an example."""

    purpose: str
    example: str
    define: Callable[[Flags], None]
    run: Callable[..., int | None]  # flags, and overrides if `configurable` -> exit code, None for 0
    files: str = ""  # a flag that takes what is not a flag
    more: tuple[str, ...] = ()  # further examples, where one does not suffice
    configurable: bool = False  # whether it takes --config.KEY=VALUE, as a list of `KEY=VALUE`

    def flags(self) -> Flags:
        """Its flags, as yet without what a person gives."""
        values = Flags()
        self.define(values)
        return values


def required(values: Flags, name: str) -> Any:
    """The value of a flag, which is a text or a list. Raises UserError where it is not given."""
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is needed: {values[name].help}")
    return value


def next_line(*words: str) -> str:
    """`next: mtret ...`, to be copied into a shell as it is."""
    return f"next: mtret {' '.join(map(_quoted, words))}"


def _quoted(word: str) -> str:
    """As a shell reads it; a sentence in double quotes, as people write it."""
    together = word.replace(" ", "")
    return f'"{word}"' if together and word != together == shlex.quote(together) else shlex.quote(word)


def console(shown: bool = True) -> "Console":
    """Where lines and bars go; nowhere unless `shown`."""
    from rich.console import Console

    if not shown:
        return Console(quiet=True, file=io.StringIO())
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def define_suite(values: Flags) -> None:
    """--suite."""
    values.text("suite", "a folder of task folders, 'enterprise' (bundled), or tfds:NAME, a data set")


def define_model(values: Flags) -> None:
    """--model."""
    values.text(
        "model",
        "a run's folder, a checkpoint in it (best.safetensors, weights/...), a model folder, a hub id, or 'minilm'",
    )


def define_prompts(values: Flags) -> None:
    """--query_prompt and --document_prompt."""
    for name in PROMPTS:
        side = name.removesuffix("_prompt")
        words = f"before a {side}, of an encoder that mtret did not train (default: as it was published; '' for none)"
        values.text(name, words, None)


def readable(text: str) -> str:
    """What is not UTF-8 in it written out, so that it can be printed."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def mistake_of(error: Exception) -> UserError | None:
    """What a person is told of an error that is theirs, the system's or a library's; None for one of ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MemoryError):
        return UserError(f"not enough memory ({error}); give it less at once: smaller batches, fewer steps or texts")
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        around = error.object[max(error.start - 20, 0) : error.end + 20]
        return UserError(f"'{readable(around)}': a name or a text that is not UTF-8; correct it and try again")
    return of_the_system(error) if isinstance(error, OSError) else of_a_library(error)


def of_the_system(error: OSError) -> UserError:
    """One line of it."""
    where = f"{error.filename}: " if error.filename else ""
    return UserError(f"{where}{error.strerror or error}. Check the path, its permissions and the disk")


def of_a_library(error: Exception) -> UserError | None:
    """Where the client of a store raised it, or a library that writes files by itself: they have exceptions of their
    own."""
    from mtret.files import store_complaint

    if complaint := store_complaint(error):
        return UserError(f"the store of a remote path {complaint}")
    words = f"{type(error).__name__}: {error}"
    full = next((sign for sign in FULL if sign in words), None)
    return UserError(f"No space left on device ({words[:200]}). Make room and try again") if full else None
