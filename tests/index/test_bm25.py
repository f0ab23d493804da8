import math

import numpy as np
import pytest

from mtret.index.bm25 import BM25Index, tokenize
from mtret.index.exact import NOTHING, Rules, tie_order


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The cats are running", ["cat", "run"]),
        ("customer_id", ["custom", "id", "customerid"]),
        ("customerId", ["custom", "id", "customerid"]),
        ("parseHTTPResponse2", ["pars", "http", "response2", "parsehttpresponse2"]),
        ("SCREAMING_SNAKE", ["scream", "snake", "screamingsnak"]),
        ("__init__", ["init"]),
        ("older than 5", ["older", "5"]),
        ("\uff26\uff35\uff2c\uff2c \u2163 \ufb01nance", ["full", "iv", "financ"]),  # full width, a numeral, a ligature
        ("don't, won't", []),
        ("東京都に行く", ["東京", "京都", "都に", "に行", "行く"]),
        ("猫 cat", ["猫", "cat"]),
        ("Python入門", ["python", "入門"]),
        ("ไปบ้าน", ["ไป", "ปบ", "บ้", "้า", "าน"]),  # the tone mark is a combining mark and stays in its word
        ("ស្ពាន", ["ស្", "្ព", "ពា", "ាន"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),  # whole words, not split at every vowel sign
        ("안녕 세계", ["안녕", "세계"]),  # Korean has spaces
        ("Größe straße", ["größe", "straße"]),
        ("", []),
        ("?! ...", []),
    ],
)
def test_terms(text: str, terms: list[str]):
    assert tokenize([text]) == [terms]


def test_texts_are_analysed_apart_and_in_order():
    assert tokenize(["two cats", "", "one cat"]) == [["two", "cat"], [], ["one", "cat"]]


DOCUMENTS = ("red apple tree", "red red car", "blue car engine oil", "green grass")
ORDER = tie_order([f"d{i}" for i in range(4)])


def lucene(query: list[str], document: list[str], corpus: list[list[str]]) -> float:
    """Okapi BM25 as Lucene computes it: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), no (k1 + 1) in the numerator."""
    mean = sum(map(len, corpus)) / len(corpus)
    total = 0.0
    for term in query:
        n = sum(term in other for other in corpus)
        tf = document.count(term)
        idf = math.log(1 + (len(corpus) - n + 0.5) / (n + 0.5))
        total += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
    return total


def test_scores_are_lucenes_bm25_with_repeated_query_terms_counted():
    run = BM25Index(DOCUMENTS).search(["red car", "car car red"], 4, Rules(ORDER))
    corpus = tokenize(DOCUMENTS)
    for row, query in enumerate((["red", "car"], ["car", "car", "red"])):
        expected = [lucene(query, document, corpus) for document in corpus]
        ranked = sorted((i for i in range(4) if expected[i] > 0), key=lambda i: -expected[i])
        assert run.documents[row].tolist() == [*ranked, NOTHING]
        np.testing.assert_allclose(run.scores[row, :3], [expected[i] for i in ranked], rtol=1e-6)


def test_a_document_without_a_common_term_is_no_result():
    run = BM25Index(DOCUMENTS).search(["grass", "nothing of the kind", "the of"], 3, Rules(ORDER))
    assert run.documents.tolist() == [[3, NOTHING, NOTHING], [NOTHING] * 3, [NOTHING] * 3]
    assert np.isneginf(run.scores[1:]).all()


def test_ties_follow_the_tie_order():
    documents = ["same words here"] * 50
    order = tie_order([f"d{i}" for i in range(50)])
    run = BM25Index(documents).search(["words"], 10, Rules(order))
    np.testing.assert_array_equal(run.documents[0], order[:10])


def test_excluded_pairs_are_never_returned():
    run = BM25Index(DOCUMENTS).search(["red", "red"], 2, Rules(ORDER, np.array([(1, 1)], np.int32)), block=1)
    assert run.documents.tolist() == [[1, 0], [0, NOTHING]]


def test_blocks_do_not_change_the_run():
    index = BM25Index(DOCUMENTS)
    queries = ["red car", "oil", "tree", "green apple", "engine"]
    whole = index.search(queries, 4, Rules(ORDER))
    for block in (1, 2, 3):
        apart = index.search(queries, 4, Rules(ORDER), block=block)
        np.testing.assert_array_equal(apart.documents, whole.documents)
        np.testing.assert_array_equal(apart.scores, whole.scores)


def test_a_corpus_without_terms_answers_nothing():
    assert (BM25Index(["the", "?!"]).search(["the"], 2, Rules(np.arange(2, dtype=np.int32))).documents == NOTHING).all()
