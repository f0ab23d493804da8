"""BM25, the lexical baseline: one analyser for queries and documents of any language, scores by bm25s."""

import logging
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import chain

import numpy as np
from jaxtyping import Float32, Int32

from mtret.index.exact import Rules, Run, at_best_chunks, queries_per_block, search_blocks

# Scripts written without spaces between words: Thai and Lao, Myanmar with its extensions, Khmer, kana, Han with its
# extensions and compatibility forms. Hangul has spaces.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0eff"
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\u1780-\u17ff"
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]+")
_RUNS = re.compile(rf"[{_UNSPACED}]+|[^{_UNSPACED}]+")  # splits a word where a script without spaces meets another
_IDENTIFIER_PARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+")


def tokenize(texts: Sequence[str]) -> list[list[str]]:
    """Index terms of every text, in order.

    NFKC; words are runs of letters, digits, marks and underscores. An identifier becomes its parts, split at case and
    underscore, and the whole of them joined: parts meet prose, the whole is the rarest term and so the most telling.
    Terms are lower-cased, English stop words go, the rest is stemmed (Snowball English). A run of a script that has no
    spaces becomes its character bigrams, whatever the language of the task.
    """
    # Every distinct word is analysed once: texts repeat them far more often than they differ.
    terms = _Analyser()
    find = _words().findall
    return [
        list(chain.from_iterable(map(terms.__getitem__, find(unicodedata.normalize("NFKC", text))))) for text in texts
    ]


class BM25Index:
    """A corpus under BM25 in Lucene's form (k1 1.5, b 0.75)."""

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its own level is DEBUG, heard wherever logging is set up

        terms = tokenize(documents)
        self._vocabulary: dict[str, int] = {}
        for term in chain.from_iterable(terms):
            self._vocabulary.setdefault(term, len(self._vocabulary))
        ids = [[self._vocabulary[term] for term in document] for document in terms]
        self._n_documents = len(documents)
        self._scorer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        if self._vocabulary:
            self._scorer.index((ids, self._vocabulary), create_empty_token=False, show_progress=False)

    def search(self, queries: Sequence[str], k: int, rules: Rules, block: int | None = None) -> Run:
        """The k documents of largest score; one that shares no term with the query is not a result.

        Args:
          queries: texts, without an instruction.
          k: columns of the run, whatever the size of the corpus.
          block: queries scored at once, by default as many as bounded memory allows.
        """
        block = block or queries_per_block(len(queries), self._n_documents)
        known = [[self._vocabulary[term] for term in query if term in self._vocabulary] for query in tokenize(queries)]

        def scores(start: int, stop: int) -> np.ndarray:
            # The last block is filled up, so that one shape is compiled for all.
            rows = np.zeros((block, self._n_documents), np.float32)
            for row, ids in zip(rows, known[start:stop], strict=False):
                if ids:
                    row[:] = self._scorer.get_scores_from_ids(ids)[rules.order]
            rows[rows <= 0] = -np.inf
            return rows

        return search_blocks(scores, len(queries), k, rules, block)

    def scores_at(
        self, queries: Sequence[str], documents: Int32[np.ndarray, "q u"], parents: Int32[np.ndarray, "m"] | None = None
    ) -> Float32[np.ndarray, "q u"]:
        """Of these documents of each query, or of their best chunks where `parents` tells those; 0 for NOTHING."""
        found = np.zeros(documents.shape, np.float32)
        for row, terms in enumerate(tokenize(queries)):
            ids = [self._vocabulary[term] for term in terms if term in self._vocabulary]
            if ids:
                scores = self._scorer.get_scores_from_ids(ids)
                found[row] = at_best_chunks(np.asarray(scores, np.float32)[None], documents[row : row + 1], parents)[0]
        return found


class _Analyser(dict[str, list[str]]):
    """The index terms of a word, made when first asked for."""

    def __init__(self) -> None:
        import Stemmer
        from bm25s.stopwords import STOPWORDS_EN_PLUS

        self._stem = Stemmer.Stemmer("english").stemWords
        self._stop = frozenset(STOPWORDS_EN_PLUS)

    def __missing__(self, word: str) -> list[str]:
        terms: list[str] = []
        for run in _RUNS.findall(word):
            if _UNSPACED_RUN.match(run):
                terms += [run[i : i + 2] for i in range(max(len(run) - 1, 1))]
            else:
                parts = [part.lower() for part in _IDENTIFIER_PARTS.split(run) if part]
                whole = ["".join(parts)] if len(parts) > 1 else []
                terms += self._stem([part for part in parts + whole if part not in self._stop])
        self[word] = terms
        return terms


@cache
def _marks() -> str:
    """All combining marks: vowel signs of Indic scripts are such, and a pattern's word characters leave them out."""
    return "".join(chr(i) for i in range(0x300, 0x20000) if unicodedata.category(chr(i)).startswith("M"))


@cache
def _words() -> re.Pattern[str]:
    # A word mostly ends before an ASCII character, which is known sooner than that it is none of two thousand marks.
    return re.compile(rf"\w+(?:(?![\x00-\x7f])[{_marks()}]+\w*)*")
