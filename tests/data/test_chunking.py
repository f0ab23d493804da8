"""Cutting with a real tokenizer: nothing is lost, nothing is too long, and ends stand where a reader would put them."""

from itertools import pairwise

import numpy as np
import pytest

from mtret.data import chunking
from mtret.data.chunking import Cut, pieces
from mtret.data.templates import render_document
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError
from mtret.models import hf


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(hf.resolve("minilm"))


def sentence(number: int, words: int) -> str:
    return " ".join(["Sentence", str(number), *["and so on"] * words]) + "."


def lengths(chunks: list[tuple[str, str]], tokenizer: Tokenizer) -> list[int]:
    return tokenizer([render_document(*each) for each in chunks]).lengths(10**9).tolist()


def test_only_what_is_too_long_is_cut(tokenizer: Tokenizer) -> None:
    short, long = sentence(1, 3), " ".join(sentence(i, 3) for i in range(9))
    exact = int(tokenizer([f"A title {long}"]).lengths(10**9)[0])
    first, whole, cut = pieces([("", short), ("A title", long), ("", long * 4)], Cut(exact, 0), tokenizer)
    assert first == [("", short)] and whole == [("A title", long)] and len(cut) > 3
    assert len(pieces([("A title", long)], Cut(exact - 1, 0), tokenizer)[0]) == 2


def test_chunks_end_with_sentences_and_together_are_the_text(tokenizer: Tokenizer) -> None:
    text = " ".join(sentence(i, 2 + i % 5) for i in range(40))
    chunks = pieces([("A title", text)], Cut(64, 0), tokenizer)[0]
    assert " ".join(own for _, own in chunks) == text
    assert all(title == "A title" and own.endswith(".") and own.startswith("Sentence") for title, own in chunks)
    assert min(lengths(chunks[:-1], tokenizer)) > 32 and max(lengths(chunks, tokenizer)) <= 64


def test_a_long_sentence_ends_between_words(tokenizer: Tokenizer) -> None:
    text = " ".join(f"unbelievableness{i}" for i in range(200))
    chunks = pieces([("", text)], Cut(32, 0), tokenizer)[0]
    assert " ".join(own for _, own in chunks) == text
    assert max(lengths(chunks, tokenizer)) <= 32


def test_chunks_repeat_whole_sentences_or_words_of_the_one_before(tokenizer: Tokenizer) -> None:
    text = " ".join(sentence(i, 1) for i in range(60))
    chunks = [own for _, own in pieces([("", text)], Cut(64, 16), tokenizer)[0]]
    assert all(own.startswith("Sentence") for own in chunks)
    for before, after in pairwise(chunks):
        number = int(after.split()[1])
        shared = before[before.index(f"Sentence {number} ") :]
        assert after.startswith(shared) and 0 < int(tokenizer([shared]).lengths(99)[0]) - 2 <= 16
    words = [f"unbelievableness{i}" for i in range(200)]
    chunks = [own.split() for _, own in pieces([("", " ".join(words))], Cut(64, 16), tokenizer)[0]]
    for before, after in pairwise(chunks):
        assert (
            after[0] in before[1:] and before[before.index(after[0]) :] == after[: len(before) - before.index(after[0])]
        )


@pytest.mark.parametrize(
    "text",
    [
        "x" * 5000,
        "\u4e2d\u6587\u3002" * 300,
        "antidisestablishmentarianism" * 3 + " " + "-".join(["pneumonoultramicroscopic"] * 200),
        "a\u0301" * 400 + "\u200b\n\n" + "\u0e20\u0e32\u0e29\u0e32" * 90,
        " ".join(["\U0001f642"] * 300),
    ],
)
@pytest.mark.parametrize("title", ["", "word " * 9, "word " * 90])
def test_no_chunk_is_too_long_or_empty_and_every_character_is_in_one(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, text: str, title: str
) -> None:
    monkeypatch.setattr(chunking, "TOKENISED_AT_ONCE", 700)
    title = title.strip()
    chunks = pieces([(title, text)], Cut(32, 0), tokenizer)[0]
    assert all(own.strip() == own and own for _, own in chunks)
    assert max(lengths(chunks, tokenizer)) <= 32
    assert {one for one, _ in chunks} == ({""} if len(title) > 99 else {title})
    whole = f"{title} {text}" if len(title) > 99 else text
    assert "".join("".join(own for _, own in chunks).split()) == "".join(whole.split())


def test_random_prose_is_covered(tokenizer: Tokenizer) -> None:
    random = np.random.default_rng(2)
    alphabet = ["alpha", "Beta.", "gamma,", "delta!", "x1.y2", "(eps)", "zeta\n", 'Eta?"', "theta;"]
    for _ in range(20):
        text = " ".join(random.choice(alphabet, 300)).strip()
        size = int(random.integers(16, 80))
        overlap = int(random.integers(0, size // 4 + 1))
        chunks = pieces([("T", text)], Cut(size, overlap), tokenizer)[0]
        assert max(lengths(chunks, tokenizer)) <= size
        place = 0
        for _, own in chunks:
            start = text.rfind(own, 0, place + len(own) + 2)
            assert start >= 0 and not text[place:start].strip()
            place = start + len(own)
        assert place == len(text)


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        (15, 0, "--chunk=15: a chunk has at least 16 tokens"),
        (40, 11, "--overlap=11: give 0 to 10, a quarter of --chunk at most"),
        (40, -1, "--overlap=-1: give 0 to 10"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(size: int, overlap: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cut(size, overlap)
