"""Writes docs/commands.md and docs/keys.md, every command, flag and key: python docs/write_commands.py."""

import re
from pathlib import Path
from typing import get_args

from mtret.cli import COMMANDS, described
from mtret.run_config import RunConfig
from mtret.schema import default_of, walk

PAGE = Path(__file__).parent / "commands.md"
KEYS = Path(__file__).parent / "keys.md"
KEYS_HEAD = """# Every key of a configuration

Written by `docs/write_commands.py` from the code. `mtret init` writes the same as a file to edit;
[configs.md](configs.md) says how keys are given.

| key | type | default | |
| --- | --- | --- | --- |
"""
HEAD = """# Every command and flag

Written by `docs/write_commands.py` from the code. `mtret COMMAND --help` says the same.

Flags are `--name=value`; a switch is `--name` or `--noname`. Lists are separated by commas. Exit codes: 0, 2 after one
line that says what is wrong and what to do, 3 where a training is finished but its verdict failed, 128 + n after
signal n.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, command in COMMANDS.items():
        values = command.flags()
        parts.append(f"## mtret {name}\n\n{_sentence(command.purpose)}\n\n```\n{command.example}\n```\n")
        rows = ["| flag | type | default | |", "| --- | --- | --- | --- |"]
        for flag in (values[each] for each in values):
            kind = _kind(flag)
            default = "" if flag.default in (None, "", []) else f"`{_shown(flag.default)}`"
            rows.append(f"| `--{flag.name}` | {kind} | {default} | {_cell(described(command, flag))} |")
        if len(rows) > 2:
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def keys_page() -> str:
    """A table of all keys."""
    rows = []
    for path, each, section in walk(RunConfig):
        meaning = _cell(each.metadata.get("meaning"))
        if section is not None:
            rows.append(f"| **{path}** | | | {meaning} |")
            continue
        default = default_of(each)
        rows.append(f"| `{path}` | {_cell(_name(each.type))} | `{_cell(repr(default))}` | {meaning} |")
    return KEYS_HEAD + "\n".join(rows) + "\n"


def _name(kind: object) -> str:
    """Of a type, without the modules that it is from."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else re.sub(r"\w+\.", "", str(kind))


def _kind(flag: object) -> str:
    values = getattr(getattr(flag, "parser", None), "enum_values", None)
    if values:
        return ", ".join(f"`{value}`" if value else "none" for value in values)
    return {"bool": "switch", "comma separated list of strings": "list", "multi string": "string, several times"}.get(
        flag.flag_type(), flag.flag_type()
    )  # type: ignore[attr-defined]


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _cell(words: str | None) -> str:
    """Without the values of an enumeration, which stand in a column of their own."""
    return re.sub(r"^<[^>]*>: ", "", " ".join((words or "").split())).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    KEYS.write_text(keys_page(), encoding="utf-8")
