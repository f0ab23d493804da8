"""What a results dictionary means for the one who asked, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtret.evaluation.retrieval import ROLES

UNSEEN = ("cross_domain", "zero_shot")


def reference_system(systems: Sequence[str]) -> str | None:
    """The system that the last one is judged against task by task: the hybrid, else the one before the last."""
    if len(systems) < 2:
        return None
    return "hybrid" if "hybrid" in systems[:-1] else systems[-2]


def tasks_by_role(tasks: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Roles that have tasks, in order, with their tasks' names in alphabetical order; without those that only some
    systems can read."""
    most = max((len(task["systems"]) for task in tasks.values()), default=0)
    common = {name: task["role"] for name, task in tasks.items() if len(task["systems"]) == most}
    named = [(role, sorted(name for name in common if common[name] == role)) for role in ROLES]
    return [(role, names) for role, names in named if names]


def findings(results: Mapping[str, Any]) -> list[str]:
    """A sentence on the whole, one for what was left out, one for the tasks that training made worse, one where nothing
    was held out, and one where right texts stand in the corpus as copies. The first only of a model with a mixture."""
    systems = results["systems"]
    other = reference_system(systems)
    if other is None or results["mixture"] is None:
        return [*_skipped(results), *_copies(results)]
    left_out = [*_dropped(results), *_skipped(results)]
    return [_summary(results, other), *left_out, *_hurt(results), *_nothing_unseen(results), *_copies(results)]


def hurt_tasks(results: Mapping[str, Any]) -> list[str]:
    """Those that were trained on, or judged otherwise, and are worse than by the encoder as it came."""
    return [
        name
        for name, task in results["tasks"].items()
        if task["differences"].get("untuned", {}).get("verdict") == "WORSE"
    ]


def nothing_unseen(results: Mapping[str, Any]) -> bool:
    """Whether all judged tasks are of the training's own domain."""
    return results["mixture"] is not None and not {*UNSEEN} & {task["role"] for task in results["tasks"].values()}


def _summary(results: Mapping[str, Any], other: str) -> str:
    names = [name for _, each in tasks_by_role(results["tasks"]) for name in each]
    words = [results["tasks"][name]["differences"][other]["verdict"] for name in names]
    counts = [f"{word} on {words.count(word)}" for word in ("better", "no difference", "WORSE") if word in words]
    judged = results["systems"][-1]
    return f"Against the {other}, `{judged}` is {', '.join(counts)} of {len(names)} tasks."


def _dropped(results: Mapping[str, Any]) -> list[str]:
    counts = {name: task["n_dropped"] for name, task in results["tasks"].items() if task["n_dropped"]}
    if not counts:
        return []
    listed = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    return [f"Queries that were trained on, and are therefore left out: {listed}."]


def _copies(results: Mapping[str, Any]) -> list[str]:
    counts = {name: (task.get("n_with_copies", 0), task["n_queries"]) for name, task in results["tasks"].items()}
    listed = ", ".join(f"{count:,} of {whole:,} of {name}" for name, (count, whole) in counts.items() if count)
    if not listed:
        return []
    return [
        f"Queries whose right document stands in the corpus once more under another id, which is not judged and counts "
        f"as wrong: {listed}. Judge the copies as well, or remove them."
    ]


def _skipped(results: Mapping[str, Any]) -> list[str]:
    return [f"{name}: not evaluated: {reason}." for name, reason in results["skipped"].items()]


def _hurt(results: Mapping[str, Any]) -> list[str]:
    mixture = set(results["mixture"]["tasks"])
    hurt = hurt_tasks(results)
    own, others = [name for name in hurt if name in mixture], [name for name in hurt if name not in mixture]
    lines = []
    if own:
        remedy = f"The same training with `--hold_out={','.join(own)}` and another --workdir does without."
        if len(own) == len(mixture):
            remedy = "These are all that was trained on: a smaller --config.optim.learning_rate may hurt less."
        lines.append(f"Hurt by the mixture, WORSE than the untuned encoder: {', '.join(own)}. {remedy}")
    if others:
        lines.append(
            f"Not in the mixture, and WORSE than by the untuned encoder: {', '.join(others)}. Serve those untuned, or "
            "train on data of theirs."
        )
    return lines


def _nothing_unseen(results: Mapping[str, Any]) -> list[str]:
    if not nothing_unseen(results):
        return []
    families = results["mixture"]["families"]
    if len(results["mixture"]["tasks"]) < 2:
        return [
            "Nothing here tells how the model does on an application that it was not trained on: that takes a second "
            "task, to hold out."
        ]
    example = families[0] if len(families) > 1 else results["mixture"]["tasks"][0]
    return [
        "No task was held out, so nothing here tells how the model does on an application that it was not trained on. "
        f"The same training with `--hold_out={example}` (a family or a task) and another --workdir would."
    ]
