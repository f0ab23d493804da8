"""What trainings cost on this machine: noted by each, so that those to come can be told beforehand."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax

from mtret.devices import device_line
from mtret.files import AnyPath, replace_json
from mtret.models import hf
from mtret.pytrees import Tree, flatten
from mtret.run_config import RunConfig, as_json
from mtret.runs.dev import DevEvaluator
from mtret.runs.summary import matrix_rate
from mtret.train.loop import Totals

# Shares of a large product's rate that steps and embeddings reach (experiments/007_large_vocabularies), where no
# training has told yet what they do.
STEP_SHARE, EMBEDDING_SHARE = 0.45, 0.65
COMPILATION_S = 20.0
FEW_STEPS = 4  # of fewer a training tells nothing


@dataclass(frozen=True)
class Costs:
    """Of one kind of model, trained in one way on one kind of device."""

    step_s: float  # a place for a token in a batch
    embedding_s: float  # a token
    compilation_s: float = COMPILATION_S  # of all programs, where none was kept
    other_s: float = 0.0  # a run: reading, planning, writing
    process_bytes: int | None = None  # the largest process so far

    @property
    def is_noted(self) -> bool:
        """By a training, not from the rate of a product."""
        return self.process_bytes is not None


def costs(config: RunConfig, encoder: hf.Pretrained, cache: AnyPath) -> Costs:
    """As the last training noted them; from the rate of a large product where there was none."""
    noted = _read(_path(config, encoder, cache))
    if noted is not None:
        return noted
    kernels = _kernels(encoder.params)
    rate = matrix_rate(config.model.matmul_dtype) * jax.device_count()
    return Costs(6 * kernels / (STEP_SHARE * rate), 2 * kernels / (EMBEDDING_SHARE * rate))


class Took(NamedTuple):
    """What a training took."""

    compilation_s: float
    whole_s: float
    process_bytes: int


def note_costs(
    config: RunConfig, encoder: hf.Pretrained, totals: Totals, dev: DevEvaluator | None, took: Took, cache: AnyPath
) -> None:
    """Of a training that was watched on dev samples."""
    if totals.steps < FEW_STEPS or not totals.evaluations or dev is None:
        return
    path = _path(config, encoder, cache)
    before = _read(path)
    steps, dev_s = totals.seconds, totals.evaluating_s
    found = Costs(
        step_s=steps / totals.slots,
        embedding_s=dev_s / (totals.evaluations * max(dev.tokens, 1)),
        # Kept programs are read in no time, so the largest is what compiling takes.
        compilation_s=max(took.compilation_s, before.compilation_s if before else 0.0),
        other_s=max(took.whole_s - steps - dev_s - took.compilation_s, 0.0),
        process_bytes=took.process_bytes,
    )
    replace_json(path, asdict(found))


def _path(config: RunConfig, encoder: hf.Pretrained, cache: AnyPath) -> AnyPath:
    """By what decides how fast a step is, but for the batch."""
    own = as_json(config)
    model = {key: value for key, value in own["model"].items() if key != "source"}
    kind: list[Any] = [device_line(), model, own["optim"]["trainable"], type(encoder.tower).__name__]
    kind += [repr(encoder.config), own["batch"]["chunk_tokens"]]
    return cache / f"costs-{hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:32]}.json"


def _read(path: AnyPath) -> Costs | None:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Costs(**found)
    except (OSError, ValueError, TypeError):
        return None


def _kernels(params: Tree) -> int:
    return sum(leaf.size for path, leaf in flatten(params).items() if path.endswith("/kernel"))
