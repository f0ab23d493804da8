"""Corpora whose documents stand in chunks: what is read, refused, trained on and remembered."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from mtret.data.chunks import chunk_rows, every_chunk, parent_keys, shared_rarity
from mtret.data.formats import read_task
from mtret.data.inspection import check, stats
from mtret.data.roles import document_hashes, role_of, seen_document_share, shared_documents, training_record
from mtret.data.tasks import Judgements, Task
from mtret.data.templates import Templates
from mtret.data.tokenize import Tokenizer, Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, training_task
from mtret.errors import UserError

HEADER = "query-id\tcorpus-id\tscore\n"
# Two chunks of `kb1` lie apart; `kb3` is in one piece; `kb4` has one chunk only.
CORPUS = [
    ("kb1#1", "kb1", "reset the badge of a visitor"),
    ("kb2#1", "kb2", "order a lamp"),
    ("kb3", None, "the printer of the second floor"),
    ("kb1#2", "kb1", "reset the password of an account"),
    ("kb2#2", "kb2", "return the broken lamp by post"),
    ("kb4#1", "kb4", "holidays"),
]
WriteTask = Callable[..., Path]


def corpus(records: Sequence[tuple[str, str | None, str]]) -> str:
    return "".join(
        json.dumps({"_id": own, "text": text} | ({"parent": parent} if parent else {})) + "\n"
        for own, parent, text in records
    )


def files(**changes: str) -> dict[str, str]:
    queries = {"q1": "my password", "q2": "where is the printer", "q3": "broken lamp", "q4": "visitor badge"}
    return {
        "corpus.jsonl": corpus(CORPUS),
        "queries.jsonl": "".join(json.dumps({"_id": one, "text": text}) + "\n" for one, text in queries.items()),
        "qrels/train.tsv": HEADER + "q1\tkb1\t1\nq3\tkb2\t2\nq3\tkb4\t1\n",
        "qrels/test.tsv": HEADER + "q2\tkb3\t1\nq4\tkb1\t1\n",
        "negatives/train.tsv": HEADER + "q1\tkb2\t0\n",
        "exclude.tsv": "query-id\tcorpus-id\nq1\tkb4\n",
    } | changes


@pytest.fixture
def task(write_folder: WriteTask) -> Task:
    return read_task(write_folder("helpdesk", files()))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    words = sorted({word for _, _, text in CORPUS for word in text.split()} | {"my", "where", "is", "visitor"})
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path)


def test_judgements_name_parents_by_the_row_of_their_first_chunk(task: Task) -> None:
    assert task.parents is not None
    assert task.parents.tolist() == [0, 1, 2, 0, 1, 5]
    assert task.parent_rows.tolist() == [0, 1, 2, 5]
    assert task.named_ids == ("kb1", "kb2", "kb3", "kb1", "kb2", "kb4")
    assert task.splits["train"].documents.tolist() == [0, 1, 5]
    assert task.splits["test"].documents.tolist() == [2, 0]
    assert task.negatives["train"].documents.tolist() == [1]
    assert task.exclude is not None and task.exclude.documents.tolist() == [5]


def test_a_corpus_without_parents_has_none(write_folder: WriteTask) -> None:
    whole = [(own, None, text) for own, _, text in CORPUS]
    changes = {"qrels/train.tsv": HEADER + "q1\tkb1#1\t1\n", "qrels/test.tsv": HEADER + "q2\tkb3\t1\n"}
    changes |= {"negatives/train.tsv": HEADER + "q1\tkb3\t0\n", "exclude.tsv": "query-id\tcorpus-id\nq2\tkb1#1\n"}
    plain = read_task(write_folder("plain", files(**{"corpus.jsonl": corpus(whole)} | changes)))
    named = [(own, own, text) for own, _, text in CORPUS]  # each its own parent
    own = read_task(write_folder("named", files(**{"corpus.jsonl": corpus(named)} | changes)))
    for one in (plain, own):
        assert one.parents is None and one.parent_ids == () and one.named_ids == one.document_ids
        assert one.parent_rows.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"corpus.jsonl": corpus([*CORPUS, ("kb2", None, "x")])},
            "corpus.jsonl:2: parent 'kb2' is the _id of line 7 too, so that it would name two things.",
        ),
        (
            {"corpus.jsonl": corpus([*CORPUS, ("kb2", "kb2", "x")])},
            "corpus.jsonl:2: parent 'kb2' is the _id of line 7 too",
        ),
        (
            {"corpus.jsonl": corpus([*CORPUS, ("kb5#1", "kb\t5", "x")])},
            "corpus.jsonl:7: the parent holds a tab or a line break",
        ),
        (
            {"corpus.jsonl": corpus(CORPUS) + '{"_id": "x", "text": "x", "parent": 7}\n'},
            "corpus.jsonl:7: 'parent' must be a string, is a number",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb3\t1\nq4\tkb1#2\t1\n"},
            "qrels/test.tsv:3: document 'kb1#2' is a chunk of 'kb1'. Name the parent, once; its best chunk counts.",
        ),
        (
            {"negatives/train.tsv": HEADER + "q1\tkb2#1\t0\n"},
            "negatives/train.tsv:2: document 'kb2#1' is a chunk of 'kb2'",
        ),
        ({"exclude.tsv": "query-id\tcorpus-id\nq1\tkb4#1\n"}, "exclude.tsv:2: document 'kb4#1' is a chunk of 'kb4'"),
        ({"qrels/test.tsv": HEADER + "q2\tkb33\t1\n"}, "document 'kb33' is not in corpus.jsonl. Did you mean 'kb3'?"),
        ({"exclude.tsv": "query-id\tcorpus-id\nq1\tkb1\n"}, "exclude.tsv:2: the document is a positive of this query"),
    ],
)
def test_a_mistake_names_file_and_line(write_folder: WriteTask, change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_task(write_folder("helpdesk", files(**change)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_all_chunks_of_chosen_parents(task: Task) -> None:
    assert task.parents is not None
    which, rows = chunk_rows(task.parents, np.array([5, 1, 1, 0]))
    assert which.tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert rows.tolist() == [5, 1, 4, 1, 4, 0, 3]
    found = every_chunk(task.splits["train"], task.parents)
    pairs = zip(found.pair_queries().tolist(), found.documents.tolist(), found.scores.tolist(), strict=True)
    assert list(pairs) == [(0, 0, 1), (0, 3, 1), (2, 1, 2), (2, 4, 2), (2, 5, 1)]


def test_shared_rarity_is_the_idf_of_what_stands_in_both() -> None:
    random = np.random.default_rng(0)

    def make(count: int) -> tuple[list[list[int]], Tokens]:
        texts = [random.integers(0, 12, random.integers(1, 9)).tolist() for _ in range(count)]
        return texts, Tokens(np.concatenate(texts).astype(np.int32), offsets_of(np.array([len(t) for t in texts])), 0)

    (queries, query_tokens), (documents, document_tokens) = make(7), make(15)
    before = document_tokens.ids.copy()
    asked, chosen = (grid.ravel() for grid in np.meshgrid(np.arange(7), np.arange(15), indexing="ij"))
    found = shared_rarity(query_tokens, document_tokens, asked, chosen)
    np.testing.assert_array_equal(document_tokens.ids, before)
    having = {token: sum(token in text for text in documents) for token in range(12)}
    idf = {token: np.log(1 + (15 - n + 0.5) / (n + 0.5)) for token, n in having.items()}
    wanted = [sum(idf[t] for t in {*queries[q]} & {*documents[d]}) for q, d in zip(asked, chosen, strict=True)]
    np.testing.assert_allclose(found, wanted)


def test_a_query_is_trained_with_the_chunk_that_answers_it_and_knows_the_others(
    task: Task, tokenizer: Tokenizer
) -> None:
    made = training_task(task, tokenizer, Templates("{query}"), BatchConfig(negatives=1))
    assert made.query_rows is not None and made.document_rows is not None and made.negatives is not None
    names = [task.document_ids[row] for row in made.document_rows]

    def by_query(relation: object) -> list[set[str]]:
        return [{names[i] for i in relation.of(np.array([q]))} for q in range(len(made.queries))]  # type: ignore

    assert made.query_rows.tolist() == [0, 2]  # q1 and q3 are trained on
    assert by_query(made.positives) == [{"kb1#2"}, {"kb2#2", "kb4#1"}]
    assert by_query(made.negatives) == [{"kb2#1"}, set()]  # no overlap: the first chunk
    # Of q1 kb4 is excluded. Of q3 both chunks of kb2 are known, since one of them is there as a negative of q1.
    assert by_query(made.masked) == [{"kb1#2", "kb4#1"}, {"kb2#1", "kb2#2", "kb4#1"}]


def test_roles_know_documents_by_all_their_chunks(task: Task, write_folder: WriteTask) -> None:
    record = training_record([task])
    joined = {"kb1": "reset the badge of a visitor reset the password of an account", "kb4": "holidays"}
    wanted = document_hashes([joined["kb1"], "order a lamp return the broken lamp by post", "holidays", CORPUS[2][2]])
    assert sorted(record.documents.tolist()) == sorted(wanted.tolist())
    assert sorted(record.positives.tolist()) == sorted(wanted[:3].tolist())
    assert seen_document_share(task, "test", record) == 0.5  # kb1 was a positive, kb3 was not

    def other(name: str, *records: tuple[str, str | None, str]) -> Task:
        changes = {
            "corpus.jsonl": corpus([*records, ("z", None, "nothing else")]),
            "qrels/test.tsv": HEADER + "q2\tz\t1\n",
        }
        rest = {"qrels/train.tsv": None, "negatives/train.tsv": None, "exclude.tsv": None}
        return read_task(write_folder(name, files(**changes) | rest))

    chunk = other("a", ("a", None, "order a lamp"))
    whole = other("b", ("x1", "x", "order a lamp"), ("x2", "x", "return the broken lamp by post"))
    assert (shared_documents(chunk, record), role_of(chunk, record)) == (0, "cross_domain")
    assert (shared_documents(whole, record), role_of(whole, record)) == (1, "in_domain")
    assert parent_keys(whole, np.array([2, 0])) == ["nothing else", "order a lamp\nreturn the broken lamp by post"]


def test_check_counts_documents_and_their_chunks(write_folder: WriteTask) -> None:
    from mtret.data.formats import read_suite

    suite = read_suite(write_folder("helpdesk", files()).parent)
    row = stats(suite)[0]
    assert (row.documents, row.chunks, row.distinct_documents) == (4, 6, 4)
    said = check(suite)
    assert "helpdesk: 4 documents stand in 6 chunks." in said
    assert said[-1].startswith("OK: 1 task, 4 documents")


def test_judgements_without_chunks_stay_as_they_are() -> None:
    pairs = Judgements.from_pairs(np.array([0, 1], np.int32), np.array([0, 1], np.int32), np.ones(2))
    assert every_chunk(pairs, None) is pairs
