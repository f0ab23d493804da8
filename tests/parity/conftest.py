"""The study of experiments/parity, whose functions these tests run on a few texts."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def study() -> ModuleType:
    path = Path(__file__).parents[2] / "experiments" / "parity" / "run.py"
    spec = importlib.util.spec_from_file_location("parity_study", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
