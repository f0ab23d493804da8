"""What results mean for the one who asked, in sentences."""

from collections.abc import Mapping, Sequence

from mtret.evaluation.results import PooledTaskResults, Results, TaskResults
from mtret.evaluation.retrieval import ROLES
from mtret.evaluation.wording import counts

UNSEEN = ("cross_domain", "zero_shot")


def reference_system(systems: Sequence[str]) -> str | None:
    """The system that the last one is compared with task by task: the hybrid, else the one before the last."""
    if len(systems) < 2:
        return None
    return "hybrid" if "hybrid" in systems[:-1] else systems[-2]


def tasks_by_role(tasks: Mapping[str, TaskResults | PooledTaskResults]) -> list[tuple[str, list[str]]]:
    """Roles that have tasks, in order, with their tasks' names in alphabetical order; without those that only some
    systems can read."""
    most = max((len(task.systems) for task in tasks.values()), default=0)
    common = {name: task.role for name, task in tasks.items() if len(task.systems) == most}
    named = [(role, sorted(name for name in common if common[name] == role)) for role in ROLES]
    return [(role, names) for role, names in named if names]


def findings(results: Results) -> list[str]:
    """A sentence on the whole, one for what was left out, one for the tasks that training made worse, one where nothing
    was held out, and one where right texts stand in the corpus as copies. The first only of a model with a mixture."""
    systems = results.systems
    other, mixture = reference_system(systems), results.mixture
    if other is None or mixture is None:
        return [*_skipped(results), *_copies(results)]
    left_out = [*_dropped(results), *_skipped(results)]
    lessons = [*_hurt(results, mixture), *_nothing_unseen(results, mixture)]
    return [_summary(results, other), *left_out, *lessons, *_copies(results)]


def hurt_tasks(results: Results) -> list[str]:
    """Those that were trained on, or evaluated otherwise, and are worse than by the encoder as it came."""
    against = {name: task.differences.get("base") for name, task in results.tasks.items()}
    return [name for name, one in against.items() if one and one.verdict == "WORSE"]


def nothing_unseen(results: Results) -> bool:
    """Whether all evaluated tasks are of the training's own domain."""
    return results.mixture is not None and not {*UNSEEN} & {task.role for task in results.tasks.values()}


def _summary(results: Results, other: str) -> str:
    names = [name for _, each in tasks_by_role(results.tasks) for name in each]
    said = counts([results.tasks[name].differences[other].verdict for name in names])
    return f"Against the {other}, `{results.systems[-1]}` is {said} of {len(names)} tasks."


def _dropped(results: Results) -> list[str]:
    dropped = {name: task.n_dropped for name, task in results.tasks.items() if task.n_dropped}
    if not dropped:
        return []
    listed = ", ".join(f"{n:,} of {name}" for name, n in dropped.items())
    return [f"Queries that were trained on, and are therefore left out: {listed}."]


def _copies(results: Results) -> list[str]:
    listed = ", ".join(
        f"{task.n_with_copies:,} of {task.n_queries:,} of {name}"
        for name, task in results.tasks.items()
        if task.n_with_copies
    )
    if not listed:
        return []
    return [
        f"Queries whose right document stands in the corpus once more under another id, which is not judged and counts "
        f"as wrong: {listed}. Judge the copies as well, or remove them."
    ]


def _skipped(results: Results) -> list[str]:
    return [f"{name}: not evaluated: {reason}." for name, reason in results.skipped.items()]


def _hurt(results: Results, mixture: Mapping[str, Sequence[str]]) -> list[str]:
    trained = set(mixture["tasks"])
    hurt = hurt_tasks(results)
    own, others = [name for name in hurt if name in trained], [name for name in hurt if name not in trained]
    lines = []
    if own:
        remedy = f"The same training with `--hold_out={','.join(own)}` and another --workdir does without."
        if len(own) == len(trained):
            remedy = "These are all that was trained on: a smaller --config.optim.learning_rate may hurt less."
        lines.append(f"Hurt by the mixture, WORSE than the base encoder: {', '.join(own)}. {remedy}")
    if others:
        lines.append(
            f"Not in the mixture, and WORSE than by the base encoder: {', '.join(others)}. Serve those with the base, "
            "or train on data of theirs."
        )
    return lines


def _nothing_unseen(results: Results, mixture: Mapping[str, Sequence[str]]) -> list[str]:
    if not nothing_unseen(results):
        return []
    families, tasks = mixture["families"], mixture["tasks"]
    if len(tasks) < 2:
        return [
            "Nothing here tells how the model does on an application that it was not trained on: that takes a second "
            "task, to hold out."
        ]
    example = families[0] if len(families) > 1 else tasks[0]
    return [
        "No task was held out, so nothing here tells how the model does on an application that it was not trained on. "
        f"The same training with `--hold_out={example}` (a family or a task) and another --workdir would."
    ]
