from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from mtret.errors import UserError
from mtret.train.sharding import (
    AXES,
    Kept,
    MeshConfig,
    batch_sharding,
    layout,
    layout_lines,
    make_mesh,
    named,
    param_specs,
    replicated,
    whole,
)
from mtret.train.step import create_state
from mtret.types import Guide, PairBatch, TokenBatch


def test_groups_that_the_devices_cannot_share_evenly_are_refused():
    assert make_mesh(8 * 3).shape == {"data": jax.device_count(), "state": 1}
    assert make_mesh(8, 4).shape == {"data": jax.device_count() // 4, "state": 4}
    with pytest.raises(
        UserError, match=r"mesh.state_shards: 8 devices cannot be cut into parts of 3; give a divisor of 8"
    ):
        make_mesh(8, 3)
    with pytest.raises(UserError, match=r"batch.shards: 6 shards cannot be shared evenly by 4 devices"):
        make_mesh(6, devices=jax.devices()[:4])


def test_a_batch_lies_by_groups_and_its_relation_with_their_queries():
    mesh = make_mesh(jax.device_count())
    tokens = np.arange(8 * 6).reshape(1, 8, 2, 3)
    relation, flags = np.arange(32).reshape(16, 2), np.arange(16) % 3 == 0
    one, vectors = np.array(3), np.ones((16, 4), np.float32)
    guide = Guide(vectors, vectors)  # type: ignore[arg-type]
    batch = PairBatch(TokenBatch(*[tokens] * 4), None, relation, relation, flags, flags, one, one, guide)  # type: ignore[arg-type]
    placed = jax.device_put(batch, batch_sharding(mesh))
    specs = jax.tree.map(lambda x: x.sharding.spec, placed)
    assert list(specs.texts) == [P(None, AXES)] * 4
    assert list(specs[2:8]) == [P(AXES)] * 4 + [P()] * 2
    assert specs.guide is not None and list(specs.guide) == [P(AXES)] * 2
    # A device's queries are those of its shards: 16 queries of 8 shards, two to a shard.
    for array, group_shard in zip(placed.target.addressable_shards, placed.texts.ids.addressable_shards, strict=True):
        shards, rows = group_shard.index[1], array.index[0]
        assert array.device == group_shard.device
        assert (rows.start or 0) == 2 * (shards.start or 0)
    np.testing.assert_array_equal(placed.texts.ids, tokens)


def test_replicated_means_everywhere_whole():
    x = jax.device_put(np.arange(5), replicated(make_mesh(jax.device_count())))
    assert len(x.addressable_shards) == jax.device_count()
    assert all(shard.data.shape == (5,) for shard in x.addressable_shards)


PARAMS = {
    "tower": {
        "layer": {str(i): {"kernel": np.zeros((6, 16), np.float32), "bias": np.zeros(16, np.float32)} for i in range(3)}
    },
    "log_scale": np.zeros((), np.float32),
}


def test_rules_say_which_parameters_are_cut():
    specs = param_specs(PARAMS, MeshConfig(state_shards=4))
    for layer in specs["tower"]["layer"].values():
        assert layer == {"kernel": P(None, "state"), "bias": P()}
    assert specs["log_scale"] == P()
    cut_first = MeshConfig(state_shards=2, partition_rules=((r".*/kernel", 0), (r".*/bias", 0), (r".*", None)))
    assert param_specs(PARAMS, cut_first)["tower"]["layer"]["0"] == {"kernel": P("state", None), "bias": P("state")}
    assert all(spec == P() for spec in jax.tree.leaves(param_specs(PARAMS, MeshConfig()), is_leaf=lambda x: x == P()))


def test_the_table_of_what_lies_where_counts_the_bytes_of_a_device():
    mesh = make_mesh(8, 4)
    params: Any = jax.tree.map(jnp.asarray, PARAMS)
    state = create_state(params, optax.adam(1e-3), mesh, param_specs(params, MeshConfig(state_shards=4)))
    kept = layout(state.params, state.opt_state)
    kernels, biases = 3 * 6 * 16 * 4 // 4, 3 * 16 * 4
    assert kept == [
        Kept("kernel", "dimension 1 of 2 cut in 4", 3, kernels, 2 * kernels),
        Kept("bias", "whole", 3, biases, 2 * biases),
        Kept("log_scale", "whole", 1, 4, 8),
        Kept("counts", "whole", 1, 0, 4),
    ]
    lines = layout_lines(kept, mesh)
    assert lines[0] == "mesh: 2 data x 4 state"
    assert lines[-1].split() == ["all", "8", "0.5", "0.9"]  # 484 and 972 bytes
    assert len({len(line) for line in lines[1:]}) == 1


def test_parameters_are_made_whole_for_the_host():
    mesh = make_mesh(8, 4)
    params = jax.device_put(PARAMS, named(mesh, param_specs(PARAMS, MeshConfig(state_shards=4))))
    assert whole(params) is params  # of one process, which can read them as they are


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        (
            ((r".*/kernel", 0), (r".*", None)),
            "dimension 0 of 'tower/layer/0/kernel', whose shape is (6, 16), cannot be",
        ),
        (((r".*/kernel", 2), (r".*", None)), "dimension 2 of 'tower/layer/0/kernel'"),
        (((r".*/kernel", 1),), "no rule matches the parameter 'tower/layer/0/bias'"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(shard: tuple, said: str):
    with pytest.raises(UserError) as caught:
        param_specs(PARAMS, MeshConfig(state_shards=4, partition_rules=shard))
    assert said in str(caught.value) and str(caught.value).startswith("mesh.partition_rules: ")
