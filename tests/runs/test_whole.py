"""Every command once, in a process of its own on one device: what is compiled when, and what is never imported."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# In its own process, since an executable that another test has compiled would not be compiled again; on one device,
# since on many Orbax compiles the slices that each of them writes. Torch and TensorFlow seem to be installed there, so
# that whoever would import them if they could does.
PROGRAM = """
import importlib.abc, importlib.machinery, json, sys

class Tempting(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    imported = []

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name in ("torch", "tensorflow") else None

    def create_module(self, spec):
        self.imported.append(spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Tempting())

import jax
from mtret import cli
from mtret.console import TrainingBar
from mtret.runs import fitting, train as module

out, config, suite = sys.argv[1:]
marks, compiled = {}, []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event) if event.endswith("/backend_compile_duration") else None
)
compile_steps, summary, step = fitting.compile_steps, module.summary, TrainingBar.step

def watched_compile_steps(*arguments, **named):
    before = len(compiled)
    found = compile_steps(*arguments, **named)
    marks.update(shapes=len(found[0]), compiled=len(compiled) - before)
    return found

def watched_step(self, values):
    marks.setdefault("at first step", len(compiled))
    step(self, values)

def watched_summary(*arguments):
    marks["after the last step"] = len(compiled)  # it multiplies matrices, to have a measure
    return summary(*arguments)

fitting.compile_steps, module.summary, TrainingBar.step = watched_compile_steps, watched_summary, watched_step
codes = [cli.main(["train", f"--config={config}", f"--workdir={out}/run", "--config.batch.row_length=32"])]
codes += [
    cli.main(line.split())
    for line in (
        f"evaluate --model={out}/run --suite={suite} --split=test",
        f"report --results={out}/run/test/results.json --out={out}/report",
        f"export --model={out}/run --out={out}/model",
        f"data check --suite={suite}",
        f"data stats --suite={suite}",
    )
]
open(f"{out}/marks.json", "w").write(json.dumps({**marks, "codes": codes, "imported": Tempting.imported}))
"""


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, tiny_suite: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """What the program above has noted, said and left."""
    out = tmp_path_factory.mktemp("whole")
    line = [sys.executable, "-c", PROGRAM, str(out), str(tiny_config), str(tiny_suite)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return {"out": out, "said": done.stdout, **json.loads((out / "marks.json").read_text(encoding="utf-8"))}


def test_every_command_succeeds_and_says_what_comes_next(whole: dict[str, Any]) -> None:
    assert whole["codes"] == [0] * 6
    out = whole["out"]
    assert f"\nnext: mtret evaluate --model={out}/run --suite=" in whole["said"]
    assert f"\nwrote {out}/run/test/results.json, queries.jsonl, report.md and results.png\n" in whole["said"]
    assert f"\nwrote {out}/model\n" in whole["said"]
    assert "\nOK: 4 tasks, 240 documents, " in whole["said"]
    results = (out / "run" / "test" / "results.json").read_bytes()
    assert (out / "report" / "results.json").read_bytes() == results


def test_only_declared_shapes_are_compiled_and_none_after_the_first_step(whole: dict[str, Any]) -> None:
    # Batches of both tasks are whole chunks of one size.
    assert re.search(r"\n1 shape\(s\), rows x tokens \(steps\): \d+-\d+ x 32 \(\d+\)\n", whole["said"])
    assert whole["shapes"] > 1
    # Forward and backward of embeddings, layers and pooling; loss, a gradient's start and the sum of chunks; the update
    # of a layer and of the rest, and the metrics; squares of eight shapes of arrays. Some ask for options besides.
    assert 6 + 3 + 3 + 8 <= whole["compiled"] <= 6 + 3 + 3 + 8 + 2
    assert whole["after the last step"] == whole["at first step"]


def test_no_command_imports_torch_or_tensorflow(whole: dict[str, Any]) -> None:
    assert whole["imported"] == []
