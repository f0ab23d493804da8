"""The one exception for mistakes that the user can fix."""

from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and the remedy, in one line. The command line prints it and exits with code 2."""


def first_line(error: BaseException) -> str:
    """Of what it says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest_folder(name: str) -> str:
    """As `nearest`, of local paths, level by level; nothing where the path is there."""
    with suppress(IndexError, OSError, RuntimeError):  # the last: there is no home for `~`
        found = Path(name).expanduser()
        missing = [path for path in [found, *found.parents] if not path.exists()]
        first = missing[-1]
        close = get_close_matches(first.name, [one.name for one in first.parent.iterdir()], n=1, cutoff=0.6)
        return f" Did you mean '{first.with_name(close[0])}'?"
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the empty string where nothing known is close to `name`."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
