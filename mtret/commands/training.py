"""`mtret train`, in one process or as one of several."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from absl import flags

from mtret.errors import UserError

if TYPE_CHECKING:
    from mtret.processes import Peers

from mtret.commands.common import Flags, console, of_a_store, of_the_system, required


def define_train(values: Flags) -> None:
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


def train(values: Flags, overrides: list[str]) -> int | None:
    from mtret.files import locate
    from mtret.run_config import read_config

    config_file, workdir = required(values, "config"), locate(required(values, "workdir"))
    suite = [f"suite={values['suite'].value!r}"] if values["suite"].value else []
    config = read_config(config_file, [*overrides, *suite])
    from mtret.runs.training import train
    from mtret.train.loop import Stopped

    with _processes(values) as peers:
        try:
            model = train(config, workdir, console(peers.first), bool(values["profile"].value), peers)
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
        peers.abandon(of_the_system(error), 2)
    except KeyboardInterrupt as error:
        peers.abandon(error, 128 + signal.SIGINT)
    except Exception as error:
        mistake = of_a_store(error)
        peers.abandon(mistake or error, 2 if mistake else 1)
    except BaseException as error:
        peers.abandon(error, 1)
