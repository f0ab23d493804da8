"""Rates by hand, and the update against AdamW written out."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtret.errors import UserError
from mtret.train.optim import OptimConfig, learning_rate, optimizer, warmup_remark


def rates(config: OptimConfig, steps: int, *at: int) -> list[float]:
    rate = learning_rate(config, steps)
    return [float(np.asarray(rate(step))) for step in at]


def test_the_first_step_moves_and_the_warm_up_ends_at_the_peak():
    config = OptimConfig(learning_rate=1.0, warmup_steps=4, schedule="constant")
    np.testing.assert_allclose(rates(config, 100, 0, 1, 2, 3, 4, 50, 99), [0.25, 0.5, 0.75, 1, 1, 1, 1], rtol=1e-6)


def test_linear_decay():
    config = OptimConfig(learning_rate=2.0, warmup_steps=2, schedule="linear")
    np.testing.assert_allclose(rates(config, 12, 0, 1, 2, 3, 7, 11, 12), [1, 2, 2, 1.8, 1, 0.2, 0], rtol=1e-6)


def test_cosine_decay():
    config = OptimConfig(learning_rate=2.0, warmup_steps=2, schedule="cosine")
    wanted = [2, 1 + np.cos(np.pi / 4), 1, 0]
    np.testing.assert_allclose(rates(config, 10, 2, 4, 6, 10), wanted, atol=1e-6)


@pytest.mark.parametrize(("warmup", "wanted"), [(0, [2, 1, 0]), (1, [2, 2, 0])])
def test_no_warm_up_or_a_single_step_of_it_starts_at_the_peak(warmup: int, wanted: list[float]):
    config = OptimConfig(learning_rate=2.0, warmup_steps=warmup, schedule="linear")
    steps = 2 + warmup
    np.testing.assert_allclose(rates(config, steps, 0, 1, steps), wanted)


def test_a_warm_up_longer_than_the_run_is_never_left():
    config = OptimConfig(learning_rate=1.0, warmup_steps=10)
    np.testing.assert_allclose(rates(config, 4, 0, 1, 2, 3), [0.1, 0.2, 0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize(("warmup", "reached"), [(10, "0.4"), (5, "0.8"), (4, "1")])
def test_a_warm_up_that_the_run_does_not_leave_is_named(warmup: int, reached: str):
    config = OptimConfig(learning_rate=1.0, warmup_steps=warmup)
    line = warmup_remark(config, 4)
    assert line.startswith(f"optim.warmup_steps={warmup} of 4 steps: ") and f"to {reached} of 1;" in line
    assert rates(config, 4, 3) == [pytest.approx(float(reached))]  # the last step's


@pytest.mark.parametrize(("warmup", "steps"), [(3, 4), (0, 1), (1, 1), (10, 150)])
def test_a_warm_up_that_ends_is_not(warmup: int, steps: int):
    assert warmup_remark(OptimConfig(warmup_steps=warmup), steps) == ""


PARAMS = {
    "tower": {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}},
    "log_scale": jnp.array(3.0),
}
GRADIENTS = [
    {"tower": {"dense": {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([4.0])}}, "log_scale": jnp.array(0.0)},
    {"tower": {"dense": {"kernel": jnp.array([[0.1, -0.2]]), "bias": jnp.array([0.0])}}, "log_scale": jnp.array(0.2)},
]


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_updates_are_those_of_adamw_with_decay_of_kernels_only(clip: float):
    config = OptimConfig(learning_rate=0.1, warmup_steps=2, schedule="constant", weight_decay=0.3, clip_norm=clip)
    rule = optimizer(config, PARAMS, 10)
    params, state = PARAMS, rule.init(PARAMS)
    values = np.array([1.0, -2.0, 0.5, 3.0])
    decay = np.array([0.3, 0.3, 0.0, 0.0])
    m = v = np.zeros(4)
    for step, (tree, rate) in enumerate(zip(GRADIENTS, [0.05, 0.1], strict=True), start=1):
        updates, state = rule.update(tree, state, params)
        params = optax.apply_updates(params, updates)
        gradient = flat(tree)
        norm = np.linalg.norm(gradient)
        if clip and norm > clip:  # the first gradient has norm 5
            gradient = gradient * clip / norm
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        corrected = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        values = values - rate * (corrected + decay * values)
        np.testing.assert_allclose(flat(params), values, rtol=1e-5)


def flat(tree) -> np.ndarray:
    dense = tree["tower"]["dense"]
    return np.concatenate([np.ravel(x) for x in (dense["kernel"], dense["bias"], tree["log_scale"])]).astype(np.float64)


def test_a_parameter_that_no_decay_rule_covers_is_refused_by_name():
    params = {"tower": {"gate": {"alpha": jnp.zeros(2)}}, "log_scale": jnp.array(0.0)}
    with pytest.raises(UserError, match=r"optim.decay_mask: no rule matches the parameter 'tower/gate/alpha'"):
        optimizer(OptimConfig(), params, 10)
    rules = ((r".*/alpha", True), *OptimConfig().decay_mask)
    optimizer(OptimConfig(decay_mask=rules), params, 10)
