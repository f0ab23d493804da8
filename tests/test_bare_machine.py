"""Training where little is installed: what only a part of mtret needs is imported in that part, when it is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABSENT = (
    *("array_record", "bm25s", "grain", "huggingface_hub", "matplotlib", "ml_collections", "scann", "Stemmer"),
    *("tensorboardX", "tensorflow_datasets", "torch", "transformers"),
)
BARE = f"""
import sys
for name in {ABSENT}:
    sys.modules[name] = None  # so that an import of it fails
"""
IMPORTS = """
import importlib, pkgutil
import mtret
for module in pkgutil.walk_packages(mtret.__path__, "mtret."):
    importlib.import_module(module.name)
"""
STEP = """
import runpy
sys.argv = ["gpu.py", "--geometry=tiny", "--batch=4", "--steps=1", "--contender=mtret xla"]
runpy.run_path("experiments/002_training_speed/gpu.py", run_name="__main__")
"""


def run(source: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported() -> None:
    run(BARE + IMPORTS)


@pytest.mark.system
@pytest.mark.slow
def test_a_step_can_be_trained() -> None:
    assert '"losses": [' in run(BARE + STEP)
