"""What lies in a task's folder and is not read: files that look like data, and keys of records."""

import json
from collections import Counter
from collections.abc import Iterator

from mtret.data.imported import MERGED, REJECTED
from mtret.data.task_files import CARD, CORPUS, EXCLUDE, QUERIES
from mtret.data.tasks import Task
from mtret.files import AnyPath, inside

# The last two are of an import, for people.
KNOWN = (CARD, CORPUS, QUERIES, EXCLUDE, "qrels", "negatives", MERGED, REJECTED)
KEYS = {CORPUS: ("_id", "title", "text", "parent"), QUERIES: ("_id", "text")}


def unread(folder: AnyPath, task: Task) -> Iterator[str]:
    """Remarks on a task that was read from this folder; none where it was read from something else."""
    if not (folder / CARD).exists():
        return
    names = [path.name for path in inside(folder) if not _is_known(path.name)]
    if task.images is not None:
        images = {str(path).removeprefix(f"{folder}/").split("/")[0] for path in task.images.paths}
        names = [name for name in names if name not in images]
    if names:
        yield f"not read: {', '.join(names)}."
    for file, known in KEYS.items():
        keys = Counter[str]()
        for line in (folder / file).read_text(encoding="utf-8").split("\n"):
            keys.update(json.loads(line).keys() if line.strip() else ())
        own = (*known, "image") if file == CORPUS and task.images is not None else known
        others = [f"{key} ({count:,})" for key, count in keys.items() if key not in own]
        if others:
            yield f"keys of {file} that are not read: {', '.join(others)}."


def _is_known(name: str) -> bool:
    return name in KNOWN or name.startswith(".") or name.endswith(".md") or name.startswith("LICENSE")
