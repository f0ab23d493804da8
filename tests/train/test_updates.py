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
    like: Any = jax.eval_shape(TOWER.init, jax.random.key(0), *[jnp.zeros((1, 4), jnp.int32)] * 3)["params"]
    random = np.random.default_rng(0)

    def drawn(shape: Any, scale: float) -> jax.Array:
        return jnp.asarray(random.normal(0, scale, shape), jnp.float32)

    params = {"tower": jax.tree.map(lambda x: drawn(x.shape, 1.0), like), "log_scale": jnp.float32(4.6)}
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
