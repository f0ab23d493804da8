"""The loss against its definition, written as nested loops over float64 numbers."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mtret.errors import UserError
from mtret.losses import Hidden, LossConfig, contrastive, negatives, scaled_similarity
from mtret.train.sharding import AXES, make_mesh

compiled_loss = jax.jit(contrastive, static_argnums=7, static_argnames="block")
compiled_gradients = jax.jit(
    jax.grad(contrastive, argnums=(0, 1, 2), has_aux=True), static_argnums=7, static_argnames="block"
)


@dataclass(frozen=True)
class Case:
    """Vectors and a relation, with padded queries and documents wherever `contrastive` allows them."""

    queries: np.ndarray
    documents: np.ndarray
    target: np.ndarray
    masked: np.ndarray
    query_ok: np.ndarray
    doc_ok: np.ndarray
    scale: float | np.floating = 7.0

    def loss(self, symmetric: bool, block: int | None = None) -> tuple[jax.Array, jax.Array]:
        return compiled_loss(self.queries, self.documents, *self.rest(), symmetric, block=block)

    def gradients(self, symmetric: bool, block: int | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """With respect to queries, documents and scale."""
        return compiled_gradients(self.queries, self.documents, *self.rest(), symmetric, block=block)[0]

    def rest(self) -> tuple:
        return np.float32(self.scale), self.target, self.masked, self.query_ok, self.doc_ok


def unit(random: np.random.Generator, n: int, ok: np.ndarray) -> np.ndarray:
    x = random.normal(size=(n, 6))
    return (x / np.linalg.norm(x, axis=1, keepdims=True) * ok[:, None]).astype(np.float32)


def columns(sets: list[set[int]], width: int, none: int, random: np.random.Generator) -> np.ndarray:
    """Sets as padded rows; the padding stands anywhere, which the definition allows."""
    return np.array([random.permutation([*s, *[none] * (width - len(s))]) for s in sets], np.int32)


def make_case(seed: int, n: int = 7, m: int = 11, none_negative: bool = False) -> Case:
    """Random positives, one to four a query, of which some are targets; two queries and two documents are padding."""
    random = np.random.default_rng(seed)
    query_ok, doc_ok = np.ones(n, bool), np.ones(m, bool)
    query_ok[[2, n - 1]] = False
    doc_ok[[0, 5]] = False
    there = np.flatnonzero(doc_ok)
    masked, target = [], []
    for i in range(n):
        positives = random.choice(there, random.integers(1, 5), replace=False).tolist() if query_ok[i] else []
        if none_negative and i == 0:
            positives = there.tolist()
        masked.append(set(positives))
        target.append(set(positives[: random.integers(1, 3)]))
    return Case(
        unit(random, n, query_ok),
        unit(random, m, doc_ok),
        columns(target, 2, m, random),
        columns(masked, m, m, random),
        query_ok,
        doc_ok,
    )


def one_way(
    scores: np.ndarray, target: list[set[int]], masked: list[set[int]], anchors: list[int], ok: np.ndarray
) -> float:
    """Mean over anchors of the mean over targets of -log(e^t / (e^t + sum of e^s over columns not positive))."""
    losses = []
    for i in anchors:
        negatives = [math.exp(scores[i, j]) for j in np.flatnonzero(ok) if j not in masked[i] | target[i]]
        terms = [-math.log(math.exp(scores[i, j]) / (math.exp(scores[i, j]) + sum(negatives))) for j in target[i]]
        losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


def hidden_from(similarities: np.ndarray, target: list[set[int]], margin: float) -> list[set[int]]:
    """What a guide finds nearer to an anchor than its nearest target less the margin."""
    return [
        {j for j in range(similarities.shape[1]) if own and row[j] > max(row[t] for t in own) - margin}
        for row, own in zip(similarities, target, strict=True)
    ]


def defined(case: Case, symmetric: bool, hidden: Hidden | None = None) -> tuple[float, float]:
    scores = case.scale * case.queries.astype(np.float64) @ case.documents.astype(np.float64).T
    n, m = scores.shape
    target = [{int(j) for j in row if j < m} for row in case.target]
    masked = [{int(j) for j in row if j < m} for row in case.masked]
    said = masked
    similarities = np.zeros((n, m))
    if hidden is not None:
        similarities = np.asarray(hidden.queries) @ np.asarray(hidden.documents).T
        near = hidden_from(similarities, target, hidden.margin)
        masked = [own | more for own, more in zip(masked, near, strict=True)]
    queries = [i for i in range(n) if case.query_ok[i]]
    loss = one_way(scores, target, masked, queries, case.doc_ok)
    if symmetric:
        asked = [{i for i in range(n) if j in target[i]} for j in range(m)]
        answers = [{i for i in range(n) if j in said[i]} for j in range(m)]
        if hidden is not None:
            near = hidden_from(similarities.T, asked, hidden.margin)
            answers = [own | more for own, more in zip(answers, near, strict=True)]
        back = one_way(scores.T, asked, answers, [j for j in range(m) if asked[j]], case.query_ok)
        loss = 0.5 * (loss + back)
    right = 0
    for i in queries:
        evaluated = [j for j in np.flatnonzero(case.doc_ok) if j in target[i] or j not in masked[i]]
        right += max(evaluated, key=lambda j, i=i: scores[i, j]) in target[i]
    return loss, right / len(queries)


@pytest.mark.parametrize("block", [None, 1, 4, 11], ids=lambda block: f"block {block}")
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_accuracy_equal_their_definition(seed: int, symmetric: bool, block: int | None):
    case = make_case(seed, none_negative=seed == 2)
    loss, accuracy = case.loss(symmetric, block)
    wanted, right = defined(case, symmetric)
    np.testing.assert_allclose(loss, wanted, rtol=2e-6)
    np.testing.assert_allclose(accuracy, right, rtol=1e-6)
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize(("symmetric", "margin"), [(False, 0.0), (True, 0.0), (True, 0.2), (False, -0.1)])
def test_what_a_guide_finds_too_near_is_no_negative(symmetric: bool, margin: float, devices: int):
    """In float64, on every number of devices."""
    case = make_case(3, 8, 16)
    random = np.random.default_rng(4)
    sides = unit(random, 8, case.query_ok)[:, :3], unit(random, 16, case.doc_ok)[:, :3]
    guide: Any = tuple(each.astype(np.float64) for each in sides)
    hidden = Hidden(guide[0], guide[1], margin)
    wanted, right = defined(case, symmetric, hidden)
    assert abs(wanted - defined(case, symmetric)[0]) > 1e-3
    mesh, rows = make_mesh(8, 1, jax.devices()[:devices]), P(AXES)

    def part(arrays: Any, guide: Any) -> tuple[jax.Array, jax.Array]:
        queries, documents, target, masked, query_ok, doc_ok = arrays
        found = contrastive(
            queries, documents, jnp.float64(case.scale), target, masked, query_ok, doc_ok, symmetric,
            hidden=Hidden(guide[0], guide[1], margin), block=5, axes=AXES,
        )  # fmt: skip
        return jax.lax.psum(found, AXES)

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide = [np.asarray(each, np.float64) for each in (case.queries, case.documents)]
        arrays = (*wide, case.target, case.masked, case.query_ok, case.doc_ok)
        run = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=(rows, rows), out_specs=(P(), P()), check_vma=False))
        loss, accuracy = run(arrays, hidden[:2])
        assert loss.dtype == jnp.float64
    np.testing.assert_allclose(loss, wanted, rtol=1e-10)
    np.testing.assert_allclose(accuracy, right, rtol=1e-10)


def test_what_is_hidden_has_no_gradient_and_moves_no_guide():
    case = make_case(5, none_negative=True)
    random = np.random.default_rng(4)
    guide = jnp.asarray(unit(random, 7, case.query_ok)), jnp.asarray(unit(random, 11, case.doc_ok))

    def loss(documents: jax.Array, guide: Any, margin: float) -> jax.Array:
        queries, scale, *relation = [jnp.asarray(each) for each in (case.queries, *case.rest())]
        target, masked, query_ok, doc_ok = relation
        hidden = Hidden(guide[0], guide[1], margin)
        return contrastive(queries, documents, scale, target, masked, query_ok, doc_ok, False, hidden=hidden)[0]

    to_documents, to_guide = jax.grad(loss, argnums=(0, 1))(jnp.asarray(case.documents), guide, 2.5)  # nothing is left
    assert not np.any(to_documents) and not any(np.any(each) for each in to_guide)
    to_documents, to_guide = jax.grad(loss, argnums=(0, 1))(
        jnp.asarray(case.documents), guide, -2.5
    )  # nothing is hidden
    np.testing.assert_allclose(to_documents, case.gradients(False)[1], atol=1e-7)
    assert not any(np.any(each) for each in to_guide)


def one_query(scores: list[float], masked: list[int]) -> tuple[jax.Array, ...]:
    """The loss's arguments for a query whose similarities are `scores`; its target is the first column."""
    documents = jnp.array([[score, 1.0] for score in scores])
    none = len(scores)
    padded = jnp.array([[*masked, *[none] * (none - len(masked))]])
    target, query = jnp.array([[0]]), jnp.array([[1.0, 0.0]])
    return query, documents, jnp.float32(1.0), target, padded, jnp.ones(1, bool), jnp.ones(none, bool)


def test_by_hand():
    """Its positive at similarity 2, one negative at 0: log(1 + e^-2). Another positive, at 9, makes no difference."""
    for scores, masked in (([2.0, 0.0], [0]), ([2.0, 9.0, 0.0], [0, 1])):
        loss, accuracy = contrastive(*one_query(scores, masked), symmetric=False)
        np.testing.assert_allclose(loss, math.log(1 + math.exp(-2)), rtol=1e-6)
        assert accuracy == 1.0


def test_a_target_that_only_equals_a_negative_is_not_right():
    assert contrastive(*one_query([2.0, 2.0], [0]), symmetric=False)[1] == 0.0


@pytest.mark.parametrize("block", [None, 3], ids=lambda block: f"block {block}")
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_equals_differences_of_the_definition(symmetric: bool, block: int | None):
    case = make_case(3, none_negative=True)
    gradients = case.gradients(symmetric, block)
    step, random = 1e-6, np.random.default_rng(0)
    ways = (*(random.normal(size=x.shape) for x in (case.queries, case.documents)), np.ones(()))

    def moved(by: float) -> float:
        start = (case.queries, case.documents, np.float64(case.scale))
        q, d, scale = (x.astype(np.float64) + by * way for x, way in zip(start, ways, strict=True))
        return defined(replace(case, queries=q, documents=d, scale=scale), symmetric)[0]

    along = sum(float((np.asarray(g, np.float64) * way).sum()) for g, way in zip(gradients, ways, strict=True))
    np.testing.assert_allclose(along, (moved(step) - moved(-step)) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_query_with_no_negatives_costs_nothing_and_its_gradient_is_zero(symmetric: bool):
    case = make_case(4, none_negative=True)
    pairs = np.array([[0, column] for column in case.masked[0]])
    log_sum, highest = negatives(
        jnp.asarray(case.queries),
        jnp.asarray(case.documents),
        jnp.float32(7),
        jnp.asarray(pairs),
        jnp.asarray(case.doc_ok),
    )
    assert log_sum[0] == highest[0] == -np.inf and np.isfinite(log_sum[1:]).all()
    gradients = case.gradients(symmetric)
    assert all(np.isfinite(g).all() for g in gradients)
    if not symmetric:
        assert not np.any(gradients[0][0])


def test_a_query_with_no_negatives_makes_no_nan_on_the_way_either():
    """So that whoever hunts a NaN with JAX's own tool is not led here."""
    with jax.debug_nans(True):
        arguments = one_query([1.0, 1.0], [0, 1])
        gradients, _ = jax.grad(contrastive, argnums=(0, 1, 2), has_aux=True)(*arguments, False)
    assert not any(np.any(gradient) for gradient in gradients)


def test_padding_gets_no_gradient_and_changes_nothing():
    case = make_case(1)
    gradients = case.gradients(True)
    assert not np.any(gradients[0][~case.query_ok]) and not np.any(gradients[1][~case.doc_ok])
    loud = replace(
        case,
        queries=np.where(case.query_ok[:, None], case.queries, np.float32(9)),
        documents=np.where(case.doc_ok[:, None], case.documents, np.float32(9)),
    )
    np.testing.assert_array_equal(loud.loss(True), case.loss(True))


def test_nothing_but_padding_is_zero_and_finite():
    case = make_case(0)
    nothing = replace(
        case,
        target=np.full_like(case.target, 11),
        masked=np.full_like(case.masked, 11),
        query_ok=np.zeros(7, bool),
        doc_ok=np.zeros(11, bool),
    )
    assert nothing.loss(True)[0] == 0.0
    assert not any(np.any(g) for g in nothing.gradients(True))


def test_large_scores_neither_overflow_nor_vanish():
    """Logits of +-200 (temperature 0.005): the loss of a hopeless query is the gap itself."""
    for scores, wanted, push in (([-200.0, 200.0], 400.0, 1.0), ([200.0, -200.0], 0.0, 0.0)):
        query, documents, *rest = one_query(scores, [0])
        (loss, _), gradient = jax.value_and_grad(contrastive, argnums=1, has_aux=True)(query, documents, *rest, False)
        np.testing.assert_allclose(loss, wanted, atol=1e-6)
        np.testing.assert_allclose(gradient[:, 0], [-push, push], atol=1e-6)


def test_scores_of_narrow_vectors_are_summed_in_float32():
    random = np.random.default_rng(0)
    q, d = (jnp.asarray(random.normal(size=(4, 768)), jnp.bfloat16) for _ in range(2))
    found = scaled_similarity(q, d, jnp.float32(20.0))
    wanted = 20 * np.asarray(q, np.float64) @ np.asarray(d, np.float64).T
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # in bfloat16 the error is above 1


def test_scores_ask_for_full_precision_whatever_the_machines_default():
    x = jnp.zeros((2, 2))
    text = str(jax.make_jaxpr(scaled_similarity)(x, x, jnp.float32(1)))
    assert "HIGHEST" in text


def test_padding_and_repeats_in_the_relation_do_not_matter():
    case = make_case(2)
    wider = np.concatenate([case.masked, np.full_like(case.masked, 11), case.masked], axis=1)
    np.testing.assert_array_equal(replace(case, masked=wider).loss(True), case.loss(True))


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_blocks_equal_one_block_at_size(symmetric: bool):
    """Every way of masking at once: 96 queries that share 40 positives of 150 documents, in float32."""
    case = make_case(5, n=96, m=150)
    pieces, whole = (case.gradients(symmetric, block) for block in (16, 150))
    for piece, one in zip(pieces, whole, strict=True):
        assert np.linalg.norm(piece - one) <= 1e-6 * np.linalg.norm(one)
    np.testing.assert_allclose(case.loss(symmetric, 16)[0], case.loss(symmetric, 150)[0], rtol=1e-6)


@pytest.mark.slow
def test_the_whole_matrix_is_never_held():
    """The compiler's own account of memory: 4,096 x 8,192 similarities would be 128 MiB."""
    n, m, width = 4096, 8192, 32
    shapes = [((n, width), jnp.float32), ((m, width), jnp.float32), ((), jnp.float32)]
    shapes += [((n, 1), jnp.int32), ((n, 2), jnp.int32), ((n,), bool), ((m,), bool)]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def held(block: int) -> int:
        analysis = compiled_gradients.lower(*arguments, True, block=block).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert held(8192) > 128 * 2**20 > 4 * held(256)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature: float):
    with pytest.raises(UserError, match=r"loss.temperature: must be above 0, is"):
        LossConfig(temperature=temperature)


@pytest.mark.parametrize("dimensions", [(0,), (8, -4), (8, 8)])
def test_dimensions_that_are_not_different_positive_numbers_are_refused(dimensions: tuple[int, ...]):
    with pytest.raises(UserError, match=r"loss.dimensions: .* are not different positive numbers"):
        LossConfig(dimensions=dimensions)


def test_a_learned_temperature_starts_within_its_range():
    LossConfig(temperature=0.5)
    LossConfig(temperature=0.2, learn_temperature=True)
    with pytest.raises(UserError, match=r"loss.temperature: 0.5 is not a start for a learned one, need 0.005 to 0.2"):
        LossConfig(temperature=0.5, learn_temperature=True)
