"""What results mean for the one who asked, in sentences."""

from collections.abc import Mapping, Sequence

from mtret.evaluation.results import PooledTaskResults, Results, TaskResults
from mtret.evaluation.retrieval import BASE, FINETUNED, FINETUNED_HYBRID, HYBRID, ROLES
from mtret.evaluation.wording import counts

UNSEEN = ("cross_domain", "zero_shot")


def rivals(systems: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared with what, task by task: with BM25 and alone, a finetuned encoder with its base. Of other
    systems the last with the one before it."""
    for known in ([(FINETUNED_HYBRID, HYBRID), (FINETUNED, BASE)], [(HYBRID, BASE)]):
        if found := [pair for pair in known if {*pair} <= {*systems}]:
            return found
    return [(systems[-1], systems[-2])] if len(systems) > 1 else []


def tasks_by_role(tasks: Mapping[str, TaskResults | PooledTaskResults]) -> list[tuple[str, list[str]]]:
    """Roles that have tasks, in order, with their tasks' names in alphabetical order; without those that only some
    systems can read."""
    most = max((len(task.systems) for task in tasks.values()), default=0)
    common = {name: task.role for name, task in tasks.items() if len(task.systems) == most}
    named = [(role, sorted(name for name in common if common[name] == role)) for role in ROLES]
    return [(role, names) for role, names in named if names]


def findings(results: Results) -> list[str]:
    """Of a model with a mixture a sentence on the whole for each pair of `rivals`; then one for what was left out, one
    for the tasks that training made worse, one where nothing was held out, and one where right texts stand in the
    corpus as copies."""
    mixture = results.mixture
    if mixture is None or not rivals(results.systems):
        return [*_skipped(results), *_copies(results)]
    left_out = [*_dropped(results), *_skipped(results)]
    lessons = [*_hurt(results, mixture), *_nothing_unseen(results, mixture)]
    return [*summaries(results), *left_out, *lessons, *_copies(results)]


def hurt_tasks(results: Results) -> list[str]:
    """Those that were trained on, or evaluated otherwise, and are worse than by the encoder as it came."""
    against = {name: task.difference(FINETUNED, BASE) for name, task in results.tasks.items()}
    return [name for name, one in against.items() if one and one.verdict == "WORSE"]


def nothing_unseen(results: Results) -> bool:
    """Whether all evaluated tasks are of the training's own domain."""
    return results.mixture is not None and not {*UNSEEN} & {task.role for task in results.tasks.values()}


def summaries(results: Results) -> list[str]:
    """A sentence for each pair of `rivals`."""
    names = [name for _, each in tasks_by_role(results.tasks) for name in each]
    lines = []
    for system, other in rivals(results.systems):
        found = [results.tasks[name].difference(system, other) for name in names]
        said = counts([one.verdict for one in found if one])
        lines.append(f"`{system}` against `{other}` is {said} of {len(names)} tasks.")
    return lines


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
