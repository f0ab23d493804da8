"""Token arrays and images to vectors: every distinct text once, packed into rows of its own length class, cached by
content."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int

from mtret.data.images import Images
from mtret.data.packing import Packing, fill, pack, stack, token_weights
from mtret.data.tokenize import Tokens, concatenate, offsets_of
from mtret.devices import compiler_options
from mtret.files import AnyPath, read_arrays, replace_arrays
from mtret.models.dual_encoder import encode, matmul_dtype_of
from mtret.pytrees import Tree
from mtret.types import TokenBatch

BATCH_TOKENS = 4096  # of one device's share; on a CPU larger ones fall out of its caches
BATCH_IMAGES = 64  # likewise
SHORTEST_ROW = 64
BLOCK_TOKENS = 500_000  # embedded between two writes to the cache: a minute or two on a CPU

Progress = Callable[[int], None]  # is told how many more tokens or images are done


@dataclass(frozen=True)
class Texts:
    """Some texts to embed, each cut to `limit` tokens."""

    tokens: Tokens
    limit: int


@dataclass(frozen=True)
class Embedder:
    """A tower with its parameters, ready to embed."""

    tower: nn.Module
    params: Tree
    pooling: str
    dimension: int

    def __call__(self, parts: Sequence[Texts], on_progress: Progress | None = None) -> list[Float32[np.ndarray, "n D"]]:
        """Unit vectors of each part's texts, in order. Parts are packed together: many small ones cost no padding."""
        cut = [_truncated(part) for part in parts]
        if not sum(map(len, cut)):
            return [np.zeros((0, self.dimension), np.float32) for _ in parts]
        whole = concatenate(cut)
        longest = int(np.diff(whole.offsets).max())
        rows, identity = whole.distinct(longest)
        vectors = self._distinct(whole.subset(rows), on_progress or (lambda tokens: None))
        ends = np.cumsum([len(part) for part in cut])
        return [vectors[identity[end - len(part) : end]] for end, part in zip(ends, cut, strict=True)]

    def _distinct(self, texts: Tokens, on_progress: Progress) -> Float32[np.ndarray, "n D"]:
        params, sharding, devices = _on_devices(self.params)
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        waiting: tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Array, int] | None = None
        for where, slots, batch, n_texts, tokens in _batches(texts, self.pooling, devices):
            found = _embed(self.tower)(params, jax.device_put(batch, sharding), n_texts)
            if waiting is not None:  # fetched one batch late, so that the device never waits for the host
                _fetch(vectors, waiting, on_progress)
            waiting = (where, slots, found, tokens)
        if waiting is not None:
            _fetch(vectors, waiting, on_progress)
        return vectors


@dataclass(frozen=True)
class ImageEmbedder:
    """An image tower with its parameters, ready to embed."""

    tower: nn.Module
    params: Tree

    def __call__(self, images: Images, on_progress: Progress | None = None) -> Float32[np.ndarray, "n D"]:
        """A unit vector of each image."""
        params, sharding, devices = _on_devices(self.params)
        size = BATCH_IMAGES * devices
        parts = []
        for start in range(0, len(images), size):
            rows = np.arange(start, min(start + size, len(images)))
            batch = np.zeros((size, images.size, images.size, 3), np.uint8)
            batch[: len(rows)] = images.take(rows)
            placed = jax.device_put(batch.reshape(1, devices, BATCH_IMAGES, *batch.shape[1:]), sharding)
            found = np.asarray(_embed(self.tower)(params, placed, BATCH_IMAGES))
            parts.append(found.reshape(size, -1)[: len(rows)])
            if on_progress:
                on_progress(len(rows))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Embedders:
    """All towers of a model."""

    queries: Embedder
    documents: Embedder | None = None  # of document texts, where they have a tower of their own
    images: ImageEmbedder | None = None

    def __call__(
        self,
        tasks: Sequence[tuple[Texts, Texts | Images]],
        run: Callable[[Embedder, Sequence[Texts]], list[np.ndarray]] = lambda embedder, parts: embedder(parts),
        on_images: Progress | None = None,
    ) -> list[tuple[Float32[np.ndarray, "q D"], Float32[np.ndarray, "m D"]]]:
        """Vectors of the queries and documents of each task. `run` embeds texts, by default without a cache."""
        if self.documents is None:
            together = iter(run(self.queries, [part for pair in tasks for part in pair if isinstance(part, Texts)]))
            of_queries = of_documents = together  # they stand in turns, as they are taken below
        else:
            of_queries = iter(run(self.queries, [queries for queries, _ in tasks]))
            of_documents = iter(run(self.documents, [side for _, side in tasks if isinstance(side, Texts)]))
        found = []
        for _, side in tasks:
            queries = next(of_queries)
            if isinstance(side, Texts):
                found.append((queries, next(of_documents)))
            else:
                assert self.images is not None
                found.append((queries, self.images(side, on_images)))
        return found


def _on_devices(params: Tree) -> tuple[Tree, NamedSharding, int]:
    """Parameters on every device of this process, since of several each embeds what is its own; where a batch's shards
    go; and how many devices that are."""
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return jax.device_put(params, NamedSharding(mesh, P())), NamedSharding(mesh, P(None, "data")), len(devices)


def _truncated(part: Texts) -> Tokens:
    every = np.arange(len(part.tokens))
    lengths = part.tokens.lengths(part.limit)
    tokens = part.tokens
    ids, skip = tokens.take(every, part.limit), tokens.skipped(every)
    return Tokens(ids, offsets_of(lengths), tokens.suffix, skip, tokens.prefix)


@lru_cache(maxsize=8)
def _embed(tower: nn.Module) -> Callable[[Tree, Any, int], Float[Array, "S slots D"]]:
    """(params, batch, slots) -> vectors, compiled for each shape that it meets."""
    options = compiler_options(matmul_dtype_of(tower))
    return jax.jit(partial(encode, tower), static_argnums=2, compiler_options=options)


def _fetch(vectors: np.ndarray, waiting: tuple[np.ndarray, np.ndarray, Array, int], on_progress: Progress) -> None:
    where, slots, found, tokens = waiting
    vectors[where] = np.asarray(found).reshape(-1, vectors.shape[1])[slots]
    on_progress(tokens)


def row_length(lengths: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The row of each text: the shortest power of two that holds it twice, for fill; no longer, because attention costs
    the square. The longest texts of all may stand alone in theirs."""
    longest = 1 << max(int(lengths.max()) - 1, SHORTEST_ROW - 1).bit_length()
    wanted = 2 ** np.ceil(np.log2(np.maximum(2 * lengths, SHORTEST_ROW))).astype(np.int64)
    return np.minimum(wanted, longest)


def _batches(
    texts: Tokens, pooling: str, devices: int
) -> Iterator[tuple[np.ndarray, np.ndarray, TokenBatch, int, int]]:
    """Batches of a fixed shape for each class of lengths: (texts, their slots, arrays, slots of a shard, tokens)."""
    lengths = np.diff(texts.offsets)
    classes = row_length(lengths)
    for length in np.unique(classes):
        mine = np.flatnonzero(classes == length)
        packing = pack(lengths[mine], int(length))
        shard_rows = max(BATCH_TOKENS // int(length), 1)
        per_row = int(length // lengths[mine].min())
        # Padded to a power of two: the declared shapes must not depend on what one corpus happens to hold.
        shard_slots = shard_rows * (1 << (per_row - 1).bit_length())
        block, local = np.divmod(packing.row, shard_rows)
        batches = -(-packing.rows // (shard_rows * devices))
        members = np.split(
            np.argsort(block, kind="stable"), np.bincount(block, minlength=batches * devices).cumsum()[:-1]
        )
        for batch in range(batches):
            shards, where, slots = [], [], []
            for device, inside in enumerate(members[batch * devices : (batch + 1) * devices]):
                chosen = mine[inside]
                sizes = lengths[chosen]
                segments = np.arange(len(chosen))
                shards.append(
                    fill(
                        texts.take(chosen, int(length)),
                        token_weights(sizes, pooling, texts.skipped(chosen)),
                        sizes,
                        segments,
                        Packing(local[inside], packing.start[inside], shard_rows),
                        (shard_rows, int(length)),
                        shard_slots,
                    )
                )
                where.append(chosen)
                slots.append(device * shard_slots + segments)
            tokens = int(sum(lengths[chosen].sum() for chosen in where))
            yield np.concatenate(where), np.concatenate(slots), stack(shards), shard_slots, tokens


def cached(
    embedder: Embedder,
    parts: Sequence[Texts],
    fingerprint: str,
    cache: AnyPath | None,
    on_progress: Progress | None = None,
) -> list[Float32[np.ndarray, "n D"]]:
    """As `embedder(parts)`, but what was embedded before by a model of this `fingerprint` is read from `cache`.

    Parts are embedded and written in blocks, so that an interrupted call loses one block at most.
    """
    if cache is None:
        return embedder(parts, on_progress)
    paths = [cache / f"vectors-{_key(part, fingerprint)}.safetensors" for part in parts]
    found = [read_arrays(path) for path in paths]
    missing = [i for i, arrays in enumerate(found) if arrays is None]
    sizes = [int(part.tokens.lengths(part.limit).sum()) for part in parts]
    if on_progress:
        on_progress(sum(sizes) - sum(sizes[i] for i in missing))
    vectors = [np.zeros((0, 0), np.float32) if arrays is None else arrays["vectors"] for arrays in found]
    for block in _blocks(missing, sizes):
        for i, fresh in zip(block, embedder([parts[i] for i in block], on_progress), strict=True):
            replace_arrays(paths[i], {"vectors": fresh})
            vectors[i] = fresh
    return vectors


def _blocks(parts: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Parts in order, as many at once as hold about BLOCK_TOKENS."""
    block: list[int] = []
    for part in parts:
        block.append(part)
        if sum(sizes[i] for i in block) >= BLOCK_TOKENS:
            yield block
            block = []
    if block:
        yield block


def _key(part: Texts, fingerprint: str) -> str:
    sha = hashlib.sha256(f"{fingerprint} {part.limit}".encode())
    sha.update(part.tokens.ids.tobytes())
    sha.update(part.tokens.offsets.tobytes())
    if part.tokens.skip is not None:
        sha.update(part.tokens.skip.tobytes())
    return sha.hexdigest()[:32]
