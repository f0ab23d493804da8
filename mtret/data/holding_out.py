"""What leaving a family or a task out of the training would make of it, said before anything is trained."""

from collections.abc import Mapping, Sequence

from mtret.data.formats import Suite
from mtret.data.roles import TrainingRecord, joined, role_of, shared_documents, training_record
from mtret.data.tasks import Task


def holding_out(suite: Suite) -> list[str]:
    """Lines for each family: its tasks, what they are without it, and what each would be without itself.

    What is trained are the tasks of texts with a train split, as `mtret train` does where no mixture is named.
    """
    trained = {name: task for name, task in suite.tasks.items() if "train" in task.splits and task.images is None}
    records = {name: training_record([task]) for name, task in trained.items()}
    lines = []
    for family in sorted({task.card.family for task in suite.tasks.values()}):
        members = {name: task for name, task in suite.tasks.items() if task.card.family == family}
        own = [name for name in members if name in trained]
        named = [name if name in trained else f"{name} (not trained)" for name in members]
        lines.append(f"{family}: {', '.join(named)}")
        lines += [f"  {line}" for line in _of_family(family, members, own, len(own) == len(trained))]
        if own:
            lines += [f"  {line}" for line in _of_tasks(members, own, records, trained)]
    return lines


def _of_family(family: str, members: Mapping[str, Task], own: Sequence[str], is_all: bool) -> list[str]:
    they = f"{next(iter(members))} is" if len(members) == 1 else "all of them are"
    if not own:
        return [f"nothing of this family is trained, so {they} evaluated zero-shot"]
    if is_all:
        return ["nothing of another family is trained, so the family cannot be left out"]
    return [f"train without {family} (--hold_out={family}) and {they} evaluated zero-shot"]


def _of_tasks(
    members: Mapping[str, Task], own: Sequence[str], records: Mapping[str, TrainingRecord], trained: Mapping[str, Task]
) -> list[str]:
    """Of the trained ones, if another of the family is left to train on; and of those that are not trained."""
    lines, alike = [], []
    for name, task in members.items():
        others = {other: record for other, record in records.items() if other != name}
        if name in own and len(own) == 1:
            continue
        role = role_of(task, joined(list(others.values()))).replace("_", "-")
        known = [other for other in others if _shares(task, trained[other], records[other])]
        why = f", since it shares documents or material with {', '.join(known)}" if known else ""
        if name not in own:
            lines.append(f"{name} is evaluated {role}{why}")
        elif known:
            lines.append(f"train without {name} (--hold_out={name}) and it is evaluated {role} all the same{why}")
        else:
            alike.append(name)
    if alike:
        which = alike[0] if len(alike) == 1 else f"one of {', '.join(alike)}"
        flag = f"--hold_out={alike[0] if len(alike) == 1 else 'TASK'}"
        lines.insert(0, f"train without {which} ({flag}) and it is evaluated cross-domain")
    return lines


def _shares(task: Task, other: Task, record: TrainingRecord) -> bool:
    same = task.card.material is not None and task.card.material == other.card.material
    return same or shared_documents(task, record) > 0
