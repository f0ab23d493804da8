"""What holds for every test: the machine that JAX sees, checked array signatures, strict promotion, a cache of its own.

A variable of the environment that is set already wins: `JAX_PLATFORMS=cuda make test` runs on an accelerator.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MESH_DEVICES = "--xla_force_host_platform_device_count"

# Where our own arithmetic is tested, no dtype is promoted silently. Not where an optimiser takes a step: optax raises a
# float to the int32 step count.
STRICT_DTYPES = ("models", "index", "evaluation", "test_losses.py", "test_pytrees.py")
# Nor does a vector spread over the rows of a matrix; in a tower's biases and norms it does, and is meant to.
STRICT_RANKS = ("index", "evaluation", "test_losses.py", "test_pytrees.py")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before JAX is imported, and the import hook before mtret is."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # A job in a shell's background ignores Ctrl-C, and so would the runs that these tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flags = os.environ.get("XLA_FLAGS", "")
    if MESH_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {MESH_DEVICES}=8".strip()
    if not hasattr(config, "workerinput"):  # a worker of xdist inherits the environment
        os.environ["MTRET_CACHE"] = tempfile.mkdtemp(prefix="mtret-tests-")

    from jaxtyping import install_import_hook  # reads the environment

    install_import_hook("mtret", "beartype.beartype")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["MTRET_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def strict_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Raise where arithmetic mixes dtypes or ranks (`STRICT_DTYPES` and `STRICT_RANKS` say where)."""
    place = request.path.relative_to(Path(__file__).parent).parts[0]
    if place not in STRICT_DTYPES + STRICT_RANKS:
        yield
        return
    import jax

    dtypes = "strict" if place in STRICT_DTYPES else "standard"
    ranks = "raise" if place in STRICT_RANKS else "allow"
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """`s3://BUCKET` of a server on this machine, which the environment points to for the rest of the session."""
    import logging

    from fsspec import filesystem
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= place | {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything"}
    filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    server.stop()
