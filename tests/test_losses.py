"""The loss against its definition, written as nested loops over float64 numbers."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.errors import UserError
from mtret.losses import LossConfig, contrastive, info_nce, relation, similarity

compiled_loss = jax.jit(contrastive, static_argnums=7)
compiled_gradients = jax.jit(jax.grad(contrastive, argnums=(0, 1), has_aux=True), static_argnums=7)


@dataclass(frozen=True)
class Case:
    """Vectors and a relation, with padded queries and documents wherever `contrastive` allows them."""

    queries: np.ndarray
    documents: np.ndarray
    target: np.ndarray
    known: np.ndarray
    query_ok: np.ndarray
    doc_ok: np.ndarray
    scale: float = 7.0

    def loss(self, symmetric: bool) -> tuple[jax.Array, jax.Array]:
        return compiled_loss(self.queries, self.documents, *self.rest(), symmetric)

    def gradients(self, symmetric: bool) -> tuple[jax.Array, jax.Array]:
        return compiled_gradients(self.queries, self.documents, *self.rest(), symmetric)[0]

    def rest(self) -> tuple:
        return np.float32(self.scale), self.target, self.known, self.query_ok, self.doc_ok


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
    known, target = [], []
    for i in range(n):
        positives = random.choice(there, random.integers(1, 5), replace=False).tolist() if query_ok[i] else []
        if none_negative and i == 0:
            positives = there.tolist()
        known.append(set(positives))
        target.append(set(positives[: random.integers(1, 3)]))
    return Case(
        unit(random, n, query_ok),
        unit(random, m, doc_ok),
        columns(target, 2, m, random),
        columns(known, m, m, random),
        query_ok,
        doc_ok,
    )


def one_way(
    scores: np.ndarray, target: list[set[int]], known: list[set[int]], anchors: list[int], ok: np.ndarray
) -> float:
    """Mean over anchors of the mean over targets of -log(e^t / (e^t + sum of e^s over columns not positive))."""
    losses = []
    for i in anchors:
        negatives = [math.exp(scores[i, j]) for j in np.flatnonzero(ok) if j not in known[i] | target[i]]
        terms = [-math.log(math.exp(scores[i, j]) / (math.exp(scores[i, j]) + sum(negatives))) for j in target[i]]
        losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


def defined(case: Case, symmetric: bool) -> tuple[float, float]:
    scores = case.scale * case.queries.astype(np.float64) @ case.documents.astype(np.float64).T
    n, m = scores.shape
    target = [{int(j) for j in row if j < m} for row in case.target]
    known = [{int(j) for j in row if j < m} for row in case.known]
    queries = [i for i in range(n) if case.query_ok[i]]
    loss = one_way(scores, target, known, queries, case.doc_ok)
    if symmetric:
        asked = [{i for i in range(n) if j in target[i]} for j in range(m)]
        answers = [{i for i in range(n) if j in known[i]} for j in range(m)]
        back = one_way(scores.T, asked, answers, [j for j in range(m) if asked[j]], case.query_ok)
        loss = 0.5 * (loss + back)
    right = 0
    for i in queries:
        judged = [j for j in np.flatnonzero(case.doc_ok) if j in target[i] or j not in known[i]]
        right += max(judged, key=lambda j, i=i: scores[i, j]) in target[i]
    return loss, right / len(queries)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_accuracy_equal_their_definition(seed: int, symmetric: bool):
    case = make_case(seed)
    loss, accuracy = case.loss(symmetric)
    wanted, right = defined(case, symmetric)
    np.testing.assert_allclose(loss, wanted, rtol=2e-6)
    np.testing.assert_allclose(accuracy, right, rtol=1e-6)
    assert loss.dtype == jnp.float32


def test_by_hand():
    """One query, its positive at similarity 1, one negative at 0, at scale 2: log(1 + e^-2)."""
    logits = jnp.array([[2.0, 0.0]])
    target = jnp.array([[True, False]])
    nats = info_nce(logits, target, target, jnp.ones(2, bool))
    np.testing.assert_allclose(nats, [math.log(1 + math.exp(-2))], rtol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_equals_differences_of_the_definition(symmetric: bool):
    case = make_case(3, none_negative=True)
    gradients = case.gradients(symmetric)
    step, random = 1e-6, np.random.default_rng(0)
    ways = tuple(random.normal(size=x.shape) for x in (case.queries, case.documents))

    def moved(by: float) -> float:
        q, d = (x.astype(np.float64) + by * way for x, way in zip((case.queries, case.documents), ways, strict=True))
        return defined(replace(case, queries=q, documents=d), symmetric)[0]

    along = sum(float((np.asarray(g, np.float64) * way).sum()) for g, way in zip(gradients, ways, strict=True))
    np.testing.assert_allclose(along, (moved(step) - moved(-step)) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_query_with_no_negatives_costs_nothing_and_its_gradient_is_zero(symmetric: bool):
    case = make_case(4, none_negative=True)
    nats = info_nce(
        similarity(jnp.asarray(case.queries), jnp.asarray(case.documents), jnp.float32(case.scale)),
        relation(jnp.asarray(case.target), 11),
        relation(jnp.asarray(case.known), 11),
        jnp.asarray(case.doc_ok),
    )
    assert nats[0] == 0.0
    gradients = case.gradients(symmetric)
    assert all(np.isfinite(g).all() for g in gradients)
    if not symmetric:
        assert not np.any(gradients[0][0])


def test_a_row_with_no_negatives_makes_no_nan_on_the_way_either():
    """So that whoever hunts a NaN with JAX's own tool is not led here."""
    every = jnp.ones((1, 3), bool)
    with jax.debug_nans(True):
        gradient = jax.grad(lambda x: info_nce(x, every, every, jnp.ones(3, bool)).sum())(jnp.ones((1, 3)))
    assert not np.any(gradient)


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
        known=np.full_like(case.known, 11),
        query_ok=np.zeros(7, bool),
        doc_ok=np.zeros(11, bool),
    )
    assert nothing.loss(True)[0] == 0.0
    assert not any(np.any(g) for g in nothing.gradients(True))


def test_large_scores_neither_overflow_nor_vanish():
    """Logits of +-200 (temperature 0.005): the loss of a hopeless query is the gap itself."""
    logits = jnp.array([[-200.0, 200.0], [200.0, -200.0]])
    target = jnp.array([[True, False], [True, False]])
    value, gradient = jax.value_and_grad(lambda x: info_nce(x, target, target, jnp.ones(2, bool)).sum())(logits)
    np.testing.assert_allclose(value, 400.0)
    np.testing.assert_allclose(gradient, [[-1.0, 1.0], [0.0, 0.0]], atol=1e-6)


def test_scores_of_narrow_vectors_are_summed_in_float32():
    random = np.random.default_rng(0)
    q, d = (jnp.asarray(random.normal(size=(4, 768)), jnp.bfloat16) for _ in range(2))
    found = similarity(q, d, jnp.float32(20.0))
    wanted = 20 * np.asarray(q, np.float64) @ np.asarray(d, np.float64).T
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # in bfloat16 the error is above 1


def test_scores_ask_for_full_precision_whatever_the_machines_default():
    x = jnp.zeros((2, 2))
    text = str(jax.make_jaxpr(similarity)(x, x, jnp.float32(1)))
    assert "HIGHEST" in text


def test_relation_drops_the_padding_and_repeats_do_not_matter():
    found = relation(jnp.array([[0, 3, 3], [4, 4, 1], [4, 4, 4]]), 4)
    wanted = [[True, False, False, True], [False, True, False, False], [False] * 4]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature: float):
    with pytest.raises(UserError, match=r"loss.temperature: .* is not a positive number"):
        LossConfig(temperature=temperature)


def test_a_learned_temperature_starts_within_its_range():
    LossConfig(temperature=0.5)
    LossConfig(temperature=0.2, learn_temperature=True)
    with pytest.raises(UserError, match=r"loss.temperature: 0.5 is no start for a learned one, need 0.005 to 0.2"):
        LossConfig(temperature=0.5, learn_temperature=True)
