"""The generator makes what mtret carries, says new things in the test split, and its labels are complete."""

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mtret.data.enterprise import read_tasks
from mtret.data.formats import read_suite
from mtret.data.tasks import Judgements, Task

Load = Callable[[str], ModuleType]
DIVISIONS = ("it", "business")
TRAINED = ("step", "table", "field", "catalog", "article", "api")


@pytest.fixture(scope="module")
def generate(load: Load) -> ModuleType:
    return load("enterprise/generate.py")


@pytest.fixture(scope="module")
def suite() -> dict[str, Task]:
    return read_tasks()


def _gold(judgements: Judgements) -> list[set[int]]:
    return [set(one.tolist()) for one in np.split(judgements.documents, judgements.offsets[1:-1])]


def _texts(task: Task, split: str) -> list[str]:
    return [task.query_texts[row] for row in task.splits[split].queries]


def test_it_makes_what_the_package_carries(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte as JSON. What gzip makes of it depends on the versions of Python and zlib, and on nothing else."""
    carried = generate.SHIPPED
    monkeypatch.setattr(generate, "SHIPPED", tmp_path / carried.name)
    generate.main(["--ship"])
    made = (tmp_path / carried.name).read_bytes()
    assert gzip.decompress(made) == gzip.decompress(carried.read_bytes())
    assert made[3:8] == carried.read_bytes()[3:8] == bytes(5)  # neither a file name nor a time


def test_another_seed_asks_otherwise(generate: ModuleType, suite: dict[str, Task], tmp_path: Path) -> None:
    generate.main([f"--out={tmp_path / 'other'}", "--seed=1"])
    other = read_suite(tmp_path / "other").tasks
    assert set(other) == set(suite)
    for name, task in other.items():
        assert len(set(_texts(task, "test")).intersection(suite[name].query_texts)) < 20
        assert task.document_texts != suite[name].document_texts


@pytest.mark.parametrize("words", [[], ["--ship", "--seed=1"], ["--ship", "--out=x"]])
def test_what_to_write_is_said_once(generate: ModuleType, words: list[str]) -> None:
    with pytest.raises(SystemExit):
        generate.main(words)


def test_test_queries_ask_for_documents_and_in_words_that_training_never_had(
    load: Load, suite: dict[str, Task]
) -> None:
    for family in TRAINED:
        task = suite[f"it_{family}"]
        trained, tested = (set(task.splits[split].documents.tolist()) for split in ("train", "test"))
        assert 0.2 < len(tested - trained) / len(tested) < 0.5
    fill, steps = load("enterprise/voice.py").fill, load("enterprise/house_operations.py").STEPS
    last = [fill(step.said[-1], "|", "|").split("|")[0] for step in steps]
    last = [phrase for phrase in last if len(phrase) > 8]

    def users(split: str) -> int:
        return sum(any(phrase in text.lower() for phrase in last) for text in _texts(suite["it_step"], split))

    assert users("train") == 0
    assert users("test") > 10


def test_a_report_without_breakdown_is_wanted_in_every_breakdown(
    generate: ModuleType, load: Load, suite: dict[str, Task]
) -> None:
    """Labels are complete: read back from the texts alone, for the requests that are bare keywords."""
    metrics = load("enterprise/house_processes.py").METRICS
    checked = 0
    for division, departments in generate.DIVISIONS.items():
        task = suite[f"{division}_report"]
        names = {
            said.lower(): record.name
            for department in departments
            for record in department.records
            for said in (record.name, *record.said)
        }
        for text, gold in zip(_texts(task, "test"), _gold(task.splits["test"]), strict=True):
            for metric in metrics:
                noun = text.removesuffix(f" {metric.keyword}").lower()
                if text.endswith(f" {metric.keyword}") and noun in names:
                    title = f"{metric.title.format(name=names[noun])} by "
                    assert gold == {row for row, document in enumerate(task.document_texts) if title in document}
                    checked += 1
    assert checked >= 4


@pytest.mark.parametrize("division", DIVISIONS)
def test_no_word_stands_for_two_things(generate: ModuleType, load: Load, division: str) -> None:
    """A request is answerable only where its words name one thing: within a corpus, every synonym is one record's."""
    shared_attributes = load("enterprise/house_data.py").SHARED_ATTRIBUTES
    records = [record for department in generate.DIVISIONS[division] for record in department.records]
    services = [service for department in generate.DIVISIONS[division] for service in department.services]
    for things in (records, services):
        names = [{said.lower() for said in (thing.name, *thing.said)} for thing in things]
        assert max(Counter(name for group in names for name in group).values()) == 1
    for record in records:
        own = {attribute.code for attribute in record.attributes}
        shared = [attribute for attribute in shared_attributes[record.kind] if attribute.code not in own]
        said = [phrase for attribute in (*shared, *record.attributes) for phrase in attribute.said]
        assert len(said) == len(set(said)), record.name


def test_no_phrase_stands_for_two_meanings(load: Load) -> None:
    data, operations, processes, services = (
        load(f"enterprise/house_{name}.py") for name in ("data", "operations", "processes", "services")
    )
    lists = [operations.STEPS, operations.ENDPOINTS, data.COMPANIONS]
    lists += [processes.PATTERNS, processes.METRICS, processes.BREAKDOWNS]
    lists += [*services.OFFERS.values(), *services.TOPICS.values()]
    for meanings in lists:
        said = [phrase for meaning in meanings for phrase in meaning.said]
        assert len(said) == len(set(said))
        assert len({meaning.keyword for meaning in meanings}) == len(meanings)
        assert all(len(meaning.said) >= 2 for meaning in meanings)


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
def test_english(load: Load, noun: str, several: str, one: str) -> None:
    english = load("enterprise/english.py")
    assert english.plural(noun) == several
    assert english.indefinite(noun) == one


def test_sentences(load: Load) -> None:
    english = load("enterprise/english.py")
    assert english.enumerated(["a", "b", "c"]) == "a, b and c"
    assert [english.closed(text) for text in ("who knows", "I know", "really?")] == ["who knows?", "I know.", "really?"]
