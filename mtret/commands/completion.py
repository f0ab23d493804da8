"""`mtret completion`: scripts for shells, which ask mtret itself what a word may become."""

import re
from collections.abc import Mapping

from mtret.commands.common import Command, Flags
from mtret.errors import UserError

BASH = """_mtret() {
  local IFS=$'\\n' line="$(IFS=' '; echo "${COMP_WORDS[*]:0:COMP_CWORD+1}")" current="${COMP_WORDS[COMP_CWORD]#=}"
  COMPREPLY=($("${COMP_WORDS[0]}" completion words "$line" 2> /dev/null))
  COMPREPLY=("${COMPREPLY[@]%%:*}")
  if [ -z "${COMPREPLY[0]}" ]; then
    compopt -o filenames
    COMPREPLY=($(compgen -f -- "$current"))
  elif [[ "${COMPREPLY[0]}" == *=?* ]]; then
    COMPREPLY=("${COMPREPLY[@]#*=}")
  elif [[ "${COMPREPLY[0]}" == *= ]]; then
    compopt -o nospace
  fi
}
complete -F _mtret mtret
"""
ZSH = """#compdef mtret
_mtret() {
  local -a found=("${(@f)$($words[1] completion words "${(j: :)words[1,CURRENT]}" 2> /dev/null)}")
  if [[ -z $found[1] ]]; then
    compset -P '--*='
    _files
    return
  fi
  local -a valued=("${(@M)found:#*=:*}") others=("${(@)found:#*=:*}")
  _describe mtret valued -S '' -- others
}
if [ "$funcstack[1]" = "_mtret" ]; then
  _mtret "$@"
else
  compdef _mtret mtret
fi
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}


def define_completion(values: Flags) -> None:
    values.names("shell", "bash or zsh, also without this flag")


def completion(values: Flags, commands: Mapping[str, Command]) -> None:
    """Prints the script; or, as the scripts ask for it, what the last word of a command line may become."""
    given: list[str] = list(values["shell"].value or [])
    if len(given) == 2 and given[0] == "words":
        print(*(f"{word}:{' '.join(about.split())}" for word, about in offered(given[1], commands).items()), sep="\n")
        return
    if len(given) != 1 or given[0] not in SCRIPTS:
        raise UserError("completion: name one shell: mtret completion bash, or mtret completion zsh")
    print(SCRIPTS[given[0]], end="")


def offered(line: str, commands: Mapping[str, Command]) -> dict[str, str]:
    """What the last word may become, with what it is for; nothing where it is a file or any text. Bash hands over
    `--flag=value` as three words."""
    _, *before, current = re.sub(" ?= ?", "=", line).split(" ")
    name = next((name for name in commands if before[: len(name.split())] == name.split()), "")
    found: dict[str, str] = {}
    if not name:
        for parts, command in ((each.split(), command) for each, command in commands.items()):
            if parts[: len(before)] == before:
                found.setdefault(parts[len(before)], command.purpose)
    elif current.startswith("-"):
        flags = commands[name].flags()
        asked, sign, _ = current.partition("=")
        for flag in (flags[each] for each in flags):
            if sign and asked == f"--{flag.name}":
                found = {f"{asked}={value}": "" for value in getattr(flag.parser, "enum_values", None) or () if value}
            elif not sign:
                found[f"--{flag.name}" if flag.boolean else f"--{flag.name}="] = str(flag.help)
    elif name == "completion":
        found = dict.fromkeys(SCRIPTS, "")
    return {word: about for word, about in found.items() if word.startswith(current)}
