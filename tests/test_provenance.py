"""What a number depends on beside data and configuration."""

import numpy as np

from mtret.provenance import versions


def test_versions_of_all_that_numbers_depend_on() -> None:
    import jax

    found = versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert set(found) >= {"python", "mtret", "tokenizers", "bm25s", "scann"}
