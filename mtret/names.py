"""What names were before. For one release, older configurations, runs, model folders, results and command lines are
read through these tables; then this file goes, and what asks it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mtret.errors import UserError

KEYS = {
    "model.operands": "model.matmul_dtype",
    "mixture.generic": "mixture.generic_share",
    "batch.groups": "batch.shards",
    "optim.decay": "optim.decay_mask",
    "optim.train": "optim.trainable",
    "optim.rates": "optim.learning_rate_scales",
    "optim.average": "optim.ema_decay",
    "mesh.fsdp": "mesh.state_shards",
    "mesh.shard": "mesh.partition_rules",
}
FLAGS = {
    ("evaluate", "operands"): "matmul_dtype",
    ("train", "judge"): "evaluate",
    ("train", "peer_timeout"): "heartbeat_timeout",
}
RESULTS = ("mtret.results/1", "mtret.results/2")
SYSTEMS = {"untuned": "base", "tuned": "finetuned"}
FUSED = {**SYSTEMS, "hybrid": "hybrid_ranks"}  # by ranks, where today's hybrid is fused by scores
METRICS = {"kind@10": "own_task@10"}
VALUES = {("compare", "system"): SYSTEMS, ("report", "metric"): METRICS}
OF_TASKS = {"judged_sha256": "data_sha256"}
PROTOCOL = {
    "operands": "matmul_dtype",
    "documents of one text": "duplicate_texts",
    "untuned_query_template": "base_query_template",
    "untuned_document_template": "base_document_template",
    "untuned_form": "base_form",
    "untuned_prompts_from": "base_prompts_from",
}


def config_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration, by the names of now. Raises UserError where a key stands in it by both."""
    return _moved(values, KEYS)


def config_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """The other way: by the names of before, by which hashes of configurations are made."""
    return _moved(values, {now: then for then, now in KEYS.items()})


def old_keys(values: Mapping[str, Any]) -> list[str]:
    """Those of a configuration that are called otherwise now."""
    return [path for path in KEYS if path.partition(".")[2] in _section(values, path)]


def renamed(paths: Sequence[str]) -> str:
    """What a person is told of old keys."""
    return ", ".join(f"{path} is {KEYS[path]} now" for path in paths) + "; the old names go with the next release"


def override_now(text: str) -> str:
    """`batch.groups=8` -> `batch.shards=8`; any other as it is."""
    path, sign, value = text.partition("=")
    return f"{KEYS.get(path, path)}{sign}{value}"


def flags_now(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of a command by the names of now, and a line for each that was not."""
    now, lines = [], []
    for argument in arguments:
        dashes = "--" if argument.startswith("--") else "-"
        name, sign, value = argument.removeprefix(dashes).partition("=")
        no = "no" if (command, name.removeprefix("no")) in FLAGS and name.startswith("no") else ""
        to = FLAGS.get((command, name.removeprefix(no)), "") if argument.startswith("-") else ""
        meant = VALUES.get((command, name), {}).get(value, value) if argument.startswith("-") else value
        now.append(f"--{no}{to or name}{sign}{meant}" if to or meant != value else argument)
        if to or meant != value:
            said = (f"--{name}", f"--{no}{to}") if to else (f"--{name}={value}", f"--{name}={meant}")
            lines.append(f"{said[0]} is {said[1]} now; the old name goes with the next release")
    return now, lines


def results_now(raw: Any) -> Any:
    """A results file of schema 1 or 2 as one of schema 3; anything else as it is."""
    if not isinstance(raw, Mapping) or raw.get("schema") not in RESULTS:
        return raw
    now = dict(raw) | {"schema": "mtret.results/3"}
    for group in ("tasks", "roles"):
        now[group] = _entries(raw.get(group))
    if isinstance(pooled := raw.get("pooled"), Mapping):
        now["pooled"] = {**pooled, **{group: _entries(pooled.get(group)) for group in ("tasks", "roles")}}
    if isinstance(systems := raw.get("systems"), list):
        now["systems"] = [FUSED.get(name, name) for name in systems]
    now["protocol"] = _keys(raw.get("protocol"), PROTOCOL)
    return now


def systems_now(known: Sequence[str]) -> Mapping[str, str]:
    """What systems were called before, beside results that have these by the names of now."""
    return SYSTEMS if "hybrid" in known else FUSED


def _entries(found: Any) -> Any:
    return {name: _entry(one) for name, one in found.items()} if isinstance(found, Mapping) else found


def _entry(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    now = _keys(entry, OF_TASKS)
    if isinstance(systems := entry.get("systems"), Mapping):
        now["systems"] = {FUSED.get(name, name): _keys(scores, METRICS) for name, scores in systems.items()}
        differences = _keys(entry.get("differences"), FUSED)  # they were those of the last system
        now["differences"] = {[*now["systems"]][-1]: differences} if differences and systems else {}
    return now


def _keys(found: Any, names: Mapping[str, str]) -> Any:
    return {names.get(key, key): value for key, value in found.items()} if isinstance(found, Mapping) else found


def _section(values: Mapping[str, Any], path: str) -> Mapping[Any, Any]:
    section = values.get(path.partition(".")[0])
    return section if isinstance(section, Mapping) else {}


def _moved(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    moved = copy.deepcopy(dict(values))
    for path, to in names.items():
        own, new = path.partition(".")[2], to.partition(".")[2]
        if own in _section(values, path):
            if new in _section(values, to):
                raise UserError(f"config: {path} and {to} are the same key; give {to} alone")
            section = moved[path.partition(".")[0]]
            moved[path.partition(".")[0]] = {new if key == own else key: value for key, value in section.items()}
    return moved
