"""What every command that computes does first."""

from dataclasses import dataclass

from rich.console import Console

from mtret.console import say
from mtret.devices import cache_folder, device_line, keep_compilations, keep_memory, prepare_gpu
from mtret.files import AnyPath, check_writable


@dataclass(frozen=True)
class Session:
    """Where a command keeps what another may use again."""

    cache: AnyPath  # tokens, vectors, images
    programs: str  # what XLA has compiled


def begin(console: Console | None = None) -> Session:
    """Prepares memory, devices and caches, and says on a console what JAX runs on.

    Raises UserError where the cache cannot be written.
    """
    keep_memory()
    prepare_gpu()
    if console is not None:
        say(console, device_line())
    cache = cache_folder()
    check_writable(cache, "MTRET_CACHE")
    return Session(cache, keep_compilations())
