"""Texts to token arrays: once, whole, cached under a name made of their content."""

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int, Int32, Int64

from mtret.files import AnyPath, read_arrays, replace_arrays


@dataclass(frozen=True)
class Tokens:
    """Token ids of whole texts laid end to end, special tokens included; truncated only when read."""

    ids: Int32[np.ndarray, "tokens"]
    offsets: Int64[np.ndarray, "bounds"]  # of the texts, one more than there are
    suffix: int  # special tokens at the end of every text, kept by a truncation
    skip: Int32[np.ndarray, "texts"] | None = None  # of each text, tokens at its start that pooling leaves out
    # Special tokens at the start of every text, where a truncation keeps the text's end; None: it keeps the start.
    prefix: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def skipped(self, texts: Int[np.ndarray, "n"]) -> Int32[np.ndarray, "n"]:
        """Tokens at the start of each chosen text that pooling leaves out."""
        return np.zeros(len(texts), np.int32) if self.skip is None else self.skip[texts]

    def lengths(self, limit: int) -> Int64[np.ndarray, "texts"]:
        """Tokens of each text, truncated to `limit`."""
        return np.minimum(np.diff(self.offsets), limit)

    def take(self, texts: Int[np.ndarray, "n"], limit: int) -> Int32[np.ndarray, "tokens"]:
        """Ids of the chosen texts, truncated to `limit`, laid end to end."""
        starts, ends = self.offsets[texts], self.offsets[texts + 1]
        lengths = np.minimum(ends - starts, limit)
        within = ranges(lengths)
        # The last `suffix` ids of a text come from its own end, so that a truncated text still closes properly.
        from_end = np.repeat(lengths, lengths) - within
        last = from_end <= self.suffix if self.prefix is None else within >= self.prefix
        index = np.where(last, np.repeat(ends, lengths) - from_end, np.repeat(starts, lengths) + within)
        return self.ids[index]

    def distinct(self, limit: int) -> tuple[Int64[np.ndarray, "distinct"], Int32[np.ndarray, "texts"]]:
        """Rows of the first text of each distinct truncated id sequence, and for each text which of those it equals."""
        flat = self.take(np.arange(len(self)), limit)
        ends = np.cumsum(self.lengths(limit))
        starts = ends - self.lengths(limit)
        first: dict[tuple[int, bytes], int] = {}
        rows: list[int] = []
        identity = np.empty(len(self), np.int32)
        skips = self.skipped(np.arange(len(self))).tolist()
        for i, (start, end, skip) in enumerate(zip(starts.tolist(), ends.tolist(), skips, strict=True)):
            found = first.setdefault((skip, flat[start:end].tobytes()), len(rows))
            if found == len(rows):
                rows.append(i)
            identity[i] = found
        return np.array(rows, np.int64), identity

    def cut_alike(self, limit: int) -> int:
        """How many distinct texts read like another one when they are truncated to `limit`."""
        longer = np.flatnonzero(np.diff(self.offsets) > limit)
        if not len(longer):
            return 0
        some = self.subset(longer)
        whole, _ = some.distinct(int(np.diff(some.offsets).max()))
        truncated, _ = some.distinct(limit)
        return len(whole) - len(truncated)

    def subset(self, texts: Int[np.ndarray, "n"]) -> "Tokens":
        """The chosen texts, whole."""
        lengths = self.offsets[texts + 1] - self.offsets[texts]
        whole = int(lengths.max(initial=0))
        return Tokens(self.take(texts, whole), offsets_of(lengths), self.suffix, self.skipped(texts), self.prefix)


def ranges(lengths: Int[np.ndarray, "n"]) -> Int64[np.ndarray, "total"]:
    """[3, 2] -> [0, 1, 2, 0, 1]"""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def offsets_of(lengths: Int[np.ndarray, "n"]) -> Int64[np.ndarray, "n+1"]:
    """[3, 2] -> [0, 3, 5]"""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """All texts of all parts (of one tokenizer), in order."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    skip = np.concatenate([part.skipped(np.arange(len(part))) for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    return Tokens(ids, offsets_of(lengths), parts[0].suffix, skip, parts[0].prefix)


class Tokenizer:
    """An encoder folder's tokenizer, as its settings say, and with a cache of what it has done. It truncates nothing:
    that is done where texts are read.

    With `pools_prompt` False, the prompt before a text is read by the encoder, but left out of the text's vector.
    """

    def __init__(self, folder: AnyPath, cache: AnyPath | None = None, pools_prompt: bool = True):
        self.cache, self.pools_prompt = cache, pools_prompt
        from mtret.data.tokenizer_backend import open_backend

        self._backend, content, side = open_backend(folder)
        library = importlib.metadata.version("tokenizers")  # which may read the same file otherwise
        self._fingerprint = hashlib.sha256(content + library.encode()).digest()
        mask = self._backend.encode("a").special_tokens_mask
        self._suffix = next((i for i, special in enumerate(reversed(mask)) if not special), 0)
        prefix = next((i for i, special in enumerate(mask) if not special), 0)
        self._prefix = prefix if side == "left" else None

    def after(self, prompt: str, texts: Sequence[str]) -> Tokens:
        """Token arrays of texts with a prompt before each."""
        tokens = self([prompt + text for text in texts])
        if self.pools_prompt or not prompt:
            return tokens
        # As sentence-transformers counts it: with the special token before it, without the one behind.
        length = len(self._backend.encode(prompt).ids) - min(self._suffix, 1)
        return replace(tokens, skip=np.full(len(texts), length, np.int32))

    def length(self, text: str) -> int:
        """Tokens of a text, special ones included."""
        return len(self._backend.encode(text).ids)

    def no_room(self, prompt: str, limit: int) -> str:
        """Why nothing of a text is read behind its prompt, of which `limit` tokens are read; empty where some is."""
        taken = self.length(prompt)
        return "" if taken < limit else f"its prompt takes {taken} of the {limit} tokens that are read: no text is left"

    def places(self, text: str) -> Int64[np.ndarray, "tokens 2"]:
        """First character of every token of a text, and the one behind its last; none of what is added to a text."""
        found = np.array(self._backend.encode(text, add_special_tokens=False).offsets, np.int64).reshape(-1, 2)
        return found[found[:, 1] > found[:, 0]]

    def __call__(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> Tokens:
        """Token arrays of whole texts; read from the cache where the same texts were tokenised before."""
        path = self.cache / f"tokens-{self._key(texts)}.safetensors" if self.cache else None
        if path is not None and (arrays := read_arrays(path)):
            return Tokens(arrays["ids"], arrays["offsets"], self._suffix, None, self._prefix)
        parts, lengths, block = [], [], 2048
        for start in range(0, len(texts), block):
            encoded = self._backend.encode_batch_fast(list(texts[start : start + block]))
            parts.extend(np.asarray(one.ids, np.int32) for one in encoded)
            lengths.extend(len(one.ids) for one in encoded)
            if on_progress:
                on_progress(len(encoded))
        ids = np.concatenate(parts) if parts else np.empty(0, np.int32)
        tokens = Tokens(ids, offsets_of(np.array(lengths, np.int64)), self._suffix, None, self._prefix)
        if path is not None:
            replace_arrays(path, {"ids": tokens.ids, "offsets": tokens.offsets})
        return tokens

    def _key(self, texts: Sequence[str]) -> str:
        digest = hashlib.sha256(self._fingerprint)
        for text in texts:
            raw = text.encode()
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
        return digest.hexdigest()[:32]
