"""The checks that conftest.py turns on are really on."""

import os
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from mtret.losses import similarity

pytest_plugins = ["pytester"]


def test_wrong_shapes_are_refused() -> None:
    scale = jnp.float32(1.0)
    with pytest.raises(TypeCheckError):
        similarity(jnp.ones((2, 4)), jnp.ones((3, 5)), scale)
    with pytest.raises(TypeCheckError):
        similarity(jnp.ones((2, 4), jnp.int32), jnp.ones((3, 4)), scale)


def test_a_mesh_has_devices() -> None:
    assert jax.device_count() == 8 or jax.default_backend() != "cpu"


def test_the_cache_is_the_tests_own() -> None:
    cache = Path(os.environ["MTRET_CACHE"])
    assert cache.is_dir()
    assert cache.name.startswith("mtret-tests-")


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


@pytest.mark.system
@pytest.mark.slow
def test_promotion_is_strict_where_our_arithmetic_is_tested(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_losses=STRICT, test_cli=STRICT)
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=2, failed=2)
    outcome.stdout.fnmatch_lines(["FAILED test_cli.py::test_dtypes*", "FAILED test_cli.py::test_ranks*"])
