"""Contrastive losses: unit vectors and the relation between them in, nats per query out. A similarity is a dot product,
a logit that times the scale, which is one over the temperature.

The matrix of similarities is made in blocks of columns and forgotten, forward and backward: it is never held whole.
Inside `jax.shard_map` every device holds its own queries and documents, and gathers the other side's vectors only.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtret.errors import UserError
from mtret.schema import ABOVE_0, check_limits, setting

LEARNED_TEMPERATURES = (0.005, 0.2)  # a learned one is kept within
BLOCK_ELEMENTS = 2**24  # similarities held at a time, 64 MiB of them


@dataclass(frozen=True)
class LossConfig:
    """InfoNCE over everything in the batch. Raises UserError for a temperature that cannot be."""

    temperature: float = setting(
        0.05, "similarities are divided by it: the smaller, the more the hardest negatives count", ABOVE_0
    )
    learn_temperature: bool = setting(False, "from there on, kept between 0.005 and 0.2")
    symmetric: bool = setting(False, "adds documents -> queries, and halves the sum")
    guide_margin: float | None = setting(
        None,
        "leaves out negatives that the encoder as it came finds nearer than the right document less this, a cosine "
        "(GISTEmbed); None: all count",
    )
    dimensions: tuple[int, ...] = setting(
        (),
        "Matryoshka: the mean of the loss on whole vectors and on those truncated to these, e.g. (192, 96)",
    )

    def __post_init__(self) -> None:
        check_limits(self, "loss.")
        low, high = LEARNED_TEMPERATURES
        if self.learn_temperature and not low <= self.temperature <= high:
            raise UserError(
                f"loss.temperature: {self.temperature} is not a start for a learned one, need {low} to {high}"
            )
        if any(dimension < 1 for dimension in self.dimensions) or len(set(self.dimensions)) < len(self.dimensions):
            raise UserError(f"loss.dimensions: {self.dimensions} are not different positive numbers")


class Hidden(NamedTuple):
    """What is no negative although nobody said so: a guide finds it too near (Solatorio, 2402.16829)."""

    queries: Float[Array, "B G"]  # the guide's unit vectors
    documents: Float[Array, "M G"]
    margin: float  # a document nearer than the query's nearest target less this is hidden


class _Near(NamedTuple):
    """`Hidden`, for anchors and columns: what is nearer than the limit is hidden."""

    anchors: Float[Array, "B G"]
    columns: Float[Array, "M G"]
    limit: Float[Array, "B"]


def scaled_similarity(
    anchors: Float[Array, "B D"], columns: Float[Array, "M D"], scale: Float[Array, ""]
) -> Float[Array, "B M"]:
    """Logits: scaled dot products, in float32 at least whatever the inputs: narrower scores tie and saturate."""
    return scale * _exact("bd,md->bm", anchors, columns)


def _exact(spec: str, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    # An accelerator's default precision would round float32 operands first.
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    return jnp.einsum(spec, x, y, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)


def negatives(
    anchors: Float[Array, "B D"],
    columns: Float[Array, "M D"],
    scale: Float[Array, ""],
    no_negatives: Int[Array, "pairs 2"],
    column_ok: Bool[Array, "M"],
    block: int | None = None,
    near: _Near | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Each anchor's log of the sum of exp(logit) over its negatives, and the highest of them; -inf without any.

    Args:
      no_negatives: pairs (anchor, column) that are left out; those outside the arrays say nothing.
      column_ok: columns that are there at all.
      block: columns at a time; None: as many as make BLOCK_ELEMENTS similarities.
      near: what else is left out.
    """
    n_anchors, n_columns = anchors.shape[0], columns.shape[0]
    block = min(block or max(BLOCK_ELEMENTS // n_anchors, 128), n_columns)
    missing = -n_columns % block
    columns = jnp.pad(columns, ((0, missing), (0, 0)))
    column_ok = jnp.pad(column_ok, (0, missing))
    if near is not None:
        near = jax.lax.stop_gradient(near._replace(columns=jnp.pad(near.columns, ((0, missing), (0, 0)))))
    found: Any = _negatives(anchors, columns, scale, (no_negatives, column_ok, near), block)
    return found


_Rules = tuple[Array, Array, _Near | None]  # `no_negatives`, `column_ok` and `near` of `negatives`


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _negatives(anchors: Array, columns: Array, scale: Array, rules: _Rules, block: int) -> tuple[Array, Array]:
    def add(sofar: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        highest, total = sofar
        logits = _block_logits(anchors, columns, scale, rules, start, block)
        higher = jnp.maximum(highest, logits.max(axis=1))
        shift = jnp.where(jnp.isneginf(higher), 0.0, higher)
        total = total * jnp.exp(highest - shift) + jnp.exp(logits - shift[:, None]).sum(axis=1)
        return (higher, total), None

    nothing = jnp.full_like(anchors[:, 0], -jnp.inf), jnp.zeros_like(anchors[:, 0])
    (highest, total), _ = jax.lax.scan(add, nothing, jnp.arange(0, len(columns), block))
    return jnp.where(jnp.isneginf(highest), highest, highest + jnp.log(total)), highest


def _block_logits(anchors: Array, columns: Array, scale: Array, rules: _Rules, start: Array, block: int) -> Array:
    """Logits of columns `start` and on; -inf for what is not a negative."""
    n_anchors = anchors.shape[0]
    no_negatives, column_ok, near = rules
    anchor, column = no_negatives[:, 0], no_negatives[:, 1] - start
    # A negative index would count from the end: what lies before the block is moved behind it, where it falls off.
    inside = (anchor >= 0) & (anchor < n_anchors) & (column >= 0) & (column < block)
    hidden = jnp.zeros((n_anchors, block), bool).at[jnp.where(inside, anchor, n_anchors), column].set(True, mode="drop")
    there = jax.lax.dynamic_slice_in_dim(column_ok, start, block)
    if near is not None:
        similarities = _exact("bd,md->bm", near.anchors, jax.lax.dynamic_slice_in_dim(near.columns, start, block))
        hidden |= similarities > near.limit[:, None]
    logits = scaled_similarity(anchors, jax.lax.dynamic_slice_in_dim(columns, start, block), scale)
    return jnp.where(there[None, :] & ~hidden, logits, -jnp.inf)


def _negatives_forward(*given: Any) -> tuple[tuple[Array, Array], Any]:
    found: Any = _negatives(*given)
    return found, (*given[:-1], found[0])


def _negatives_backward(block: int, saved: Any, cotangents: tuple[Array, Array]) -> tuple[Any, ...]:
    """The similarities are made again; the gradient of a log-sum-exp is the softmax. The highest carries none."""
    anchors, columns, scale, rules, log_sum = saved
    cotangent, _ = cotangents
    safe = jnp.where(jnp.isneginf(log_sum), 0.0, log_sum)

    def add(sofar: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], Array]:
        to_anchors, to_scale = sofar
        logits = _block_logits(anchors, columns, scale, rules, start, block)
        share = cotangent[:, None] * jnp.exp(logits - safe[:, None])
        to_scale += jnp.where(share == 0, 0.0, share * logits).sum()
        to_anchors += _exact("bm,md->bd", share, jax.lax.dynamic_slice_in_dim(columns, start, block))
        return (to_anchors, to_scale), _exact("bm,bd->md", share, anchors)

    nothing = jnp.zeros_like(anchors), jnp.zeros_like(anchors[0, 0])
    (to_anchors, to_scale), to_columns = jax.lax.scan(add, nothing, jnp.arange(0, len(columns), block))
    return scale * to_anchors, scale * to_columns.reshape(columns.shape), to_scale / scale, None


_negatives.defvjp(_negatives_forward, _negatives_backward)


def contrastive(
    queries: Float[Array, "B D"],
    documents: Float[Array, "M D"],
    scale: Float[Array, ""],
    target: Int[Array, "B P"],
    masked: Int[Array, "B K"],
    query_ok: Bool[Array, "B"],
    doc_ok: Bool[Array, "M"],
    symmetric: bool,
    *,
    hidden: Hidden | None = None,
    block: int | None = None,
    axes: tuple[str, ...] = (),
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean loss over the batch's queries in nats, and the share of queries with a target above all negatives.

    A query's loss is -log softmax of each target among itself and the columns that are not masked, averaged
    over its targets; 0 without a target. Oord et al., 1807.03748, with the other positives of the query left out of the
    sum. Symmetric: half of it, and half of the same for the documents that are somebody's target.

    Args:
      target, masked: columns of the whole batch, padded with their number.
      hidden: what is left out beside `masked`, for documents as for queries.
      block: columns at a time, see `negatives`.
      axes: inside `shard_map`, the mesh axes over which queries and documents are shared, in the order of the batch.
        Both numbers are then this device's part; the parts add up to the whole, and so do their gradients.
    """
    all_documents, all_ok = _gather(documents, axes), _gather(doc_ok, axes)
    n_documents = all_documents.shape[0]
    own = jnp.arange(queries.shape[0])
    no_negatives = jnp.concatenate([_pairs(own, target), _pairs(own, masked)])
    asked = target < n_documents
    column = jnp.minimum(target, n_documents - 1)
    near = None if hidden is None else _near_queries(hidden, column, asked, axes)
    rest, highest = negatives(queries, all_documents, scale, no_negatives, all_ok, block, near)
    found = all_documents[column]
    logits = scale * _exact("bd,bpd->bp", queries, found)
    weights = asked.astype(logits.dtype) / jnp.maximum(asked.sum(axis=1, keepdims=True, dtype=logits.dtype), 1)
    n_queries = jnp.maximum(jax.lax.psum(query_ok.sum(dtype=logits.dtype), axes), 1)
    loss = (weights * jax.nn.softplus(rest[:, None] - logits)).sum() / n_queries
    if symmetric:
        relation = target, masked, query_ok, hidden
        back = _documents_to_queries(queries, documents, scale, relation, logits, block, axes)
        loss = 0.5 * (loss + back)
    right = (asked & (logits > highest[:, None])).any(axis=1)
    return loss, right.sum(dtype=logits.dtype) / n_queries


def _near_queries(hidden: Hidden, column: Int[Array, "B P"], asked: Bool[Array, "B P"], axes: tuple[str, ...]) -> _Near:
    """Of this device's queries; the nearest target sets the limit."""
    documents = _gather(hidden.documents, axes)
    to_targets = _exact("bd,bpd->bp", hidden.queries, documents[column])
    limit = jnp.where(asked, to_targets, -jnp.inf).max(axis=1) - hidden.margin
    return _Near(hidden.queries, documents, jnp.where(asked.any(axis=1), limit, jnp.inf))


def _near_documents(hidden: Hidden, target: Int[Array, "B P"], axes: tuple[str, ...]) -> _Near:
    """Of this device's documents; the nearest query that asks for one sets the limit."""
    queries, every = _gather(hidden.queries, axes), _gather(target, axes)
    documents = _gather(hidden.documents, axes)
    n_documents = documents.shape[0]
    to_targets = _exact("bd,bpd->bp", queries, documents[jnp.minimum(every, n_documents - 1)])
    limit = jnp.full(n_documents, -jnp.inf, to_targets.dtype).at[every].max(to_targets, mode="drop") - hidden.margin
    first = jax.lax.axis_index(axes) * hidden.documents.shape[0]
    limit = jax.lax.dynamic_slice_in_dim(limit, first, hidden.documents.shape[0])
    return _Near(hidden.documents, queries, jnp.where(jnp.isneginf(limit), jnp.inf, limit))


def _documents_to_queries(
    queries: Array,
    documents: Array,
    scale: Array,
    relation: tuple[Array, Array, Array, Hidden | None],
    logits: Array,
    block: int | None,
    axes: tuple[str, ...],
) -> Float[Array, ""]:
    """The same with documents as anchors; one that nobody asks for (a hard negative) is none.

    Each device sums over the negatives of its own documents, then weighs the pairs of its own queries.
    """
    target, masked, query_ok, hidden = relation
    near = None if hidden is None else _near_documents(hidden, target, axes)
    first = jax.lax.axis_index(axes) * documents.shape[0]
    all_queries, all_ok = _gather(queries, axes), _gather(query_ok, axes)
    every = jnp.arange(all_queries.shape[0])
    pairs = jnp.concatenate([_pairs(every, _gather(x, axes)) for x in (target, masked)])
    pairs = jnp.stack([pairs[:, 1] - first, pairs[:, 0]], axis=1)
    rest = _gather(negatives(documents, all_queries, scale, pairs, all_ok, block, near)[0], axes)
    n_documents = rest.shape[0]
    times = jax.lax.psum(jnp.zeros(n_documents, logits.dtype).at[target.reshape(-1)].add(1.0, mode="drop"), axes)
    column = jnp.minimum(target, n_documents - 1)
    weights = (target < n_documents).astype(logits.dtype) / jnp.maximum(times[column], 1)
    n_anchors = jnp.maximum((times > 0).sum(dtype=logits.dtype), 1)
    return (weights * jax.nn.softplus(rest[column] - logits)).sum() / n_anchors


def _pairs(rows: Int[Array, "B"], columns: Int[Array, "B K"]) -> Int[Array, "pairs 2"]:
    return jnp.stack([jnp.broadcast_to(rows[:, None], columns.shape), columns], axis=-1).reshape(-1, 2)


def _gather(x: Array, axes: tuple[str, ...]) -> Array:
    return jax.lax.all_gather(x, axes, tiled=True)
