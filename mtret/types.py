"""The arrays that cross module borders, and the glossary of their dimension names.

C  chunks of a batch, encoded one after the other
S  shards of a batch, sharded over the mesh axis `data`; part of the configuration: batches are the same on every mesh
R  rows of a shard's chunk
L  tokens of a row
N  texts of a shard: its queries, then its documents
B  queries of the whole batch, S * Nq
M  documents of the whole batch, S * (N - Nq)
H  pixels of an image's side
P  sampled positives per query
K  documents per query that are in the batch and masked: no negatives
D  dimensions of an embedding
G  dimensions of the guide's
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8


class TokenBatch(NamedTuple):
    """Texts packed several to a row. Position restarts with every text; padding has segment N and pooling weight 0."""

    ids: Int[Array, "C S R L"]
    position: Int[Array, "C S R L"]
    segment: Int[Array, "C S R L"]  # the text's index in its shard
    # What the token adds to its text's embedding: mean, cls and last are just weights. Of several modes, one of each.
    pool: Float[Array, "C S R L *modes"]


class Guide(NamedTuple):
    """Unit vectors of a batch's texts by an encoder that is not trained."""

    queries: Float[Array, "B G"]
    documents: Float[Array, "M G"]


class PairBatch(NamedTuple):
    """One task's queries and documents with the relation between them. Each distinct one stands in it once."""

    texts: TokenBatch  # per shard: [:Nq] queries, [Nq:N] documents; queries alone where the documents are separate
    documents: TokenBatch | UInt8[Array, "C S R H H 3"] | None  # texts or images that another tower reads
    target: Int[Array, "B P"]  # sampled positives, as columns; padded with M
    masked: Int[Array, "B K"]  # every training positive in the batch, and what is excluded; padded with M
    query_ok: Bool[Array, "B"]
    doc_ok: Bool[Array, "M"]
    chunks: Int[Array, "2"]  # how many are filled, of texts and of documents
    task: Int[Array, ""]
    guide: Guide | None = None  # where the loss asks for it
