"""What `data check` says of families, against the roles that models trained that way would give."""

import json
import re
from pathlib import Path

import pytest

from mtret.data.formats import Suite, read_suite
from mtret.data.holding_out import holding_out
from mtret.data.roles import role_of, training_record

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def suite(write_folder) -> Suite:
    """Articles a, b and c, of which c shares a document with table t, and e, only evaluated; intent i; code x."""
    folder: Path = Path()

    def write(name: str, family: str, train: bool = True, shared: str = "", **card: str) -> None:
        nonlocal folder
        texts = [f"{name} one", f"{name} two", shared or f"{name} three"]
        files: dict[str, str | None] = {
            "corpus.jsonl": "".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)),
            "queries.jsonl": "".join(json.dumps({"_id": f"q{i}", "text": f"{name} {i}"}) + "\n" for i in range(2)),
            "qrels/train.tsv": HEADER + "q0\td0\t1\n" if train else None,
            "qrels/test.tsv": HEADER + "q1\td1\t1\n",
        }
        folder = write_folder(name, files, family=family, **card).parent

    write("a", "article")
    write("b", "article")
    write("c", "article", shared="a common one")
    write("e", "article", train=False)
    write("t", "table", shared="a common one", material="m")
    write("i", "intent", train=False, material="m")
    write("x", "code")
    return read_suite(folder)


def test_every_family_says_what_it_would_be_without(suite: Suite) -> None:
    assert holding_out(suite) == [
        "article: a, b, c, e (not trained)",
        "  train without article (--hold_out=article) and all of them are evaluated zero-shot",
        "  train without one of a, b (--hold_out=TASK) and it is evaluated cross-domain",
        "  train without c (--hold_out=c) and it is evaluated in-domain all the same, since it shares documents or "
        "material with t",
        "  e is evaluated cross-domain",
        "code: x",
        "  train without code (--hold_out=code) and x is evaluated zero-shot",
        "intent: i (not trained)",
        "  nothing of this family is trained, so i is evaluated zero-shot",
        "table: t",
        "  train without table (--hold_out=table) and t is evaluated zero-shot",
    ]


def test_what_is_said_is_what_such_a_model_would_be_told(suite: Suite) -> None:
    trained = [task for task in suite.tasks.values() if "train" in task.splits]
    said = {}
    for line in holding_out(suite):
        if found := re.fullmatch(
            r"  train without (?:one of )?(.*) \(--hold_out=\w+\) and .* evaluated (\S+?)[, ]?(?: .*)?", line
        ):
            said |= dict.fromkeys(found[1].split(", "), found[2])
    assert set(said) == {"article", "a", "b", "c", "code", "table"}
    for name, word in said.items():
        left = training_record([task for task in trained if name not in (task.name, task.card.family)])
        for task in suite.tasks.values():
            if name in (task.name, task.card.family):
                assert role_of(task, left).replace("_", "-") == word


def test_a_suite_of_one_family_cannot_leave_it_out(write_folder) -> None:
    suite = read_suite(write_folder("helpdesk").parent)
    assert holding_out(suite) == [
        "article: helpdesk",
        "  nothing of another family is trained, so the family cannot be left out",
    ]
