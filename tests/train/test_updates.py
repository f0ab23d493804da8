"""An update part by part against the same as one program, to the last bit."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.losses import LossConfig
from mtret.models.bert import BertConfig, BertTower
from mtret.pytrees import flatten, unflatten
from mtret.train.optim import OptimConfig, frozen_paths, optimizer
from mtret.train.sharding import MeshConfig, make_mesh, param_specs
from mtret.train.step import StepConfig, create_state
from mtret.train.updates import PartwiseUpdate, compile_update, trained

TOWER = BertTower(
    BertConfig(
        num_hidden_layers=2,
        type_vocab_size=1,
        layer_norm_eps=1e-12,
        vocab_size=9,
        hidden_size=4,
        num_attention_heads=2,
        intermediate_size=6,
        max_position_embeddings=8,
    )
)
UPPER_HALF = ((r"tower/encoder/layer/0/.*", False), (r".*", True))
EVERY = ((r".*", True),)


def drawn_params(random: np.random.Generator) -> dict[str, Any]:
    like: Any = jax.eval_shape(TOWER.init, jax.random.key(0), *[jnp.zeros((1, 4), jnp.int32)] * 3)["params"]
    tower = jax.tree.map(lambda x: jnp.asarray(random.normal(0, 1.0, x.shape), jnp.float32), like)
    return {"tower": tower, "log_scale": jnp.float32(4.6)}


@pytest.mark.slow
@pytest.mark.unoptimised
@pytest.mark.parametrize(
    ("optim", "programs"),
    [
        (OptimConfig(), 2),
        (OptimConfig(clip_norm=0.0, warmup_steps=2, schedule="constant"), 2),
        (OptimConfig(trainable=UPPER_HALF, ema_decay=0.9), 2),
        (OptimConfig(learning_rate_scales=((r"tower/encoder/layer/1/.*", 0.3), (r".*", 1.0))), 3),
        (OptimConfig(decay_mask=((r"tower/encoder/layer/1/.*", True), (r".*", False))), 3),
    ],
)
def test_parts_are_updated_as_the_whole_is(optim: OptimConfig, programs: int):
    random = np.random.default_rng(0)
    params = drawn_params(random)

    def drawn(shape: Any, scale: float) -> jax.Array:
        return jnp.asarray(random.normal(0, scale, shape), jnp.float32)

    frozen = frozen_paths(params, optim)
    loss = LossConfig(learn_temperature=True)
    config = StepConfig(TOWER, optimizer(optim, params, 9), loss, 1, 2, False, False, 0, frozen=frozen)
    mesh, specs = make_mesh(1, 1, jax.devices()[:1]), param_specs(params, MeshConfig())
    states = [create_state(params, config.optimizer, mesh, specs) for _ in range(2)]
    with ThreadPoolExecutor(1) as threads:
        whole, by_part = (compile_update(config, states[0], mesh, threads, {}, by_part=each) for each in (False, True))
    assert isinstance(by_part, PartwiseUpdate)
    assert len({id(part.rule) for part in by_part.parts}) == programs
    for step in range(6):  # the first gradient is clipped, the third is no number, the last leads beyond the limits
        gradient = {path: drawn(leaf.shape, 0.01 if step else 9.0) for path, leaf in trained(params, config).items()}
        if step == 5:
            gradient["log_scale"] = jnp.float32(-1e4)
        numbers = jnp.float32(np.nan if step == 2 else 0.5), jnp.float32(0.25)
        before = jax.device_get(states[1])
        found = [
            update(state, *numbers, dict(gradient)) for update, state in zip((whole, by_part), states, strict=True)
        ]
        states = [state for state, _ in found]
        (theirs, their_metrics), (ours, our_metrics) = jax.device_get(found)
        np.testing.assert_array_equal(our_metrics, their_metrics)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        moved = {path for path, leaf in flatten(ours.params).items() if (leaf != flatten(before.params)[path]).any()}
        assert moved == (set() if step == 2 else trained(params, config).keys())
    assert int(states[1].step) == 6 and int(states[1].skipped) == 1
    assert unflatten(flatten(states[1].params)).keys() == params.keys()


@pytest.mark.unoptimised
@pytest.mark.parametrize("by_part", [False, True])
def test_runs_of_other_rates_and_decay_have_the_same_programs(by_part: bool):
    asked: list[str] = []

    def note(event: str, **_: Any) -> None:
        asked.append(event.rpartition("/")[2])

    jax.monitoring.register_event_listener(note)
    params, mesh = drawn_params(np.random.default_rng(0)), make_mesh(1, 1, jax.devices()[:1])
    specs = param_specs(params, MeshConfig())
    rates, decays = (1e-3, 3e-2), (0.0, 0.5)
    moved = []
    for rate, decay, steps in zip(rates, decays, (9, 300), strict=True):
        # Clipping is compiled in: with this norm no other test asks for these programs.
        optim = OptimConfig(rate, warmup_steps=0, schedule="constant", weight_decay=decay, clip_norm=1234.5)
        rule = optimizer(optim, params, steps)
        config = StepConfig(TOWER, rule, LossConfig(), 1, 2, False, False, 0)
        state = create_state(params, rule, mesh, specs)
        asked.clear()
        with ThreadPoolExecutor(1) as threads:
            update = compile_update(config, state, mesh, threads, {}, by_part)
        gradient = {path: jnp.ones_like(leaf) for path, leaf in trained(params, config).items()}
        after, _ = update(state, jnp.float32(0.5), jnp.float32(0.5), gradient)
        moved.append({path: np.asarray(new) for path, new in flatten(after.params).items()})
    assert "cache_hits" in asked and "cache_misses" not in asked
    for path, start in flatten(params).items():
        for rate, decay, found in zip(rates, decays, moved, strict=True):
            decayed = decay if path.endswith(("kernel", "embedding")) else 0.0
            expected = start - rate * (1 + decayed * start)  # the first update of Adam is the gradient's sign
            np.testing.assert_allclose(found[path], expected, rtol=1e-4, atol=1e-6)
