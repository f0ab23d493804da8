"""The one exception for mistakes that the user can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What is wrong, where, and the remedy, in one line. The command line prints it and exits with code 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the empty string where nothing known is close to `name`."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
