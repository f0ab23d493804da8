"""Contrastive losses: unit vectors and the relation between them in, nats per query out.

Losses see the global arrays; how those are sharded is the caller's.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtret.errors import UserError

LEARNED_TEMPERATURES = (0.005, 0.2)  # a learned one is kept within


@dataclass(frozen=True)
class LossConfig:
    """InfoNCE over everything in the batch. Raises UserError for a temperature that cannot be."""

    temperature: float = 0.05  # similarities are divided by it
    learn_temperature: bool = False  # starts at `temperature`, kept within LEARNED_TEMPERATURES
    symmetric: bool = False  # adds documents -> queries, and halves the sum

    def __post_init__(self) -> None:
        low, high = LEARNED_TEMPERATURES
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"loss.temperature: {self.temperature} is not a positive number")
        if self.learn_temperature and not low <= self.temperature <= high:
            raise UserError(f"loss.temperature: {self.temperature} is no start for a learned one, need {low} to {high}")


def similarity(
    queries: Float[Array, "B D"], documents: Float[Array, "M D"], scale: Float[Array, ""]
) -> Float[Array, "B M"]:
    """Scaled dot products, in float32 whatever the inputs: narrower scores tie and saturate."""
    # An accelerator's default precision would round float32 operands first.
    exact = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    return scale * jnp.einsum("bd,md->bm", queries, documents, **exact)


def relation(columns: Int[Array, "B K"], n_columns: int) -> Bool[Array, "B n_columns"]:
    """[b, m] is true where m stands in row b; the padding n_columns falls off."""
    rows = jnp.arange(columns.shape[0])[:, None]
    return jnp.zeros((columns.shape[0], n_columns), bool).at[rows, columns].set(True, mode="drop")


def info_nce(
    logits: Float[Array, "B M"], target: Bool[Array, "B M"], known: Bool[Array, "B M"], column_ok: Bool[Array, "M"]
) -> Float[Array, "B"]:
    """-log softmax of each target among itself and the columns not known to be positive, averaged over a row's targets.

    A row without a target yields 0. Oord et al., 1807.03748, with the other positives of the row left out of the sum.
    """
    negative = column_ok[None, :] & ~known & ~target
    none = ~negative.any(axis=1)
    # A row without negatives must not send a gradient through the logarithm of an empty sum.
    safe = jnp.where(negative | none[:, None], logits, -jnp.inf)
    rest = jnp.where(none, -jnp.inf, jax.nn.logsumexp(safe, axis=1))
    nats = jnp.where(target, jnp.logaddexp(rest[:, None], logits) - logits, 0.0)
    return nats.sum(axis=1) / jnp.maximum(target.sum(axis=1, dtype=nats.dtype), 1)


def contrastive(
    queries: Float[Array, "B D"],
    documents: Float[Array, "M D"],
    scale: Float[Array, ""],
    target: Int[Array, "B P"],
    known: Int[Array, "B K"],
    query_ok: Bool[Array, "B"],
    doc_ok: Bool[Array, "M"],
    symmetric: bool,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean loss over the batch's queries in nats, and the share of queries with a target above all negatives."""
    logits = similarity(queries, documents, scale)
    n_documents = documents.shape[0]
    targets, positives = relation(target, n_documents), relation(known, n_documents)
    loss = _mean(info_nce(logits, targets, positives, doc_ok), query_ok)
    if symmetric:
        asked = targets.any(axis=0)  # a document that nobody asks for (a hard negative) is no anchor
        loss = 0.5 * (loss + _mean(info_nce(logits.T, targets.T, positives.T, query_ok), asked))
    best = jnp.argmax(jnp.where(doc_ok[None, :] & (targets | ~positives), logits, -jnp.inf), axis=1)
    right = targets[jnp.arange(queries.shape[0]), best]
    return loss, _mean(right.astype(loss.dtype), query_ok)


def _mean(values: Float[Array, "n"], ok: Bool[Array, "n"]) -> Float[Array, ""]:
    return jnp.where(ok, values, 0.0).sum() / jnp.maximum(ok.sum(dtype=values.dtype), 1)
