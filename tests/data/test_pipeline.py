from itertools import islice

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mtret.data.mixture import MixtureConfig
from mtret.data.pipeline import batches
from mtret.data.planning import Planner
from mtret.data.tokenize import Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask
from mtret.types import PairBatch

STEPS = 30


@pytest.fixture(scope="module")
def planner() -> Planner:
    """Two tasks whose batches differ in size and in row count."""
    batch = BatchConfig(queries=8, query_length=8, document_length=16, row_length=16, shards=8)
    random = np.random.default_rng(0)

    def tokens(texts: int, longest: int) -> Tokens:
        lengths = random.integers(2, longest, texts)
        return Tokens(random.integers(3, 50, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)

    def task(name: str, queries: int, longest: int) -> TrainingTask:
        positives = Relation(np.arange(queries + 1), random.permutation(queries).astype(np.int32))
        return TrainingTask(name, tokens(queries, 9), tokens(queries, longest), positives, positives, None, batch)

    return Planner([task("long", 40, 20), task("short", 5, 6)], MixtureConfig(), batch, "mean", 0, STEPS)


def on_mesh(devices: int) -> PairBatch:
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    shards, rows, everywhere = (NamedSharding(mesh, spec) for spec in (P(None, "data"), P("data"), P()))
    return PairBatch(shards, shards, rows, rows, rows, *[everywhere] * 3)  # type: ignore[arg-type]


def assert_same(batch: PairBatch, wanted: PairBatch) -> None:
    for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("threads", [1, 4])
def test_batches_come_in_the_order_of_their_steps(planner: Planner, threads: int):
    loaded = list(batches(planner, on_mesh(1), 0, threads=threads))
    assert [each.plan.step for each in loaded] == list(range(STEPS))
    for step, each in enumerate(loaded):
        plan = planner.plan(step)
        assert each.plan.digest == plan.digest
        assert_same(each.batch, planner.fill(plan))


def test_going_on_from_a_step_gives_the_batches_that_were_due(planner: Planner):
    whole = list(batches(planner, on_mesh(2), 0))
    for first in (1, 17, STEPS - 1):
        rest = list(batches(planner, on_mesh(2), first, ahead=3))
        assert [each.plan.digest for each in rest] == [each.plan.digest for each in whole[first:]]
        for ours, theirs in zip(rest, whole[first:], strict=True):
            assert_same(ours.batch, theirs.batch)


def test_after_the_last_step_there_is_nothing(planner: Planner):
    assert list(batches(planner, on_mesh(1), STEPS)) == []


def test_each_device_holds_its_own_shards_and_queries(planner: Planner):
    sharding = on_mesh(4)
    loaded = next(batches(planner, sharding, 0))
    wanted = planner.fill(loaded.plan)
    ids = loaded.batch.texts.ids
    assert ids.sharding == sharding.texts
    for shard in ids.addressable_shards:
        assert shard.data.shape[1] == 2  # of 8 shards
        np.testing.assert_array_equal(shard.data, wanted.texts.ids[shard.index])
    assert all(shard.data.shape == wanted.doc_ok.shape for shard in loaded.batch.doc_ok.addressable_shards)


def test_a_mistake_in_a_thread_is_raised_where_the_batch_is_asked_for(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
):
    real = planner.plan

    def plan(step: int):
        if step == 3:
            raise ZeroDivisionError("of step 3")
        return real(step)

    monkeypatch.setattr(planner, "plan", plan)
    source = batches(planner, on_mesh(1), 0)
    assert len(list(islice(source, 3))) == 3
    with pytest.raises(ZeroDivisionError, match="of step 3"):
        next(source)
