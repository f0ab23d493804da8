"""Programs of experiments/, which are no package."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """`load("gpu/run.py")`: the module, under a name of its own; it finds those beside it, as when it is run."""

    def read(place: str) -> ModuleType:
        name = f"experiment_{place.removesuffix('.py').replace('/', '_')}"
        path = ROOT / "experiments" / place
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where its dataclasses look for themselves
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(path.parent)
            spec.loader.exec_module(module)
        return module

    return read
