"""Which tasks of a suite a training is about: those that it trains on, and those that it is only watched by."""

from collections.abc import Sequence
from dataclasses import replace

from mtret.data.formats import Suite
from mtret.data.roles import check_leakage, role_of, training_record
from mtret.data.tasks import Task
from mtret.errors import UserError, nearest
from mtret.evaluation.wording import ROLE_NAMES
from mtret.run_config import RunConfig

BLIND = "; its documents are images, which need an image tower: model.vision.source"
EVERY = "all"  # in loop.evaluate_tasks


def mixture_tasks(suite: Suite, config: RunConfig) -> list[Task]:
    """The tasks that the configuration trains on; all with a train split where it names none; less what it holds out.

    Raises UserError for a name that the suite does not have.
    """
    sees = bool(config.model.vision.source)
    names = config.mixture.tasks or tuple(
        name for name, task in suite.tasks.items() if "train" in task.splits and (sees or task.images is None)
    )
    for name in names:
        if name not in suite.tasks:
            raise UserError(f"mixture.tasks: no task '{name}' in {suite.folder}.{nearest(name, suite.tasks)}")
        if suite.tasks[name].images is not None and not sees:
            raise UserError(
                f"mixture.tasks: '{name}' is a task of images, which needs an image tower; name one in "
                "model.vision.source, or 'scratch'"
            )
    if reserved := {"query", "document"} & set(names):
        raise UserError(f"mixture.tasks: '{reserved.pop()}' is the name of a prompt of every model; rename the task")
    if len(set(names)) < len(names):
        raise UserError(f"mixture.tasks: a task is named twice in {', '.join(names)}")
    if not names:
        unseen = "" if sees or not any(task.images for task in suite.tasks.values()) else BLIND
        raise UserError(f"{suite.folder}: no task has a train split, so there is nothing to train on{unseen}")
    held = held_out(suite, config)
    if not (kept := [name for name in names if name not in held]):
        raise UserError(
            f"mixture.hold_out: {', '.join(config.mixture.hold_out)} is all that could be trained; hold out less"
        )
    return [suite.tasks[name] for name in kept]


def held_out(suite: Suite, config: RunConfig) -> set[str]:
    """The tasks that `mixture.hold_out` names, itself or by their family. Raises UserError for a name of neither."""
    families = {task.card.family for task in suite.tasks.values()}
    for name in config.mixture.hold_out:
        if name not in families and name not in suite.tasks:
            known = sorted({*families, *suite.tasks})
            raise UserError(f"mixture.hold_out: no task or family '{name}' in {suite.folder}.{nearest(name, known)}")
    wanted = set(config.mixture.hold_out)
    return {name for name, task in suite.tasks.items() if wanted & {name, task.card.family}}


def untrainable(suite: Suite, config: RunConfig, tasks: Sequence[Task]) -> list[str]:
    """A line for each task that has a train split and is left out all the same, where no mixture was named."""
    chosen = {task.name for task in tasks}
    if config.mixture.tasks:
        return []
    held = held_out(suite, config)
    record = training_record(tasks) if held else None

    def role(task: Task) -> str:
        return ROLE_NAMES[role_of(task, record)].lower() if record else ""

    return [
        f"{name}: held out, to be evaluated {role(task)}" if name in held else f"{name}: left out{BLIND}"
        for name, task in sorted(suite.tasks.items())
        if "train" in task.splits and name not in chosen
    ]


def other_tasks(suite: Suite, config: RunConfig, tasks: Sequence[Task]) -> list[Task]:
    """The tasks that `loop.evaluate_tasks` names, themselves or by their family, of those that are not trained on and
    have a dev split. Its queries are those that no trained task has.

    Raises UserError for a name of neither, and for one that leaves nothing to evaluate.
    """
    wanted, trained = set(config.loop.evaluate_tasks), {task.name for task in tasks}
    if not wanted:
        return []
    sees, record = bool(config.model.vision.source), training_record(tasks)
    found: dict[str, Task] = {}
    for name, task in suite.tasks.items():
        if name in trained or "dev" not in task.splits or not (sees or task.images is None):
            continue
        if not wanted & {EVERY, name, task.card.family}:
            continue
        dev = task.splits["dev"]
        dropped = check_leakage(task, "dev", record, allow_leakage=True)
        if len(dropped) < len(dev):
            found[name] = replace(task, splits={**task.splits, "dev": dev.without(dropped)})
    known = {EVERY, *suite.tasks, *(task.card.family for task in suite.tasks.values())}
    for name in config.loop.evaluate_tasks:
        where = f"loop.evaluate_tasks: '{name}'"
        if name not in known:
            raise UserError(f"{where} is no task or family of {suite.folder}.{nearest(name, known)}")
        if not any(name in (EVERY, other, task.card.family) for other, task in found.items()):
            raise UserError(
                f"{where}: nothing of it is left to evaluate; a task must not be trained on, and have a dev split with "
                "queries that no trained task has"
            )
    return [*found.values()]
