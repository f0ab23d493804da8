"""Long documents cut into chunks that an encoder reads whole, at ends of sentences or words where there are some."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from mtret.data.templates import render_document
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError

LEAST_CHUNK = 16
TOKENISED_AT_ONCE = 100_000  # characters of a text; its tokens' places take a hundred times the memory
# What a sentence begins after: its closing mark, with quotes and brackets, and a space, which some scripts leave out;
# or the end of a line.
SENTENCE = re.compile(
    r"[.!?\u2026\u061f\u0964][\"'\u2019\u201d)\]]*\s+|[\u3002\uff01\uff1f][\u300d\u300f\uff09]*|\n\s*"
)


@dataclass(frozen=True)
class Cut:
    """How long documents are cut."""

    tokens: int  # of a chunk at most, with its title and what the tokenizer adds; only documents with more are cut
    overlap: int  # tokens at most that a chunk repeats of the one before

    def __post_init__(self) -> None:
        if self.tokens < LEAST_CHUNK:
            raise UserError(f"--chunk={self.tokens}: a chunk has at least {LEAST_CHUNK} tokens")
        if not 0 <= self.overlap <= self.tokens // 4:
            raise UserError(f"--overlap={self.overlap}: give 0 to {self.tokens // 4}, a quarter of --chunk at most")


Piece = tuple[str, str]  # title and text


def pieces(documents: Sequence[Piece], cut: Cut, tokenizer: Tokenizer) -> list[list[Piece]]:
    """Chunks of every document, in order; a document that is short enough is its only one.

    Every chunk has the title of its document, unless that takes more than half of it: then it is cut as text is.
    """
    lengths = tokenizer([render_document(*each) for each in documents]).lengths(2**31)
    return [
        [each] if length <= cut.tokens else _pieces(*each, cut, tokenizer)
        for each, length in zip(documents, lengths, strict=True)
    ]


def _pieces(title: str, text: str, cut: Cut, tokenizer: Tokenizer) -> list[Piece]:
    added = int(tokenizer([""]).lengths(2**31)[0])
    own = int(tokenizer([title]).lengths(2**31)[0]) - added if title else 0
    if own > cut.tokens // 2:
        title, text, own = "", render_document(title, text), 0
    room, found = cut.tokens - added - own, []
    cuts = [text[start:end].strip() for start, end in _spans(text, room, cut.overlap, tokenizer)]
    while cuts:
        lengths = tokenizer([render_document(title, each) for each in cuts]).lengths(2**31)
        within = lengths <= cut.tokens
        first = len(cuts) if within.all() or room < 2 else int(np.argmin(within))
        found += [(title, each) for each in cuts[:first]]
        if first == len(cuts):
            return found
        # A word that was cut is tokenised otherwise than within the whole, and may have more tokens: in two, then.
        room = max((int(lengths[first]) - added - own + 1) // 2, 1)
        halves = [cuts[first][start:end].strip() for start, end in _spans(cuts[first], room, 0, tokenizer)]
        cuts = [*halves, *cuts[first + 1 :]]
    return found


def _spans(text: str, room: int, overlap: int, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """From and to which character each chunk goes: `room` tokens at most."""
    starts, ends = _token_places(text, tokenizer)
    total = len(starts)
    sentences = np.searchsorted(starts, [match.end() for match in SENTENCE.finditer(text)])
    words = np.flatnonzero(starts[1:] > ends[:-1]) + 1
    begin = 0
    while total - begin > room:
        stop = _last(sentences, begin + room // 2, begin + room) or _last(words, begin + room // 2, begin + room)
        stop = stop or begin + room
        yield int(starts[begin]) if begin else 0, int(starts[stop])
        again = max(stop - overlap, begin + 1)
        begin = _first(sentences, again, stop) or _first(words, again, stop) or again
    if total:
        yield int(starts[begin]) if begin else 0, len(text)


def _token_places(text: str, tokenizer: Tokenizer) -> tuple[Int64[np.ndarray, "tokens"], Int64[np.ndarray, "tokens"]]:
    """First character of every token, and the one behind its last; tokens without a character are left out."""
    parts, begin = [np.zeros((0, 2), np.int64)], 0
    while begin < len(text):
        end = begin + TOKENISED_AT_ONCE
        if end < len(text):  # never within a word, unless it is longer than that
            space = max(text.rfind(" ", begin + 1, end), text.rfind("\n", begin + 1, end))
            end = space if space > 0 else end
        parts.append(tokenizer.places(text[begin:end]) + begin)
        begin = end
    places = np.concatenate(parts)
    return places[:, 0], places[:, 1]


def _last(borders: Int64[np.ndarray, "n"], above: int, at_most: int) -> int:
    """The last border in (above, at_most]; 0 where there is none."""
    place = int(np.searchsorted(borders, at_most, side="right")) - 1
    return int(borders[place]) if place >= 0 and borders[place] > above else 0


def _first(borders: Int64[np.ndarray, "n"], at_least: int, at_most: int) -> int:
    """The first border in [at_least, at_most]; 0 where there is none."""
    place = int(np.searchsorted(borders, at_least))
    return int(borders[place]) if place < len(borders) and borders[place] <= at_most else 0
