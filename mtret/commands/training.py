"""`mtret train`, in one process or as one of several."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mtret.commands.common import Flags, console, define_suite, mistake_of, next_line, required
from mtret.errors import UserError

if TYPE_CHECKING:
    from mtret.data.formats import Suite
    from mtret.files import AnyPath
    from mtret.run_config import RunConfig

NOT_EVALUATED = 3  # exit code: the training is finished, its verdict failed


def define_train(values: Flags) -> None:
    define_suite(values)
    values.text("workdir", "the run's folder; the same command again resumes")
    values.text(
        "config",
        "a configuration file, path.py or path.py:argument (default: what suits suite and machine, as `mtret init` "
        "writes it); --config.KEY=VALUE changes a key",
    )
    values.names("hold_out", "tasks and families to leave out of the training, to be evaluated on")
    values.switch("dry_run", "say what would be trained, in what memory and time, and write nothing")
    values.switch(
        "evaluate",
        "in the end, evaluate the model on the dev samples of all tasks; those on the way follow loop.evaluate_every",
        default=True,
    )
    values.switch("profile", "trace a few steps, into WORKDIR/profile")
    values.switch(
        "distributed",
        "one process of several that SLURM, Open MPI, Cloud TPU or Kubernetes has started: their addresses are found",
    )
    values.text("coordinator", "HOST:PORT of process 0, where no such cluster is")
    values.whole("processes", "with --coordinator: how many there are", least=1)
    values.whole("process", "with --coordinator: which one this is, from 0", least=0)
    values.whole("heartbeat_timeout", "seconds without a sign of life after which a process is lost", 45, least=1)


def train(values: Flags, overrides: list[str]) -> int | None:
    from mtret.files import locate

    dry = bool(values["dry_run"].value)
    workdir = locate(values["workdir"].value) if dry and values["workdir"].value else None
    if not dry:
        workdir = locate(required(values, "workdir"))
    if dry:
        from mtret.runs.dry_run import dry_run

        config = _config(values, overrides, workdir)
        dry_run(config, console())
        needed = "" if workdir else " and with --workdir=FOLDER"
        print(f"nothing was written\nnext: the same command without --dry_run{needed}")
        return None
    assert workdir is not None
    from mtret.run_config import RunConfig, as_json, build
    from mtret.train.loop import Stopped

    with _processes(values) as several:
        config = _config(values, overrides, workdir)
        from mtret.processes import broadcast, is_first
        from mtret.runs.train import train

        first = not several or is_first()
        if several and not values["config"].value:  # what suits one process might not be what suits another
            config = build(RunConfig, broadcast("config", as_json(config)), "")
        try:
            model = train(config, workdir, console(first), bool(values["profile"].value))
        except Stopped as stopped:
            if first:
                print(f"stopped at step {stopped.step}, state saved; the same command goes on from there")
            return 128 + stopped.signal_number
    if not first:
        return None
    code, then = 0, ["evaluate", f"--model={workdir}", f"--suite={config.suite}", "--split=test"]
    if not several and values["evaluate"].value:
        code, then = _evaluate(workdir, model, config, then)
    if (workdir / "curves.png").exists():
        print(f"curves: {workdir}/curves.png")
    print(f"model: {model}\n{next_line(*then)}")
    return code


def _evaluate(workdir: "AnyPath", model: "AnyPath", config: "RunConfig", then: list[str]) -> tuple[int, list[str]]:
    """The verdict on a finished model: the exit code, and the command to give next, `then` where the suite has a test
    split. Whatever goes wrong, the training is finished and its model is there."""
    from mtret.data.suites import load_suite
    from mtret.runs.evaluate import evaluate_dev_samples

    try:
        suite = load_suite(config.suite)
        then = _evaluation(workdir, suite, then)
        if evaluate_dev_samples(workdir, suite, config, console()) is not None:
            print(f"wrote {workdir}/dev_sample/results.json, queries.jsonl, report.md and results.png")
    except BrokenPipeError:
        raise
    except BaseException as error:
        mistake = mistake_of(error) if isinstance(error, Exception) else None
        if mistake is None:
            print(f"the model is there, {model}; the same command evaluates it")
            raise
        said = " ".join(str(mistake).split())
        print(
            f"mtret: the training is finished, but its verdict failed: {said}; the same command gives it when that is "
            "fixed, and trains nothing",
            file=sys.stderr,
        )
        return NOT_EVALUATED, then
    return 0, then


def _evaluation(workdir: "AnyPath", suite: "Suite", then: list[str]) -> list[str]:
    """The command that evaluates a model on a whole split: test, or dev where no task has a test split. Where no
    task has either, one that asks the model something."""
    splits = {split for task in suite.tasks.values() for split in task.splits}
    if "test" in splits:
        return then
    if "dev" in splits:
        return [*then[:-1], "--split=dev"]
    return ["search", str(workdir), next(iter(suite.tasks)), "a query", then[2]]


def _config(values: Flags, overrides: list[str], workdir: "AnyPath | None") -> "RunConfig":
    """Of a file, or what suits suite and machine."""
    from mtret.run_config import read_config

    held: Any = values["hold_out"].value or []
    given = [*overrides, *([f"mixture.hold_out={tuple(held)!r}"] if held else [])]
    suite = values["suite"].value or ""
    if "config" in values and values["config"].value:
        return read_config(values["config"].value, [*given, *([f"suite={suite!r}"] if suite else [])])
    from mtret.runs.init import auto_config

    return auto_config(suite, given, workdir)


def define_curves(values: Flags) -> None:
    values.repeated(
        "runs", "workdirs of trainings, without this flag; NAME=WORKDIR calls a line so, NAME=WORKDIR,WORKDIR several"
    )
    values.text("out", "the .png to write; must not exist (default, of one run: its curves.png, overwritten)")


def curves(values: Flags) -> None:
    words: list[str] = list(required(values, "runs"))
    from mtret.runs.curves import plot_curves

    print(f"wrote {plot_curves(words, values['out'].value or '')}")


def define_init(values: Flags) -> None:
    define_suite(values)
    values.names("hold_out", "tasks and families to leave out of the training, to be evaluated on")
    values.text("out", "the configuration file to write; must not exist")


def init(values: Flags, overrides: list[str]) -> None:
    from mtret.files import check_new, check_writable, locate

    out = locate(required(values, "out"))
    required(values, "suite")
    from mtret.runs.init import write_config

    check_writable(out.parent, "--out")
    check_new(out, "--out")
    write_config(_config(values, overrides, None), out)
    print(f"wrote {out}\n{next_line('train', f'--config={out}', '--workdir=runs/first')}")


@contextmanager
def _processes(values: Flags) -> Iterator[bool]:
    """Joins the others that train with this process, if the flags name any; whether there are. An error ends all."""
    names = ("coordinator", "processes", "process")
    given = [name for name in names if values[name].value not in (None, "")]
    if values["distributed"].value and given:
        raise UserError(f"--distributed finds out by itself what --{given[0]} says; give one or the other")
    if given and len(given) < len(names):
        missing = next(name for name in names if name not in given)
        raise UserError(f"--{given[0]} needs --{missing} as well: {values[missing].help}")
    if not given and not values["distributed"].value:
        yield False
        return
    import jax

    from mtret.devices import prepare_gpu
    from mtret.processes import Address, end, is_first, join, leave

    chosen: list[Any] = [values[name].value for name in names]
    heartbeat_timeout_s: Any = values["heartbeat_timeout"].value
    address = None if values["distributed"].value else Address(*chosen)
    if address is not None and address.process >= address.processes:
        raise UserError(
            f"--process={address.process}: with --processes={address.processes} the last is number "
            f"{address.processes - 1}"
        )
    prepare_gpu()  # joining starts JAX
    join(address, heartbeat_timeout_s)
    several = jax.process_count() > 1
    if several and is_first():  # JAX ends a process that has lost another, in words of its own
        print(
            f"if a process is lost, JAX ends the others within {heartbeat_timeout_s} s; the same command in all of "
            "them goes on from the last checkpoint"
        )
    try:
        yield several
        leave()
    except KeyboardInterrupt as error:
        end(error, 128 + signal.SIGINT)
    except Exception as error:
        mistake = mistake_of(error)
        end(mistake or error, 2 if mistake else 1)
    except BaseException as error:
        end(error, 1)
