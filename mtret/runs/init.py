"""A configuration that suits a suite, an encoder and this machine, for those who have not written one."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from mtret.data.suites import load_suite
from mtret.data.tasks import Task
from mtret.devices import free_memory
from mtret.files import AnyPath, replace_text
from mtret.model_folder.folder import load_model
from mtret.models.hf import Pretrained
from mtret.pytrees import flatten
from mtret.run_config import RunConfig, build, read_config, with_overrides
from mtret.runs.identity import RUN_FILE, read_identity
from mtret.runs.setup import with_templates
from mtret.runs.tasks import mixture_tasks
from mtret.schema import to_json

SMALLEST, LARGEST = 16, 1024  # queries of a batch
CPU_LARGEST = 64  # a CPU is no faster with more, and learns less from as many texts
WANTED_STEPS = 100  # an epoch of fewer is trained in smaller batches, down to the smallest
FEWEST_STEPS = 50  # which is more than an epoch where there are few queries
# What a step keeps of each token, in numbers of each layer's width, and of each parameter: itself, its gradient and
# Adam's two moments. By the compiler's account of MiniLM (experiments/003_adapting/memory.json), rounded up.
KEPT_OF_TOKEN, KEPT_OF_PARAMETER = 18, 4
FILL = 0.9  # of a batch's places, about
MEMORY_SHARE = 0.5  # of what is free; compiling and dev evaluations want some as well
CHARACTERS_OF_TOKEN = 4
SAMPLED = 1_000  # texts of a task, to tell how long they are
CPU_DISTRACTORS = 300

WIDTH = 120
HEAD = '''"""A training's configuration, every key with its meaning. It may give what it changes and nothing else.

On the command line: `--config.batch.queries=128`, `--config.mixture.weights=banking77:2,aws_kb:1`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """What `mtret train --config` asks for."""
    return ConfigDict(
'''


def auto_config(suite: str, overrides: Sequence[str], workdir: AnyPath | None = None) -> RunConfig:
    """The defaults, with what they cannot know chosen for the suite's tasks, the encoder and the devices: batch, steps,
    types. `overrides` (`batch.queries=128`) win; in a workdir that holds a run, they change that run's
    configuration, which goes on on any machine.

    Raises UserError for a key, suite or encoder that is not in order.
    """
    if workdir is not None and (workdir / RUN_FILE).exists():
        there = dict(read_identity(workdir)["config"])
        return build(RunConfig, with_overrides(there | ({"suite": suite} if suite else {}), overrides), "")
    given = with_overrides({"suite": suite} if suite else {}, overrides)
    config = build(RunConfig, given, "")
    there = load_suite(config.suite)
    tasks = mixture_tasks(there, config)
    # What is held out has a say in the batch all the same: a training without it is compared with one that has it.
    every = mixture_tasks(there, replace(config, mixture=replace(config.mixture, hold_out=())))
    encoder = load_model(config.model.source, config.model).encoder
    chosen = _chosen(with_templates(config, encoder), tasks, every, encoder, given)
    values = with_overrides(given, [f"{key}={value!r}" for key, value in chosen.items()])
    return build(RunConfig, values, "")


def _chosen(
    config: RunConfig, tasks: Sequence[Task], every: Sequence[Task], encoder: Pretrained, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What is chosen, by key, but for what was given: the batch for `every` task, the steps for the mixture's."""
    on_cpu = jax.default_backend() == "cpu"
    found: dict[str, Any] = {
        "model.matmul_dtype": "float32" if on_cpu else "bfloat16",
        "batch.shards": jax.device_count(),
        "batch.query_length": min(config.batch.query_length, encoder.max_length),
        "batch.document_length": min(config.batch.document_length, encoder.max_length),
        "dev.distractors": CPU_DISTRACTORS if on_cpu else config.dev.distractors,
    }
    chosen = _value(given, "batch.queries")
    tokens = max(_tokens_of_pair(task, config, encoder.max_length) for task in every)
    room = _tokens_in_memory(encoder) * jax.device_count()
    sizes, every_size = (np.array([len(task.splits["train"]) for task in own]) for own in (tasks, every))
    queries = int(chosen) if chosen else _queries(every_size, tokens, room, CPU_LARGEST if on_cpu else LARGEST)
    found["batch.queries"] = queries
    if queries * tokens > room:
        found["batch.chunk_tokens"] = max(room // jax.device_count(), found["batch.document_length"])
    steps = _value(given, "loop.steps") or max(one_epoch(sizes, queries), FEWEST_STEPS)
    found["loop.steps"] = steps
    found["loop.evaluate_every"] = max(steps // 4, 1)
    found["loop.checkpoint_every"] = max(min(steps // 4, 100), 1)
    return {key: value for key, value in found.items() if _value(given, key) is None}


def one_epoch(sizes: Int64[np.ndarray, "tasks"], queries: int) -> int:
    """Steps that see as many queries as there are; of a task with fewer than `queries`, all at once."""
    return int(np.sum(np.maximum(sizes // np.minimum(queries, sizes), 1)))


def _queries(sizes: Int64[np.ndarray, "tasks"], tokens: int, room: int, largest: int) -> int:
    """The largest power of two that memory holds and that leaves enough steps."""
    queries = largest
    while queries > SMALLEST and (queries * tokens > room or one_epoch(sizes, queries) < WANTED_STEPS):
        queries //= 2
    return queries


def _tokens_of_pair(task: Task, config: RunConfig, limit: int) -> int:
    """Of a query with its documents, on average, by characters: nothing is tokenised yet."""
    batch = config.batch.of(task.name)
    train = task.splits["train"]
    queries = [task.query_texts[row] for row in train.queries[:SAMPLED]]
    documents = [task.document_texts[row] for row in train.documents[:SAMPLED]]
    prompt = config.templates.chosen.query_prefix(task.card.instruction)

    def mean(texts: Sequence[str], longest: int, before: str = "") -> float:
        lengths = [min((len(before) + len(text)) / CHARACTERS_OF_TOKEN + 2, longest, limit) for text in texts]
        return float(np.mean(lengths))

    each = mean(documents, batch.document_length)
    return round(mean(queries, batch.query_length, prompt) + each * (batch.positives + batch.negatives))


def _tokens_in_memory(encoder: Pretrained) -> int:
    """How many a step can hold on one device."""
    config = encoder.config
    parameters = sum(leaf.size for leaf in flatten(encoder.params).values())
    left = MEMORY_SHARE * free_memory() - 4 * KEPT_OF_PARAMETER * parameters
    of_token = 4 * KEPT_OF_TOKEN * config.num_hidden_layers * config.hidden_size
    return max(round(FILL * left / of_token), 1)


def _value(values: Mapping[str, Any], path: str) -> Any:
    return reduce(lambda node, name: node.get(name) if isinstance(node, Mapping) else None, path.split("."), values)


def write_config(config: RunConfig, path: AnyPath) -> None:
    """Writes every key of `config` out, with its meaning, as a file to edit and to train by."""
    replace_text(path, source_of(config))
    if isinstance(path, Path) and read_config(str(path)) != config:
        raise AssertionError(f"{path} does not give the configuration that it was written for")


def source_of(config: RunConfig) -> str:
    """The Python source of a configuration file that gives `config`."""
    body = "\n".join(_entries(config, 12))
    return f"{HEAD}        {{\n{body}\n        }}\n    )\n"


def _entries(settings: Any, indent: int) -> Iterator[str]:
    """A line for each key, with its meaning behind it, or above where that would be too long."""
    pad = " " * indent
    for each in fields(settings):
        value, meaning = getattr(settings, each.name), each.metadata.get("meaning")
        remark = f"# {meaning}" if meaning else ""
        if is_dataclass(value):
            yield f'{pad}"{each.name}": {{  {remark}'.rstrip()
            yield from _entries(value, indent + 4)
            yield f"{pad}}},"
            continue
        lines = _literal(to_json(value) if isinstance(value, Mapping) else value, f'{pad}"{each.name}": ')
        if remark and len(lines[-1]) + 2 + len(remark) <= WIDTH and len(lines) == 1:
            yield f"{lines[0]}  {remark}"
            continue
        above = textwrap.wrap(meaning or "", WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")
        yield from [*above, *lines]


def _literal(value: Any, before: str) -> list[str]:
    """`before` and the value, on lines; an entry a line where a tuple is too long for one."""
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    if len(before) + len(shown) < WIDTH or not isinstance(value, tuple):
        return [f"{before}{shown},"]
    pad = " " * (len(before) - len(before.lstrip()))
    return [f"{before}(", *(f"{pad}    {entry!r}," for entry in value), f"{pad}),"]
