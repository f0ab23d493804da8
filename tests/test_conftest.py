"""The checks that conftest.py turns on are really on."""

import os
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from mtret.losses import scaled_similarity

pytest_plugins = ["pytester"]


def test_wrong_shapes_are_refused() -> None:
    scale = jnp.float32(1.0)
    with pytest.raises(TypeCheckError):
        scaled_similarity(jnp.ones((2, 4)), jnp.ones((3, 5)), scale)
    with pytest.raises(TypeCheckError):
        scaled_similarity(jnp.ones((2, 4), jnp.int32), jnp.ones((3, 4)), scale)


def test_a_mesh_has_devices() -> None:
    assert jax.device_count() == 8 or jax.default_backend() != "cpu"


def test_the_cache_is_the_tests_own() -> None:
    cache = Path(os.environ["MTRET_CACHE"])
    assert cache.is_dir()
    assert cache.parent.name.startswith("mtret-tests-")


@pytest.fixture
def conftest(request: pytest.FixtureRequest) -> Any:
    return request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_whole_programs_are_shared_and_halves_are_not(
    conftest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(conftest.KEPT_PROGRAMS, str(tmp_path / "kept"))
    program = zlib.compress(bytes(range(256)) * 9)
    write(tmp_path / "one" / "a-cache", program)
    write(tmp_path / "one" / "half-cache", program[:-3])
    write(tmp_path / "one" / "a-atime", b"")
    write(tmp_path / "two" / "b-cache", program)
    for own in ("one", "two", "one"):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / own))
        conftest.share_programs()
    names = {folder.name: sorted(path.name for path in folder.iterdir()) for folder in tmp_path.iterdir()}
    assert names == {
        "kept": ["a-cache", "b-cache"],
        "one": ["a-atime", "a-cache", "b-cache", "half-cache"],
        "two": ["a-cache", "b-cache"],
    }
    assert all((tmp_path / own / "a-cache").read_bytes() == program for own in names)


def test_old_programs_are_forgotten(conftest: Any, tmp_path: Path) -> None:
    for name, days in (("new", 29), ("old", 31)):
        write(tmp_path / f"{name}-cache", b"")
        then = time.time() - 86400 * days
        os.utime(tmp_path / f"{name}-cache", (then, then))
    conftest.forget_programs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new-cache"]


def test_programs_are_this_machines_and_these_versions(conftest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = conftest.machine()
    assert conftest.machine() == here
    monkeypatch.setattr(conftest, "version", lambda name: "0.0")
    assert conftest.machine() != here


def test_jax_keeps_its_programs_where_they_are_shared_from() -> None:
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == jax.config.values["jax_compilation_cache_dir"]


@pytest.mark.parametrize("optimised", [False, True])
def test_only_what_is_not_optimised_is_compiled_quickly(conftest: Any, optimised: bool) -> None:
    from jax._src import compiler

    jax.config.update(conftest.UNOPTIMISED.lower(), not optimised)
    try:
        found = compiler.get_compile_options(1, 1).env_option_overrides
    finally:
        jax.config.update(conftest.UNOPTIMISED.lower(), True)  # as it is for this file
    assert dict(found) == ({} if optimised else conftest.QUICK)


def test_our_warnings_are_errors_and_others_are_not() -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn_explicit("old", DeprecationWarning, "step.py", 1, module="mtret.train.step")
    with pytest.warns(DeprecationWarning):
        warnings.warn_explicit("old", DeprecationWarning, "core.py", 1, module="mtretlike.core")


STRICT = """
import jax.numpy as jnp, pytest

def test_dtypes():
    with pytest.raises(ValueError, match="dtype promotion"):
        jnp.float32(1) + jnp.arange(2)

def test_ranks():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)
"""


LANES = """
import pytest

@pytest.mark.system
def test_system(): pass

@pytest.mark.parity
@pytest.mark.parametrize("i", [1, 2])
def test_parity(i): pass
"""


@pytest.mark.system
@pytest.mark.slow
def test_promotion_is_strict_where_our_arithmetic_is_tested(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_losses=STRICT, test_cli=STRICT, test_lanes=LANES)
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2", "-m", "not system and not parity")
    outcome.assert_outcomes(passed=2, failed=2)
    outcome.stdout.fnmatch_lines(
        ["not run here: the tests of other lanes, 2 of `make parity`, 1 of `make test-system`"]
    )
    outcome.stdout.fnmatch_lines(["FAILED test_cli.py::test_dtypes*", "FAILED test_cli.py::test_ranks*"])
