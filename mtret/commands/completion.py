"""`mtret completion`: scripts for shells, made of the commands and their flags."""

import re
from collections.abc import Mapping
from typing import Any

from mtret.commands.common import Command, Flags
from mtret.errors import UserError

SHELLS = ("bash", "zsh")


def define_completion(values: Flags) -> None:
    values.names("shell", "bash or zsh, also without this flag")


def completion(values: Flags, commands: Mapping[str, Command]) -> None:
    """Prints the script."""
    given: list[str] = list(values["shell"].value or [])
    if len(given) != 1 or given[0] not in SHELLS:
        raise UserError("completion: name one shell: mtret completion bash, or mtret completion zsh")
    print(bash_script(commands) if given[0] == "bash" else zsh_script(commands), end="")


def _flags_of(command: Command) -> dict[str, Any]:
    values = command.flags()
    return {name: values[name] for name in values}


def _takes_value(flag: Any) -> bool:
    return not flag.boolean


def bash_script(commands: Mapping[str, Command]) -> str:
    """For `eval "$(mtret completion bash)"`. Bash hands over `--flag=value` as three words."""
    first = sorted({name.split()[0] for name in commands})
    nested = "\n".join(f'    {name}) subcommands="{" ".join(each)}" ;;' for name, each in _nested(commands).items())
    of_commands, of_values = [], []
    for name, command in commands.items():
        every = _flags_of(command)
        words = [f"--{flag}=" if _takes_value(each) else f"--{flag}" for flag, each in every.items()]
        of_commands.append(f'    "{name}") flags="{" ".join(words)}" ;;')
        for flag, each in every.items():
            if values := [value for value in getattr(each.parser, "enum_values", None) or [] if value]:
                of_values.append(f'      "{name} --{flag}") values="{" ".join(values)}" ;;')
    line = "\n"
    return f"""_mtret() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" name="${{COMP_WORDS[1]}}" subcommands="" flags="" values="" flag=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(first)}" -- "$current"))
    return
  fi
  case "$name" in
{nested}
  esac
  if [ -n "$subcommands" ]; then
    if [ "$COMP_CWORD" -eq 2 ]; then
      COMPREPLY=($(compgen -W "$subcommands" -- "$current"))
      return
    fi
    name="$name ${{COMP_WORDS[2]}}"
  fi
  case "$name" in
{line.join(of_commands)}
  esac
  if [ "$current" = "=" ]; then
    flag="${{COMP_WORDS[COMP_CWORD-1]}}"
    current=""
  elif [ "${{COMP_WORDS[COMP_CWORD-1]}}" = "=" ]; then
    flag="${{COMP_WORDS[COMP_CWORD-2]}}"
  fi
  if [ -n "$flag" ]; then
    case "$name $flag" in
{line.join(of_values)}
    esac
    if [ -n "$values" ]; then
      COMPREPLY=($(compgen -W "$values" -- "$current"))
      return
    fi
  elif [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$current"))
    [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace
    return
  elif [ "$name" = "completion" ]; then
    COMPREPLY=($(compgen -W "{" ".join(SHELLS)}" -- "$current"))
    return
  fi
  compopt -o filenames
  COMPREPLY=($(compgen -f -- "$current"))
}}
complete -F _mtret mtret
"""


def zsh_script(commands: Mapping[str, Command]) -> str:
    """For a file `_mtret` in a folder of $fpath, or `source <(mtret completion zsh)` after compinit."""
    listed = "\n".join(f"    '{name}:{_zsh(one.purpose)}'" for name, one in _top(commands).items())
    nested = [
        f"  if (( CURRENT == 3 )) && [[ $words[2] == {name} ]]; then\n    compadd {' '.join(each)}\n    return\n  fi"
        for name, each in _nested(commands).items()
    ]
    cases = []
    for name, command in commands.items():
        words = []
        for flag, each in _flags_of(command).items():
            values = [value for value in getattr(each.parser, "enum_values", None) or [] if value]
            after = f":value:({' '.join(values)})" if values else ":value:_files"
            help_text = _zsh(re.sub(r"[\[\]]", "", each.help or ""))
            words.append(f"'--{flag}=[{help_text}]{after}'" if _takes_value(each) else f"'--{flag}[{help_text}]'")
        words.append(f"'*:shell:({' '.join(SHELLS)})'" if name == "completion" else "'*:file:_files'")
        cases.append(f'    "{name}") _arguments {" ".join(words)} ;;')
    line = "\n"
    return f"""#compdef mtret
_mtret() {{
  local -a listed
  local name=$words[2]
  listed=(
{listed}
  )
  if (( CURRENT == 2 )); then
    _describe command listed
    return
  fi
{line.join(nested)}
  case $name in
    {"|".join(_nested(commands))}) name="$name $words[3]"; shift words; (( CURRENT-- )) ;;
  esac
  shift words
  (( CURRENT-- ))
  case $name in
{line.join(cases)}
  esac
}}
if [ "$funcstack[1]" = "_mtret" ]; then
  _mtret "$@"
else
  compdef _mtret mtret
fi
"""


def _top(commands: Mapping[str, Command]) -> dict[str, Command]:
    """First words, each with the first command that begins so."""
    found: dict[str, Command] = {}
    for name, command in commands.items():
        found.setdefault(name.split()[0], command)
    return found


def _nested(commands: Mapping[str, Command]) -> dict[str, list[str]]:
    """Second words by first."""
    found: dict[str, list[str]] = {}
    for name in commands:
        if " " in name:
            found.setdefault(name.split()[0], []).append(name.split()[1])
    return found


def _zsh(text: str) -> str:
    """Inside quotes and between colons."""
    return " ".join(text.split()).replace("\\", "\\\\").replace(":", r"\:").replace("'", "'\\''")
