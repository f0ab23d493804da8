"""What makes a run this run and no other: its configuration, data and starting weights; kept in its folder."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from mtret.data.formats import Suite
from mtret.data.tasks import Task
from mtret.data.templates import TemplateConfig
from mtret.errors import UserError
from mtret.files import AnyPath, inside, is_probe, parents_of, read_arrays, replace_json
from mtret.model_folder.fingerprint import differing, dropouts
from mtret.model_folder.towers import Towers
from mtret.processes import broadcast, is_first
from mtret.provenance import this_start, versions
from mtret.run_config import RunConfig, as_json, build, differences
from mtret.runs.tasks import other_tasks

RUN_FILE = "config.json"
SEEN_WITHIN_S = 30.0
WORDS_FILE = "words.safetensors"
WORDS = "words"  # in RUN_FILE: how many there are; runs of an older mtret, which trained all, did not write it down
CHUNKS = "chunk_tokens"  # in it: by how many a run reads batches that do not fit; 0: they fit
UNDRAWN = "undrawn"  # in it: tasks of the mixture that no step was of
IDENTITY = ("config", "data", "weights_sha256")  # what makes two runs the same, less the mesh
# And all else that changes the encoder's vectors, and its dropout; runs of an older mtret did not write it down.
SOURCE = "source"


def identity_of(
    config: RunConfig,
    suite: Suite,
    tasks: Sequence[Task],
    model: Towers,
) -> dict[str, Any]:
    """Configuration, data that it trains on or is watched by, and the encoder to start from: what makes two runs the
    same; and how attention is computed, which may differ between starts of one run."""
    data = {task.name: suite.task_sha256[task.name] for task in (*tasks, *other_tasks(suite, config, tasks))}
    return {
        "config": as_json(config),
        "data": data,
        "data_sha256": hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest(),
        "weights_sha256": model.weights_sha256,
        SOURCE: {**model.parts, "queries": {**model.parts["queries"], "dropout": dropouts(model.encoder)}},
        "attention": model.encoder.config.attention,
    }


def check_same(identity: Mapping[str, Any]) -> None:
    """That all processes train the same, or their batches would not fit together."""
    ours = {key: identity[key] for key in (*IDENTITY, SOURCE)} | {"versions": versions()}
    found = differences(ours, broadcast("identity", ours))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(
            f"process {jax.process_index()} trains something else than process 0: {found[0]}{more}; start every "
            "process with the same command, configuration, data and versions"
        )


def check_shared(workdir: AnyPath) -> None:
    """That all processes see one folder: each writes its share of a checkpoint. A network's may be seconds late."""
    token = broadcast("claimed", (workdir / RUN_FILE).read_text(encoding="utf-8") if is_first() else None)
    end = time.monotonic() + SEEN_WITHIN_S
    while not (workdir / RUN_FILE).exists() or (workdir / RUN_FILE).read_text(encoding="utf-8") != token:
        if time.monotonic() > end:
            raise UserError(
                f"--workdir={workdir}: process {jax.process_index()} does not see what process 0 writes there; give "
                "a folder that all processes share"
            )
        time.sleep(0.5)


@contextmanager
def alone_in(workdir: AnyPath) -> Iterator[None]:
    """Refuses a folder that another process of this machine trains in. The lock is on the folder itself and goes with
    the process, however that ends; in stores, and where the file system has no locks, there is none."""
    if not isinstance(workdir, Path):
        yield
        return
    with parents_of(workdir / RUN_FILE):
        handle = os.open(workdir, os.O_RDONLY)
        try:
            with suppress(OSError):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise UserError(
                        f"{workdir}: another process trains there already; wait for it, or give another --workdir"
                    ) from error
            yield
        finally:
            os.close(handle)


def claim(workdir: AnyPath, identity: Mapping[str, Any], write: bool, remedy: str = "use another --workdir") -> None:
    """Refuses a workdir that belongs to another run, with the remedy; when told to write, marks a fresh one as ours,
    and notes in both cases what this start of the run depends on beside its identity."""
    path = workdir / RUN_FILE
    there: dict[str, Any] = {"starts": []}
    if path.exists():
        there = read_identity(workdir)
        same = identity["data"] == there["data"]
        found = differences(_compared(identity, same), _compared(there, same)) + _other_source(identity, there)
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(f"{workdir}: belongs to another run: {found[0]}{more}; {remedy}")
        if write and "starts" not in there:
            raise UserError(f"{workdir}: was begun by an older mtret, whose batches were others; use another --workdir")
    elif workdir.exists() and (not workdir.is_dir() or any(not _is_ours(path) for path in inside(workdir))):
        raise UserError(f"{workdir}: is not empty and holds no run; use another --workdir")
    if write:
        config = identity["config"]
        # These may be others than the first start's.
        start = {**this_start(), "suite": config["suite"], "mesh": config["mesh"], "attention": identity["attention"]}
        # An export reads the suite where it was last.
        now = {**there.get("config", config), "suite": config["suite"]}
        # Of a run that an older mtret began it stays unknown what its encoder was then.
        unknown = ("attention", SOURCE) if there.get("starts") and SOURCE not in there else ("attention",)
        whole = {key: value for key, value in identity.items() if key not in unknown}
        replace_json(path, {**whole, **there, "config": now, "starts": [*there.get("starts", []), start]})


def _is_ours(path: AnyPath) -> bool:
    """What a start leaves behind that was ended before it had claimed its folder."""
    return is_probe(path) or path.name == WORDS_FILE


def words_of(workdir: AnyPath, size: int) -> Int32[np.ndarray, "kept"] | None:
    """The words, of so many, whose embeddings a run that is to go on trains; None: those that its texts draw."""
    found = None
    if is_first() and (workdir / RUN_FILE).exists():
        every = read_identity(workdir).get(WORDS, size) == size
        arrays = {"ids": np.arange(size)} if every else read_arrays(workdir / WORDS_FILE)
        found = None if arrays is None else arrays["ids"].tolist()  # where it is lost, the same are drawn again
    words = broadcast("words", found)
    return None if words is None else np.array(words, np.int32)


def chunks_of(workdir: AnyPath) -> int | None:
    """By how many tokens a run that is to go on reads batches that do not fit; 0: they fit; None: not chosen yet."""
    there = is_first() and (workdir / RUN_FILE).exists()
    return broadcast("chunks", read_identity(workdir).get(CHUNKS) if there else None)


def note_chunks(workdir: AnyPath, tokens: int) -> None:
    """For `chunks_of`. Where several processes train, all must have claimed the folder."""
    there = read_identity(workdir)
    if there.get(CHUNKS) != tokens:
        replace_json(workdir / RUN_FILE, {**there, CHUNKS: tokens})


def begun_by_older(workdir: AnyPath) -> TemplateConfig | None:
    """The templates of a run that an older mtret began, for which no encoder's prompts counted; None for any other."""
    there = read_identity(workdir) if (workdir / RUN_FILE).exists() else {}
    return build(RunConfig, there["config"], "").templates if there and SOURCE not in there else None


def resuming(workdir: AnyPath, identity: Mapping[str, Any]) -> list[str]:
    """What is to be said where a run goes on: what it did not write down, and what is not as before; a line each."""
    if not (workdir / RUN_FILE).exists():
        return []
    there = read_identity(workdir)
    lines = []
    if SOURCE not in there:
        lines.append(
            f"{workdir}: was begun by an older mtret, which wrote down the encoder's weights alone: whether its "
            "configuration, pooling, tokenizer and prompts are still the same is not known"
        )
    before = [start["attention"] for start in there.get("starts", []) if "attention" in start]
    if before and before[-1] != identity["attention"]:
        lines.append(
            f"attention is computed by '{identity['attention']}', by '{before[-1]}' before: the last digits differ "
            f"(model.attention='{before[-1]}' goes on as it was)"
        )
    return lines


def _other_source(identity: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """How the encoder is not the one that the run began with, as far as that was written down."""
    ours, theirs = identity[SOURCE], there.get(SOURCE, {})
    towers = [tower for tower in ours if tower in theirs]
    return [f"{SOURCE}.{tower}.{line}" for tower in towers for line in differing(ours[tower], theirs[tower])]


def _compared(identity: Mapping[str, Any], same_data: bool) -> dict[str, Any]:
    """What makes two runs the same. Not how their state lies on devices: a checkpoint restores on any mesh. Nor where
    the suite is, if its tasks are the same: a folder may have become a data set."""
    ignored = {"mesh", "suite"} if same_data else {"mesh"}
    complete = as_json(build(RunConfig, identity["config"], ""))  # an older run lacks keys that are new since
    config = {key: value for key, value in complete.items() if key not in ignored}
    return {key: identity[key] for key in IDENTITY} | {"config": config}


def read_identity(workdir: AnyPath) -> dict[str, Any]:
    """Of the run in this folder. Raises UserError where there is none."""
    path = workdir / RUN_FILE
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{workdir}: holds no run (no {RUN_FILE}); give the folder of a training") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the folder of a run, or a new one to train") from error
    if not isinstance(there, dict) or not {"config", *IDENTITY} <= set(there):
        raise UserError(f"{path}: is not that of a run; give the folder of a training, or a new one to train")
    return there
