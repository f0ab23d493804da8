"""The generated enterprise: pinned bytes, the promised sizes, the lexical gap, labels that are complete."""

from collections import Counter
from pathlib import Path

import bm25s
import numpy as np
import pytest

from mtret.data.enterprise.english import closed, enumerated, indefinite, plural
from mtret.data.enterprise.house_data import COMPANIONS, SHARED_ATTRIBUTES
from mtret.data.enterprise.house_operations import ENDPOINTS, STEPS
from mtret.data.enterprise.house_processes import BREAKDOWNS, METRICS, PATTERNS
from mtret.data.enterprise.house_services import OFFERS, TOPICS
from mtret.data.enterprise.suite import DIVISIONS, FAMILIES, build_suite, write_suite
from mtret.data.enterprise.voice import fill
from mtret.data.formats import read_suite
from mtret.data.roles import role_of, training_record
from mtret.data.tasks import Judgements, Task, query_key
from mtret.index.bm25 import tokenize
from mtret.index.exact import tie_order

SHA256 = "39a3ebaf989ca63c104fab6ff6e80f2f76548444fd6f286edddd374dc024393c"
TRAINED = ("step", "table", "field", "catalog", "article", "api")
UNSEEN = ("workflow", "report")


@pytest.fixture(scope="module")
def suite() -> dict[str, Task]:
    return build_suite()


def _gold(judgements: Judgements) -> list[set[int]]:
    return [set(one.tolist()) for one in np.split(judgements.documents, judgements.offsets[1:-1])]


def _texts(task: Task, split: str) -> list[str]:
    return [task.query_texts[row] for row in task.splits[split].queries]


@pytest.mark.slow
def test_another_seed_asks_otherwise(suite: dict[str, Task]) -> None:
    other = build_suite(1)
    assert list(other) == list(suite)
    for name, task in other.items():
        assert len(set(_texts(task, "test")).intersection(suite[name].query_texts)) < 20
        assert task.document_texts != suite[name].document_texts


def test_tasks_splits_and_sizes(suite: dict[str, Task]) -> None:
    assert set(suite) == {f"{division}_{family}" for division in ("it", "business") for family in TRAINED + UNSEEN}
    for name, task in suite.items():
        trained = name.startswith("it_") and task.card.family in TRAINED
        assert set(task.splits) == ({"train", "dev", "test"} if trained else {"dev", "test"})
        assert (len(task.splits["dev"]), len(task.splits["test"])) == (70, 140)
        if trained:
            assert 400 <= len(task.splits["train"].documents) <= 900
    assert sum(len(task.document_texts) for task in suite.values()) <= 5_000


def test_roles_follow_from_a_mixture_of_it_tasks(suite: dict[str, Task]) -> None:
    record = training_record([suite[f"it_{family}"] for family in TRAINED])
    counts: Counter[str] = Counter()
    for name, task in suite.items():
        role = role_of(task, record)
        division, _, family = name.partition("_")
        assert role == ("zero_shot" if family in UNSEEN else "in_domain" if division == "it" else "cross_domain")
        counts[role] += len(task.splits["test"])
    assert counts == {"in_domain": 840, "cross_domain": 840, "zero_shot": 560}


def test_no_query_and_no_document_occurs_twice(suite: dict[str, Task]) -> None:
    queries = Counter(query_key(text) for task in suite.values() for text in task.query_texts)
    documents = Counter(text for task in suite.values() for text in task.document_texts)
    assert max(queries.values()) == 1
    assert max(documents.values()) == 1


def test_the_written_suite_is_pinned_and_reads_back_as_built(suite: dict[str, Task], tmp_path: Path) -> None:
    write_suite(tmp_path / "suite")
    read = read_suite(tmp_path / "suite")
    assert read.sha256 == SHA256
    assert set(read.tasks) == set(suite)
    for name, task in suite.items():
        twin = read.tasks[name]
        assert (twin.card, twin.query_texts, twin.document_texts) == (task.card, task.query_texts, task.document_texts)
        assert twin.document_ids == task.document_ids
        for split, judgements in task.splits.items():
            for mine, theirs in zip(vars(judgements).values(), vars(twin.splits[split]).values(), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def _bm25_recall_at_10(task: Task, split: str) -> float:
    """Divided by min(10, positives); a document that shares no term with the query is no hit."""
    order = tie_order(task.document_ids)
    scorer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    scorer.index(tokenize([task.document_texts[row] for row in order]), show_progress=False)
    recalls = []
    for terms, gold in zip(tokenize(_texts(task, split)), _gold(task.splits[split]), strict=True):
        scores = scorer.get_scores(terms)
        best = np.argsort(-scores, kind="stable")[:10]
        recalls.append(len(gold.intersection(order[best[scores[best] > 0]].tolist())) / min(10, len(gold)))
    return float(np.mean(recalls))


def test_bm25_is_neither_hopeless_nor_enough(suite: dict[str, Task]) -> None:
    for name, task in suite.items():
        for split in ("dev", "test"):
            assert 0.3 < _bm25_recall_at_10(task, split) < 0.8, f"{name} {split}"


def test_test_queries_ask_for_documents_and_in_words_that_training_never_had(suite: dict[str, Task]) -> None:
    for family in TRAINED:
        task = suite[f"it_{family}"]
        trained, tested = (set(task.splits[split].documents.tolist()) for split in ("train", "test"))
        assert 0.2 < len(tested - trained) / len(tested) < 0.5
    last = [fill(step.said[-1], "|", "|").split("|")[0] for step in STEPS]
    last = [phrase for phrase in last if len(phrase) > 8]

    def users(split: str) -> int:
        return sum(any(phrase in text.lower() for phrase in last) for text in _texts(suite["it_step"], split))

    assert users("train") == 0
    assert users("test") > 10


def test_several_positives_are_common(suite: dict[str, Task]) -> None:
    several = [len(gold) > 1 for task in suite.values() for gold in _gold(task.splits["test"])]
    assert 0.2 < np.mean(several) < 0.6


def test_a_report_without_breakdown_is_wanted_in_every_breakdown(suite: dict[str, Task]) -> None:
    """Labels are complete: read back from the texts alone, for the requests that are bare keywords."""
    checked = 0
    for division, departments in DIVISIONS.items():
        task = suite[f"{division}_report"]
        names = {
            said.lower(): record.name
            for department in departments
            for record in department.records
            for said in (record.name, *record.said)
        }
        for text, gold in zip(_texts(task, "test"), _gold(task.splits["test"]), strict=True):
            for metric in METRICS:
                noun = text.removesuffix(f" {metric.keyword}").lower()
                if text.endswith(f" {metric.keyword}") and noun in names:
                    title = f"{metric.title.format(name=names[noun])} by "
                    assert gold == {row for row, document in enumerate(task.document_texts) if title in document}
                    checked += 1
    assert checked >= 4


def test_withdrawn_documents_are_never_right(suite: dict[str, Task]) -> None:
    for family, mark in (("step", "(2019)"), ("api", "/v1/")):
        task = suite[f"it_{family}"]
        withdrawn = {row for row, text in enumerate(task.document_texts) if mark in text}
        assert len(withdrawn) > 3
        assert all(withdrawn.isdisjoint(judgements.documents.tolist()) for judgements in task.splits.values())


@pytest.mark.parametrize("division", DIVISIONS)
def test_no_word_stands_for_two_things(division: str) -> None:
    """A request is answerable only where its words name one thing: within a corpus, every synonym is one record's."""
    records = [record for department in DIVISIONS[division] for record in department.records]
    services = [service for department in DIVISIONS[division] for service in department.services]
    for things in (records, services):
        names = [{said.lower() for said in (thing.name, *thing.said)} for thing in things]
        assert max(Counter(name for group in names for name in group).values()) == 1
    for record in records:
        own = {attribute.code for attribute in record.attributes}
        shared = [attribute for attribute in SHARED_ATTRIBUTES[record.kind] if attribute.code not in own]
        said = [phrase for attribute in (*shared, *record.attributes) for phrase in attribute.said]
        assert len(said) == len(set(said)), record.name


def test_no_phrase_stands_for_two_meanings() -> None:
    lists = [STEPS, ENDPOINTS, COMPANIONS, PATTERNS, METRICS, BREAKDOWNS, *OFFERS.values(), *TOPICS.values()]
    for meanings in lists:
        said = [phrase for meaning in meanings for phrase in meaning.said]
        assert len(said) == len(set(said))
        assert len({meaning.keyword for meaning in meanings}) == len(meanings)
        assert all(len(meaning.said) >= 2 for meaning in meanings)


def test_every_task_of_a_family_has_its_instruction(suite: dict[str, Task]) -> None:
    assert len({family.instruction for family in FAMILIES.values()}) == len(FAMILIES)
    for task in suite.values():
        assert task.card.instruction == FAMILIES[task.card.family].instruction


@pytest.mark.parametrize(
    ("noun", "several", "one"),
    [
        ("box in the data centre", "boxes in the data centre", "a box in the data centre"),
        ("people query", "people queries", "a people query"),
        ("alloy", "alloys", "an alloy"),
        ("switch", "switches", "a switch"),
        ("VM", "VMs", "a VM"),
        ("RFC", "RFCs", "an RFC"),
        ("H&S audit", "H&S audits", "an H&S audit"),
        ("user ask", "user asks", "a user ask"),
        ("e-learning module", "e-learning modules", "an e-learning module"),
        ("call for bids", "calls for bids", "a call for bids"),
    ],
)
def test_english(noun: str, several: str, one: str) -> None:
    assert plural(noun) == several
    assert indefinite(noun) == one


def test_sentences() -> None:
    assert enumerated(["a", "b", "c"]) == "a, b and c"
    assert [closed(text) for text in ("who knows", "I know", "really?")] == ["who knows?", "I know.", "really?"]
