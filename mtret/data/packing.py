"""Texts into rows of tokens: several to a row, told apart by segment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64, Shaped

from mtret.types import TokenBatch


@dataclass(frozen=True)
class Packing:
    """Where each text lies."""

    row: Int64[np.ndarray, "texts"]
    start: Int64[np.ndarray, "texts"]
    rows: int


def pack(lengths: Int[np.ndarray, "texts"], row_length: int) -> Packing:
    """Best-fit decreasing over the histogram of lengths: all texts of one length are placed together.

    Each goes to the fullest row that still holds it. The cost is that of distinct lengths times distinct gaps, not of
    texts. No text may be empty, or longer than a row.
    """
    order = np.argsort(-lengths, kind="stable")
    row, start = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    gaps: dict[int, list[int]] = {}  # free tokens -> rows with so many
    rows = 0
    distinct, counts = np.unique(lengths, return_counts=True)
    place = 0
    for length, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            gap = min((free for free, open_rows in gaps.items() if free >= length and open_rows), default=None)
            each = (gap or row_length) // length
            wanted = -(-left // each)  # a row that took one text is now the fullest, so it takes them until none fits
            if gap is None:
                chosen, gap = list(range(rows, rows + wanted)), row_length
                rows += wanted
            else:
                chosen, gaps[gap] = gaps[gap][:wanted], gaps[gap][wanted:]
            taken = min(left, each * len(chosen))
            texts = order[place : place + taken]
            slot = np.arange(taken)
            row[texts] = np.asarray(chosen)[slot // each]
            start[texts] = row_length - gap + slot % each * length
            filled = np.bincount(slot // each, minlength=len(chosen))
            for which, texts_in_row in zip(chosen, filled.tolist(), strict=True):
                gaps.setdefault(gap - texts_in_row * length, []).append(which)
            place, left = place + taken, left - taken
    return Packing(row, start, rows)


def token_weights(
    lengths: Int[np.ndarray, "texts"], pooling: str, skip: Int[np.ndarray, "texts"] | int = 0
) -> Float32[np.ndarray, "tokens *modes"]:
    """Pooling weights of texts laid end to end; of several modes ("cls+mean") side by side.

    `mean`: the same for each token, 1 in sum; `mean_sqrt_len`: the root of their number in sum; `weightedmean`: in
    proportion to the token's place in its text, from 1, and 1 in sum; `max`: 1 for each that is looked at; `cls`: the
    first one; `last`: the last one. The first `skip` tokens of a text count as not there, but for its last token.
    """
    skip = np.minimum(skip, lengths - 1)
    modes = [_mode_weights(lengths, mode, skip) for mode in pooling.split("+")]
    return modes[0] if len(modes) == 1 else np.stack(modes, axis=-1)


def _mode_weights(
    lengths: Int[np.ndarray, "texts"], mode: str, skip: Int[np.ndarray, "texts"]
) -> Float32[np.ndarray, "tokens"]:
    ends = np.cumsum(lengths)
    if mode in ("cls", "last"):
        weights = np.zeros(int(lengths.sum()), np.float32)
        weights[ends - lengths + skip if mode == "cls" else ends - 1] = 1.0
        return weights
    within = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    counted = lengths - skip
    if mode == "weightedmean":  # places skip + 1 to length
        each = (within + 1.0) / np.repeat(counted * (skip + 1.0 + lengths) / 2, lengths)
    else:
        of_text = {"mean": 1.0 / counted, "mean_sqrt_len": 1.0 / np.sqrt(counted), "max": np.ones(len(lengths))}[mode]
        each = np.repeat(of_text, lengths)
    return np.where(within >= np.repeat(skip, lengths), each, 0).astype(np.float32)


@dataclass(frozen=True)
class Rows:
    """Packed tokens of one shard."""

    ids: Int[np.ndarray, "R L"]
    position: Int[np.ndarray, "R L"]
    segment: Int[np.ndarray, "R L"]
    pool: Float32[np.ndarray, "R L *modes"]


def stack(shards: Sequence[Rows], chunks: int = 1) -> TokenBatch:
    """The shards of a batch, each cut into chunks of equally many rows; NumPy arrays."""

    def cut(array: Shaped[np.ndarray, "rows L *modes"]) -> Shaped[np.ndarray, "chunks R L *modes"]:
        return array.reshape(chunks, -1, *array.shape[1:])

    arrays: Any = (np.stack([cut(getattr(rows, name)) for rows in shards], axis=1) for name in TokenBatch._fields)
    return TokenBatch(*arrays)


def fill(
    flat_ids: Int[np.ndarray, "tokens"],
    flat_pool: Float32[np.ndarray, "tokens *modes"],
    lengths: Int[np.ndarray, "texts"],
    segments: Int[np.ndarray, "texts"],
    packing: Packing,
    shape: tuple[int, int],
    padding_segment: int,
) -> Rows:
    """Copies texts laid end to end to where `packing` puts them. `segments`: each text's index in its shard."""
    rows, row_length = shape
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    target = np.repeat(packing.row * row_length + packing.start, lengths) + within
    ids = np.zeros(rows * row_length, np.int32)
    position = np.zeros(rows * row_length, np.int32)
    segment = np.full(rows * row_length, padding_segment, np.int32)
    pool = np.zeros((rows * row_length, *flat_pool.shape[1:]), np.float32)
    ids[target], position[target], pool[target] = flat_ids, within, flat_pool
    segment[target] = np.repeat(segments, lengths)
    return Rows(*(x.reshape(*shape, *x.shape[1:]) for x in (ids, position, segment, pool)))


def deal(
    texts: Int[np.ndarray, "n"], lengths: Int[np.ndarray, "all"], shards: int, slots: int
) -> Int32[np.ndarray, "shards slots"]:
    """Deals texts to shards, longest first and back and forth, so that the shards hold about the same tokens."""
    dealt = np.full((shards, slots), -1, np.int32)
    order = texts[np.argsort(-lengths[texts], kind="stable")]
    turn, place = np.divmod(np.arange(len(order)), shards)
    dealt[np.where(turn % 2, shards - 1 - place, place), turn] = order
    return dealt
