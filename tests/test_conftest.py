"""The checks that conftest.py turns on are really on."""

import os
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from mtret.losses import similarity


def test_wrong_shapes_are_refused() -> None:
    scale = jnp.float32(1.0)
    with pytest.raises(TypeCheckError):
        similarity(jnp.ones((2, 4)), jnp.ones((3, 5)), scale)
    with pytest.raises(TypeCheckError):
        similarity(jnp.ones((2, 4), jnp.int32), jnp.ones((3, 4)), scale)


def test_ranks_are_not_promoted() -> None:
    with pytest.raises(ValueError, match="rank promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


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


def test_dtypes_mix_in_optimiser_code_only(strict_dtypes: None) -> None:
    """This file is not in STRICT_DTYPES."""
    assert (jnp.float32(1.5) + jnp.arange(2)).dtype == jnp.float32
    with jax.numpy_dtype_promotion("strict"), pytest.raises(TypeError, match="promotion"):
        jnp.float32(1.5) + jnp.asarray(np.arange(2))
