"""The word embeddings that a run trains: those that its texts can draw.

A multilingual encoder has 250,000, of which a mixture draws a tenth. One that no text draws has a gradient of zero at
every step, and moments of zero: all that AdamW does to it is to let it decay, by a factor that is the same for all of
them. So a run holds a table of the others alone, and the rest is scaled once where the whole encoder is written.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Int32

from mtret.data.tokenize import Tokens
from mtret.errors import UserError
from mtret.models.lora import LoraConfig
from mtret.pytrees import Tree, flatten, unflatten

ROUNDED_TO = 4096  # rows of the table that is trained
TABLE = re.compile(r"(tower|documents)/embeddings/(word|tok)_embeddings/embedding")  # a whole path


@dataclass(frozen=True)
class Vocabulary:
    """Some of an encoder's tokens, numbered anew in their order."""

    ids: Int32[np.ndarray, "kept"]  # ascending
    size: int  # of the encoder's own

    @property
    def is_whole(self) -> bool:
        """Whether it has all of them."""
        return len(self.ids) == self.size

    def renumbered(self, tokens: Tokens) -> Tokens:
        """Token arrays by the new numbers. Raises UserError for a token that is not among ours."""
        places = np.full(self.size, -1, np.int32)
        places[self.ids] = np.arange(len(self.ids))
        ids = places[tokens.ids]
        if ids.min(initial=0) < 0:
            raise UserError(
                f"the run was begun without an embedding for token {int(tokens.ids[ids.argmin()])}, which its texts "
                "hold now; use another --workdir"
            )
        return replace(tokens, ids=ids)

    def tower(self, tower: nn.Module) -> nn.Module:
        """The tower, for our tokens alone."""
        return tower.clone(config=replace(tower.config, vocab_size=len(self.ids)))  # type: ignore[attr-defined]

    def cut(self, params: Tree) -> dict[str, Any]:
        """A run's parameters, with the tables' rows of our tokens alone."""
        return unflatten({path: leaf[self.ids] if is_table(path) else leaf for path, leaf in flatten(params).items()})

    def whole(self, params: Tree, start: Tree, scale: Callable[[str], float]) -> dict[str, Any]:
        """A run's parameters with all rows again: what is not ours as it was at the start, times `scale` of its path.

        Exact but for rounding: a factor for all updates is rounded once, where each of n updates rounds.
        """
        first = flatten(start)

        def filled(path: str, leaf: Any) -> Any:
            if not is_table(path):
                return leaf
            table = np.asarray(first[path]) * np.float32(scale(path))
            table[self.ids] = leaf
            return table

        return unflatten({path: filled(path, leaf) for path, leaf in flatten(params).items()})


def is_table(path: str) -> bool:
    """Whether a parameter has a row per word."""
    return TABLE.fullmatch(path) is not None


def adapts_words(tower: Tree, lora: LoraConfig) -> bool:
    """Whether adapters change the embedding of every word."""
    return any(re.fullmatch(lora.targets, path) and is_table(f"tower/{path}") for path in flatten(tower))


def vocabulary_of(texts: Iterable[Tokens], size: int, lowest: int = 1) -> Vocabulary:
    """Of all tokens of these texts, and the `lowest` ids, which so keep their numbers (padding is 0 in a batch, and
    another in some towers); filled up to a multiple of ROUNDED_TO, as far as there are as many.
    """
    there = np.zeros(size, bool)
    there[:lowest] = True
    for tokens in texts:
        there[tokens.ids] = True
    missing = min(-int(there.sum()) % ROUNDED_TO, size - int(there.sum()))
    there[np.flatnonzero(~there)[:missing]] = True
    return Vocabulary(np.flatnonzero(there).astype(np.int32), size)
