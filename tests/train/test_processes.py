"""What needs processes of its own: two with four devices each against one with eight, and float64."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.system]  # tests/runs trains in two processes in `make test`

LOAD = """
import importlib.util, json, sys
import jax
spec = importlib.util.spec_from_file_location("test_step", sys.argv[1])
test_step = importlib.util.module_from_spec(spec)
"""
RUN = """
port, count, index, state_shards = sys.argv[2], *map(int, sys.argv[3:])
jax.config.update("jax_num_cpu_devices", 8 // count)
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", count, index)
spec.loader.exec_module(test_step)
print(json.dumps(test_step.losses_of_a_run(state_shards)))
"""
FLOAT64 = """
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
spec.loader.exec_module(test_step)
print(json.dumps(test_step.distances_in_float64()))
"""


def start(program: str, *arguments: object, script: str = "test_step.py") -> subprocess.Popen[str]:
    """Not optimised: what XLA makes of these programs the two scripts look at in float32."""
    return subprocess.Popen(
        [sys.executable, "-c", LOAD + program, str(Path(__file__).with_name(script)), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": os.environ["MTRET_TESTS_QUICK"], "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )


def answer(process: subprocess.Popen[str]) -> Any:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def run(processes: int, state_shards: int) -> list[Any]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [start(RUN, port, processes, index, state_shards) for index in range(processes)]
    return [answer(process) for process in started]


def test_two_processes_train_as_one():
    """Losses and gradient norms of a few chunked steps, dropout on, parameters cut over the devices of both."""
    (alone,) = run(1, 8)
    first, second = run(2, 8)
    assert first == second
    assert len(alone) == 4 and alone[0] != alone[3]
    for ours, theirs in zip(first, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_in_float64_every_mesh_has_the_same_gradient_to_the_last_digits():
    distances = answer(start(FLOAT64))
    assert set(distances) == {"2", "8", "8 cut in 4", "8 in chunks"}
    assert all(0 < distance < 1e-10 for distance in distances.values()), distances


def test_in_float64_a_gradient_by_layer_is_that_of_one_program_to_the_last_digits():
    distances = answer(start(FLOAT64, script="test_layerwise.py"))
    assert len(distances) == 5
    of_images = {name for name in distances if "images" in name}  # whose tower begins with pixels in float32
    assert all(0 < distances[name] < 1e-6 for name in of_images), distances
    assert all(0 < distances[name] < 1e-10 for name in distances.keys() - of_images), distances
