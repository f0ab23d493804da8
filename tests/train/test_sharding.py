import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mtret.errors import UserError
from mtret.train.sharding import batch_sharding, make_mesh, replicated
from mtret.types import PairBatch, TokenBatch


def test_groups_that_the_devices_cannot_share_evenly_are_refused(monkeypatch: pytest.MonkeyPatch):
    assert make_mesh(8 * 3).shape == {"data": jax.device_count()}
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(UserError, match=r"batch.groups: 6 groups cannot be shared evenly by 4 devices"):
        make_mesh(6)


def test_a_batch_lies_by_groups_and_its_relation_with_their_queries():
    mesh = make_mesh(jax.device_count())
    tokens = np.arange(8 * 6).reshape(1, 8, 2, 3)
    relation, flags = np.arange(32).reshape(16, 2), np.arange(16) % 3 == 0
    batch = PairBatch(TokenBatch(*[tokens] * 4), relation, relation, flags, flags, np.array(3))  # type: ignore[arg-type]
    placed = jax.device_put(batch, batch_sharding(mesh))
    specs = jax.tree.map(lambda x: x.sharding.spec, placed)
    assert list(specs.texts) == [P(None, "data")] * 4
    assert list(specs[1:]) == [P("data"), P("data"), P("data"), P(), P()]
    # A device's queries are those of its groups: 16 queries of 8 groups, two to a group.
    for array, group_shard in zip(placed.target.addressable_shards, placed.texts.ids.addressable_shards, strict=True):
        groups, rows = group_shard.index[1], array.index[0]
        assert array.device == group_shard.device
        assert (rows.start or 0) == 2 * (groups.start or 0)
    np.testing.assert_array_equal(placed.texts.ids, tokens)


def test_replicated_means_everywhere_whole():
    x = jax.device_put(np.arange(5), replicated(make_mesh(jax.device_count())))
    assert len(x.addressable_shards) == jax.device_count()
    assert all(shard.data.shape == (5,) for shard in x.addressable_shards)
