"""The command line: `mtret COMMAND --flag=value`. Mistakes are one line and exit code 2.

Nothing heavy is imported before a command needs it, so that help is immediate.
"""

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from absl import flags

from mtret.errors import UserError, nearest

if TYPE_CHECKING:
    from mtret.processes import Peers

Flags = flags.FlagValues
OVERRIDE = re.compile(r"--?config\.")


@dataclass(frozen=True)
class Command:
    """One verb: what it does, its flags and an example."""

    purpose: str
    example: str
    define: Callable[[Flags], None]
    run: Callable[[Flags, list[str]], int | None]  # flags and `key=value` overrides -> exit code, None for 0
    files: str = ""  # a flag that takes what is not a flag


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for the user's mistakes, 128 + n when stopped by signal n."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # XLA's C++ log tells of matters that no user can act on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # a reader that went away shows itself here, not in the interpreter's last breath
        return code
    except UserError as error:
        print(f"mtret: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mtret: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "data" and rest and not rest[0].startswith("-"):
        name, rest = f"data {rest[0]}", rest[1:]
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'.{nearest(name, COMMANDS)} `mtret --help` lists them")
    command = COMMANDS[name]
    if any(argument in ("-h", "--help") for argument in rest):
        print(_help(name, command))
        return 0
    overrides = [OVERRIDE.sub("", argument) for argument in rest if OVERRIDE.match(argument)]
    values = _parse(name, command, [argument for argument in rest if not OVERRIDE.match(argument)])
    try:
        return command.run(values, overrides) or 0
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _of_the_system(error) from error
    except UserError:
        raise
    except Exception as error:
        if (mistake := _of_a_store(error)) is None:
            raise
        raise mistake from error


def _of_the_system(error: OSError) -> UserError:
    where = f"{error.filename}: " if error.filename else ""
    return UserError(f"{where}{error.strerror or error}. Check the path, its permissions and the disk")


def _of_a_store(error: Exception) -> UserError | None:
    """Where the client of a store raised it: they have exceptions of their own."""
    from mtret.files import store_complaint

    complaint = store_complaint(error)
    return UserError(f"the store of a remote path {complaint}") if complaint else None


def _parse(name: str, command: Command, arguments: list[str]) -> Flags:
    values = Flags()
    command.define(values)
    try:
        left = values([name, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"{name}: no flag --{error.flagname}.{nearest(error.flagname, values)} `mtret {name} --help` lists them"
        ) from error
    except flags.Error as error:
        raise UserError(f"{name}: {error}") from error
    if left and command.files:
        values[command.files].value = [*(values[command.files].value or []), *left]
    elif left:
        raise UserError(f"{name}: '{left[0]}' is not a flag; write --name=value")
    return values


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "mtret: one small encoder for many retrieval tasks.",
            "",
            "usage: mtret COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "`mtret COMMAND --help` shows a command's flags and an example.",
        ]
    )


def _help(name: str, command: Command) -> str:
    values = Flags()
    command.define(values)
    lines = []
    for flag_name in values:
        flag = values[flag_name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines.append(f"  --{flag_name}\n      {flag.help}{default}")
    return "\n".join([f"mtret {name}: {command.purpose}", "", "flags:", *lines, "", "example:", f"  {command.example}"])


def _required(values: Flags, name: str) -> str:
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is needed: {values[name].help}")
    return value


def _console(shown: bool = True):
    from rich.console import Console

    if not shown:
        return Console(quiet=True, file=io.StringIO())
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def _define_suite(values: Flags) -> None:
    flags.DEFINE_string("suite", "", "a folder of task folders, or 'enterprise' (embedded)", flag_values=values)


def _define_train(values: Flags) -> None:
    flags.DEFINE_string(
        "config",
        "",
        "a configuration file, path.py or path.py:argument; --config.KEY=VALUE changes a key of it",
        flag_values=values,
    )
    flags.DEFINE_string("workdir", "", "the run's folder; the same command again resumes", flag_values=values)
    flags.DEFINE_string(
        "suite", "", "goes before the configuration's suite: a folder or 'enterprise'", flag_values=values
    )
    flags.DEFINE_boolean("profile", False, "trace a few steps, into WORKDIR/profile", flag_values=values)
    flags.DEFINE_boolean(
        "distributed",
        False,
        "one process of several that SLURM, Open MPI, Cloud TPU or Kubernetes has started: their addresses are found",
        flag_values=values,
    )
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where no such cluster is", flag_values=values)
    flags.DEFINE_integer("processes", None, "with --coordinator: how many there are", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process", None, "with --coordinator: which one this is, from 0", 0, flag_values=values)
    flags.DEFINE_float(
        "peer_timeout", 60.0, "seconds without a sign of life after which a process is lost", 1.0, flag_values=values
    )


def _train(values: Flags, overrides: list[str]) -> int | None:
    from mtret.files import locate
    from mtret.run_config import read_config

    config_file, workdir = _required(values, "config"), locate(_required(values, "workdir"))
    suite = [f"suite={values['suite'].value!r}"] if values["suite"].value else []
    config = read_config(config_file, [*overrides, *suite])
    from mtret.runs.training import train
    from mtret.train.loop import Stopped

    with _processes(values) as peers:
        try:
            model = train(config, workdir, _console(peers.first), bool(values["profile"].value), peers)
        except Stopped as stopped:
            code, words = (
                128 + stopped.signal_number,
                f"stopped at step {stopped.step}, state saved; the same command goes on from there",
            )
        else:
            code = None
            words = f"model: {model}\nnext: mtret evaluate --model={workdir} --suite={config.suite} --split=test"
    if peers.first:
        print(words)
    return code


@contextmanager
def _processes(values: Flags) -> Iterator["Peers"]:
    """The others that train with this process, if the flags name any. An error ends all of them."""
    from mtret.devices import prepare_gpu
    from mtret.processes import ALONE, Address, detect, join

    names = ("coordinator", "processes", "process")
    given = [name for name in names if values[name].value not in (None, "")]
    if values["distributed"].value and given:
        raise UserError(f"--distributed finds out by itself what --{given[0]} says; give one or the other")
    if given and len(given) < len(names):
        missing = next(name for name in names if name not in given)
        raise UserError(f"--{given[0]} needs --{missing} as well: {values[missing].help}")
    if not given and not values["distributed"].value:
        yield ALONE
        return
    chosen: list[Any] = [values[name].value for name in names]
    timeout_s: Any = values["peer_timeout"].value
    address = detect() if values["distributed"].value else Address(*chosen)
    if address.process >= address.processes:
        raise UserError(
            f"--process={address.process}: with --processes={address.processes} the last is number "
            f"{address.processes - 1}"
        )
    prepare_gpu()  # joining starts JAX
    peers = join(address, timeout_s)
    try:
        yield peers
        peers.finish()
    except UserError as error:
        peers.abandon(error, 2)
    except OSError as error:
        peers.abandon(_of_the_system(error), 2)
    except KeyboardInterrupt as error:
        peers.abandon(error, 128 + signal.SIGINT)
    except Exception as error:
        mistake = _of_a_store(error)
        peers.abandon(mistake or error, 2 if mistake else 1)
    except BaseException as error:
        peers.abandon(error, 1)


def _define_evaluate(values: Flags) -> None:
    flags.DEFINE_string("model", "", "a run's folder, a model folder, a hub id, or 'minilm'", flag_values=values)
    _define_suite(values)
    flags.DEFINE_enum(
        "split", "dev", ["dev", "test"], "the judged split; test is asked for by name", flag_values=values
    )
    flags.DEFINE_list("tasks", [], "names; all of the suite that have the split if none is given", flag_values=values)
    flags.DEFINE_string("out", "", "folder of the results (default: MODEL/SPLIT for a run)", flag_values=values)
    flags.DEFINE_boolean("pooled", True, "also search one index over all tasks' documents", flag_values=values)
    flags.DEFINE_boolean(
        "scann", True, "also search by ScaNN, with its recall against exact search", flag_values=values
    )
    flags.DEFINE_boolean(
        "allow_leakage", False, "evaluate though more than 1% of a task's queries were trained on", flag_values=values
    )
    flags.DEFINE_enum(
        "operands", "float32", ["float32", "bfloat16"], "operand type of matrix products", flag_values=values
    )
    flags.DEFINE_list(
        "dimensions", [], "also judge the first so many features of each vector, e.g. 256,128,64", flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "of the bootstrap", lower_bound=0, flag_values=values)


def _evaluate(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    from mtret.files import locate, reaching

    model, suite = _required(values, "model"), _required(values, "suite")
    out, place = values["out"].value, locate(model)
    with reaching(place):
        is_folder = place.is_dir()
    if not out and not is_folder:
        raise UserError(f"--out is needed, since '{model}' is no folder here: {values['out'].help}")
    from mtret.runs.judging import JudgeConfig, judge

    names = ("split", "pooled", "scann", "allow_leakage", "operands", "seed")
    given: dict[str, Any] = {name: values[name].value for name in names}
    dimensions: Any = values["dimensions"].value or ()
    if any(not text.isdigit() for text in dimensions):
        raise UserError(f"--dimensions: '{','.join(dimensions)}' is no list of whole numbers")
    tasks = tuple(values["tasks"].value or ())
    config = JudgeConfig(tasks=tasks, dimensions=tuple(map(int, dimensions)), **given)
    folder = locate(out) if out else place / config.split
    judge(model, suite, config, folder, _console())
    print(f"wrote {folder}/results.json, report.md and results.png")


def _define_report(values: Flags) -> None:
    flags.DEFINE_string("results", "", "a results.json", flag_values=values)
    flags.DEFINE_string("out", "", "folder of the report (default: where results.json lies)", flag_values=values)


def _report(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    from mtret.files import locate

    source = locate(_required(values, "results"))
    from mtret.evaluation.report import terminal_table, write_report
    from mtret.evaluation.results import read_results
    from mtret.runs.setting import check_writable

    folder = locate(values["out"].value) if values["out"].value else source.parent
    results = read_results(source)
    check_writable(folder, "--out")
    write_report(results, folder)
    _console().print(terminal_table(results))
    print(f"wrote {folder}/results.json, report.md and results.png")


def _define_export(values: Flags) -> None:
    flags.DEFINE_string("model", "", "a run's folder, finished or not", flag_values=values)
    flags.DEFINE_string("out", "", "the model folder to write; must not exist", flag_values=values)
    flags.DEFINE_integer(
        "step", None, "one that loop.keep_weights kept (default: the best)", lower_bound=0, flag_values=values
    )
    flags.DEFINE_enum(
        "target", "", ["", "tei", "elastic"], "a server that must serve it right: else refused", flag_values=values
    )


def _export(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    from mtret.files import locate

    model, out = locate(_required(values, "model")), locate(_required(values, "out"))
    from mtret.runs.training import export

    target: Any = values["target"].value
    print(f"wrote {export(model, out, values['step'].value, target)}\nnext: mtret verify --model={out}")


def _define_verify(values: Flags) -> None:
    flags.DEFINE_string("model", "", "a model folder that mtret wrote", flag_values=values)
    flags.DEFINE_enum(
        "with",
        "mtret",
        ["mtret", "sentence-transformers"],
        "what loads it and computes the vectors",
        flag_values=values,
    )


def _verify(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    from mtret.artefact.folder import check
    from mtret.files import locate

    folder = locate(_required(values, "model"))
    found = check(folder, through_sentence_transformers=values["with"].value != "mtret")
    print(
        f"{folder}: {found.vectors} golden vectors, cosine {found.cosine:.6f} at least "
        f"(prompt '{found.prompt}', '{found.text[:40]}')"
    )


def _define_merge(values: Flags) -> None:
    flags.DEFINE_list("models", [], "runs, model folders, hub ids or 'minilm'; two or more", flag_values=values)
    flags.DEFINE_list("weights", [], "one for each model (default: all the same)", flag_values=values)
    flags.DEFINE_string("out", "", "the model folder to write; must not exist", flag_values=values)


def _merge(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    from mtret.files import locate

    models, out = list(_required(values, "models")), locate(_required(values, "out"))
    try:
        weights = [float(weight) for weight in values["weights"].value or ()]
    except ValueError as error:
        raise UserError(f"--weights: {error}") from error
    from mtret.runs.merging import merge

    merge(models, weights, out)
    print(f"wrote {out}\nnext: mtret evaluate --model={out} --suite=... --out=...")


def _data_check(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    name = _required(values, "suite")
    from mtret.data.inspection import check
    from mtret.runs.setting import load_suite

    for line in check(load_suite(name)):
        print(line)


def _data_stats(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    name = _required(values, "suite")
    from mtret.data.inspection import stats, stats_table
    from mtret.runs.setting import load_suite

    _console().print(stats_table(stats(load_suite(name))))


IMPORT_COLUMNS = {
    "query": "column of the query's text",
    "text": "column of the document's text; a label can be one",
    "title": "column of the document's title",
    "query_id": "column of the query's id, in the rows and the labels",
    "doc_id": "column of the document's id, wherever documents are named",
    "score": "column of the relevance; above 0 is a positive, and without it every row is one",
    "group_by": "column whose values stay in one split, such as a customer or a conversation",
    "docs_id": "column of the document's id in --docs, where it has another name there",
    "labels_query_id": "likewise, of the query's id in --labels",
    "labels_doc_id": "likewise, of the document's id in --labels",
}


def _define_import(values: Flags) -> None:
    flags.DEFINE_list(
        "rows",
        [],
        "files of queries (CSV, TSV, JSON Lines, Parquet), also without this flag; SPLIT=FILE where a file is a split; "
        "or one folder of BEIR's layout",
        flag_values=values,
    )
    flags.DEFINE_string("docs", "", "a file of documents, where they stand apart from the queries", flag_values=values)
    flags.DEFINE_list("labels", [], "files of query, document and score, where these stand apart", flag_values=values)
    for name, words in IMPORT_COLUMNS.items():
        flags.DEFINE_string(name, "", words, flag_values=values)
    flags.DEFINE_string("family", "", "the kind of thing retrieved: table, article, intent, ...", flag_values=values)
    flags.DEFINE_string("instruction", "", "what to retrieve given what, in a sentence", flag_values=values)
    flags.DEFINE_string("domain", "", "whose data it is, in words", flag_values=values)
    flags.DEFINE_list("language", ["en"], "language codes", flag_values=values)
    flags.DEFINE_string("license", "", "terms of the data", flag_values=values)
    flags.DEFINE_string("split", "80/10/10", "shares of train, dev and test, where files name none", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the division", flag_values=values)
    flags.DEFINE_string("out", "", "the task folder to write; its name is the task's", flag_values=values)


def _data_import(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    from mtret.files import locate

    out = locate(_required(values, "out"))
    from mtret.data.importing import Columns
    from mtret.runs.importing import ImportConfig, run_import

    columns = Columns(**{name: values[name].value or "" for name in IMPORT_COLUMNS})
    own = ("rows", "docs", "labels", "family", "instruction", "domain", "language", "license", "split", "seed")
    given: dict[str, Any] = {name: values[name].value for name in own}
    run_import(ImportConfig(columns=columns, **given), out, _console())
    print(f"wrote {out}\nnext: mtret data check --suite={out.parent}")


def _define_write(values: Flags) -> None:
    flags.DEFINE_string("out", "", "the folder to write the embedded suite to; must not exist", flag_values=values)


def _data_enterprise(values: Flags, overrides: list[str]) -> None:
    _no_overrides(overrides)
    from mtret.data.enterprise.suite import write_suite
    from mtret.files import locate
    from mtret.runs.setting import check_writable

    out = locate(_required(values, "out"))
    check_writable(out, "--out")
    if out.exists():
        raise UserError(f"{out}: exists already and is never overwritten; give another --out")
    write_suite(out)
    print(f"wrote {out}\nnext: mtret data check --suite={out}")


def _no_overrides(overrides: list[str]) -> None:
    if overrides:
        raise UserError(f"--config.{overrides[0]}: only train has a configuration")


COMMANDS: dict[str, Command] = {
    "train": Command(
        "train one encoder on a mixture of tasks, or go on with it",
        "mtret train --config=configs/quickstart.py --workdir=runs/quickstart --config.loop.steps=100",
        _define_train,
        _train,
    ),
    "evaluate": Command(
        "judge a model per task and role against BM25, the untuned encoder and their hybrid",
        "mtret evaluate --model=runs/quickstart --suite=enterprise --split=test",
        _define_evaluate,
        _evaluate,
    ),
    "report": Command(
        "rebuild tables and plot from a results.json",
        "mtret report --results=runs/quickstart/test/results.json",
        _define_report,
        _report,
    ),
    "export": Command(
        "write a run's best parameters so far as a sentence-transformers folder",
        "mtret export --model=runs/quickstart --out=retriever",
        _define_export,
        _export,
    ),
    "verify": Command(
        "see whether a model folder still answers as it did when it was written",
        "mtret verify --model=retriever --with=sentence-transformers",
        _define_verify,
        _verify,
    ),
    "merge": Command(
        "average models of one encoder: a soup of runs, or a model and what it was tuned from",
        "mtret merge --models=runs/a,runs/b --out=soup",
        _define_merge,
        _merge,
    ),
    "data import": Command(
        "make a task folder of tables: CSV, TSV, JSON Lines, Parquet, or a folder of BEIR's layout",
        "mtret data import tickets.csv --query=question --text=answer --family=article \\\n"
        '      --instruction="Given a question, retrieve the answer." --out=tasks/tickets',
        _define_import,
        _data_import,
        files="rows",
    ),
    "data check": Command(
        "read a suite strictly, and say what is odd", "mtret data check --suite=tasks", _define_suite, _data_check
    ),
    "data stats": Command(
        "sizes and lengths of a suite's tasks", "mtret data stats --suite=enterprise", _define_suite, _data_stats
    ),
    "data enterprise": Command(
        "write the embedded suite as task folders, to read or to imitate",
        "mtret data enterprise --out=enterprise",
        _define_write,
        _data_enterprise,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
