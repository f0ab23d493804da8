"""The command line: `mtret COMMAND --flag=value`. Mistakes are one line and exit code 2.

Nothing heavy is imported before a command needs it, so that help is immediate.
"""

import atexit
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib.metadata import version
from types import FrameType
from typing import NoReturn

from absl import flags

from mtret.commands import completion, data, encoding, evaluation, models, results, sweeps, system, training
from mtret.commands.common import Command, Flags, define_suite, mistake_of, readable
from mtret.errors import UserError, nearest
from mtret.names import KEYS, flags_now, renamed

OVERRIDE = re.compile(r"--?config\.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for the user's mistakes, 3 where a training is finished but its
    verdict failed, 128 + n when stopped by signal n."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # XLA's C++ log tells of matters that no user can act on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        with _interrupted_once(ends=argv is None):
            _check_utf8(arguments)
            code = _dispatch(arguments)
        sys.stdout.flush()  # a reader that went away shows itself here, not in the interpreter's last breath
        return code
    except UserError as error:
        print(f"mtret: {readable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        print(f"mtret: {'interrupted' if number == signal.SIGINT else 'terminated'}", file=sys.stderr)
        if argv is None:
            _leave(128 + number)
        return 128 + number
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _leave(code: int) -> NoReturn:
    """Ends the process. Python itself would end it by SIGINT where the interruption came within the text of an `exec`,
    by which dataclasses are made, although it was caught."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@contextmanager
def _interrupted_once(ends: bool) -> Iterator[None]:
    """Ctrl-C, or SIGTERM, ends a command by an exception, so that what it has begun to write is removed. Impatient
    people press it again: that must not end the removing; nor, where the process `ends` with the command, disturb its
    last breath."""

    def obey(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    def tell(lost: "sys.UnraisableHookArgs") -> None:
        """Where Python drops what was raised (in a finaliser, say), it is raised again a moment later."""
        if lost.exc_type is not KeyboardInterrupt:
            told(lost)
            return
        number = lost.exc_value.args[0] if lost.exc_value and lost.exc_value.args else signal.SIGINT
        signal.signal(number, obey)
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    # One that is ignored, as Ctrl-C by a job in a shell's background, or handled by others, stays so.
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: usual[number] for number in usual if signal.getsignal(number) is usual[number]}
    if not before or threading.current_thread() is not threading.main_thread():
        yield
        return
    told = sys.unraisablehook
    for number in before:
        signal.signal(number, obey)
    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = told
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends else handler)


def _check_utf8(arguments: Sequence[str]) -> None:
    """Raises UserError for an argument that could not be printed or written down: bytes that are not UTF-8."""
    for argument in arguments:
        if (shown := readable(argument)) != argument:
            raise UserError(f"'{shown}': is not UTF-8; rename the file or folder, or give it by a link that is")


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"mtret {version('mtret')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "data" and rest and not rest[0].startswith("-"):
        name, rest = f"data {rest[0]}", rest[1:]
    if name == "data" and all(one in ("-h", "--help") for one in rest):
        print(_overview("data "))
        return 0
    if name not in COMMANDS:
        close = "" if name == "data" else nearest(name, COMMANDS)
        raise UserError(f"no command '{name}'.{close} `mtret --help` lists them")
    command = COMMANDS[name]
    rest, lines = flags_now(name, rest)
    if any(argument in ("-h", "--help") for argument in rest):
        print(_help(name, command))
        return 0
    overrides = [OVERRIDE.sub("", argument) for argument in rest if OVERRIDE.match(argument)]
    values = _parse(name, command, [argument for argument in rest if not OVERRIDE.match(argument)])
    old = [key for key in (override.partition("=")[0] for override in overrides) if key in KEYS]
    for line in [*lines, *([renamed(old)] if old else [])]:
        print(f"mtret: {line}", file=sys.stderr)
    if overrides and not command.configurable:
        raise UserError(f"--config.{overrides[0]}: only train has a configuration")
    given = (values, overrides) if command.configurable else (values,)
    try:
        return command.run(*given) or 0
    except (BrokenPipeError, UserError):
        raise
    except Exception as error:
        if (mistake := mistake_of(error)) is None:
            raise
        raise mistake from error


def _parse(name: str, command: Command, arguments: list[str]) -> Flags:
    values = command.flags()
    try:
        left = values([name, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        # A flag with a letter wrong, before configurations are imported, which takes a second.
        typed = get_close_matches(error.flagname, list(values), n=1, cutoff=0.8)
        close = "" if typed or "config" not in values else _config_key(error.flagname)
        close = close or nearest(error.flagname, values)
        raise UserError(f"{name}: no flag --{error.flagname}.{close} `mtret {name} --help` lists them") from error
    except flags.Error as error:
        raise UserError(f"{name}: {error}") from error
    if left and command.files and isinstance(values[command.files].default, list):
        values[command.files].value = [*(values[command.files].value or []), *left]
    elif len(left) == 1 and command.files and not values[command.files].value:
        values[command.files].value = left[0]
    elif left:
        surplus = left[bool(command.files and not values[command.files].value)]
        raise UserError(f"{name}: '{surplus}' is not a flag; write --name=value, `mtret {name} --help` lists them")
    return values


def _config_key(flag_name: str) -> str:
    """` Did you mean ...?`, where a key of the configuration has this name."""
    from mtret.run_config import RunConfig
    from mtret.schema import walk

    found = [path for path, _, _ in walk(RunConfig) if path.rpartition(".")[2] == flag_name]
    return f" Did you mean {' or '.join(f'--config.{path}' for path in found)}?" if found else ""


def _overview(of: str = "") -> str:
    """Of all commands, or of those whose names begin so."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.purpose}" for name, command in COMMANDS.items() if name.startswith(of)]
    return "\n".join(
        [
            "mtret: one small encoder for many retrieval tasks.",
            "",
            f"usage: mtret {of}COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            f"`mtret {of}COMMAND --help` shows a command's flags and an example.",
        ]
    )


def _help(name: str, command: Command) -> str:
    values = command.flags()
    lines = []
    for flag_name in values:
        flag = values[flag_name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines.append(f"  --{flag_name}\n      {described(command, flag)}{default}")
    examples = [command.example, *command.more]
    title = "example:" if len(examples) == 1 else "examples:"
    return "\n".join(
        [f"mtret {name}: {command.purpose}", "", "flags:", *lines, "", title, *(f"  {example}" for example in examples)]
    )


def described(command: Command, flag: flags.Flag) -> str:
    """What a flag is for, and whether its value may also stand alone."""
    alone = flag.name == command.files and not isinstance(flag.default, list)
    return f"{flag.help}; also without this flag" if alone else str(flag.help)


COMMANDS: dict[str, Command] = {
    "train": Command(
        "train one encoder on the tasks of a suite, or go on with it",
        "mtret train --suite=tasks --workdir=runs/first --hold_out=article --config.loop.steps=100",
        training.define_train,
        training.train,
        configurable=True,
    ),
    "init": Command(
        "write the configuration that suits a suite and this machine, to edit",
        "mtret init --suite=tasks --out=first.py",
        training.define_init,
        training.init,
        configurable=True,
    ),
    "sweep": Command(
        "train and evaluate many configurations with their seeds, and lay them out as one table",
        "mtret sweep configs/sweeps/quickstart.py --out=runs/quickstart_sweep",
        sweeps.define_sweep,
        sweeps.sweep,
        files="sweep",
        more=(
            "mtret sweep configs/sweeps/quickstart.py --list",
            "mtret sweep configs/sweeps/quickstart.py --out=runs/quickstart_sweep --shard=3/16  # a job of an array",
        ),
        configurable=True,
    ),
    "curves": Command(
        "plot losses and dev scores by step, of one training or of several",
        "mtret curves runs/first",
        training.define_curves,
        training.curves,
        files="runs",
        more=("mtret curves 'runs/a-*' 'runs/b-*' --out=curves.png",),
    ),
    "evaluate": Command(
        "evaluate a model per task and role against BM25, the base encoder and their hybrid",
        "mtret evaluate --model=runs/quickstart --suite=enterprise --split=test",
        evaluation.define_evaluate,
        evaluation.evaluate,
        files="model",
    ),
    "report": Command(
        "rebuild tables and plot from a results.json, or lay several out as one table for a paper",
        "mtret report --results=runs/quickstart/test/results.json",
        results.define_report,
        results.report,
        files="results",
        more=(
            "mtret report runs/seed0/test runs/seed1/test --format=latex --per_task",
            "mtret report base=runs/a/test ours=runs/b/test --format=csv --out=scores.csv",
            "mtret report 'a=runs/a-*/test' 'b=runs/b-*/test' --only_groups --format=latex  # means over seeds",
        ),
    ),
    "compare": Command(
        "tell which of two evaluated models is better, per task and role, query by query",
        "mtret compare runs/first/test runs/second/test",
        results.define_compare,
        results.compare,
        files="results",
        more=(
            "mtret compare before=runs/first/test after=runs/second/test --out=comparison",
            "mtret compare 'a=runs/a-*/test' 'b=runs/b-*/test'  # trainings that differ in their seed, on both sides",
        ),
    ),
    "export": Command(
        "write a run's best parameters so far as a sentence-transformers folder",
        "mtret export --model=runs/quickstart --out=retriever",
        models.define_export,
        models.export,
        files="model",
    ),
    "verify": Command(
        "see whether a model folder still answers as it did when it was written",
        "mtret verify --model=retriever --with=sentence-transformers",
        models.define_verify,
        models.verify,
        files="model",
    ),
    "merge": Command(
        "average models of one encoder: a soup of runs, or a model and what it was finetuned from",
        "mtret merge --models=runs/a,runs/b --out=soup",
        models.define_merge,
        models.merge,
    ),
    "search": Command(
        "answer queries with a model: the nearest documents of a task",
        'mtret search runs/quickstart it_article "reset a locked account"',
        evaluation.define_search,
        evaluation.search,
        files="words",
        more=("mtret search runs/quickstart it_article --json < queries.txt  # a query on each line",),
    ),
    "encode": Command(
        "write the vectors of a task's documents or queries, or of any texts, for a store of vectors",
        "mtret encode --model=runs/quickstart --task=it_article --out=articles.parquet",
        encoding.define_encode,
        encoding.encode,
        files="model",
        more=(
            "mtret encode --model=runs/quickstart --texts=corpus.jsonl --dimensions=128 --out=corpus.parquet",
            "mtret encode --model=runs/quickstart --texts=- --prompt=it_article --out=queries.jsonl < queries.txt",
        ),
    ),
    "doctor": Command(
        "say what this machine has and lacks: devices, versions, memory, disk, optional parts",
        "mtret doctor",
        system.define_doctor,
        system.doctor,
        more=("mtret doctor --json",),
    ),
    "completion": Command(
        "print a script that completes commands, flags and files in bash or zsh",
        "mtret completion bash > ~/.local/share/bash-completion/completions/mtret",
        completion.define_completion,
        lambda values: completion.completion(values, COMMANDS),
        files="shell",
        more=("mtret completion zsh > ~/.zfunc/_mtret  # in a folder of $fpath",),
    ),
    "data import": Command(
        "make a task folder of tables: CSV, TSV, JSON Lines, Parquet, or a folder of BEIR's layout",
        "mtret data import tickets.csv --query=question --text=answer --family=article \\\n"
        '      --instruction="Given a question, retrieve the answer." --out=tasks/tickets',
        data.define_import,
        data.import_tables,
        files="rows",
    ),
    "data check": Command(
        "read a suite strictly, and say what is odd", "mtret data check tasks", define_suite, data.check, files="suite"
    ),
    "data stats": Command(
        "sizes and lengths of a suite's tasks", "mtret data stats enterprise", define_suite, data.stats, files="suite"
    ),
    "data enterprise": Command(
        "write the bundled suite as task folders, to read or to imitate",
        "mtret data enterprise --out=enterprise",
        data.define_write,
        data.write_enterprise,
    ),
    "data tfds": Command(
        "write a suite as one data set of TensorFlow Datasets, to train from by name",
        "mtret data tfds --suite=tasks --out=~/tensorflow_datasets --name=my_tasks",
        data.define_tfds,
        data.write_tfds,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
