import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from mtret.data.formats import read_suite, read_task, suite_names
from mtret.data.task_files import TaskParts, write_task
from mtret.data.tasks import TaskCard
from mtret.errors import UserError

CORPUS_LINE = '{"_id": "kb1", "text": "a"}\n'
QUERY_LINE = '{"_id": "q1", "text": "a"}\n'
HEADER = "query-id\tcorpus-id\tscore\n"
CARD_TEXT = """{
 "name": "helpdesk",
 "family": "article",
 "domain": "internal IT support",
 "languages": ["en"],
 "instruction": "Retrieve the article.",
 "license": "CC0-1.0",
 "source": "here"
}
"""


def refusal(folder: Path) -> str:
    """The message with which `read_task` refuses the folder, one line, its path cut off."""
    with pytest.raises(UserError) as caught:
        read_task(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message.removeprefix(f"{folder}").removeprefix("/")


def test_a_task_is_read_by_rows(write_folder):
    task = read_task(write_folder(material="kb", cutoffs=[3, 7], notes="n"))
    assert task.card == TaskCard(
        name="helpdesk",
        family="article",
        domain="internal IT support",
        languages=("en",),
        instruction="Given a question of an employee, retrieve the article that answers it.",
        license="CC0-1.0",
        source="written for this test",
        material="kb",
        cutoffs=(3, 7),
        notes="n",
    )
    assert task.query_ids == ("q1", "q2", "q3")
    assert task.query_texts[1] == "connect from home"
    assert task.document_ids == ("kb1", "kb2", "kb3")
    assert task.document_texts == (
        "Reset a password Open Settings and choose Security.",
        "VPN access needs a token.",
        "Printers are on every floor.",
    )
    assert list(task.splits) == ["train", "test"]
    test = task.splits["test"]
    assert test.queries.tolist() == [1, 2]
    assert test.offsets.tolist() == [0, 2, 3]
    assert test.documents.tolist() == [0, 1, 2]
    assert test.scores.tolist() == [0.0, 2.0, 1.0]
    assert test.positives().documents.tolist() == [1, 2]
    assert task.negatives == {}
    assert task.exclude is None


def test_negatives_and_exclude_are_read_with_and_without_scores(write_folder):
    files = {
        "negatives/train.tsv": "query-id\tcorpus-id\nq1\tkb3\nq1\tkb2\n",
        "negatives/test.tsv": HEADER + "q3\tkb1\t-0.5\n",
        "exclude.tsv": "query-id\tcorpus-id\nq1\tkb2\n",
    }
    task = read_task(write_folder(files=files))
    assert task.negatives["train"].documents.tolist() == [1, 2]
    assert task.negatives["train"].scores.tolist() == [0.0, 0.0]
    assert task.negatives["test"].scores.tolist() == [-0.5]
    assert task.exclude is not None
    assert (task.exclude.queries.tolist(), task.exclude.documents.tolist()) == ([0], [1])


def test_a_query_without_a_positive_is_left_out_of_its_split_with_its_negatives(write_folder):
    files = {
        "qrels/test.tsv": HEADER + "q2\tkb2\t0\nq2\tkb1\t-1\nq3\tkb3\t1\n",
        "negatives/test.tsv": HEADER + "q2\tkb3\t1\nq3\tkb1\t1\n",
    }
    task = read_task(write_folder(files=files))
    assert task.splits["test"].queries.tolist() == [2]
    assert task.negatives["test"].queries.tolist() == [2]
    assert "q2" in task.query_ids


def test_windows_lines_empty_last_lines_and_other_keys_are_accepted(write_folder):
    crlf = '{"_id": "kb1", "text": "a", "metadata": {"url": 3}}\r\n{"_id": "kb2", "text": "b\u2028c"}\r\n\r\n'
    files = {
        "corpus.jsonl": crlf,
        "queries.jsonl": QUERY_LINE + " \n\n",
        "qrels/train.tsv": "query-id\tcorpus-id\tscore\r\nq1\tkb1\t1\r\n\r\n",
        "qrels/test.tsv": None,
    }
    task = read_task(write_folder(files=files))
    assert task.document_texts == ("a", "b\u2028c")
    assert task.splits["train"].documents.tolist() == [0]


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    ("second", "what", "remedy"),
    [
        (b'{"_id": "x", "text": "b"', "2: not valid JSON (Expecting ',' delimiter, column", "one JSON object per line"),
        (b'["x"]', "2: must be a JSON object, is a list", "Write one {...} per line."),
        (b'"x"', "2: must be a JSON object, is a string", "Write one {...} per line."),
        (b'{"_id": "x", "text": "caf\xe9"}', "2: byte", "is not UTF-8. Save the file as UTF-8."),
        (b'{"_id": "one", "text": "b"}', "2: _id 'one' stands on line 1 already", "Give each its own."),
        (b'{"id": "x", "text": "b"}', "2: '_id' is missing; the line has id, text", "Add it."),
        (b'{"_id": "", "text": "b"}', "2: '_id' is empty", "Write one or remove the line."),
        (b'{"_id": "x\\ty", "text": "b"}', "2: the _id holds a tab", "Remove it."),
        (b'{"_id": 7, "text": "b"}', "2: '_id' must be a string, is a number", "Put it in quotes."),
        (b'{"_id": "x"}', "2: 'text' is missing; the line has _id", "Add it."),
        (b'{"_id": "x", "text": "b", "text": "c"}', "2: not valid JSON (two values of 'text')", "one JSON object per"),
        (b'{"_id": "x", "text": null}', "2: 'text' must be a string, is null", "Put it in quotes."),
        (b'{"_id": "x", "text": ["b"]}', "2: 'text' must be a string, is a list", "Put it in quotes."),
        (b'{"_id": "x", "text": "\\ud800"}', "2: 'text' holds half of a surrogate pair", "Remove"),
        (b'{"_id": "x", "text": " "}', "2: ", "empty. Write one or remove the"),
        (b"[" * 100_000, "2: not valid JSON (nested too deeply)", "one JSON object per line"),
        (b'{"_id": ' + b"1" * 5000 + b"}", "2: not valid JSON (a number is too long)", "one JSON object per line"),
        (b"\n" + b'{"_id": "x", "text": "b"}', "2: empty line", "Remove it."),
    ],
)
def test_a_wrong_line_is_named(write_folder, file: str, second: bytes, what: str, remedy: str):
    message = refusal(write_folder(files={file: b'{"_id": "one", "text": "a"}\n' + second + b"\n"}))
    assert message.startswith(f"{file}:{what}")
    assert remedy in message


@pytest.mark.parametrize("file", ["task.json", "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_encodings_and_missing_files_are_named(write_folder, file: str):
    folder = write_folder()
    good = (folder / file).read_bytes()
    (folder / file).write_bytes(b"\xef\xbb\xbf" + good)
    assert refusal(folder) == f"{file}:1: begins with a byte order mark. Save the file as UTF-8 without one."
    (folder / file).write_bytes(good.decode().encode("utf-16"))
    assert refusal(folder) == f"{file}:1: byte 0 of the file is not UTF-8. Save the file as UTF-8."
    (folder / file).unlink()
    (folder / file).mkdir()
    assert "cannot be read (Is a directory). Check the path and its permissions." in refusal(folder)
    if not file.startswith("qrels"):
        (folder / file).rmdir()
        assert refusal(folder) == f"{file}: missing. Every task folder needs it."


def test_a_file_without_permission_is_named(write_folder, monkeypatch: pytest.MonkeyPatch):
    # Tests may run as root, whom no permission stops.
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    folder = write_folder()
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert refusal(folder) == "task.json: cannot be read (Permission denied). Check the path and its permissions."


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus.jsonl": ""}, "corpus.jsonl: holds no document. Write one JSON object per line."),
        ({"queries.jsonl": "\n"}, "queries.jsonl: holds no query. Write one JSON object per line."),
        (
            {"corpus.jsonl": CORPUS_LINE + '{"_id": "kb2", "title": " ", "text": ""}\n'},
            "corpus.jsonl:2: title and text are both empty. Write one or remove the document.",
        ),
        (
            {"corpus.jsonl": CORPUS_LINE + '{"_id": "kb2", "title": 2, "text": "a"}\n'},
            "corpus.jsonl:2: 'title' must be a string, is a number. Put it in quotes.",
        ),
        (
            {"qrels/train.tsv": None, "qrels/test.tsv": None},
            "qrels: holds no judgements. Write at least one of train, dev, test as .tsv.",
        ),
        (
            {"qrels/tests.tsv": HEADER},
            "qrels/tests.tsv: not a split; the files here are train.tsv, dev.tsv, test.tsv. Did you mean 'test.tsv'?",
        ),
        (
            {"qrels/validation.tsv": HEADER},
            "qrels/validation.tsv: not a split; the files here are train.tsv, dev.tsv, test.tsv. Rename it to dev.tsv.",
        ),
        (
            {"qrels/test.tsv": ""},
            "qrels/test.tsv:1: the first line must be the header query-id <tab> corpus-id <tab> score, is ''. Add it.",
        ),
        (
            {"qrels/test.tsv": "q2\tkb2\t1\n"},
            "qrels/test.tsv:1: the first line must be the header query-id <tab> corpus-id <tab> score, "
            "is 'q2 <tab> kb2 <tab> 1'. Add it.",
        ),
        (
            {"qrels/test.tsv": "query-id\tcorpus-id\nq2\tkb2\n"},
            "qrels/test.tsv:1: the first line must be the header query-id <tab> corpus-id <tab> score, "
            "is 'query-id <tab> corpus-id'. Add it.",
        ),
        (
            {"qrels/test.tsv": HEADER},
            "qrels/test.tsv:1: holds a header and nothing else. Add pairs or remove the file.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t1\nq3 kb3 1\n"},
            "qrels/test.tsv:3: 1 columns, need 3: query-id <tab> corpus-id <tab> score. "
            "Separate columns by one tab, not by spaces.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t1\n\nq3\tkb3\t1\n"},
            "qrels/test.tsv:3: 1 columns, need 3: query-id <tab> corpus-id <tab> score. "
            "Separate columns by one tab, not by spaces.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\t0\tkb2\t1\n"},
            "qrels/test.tsv:2: 4 columns, need 3: query-id <tab> corpus-id <tab> score. Remove the others.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t1\nq4\tkb3\t1\n"},
            "qrels/test.tsv:3: query 'q4' is not in queries.jsonl. Correct the id or remove the line.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t1\nq3\tkb33\t1\n"},
            "qrels/test.tsv:3: document 'kb33' is not in corpus.jsonl. Did you mean 'kb3'? "
            "Correct the id or remove the line.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t1\nq3\tkb3\tyes\n"},
            "qrels/test.tsv:3: score 'yes' is not a finite number. Write one such as 1.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\tinf\n"},
            "qrels/test.tsv:2: score 'inf' is not a finite number. Write one such as 1.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t1\nq3\tkb3\t1\nq2\tkb2\t0\nq2\tkb2\t1\n"},
            "qrels/test.tsv:4: query 'q2' with document 'kb2' stands there twice. Remove one.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t0\nq3\tkb3\t-1\n"},
            "qrels/test.tsv: no score is above 0, so no query has a positive. Add positives or remove the file.",
        ),
        (
            {"qrels/test.tsv": HEADER + "q2\tkb2\t1\nq1\tkb1\t1\n"},
            "queries.jsonl:1: query 'q1' of test has the text of 'q1' of train (line 1). Keep it in one split.",
        ),
        (
            {"queries.jsonl": QUERY_LINE + '{"_id": "q2", "text": " A  "}\n{"_id": "q3", "text": "b"}\n'},
            "queries.jsonl:2: query 'q2' of test has the text of 'q1' of train (line 1). Keep it in one split.",
        ),
        (
            {"negatives/dev.tsv": HEADER + "q1\tkb2\t1\n"},
            "negatives/dev.tsv: there is no qrels/dev.tsv. Remove it or add the judgements.",
        ),
        (
            {"negatives/train.tsv": HEADER + "q1\tkb2\t1\nq2\tkb3\t1\n"},
            "negatives/train.tsv:3: query 'q2' is not judged in qrels/train.tsv. Remove the line.",
        ),
        (
            {"negatives/train.tsv": HEADER + "q1\tkb2\t1\nq1\tkb1\t1\n"},
            "negatives/train.tsv:3: the document is a positive of this query in qrels/. "
            "Remove the line here or the judgement there.",
        ),
        (
            {"exclude.tsv": "query-id\tcorpus-id\nq1\tkb2\nq3\tkb3\n"},
            "exclude.tsv:3: the document is a positive of this query in qrels/. "
            "Remove the line here or the judgement there.",
        ),
        (
            {"exclude.tsv": HEADER + "q1\tkb2\t1\n"},
            "exclude.tsv:1: the first line must be the header query-id <tab> corpus-id, "
            "is 'query-id <tab> corpus-id <tab> score'. Add it.",
        ),
        (
            {"exclude.tsv": "query-id\tcorpus-id\nq1\tnone\n"},
            "exclude.tsv:2: document 'none' is not in corpus.jsonl. Correct the id or remove the line.",
        ),
    ],
)
def test_a_broken_rule_is_named(write_folder, files: dict[str, str | None], message: str):
    assert refusal(write_folder(files=files)) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{\n",
            "{,\n",
            "1: not valid JSON (Expecting property name enclosed in double quotes, column 2). Correct the card.",
        ),
        (CARD_TEXT, "[]", "1: must be a JSON object, is a list. Write {...}."),
        ("instruction", "instuction", "6: unknown key 'instuction'. Did you mean 'instruction'?"),
        ("license", "licence", "7: unknown key 'licence'. Did you mean 'license'?"),
        (' "family": "article",\n', "", "1: 'family' is missing. Add it to the card."),
        (' "name": "helpdesk",\n', "", "1: 'name' is missing. Add it to the card."),
        (
            ' "instruction": "Retrieve the article.",\n',
            "",
            "1: 'instruction' is missing. Add it to the card.",
        ),
        (
            '"Retrieve the article."',
            '" "',
            "6: 'instruction' must be a string that is not empty, is \" \". Correct the card.",
        ),
        ('"article"', "3", "3: 'family' must be a string that is not empty, is 3. Correct the card."),
        (
            '["en"]',
            '"en"',
            '5: \'languages\' must be a list of language codes such as ["en"], is "en". Correct the card.',
        ),
        ('["en"]', "[]", "5: 'languages' must be a list of language codes such as [\"en\"], is []. Correct the card."),
        (
            '"source"',
            '"cutoffs": [1, 0],\n "source"',
            "8: 'cutoffs' must be a list of positive integers such as [1, 5, 10], is [1, 0]. Correct the card.",
        ),
        (
            '"source"',
            '"cutoffs": [true],\n "source"',
            "8: 'cutoffs' must be a list of positive integers such as [1, 5, 10], is [true]. Correct the card.",
        ),
        ('"source"', '"cutoffs": [1.5],\n "source"', "is [1.5]. Correct the card."),
        ('"source"', '"cutoffs": [],\n "source"', "is []. Correct the card."),
        (
            '"source"',
            '"modality": "sound",\n "source"',
            "8: 'modality' must be one of text, image, is \"sound\". Correct",
        ),
        (
            '"source"',
            '"material": "",\n "source"',
            "8: 'material' must be a string that is not empty, is \"\". Correct",
        ),
        ('"source"', '"notes": 1,\n "source"', "8: 'notes' must be a string, is 1. Correct the card."),
        ('"source"', '"notes": "a\\ud800",\n "source"', "8: 'notes' holds half of a surrogate pair. Remove the"),
        (
            '"helpdesk"',
            '"help desk"',
            "2: 'name' must be a name of letters, digits, _ and -, is \"help desk\". Correct",
        ),
        ('"helpdesk"', '"helpdsk"', "2: the card's name is 'helpdsk', the folder's is 'helpdesk'. Rename one of them."),
    ],
)
def test_a_wrong_card_is_named(write_folder, old: str, new: str, message: str):
    assert old in CARD_TEXT
    folder = write_folder(files={"task.json": CARD_TEXT.replace(old, new)})
    assert message in refusal(folder)


def image_folder(write_folder, path: str) -> Path:
    corpus = json.dumps({"_id": "kb1", "title": "", "text": "", "image": path}) + "\n"
    files = {
        "corpus.jsonl": corpus,
        "queries.jsonl": QUERY_LINE,
        "qrels/train.tsv": None,
        "qrels/test.tsv": HEADER + "q1\tkb1\t1\n",
        "images/a.png": b"\x89PNG",
        "../outside.png": b"\x89PNG",
    }
    return write_folder("icons", files, modality="image")


def test_an_image_task_goes_by_what_its_images_hold(write_folder):
    folder = image_folder(write_folder, "images/a.png")
    write_folder("helpdesk")
    suite = read_suite(folder.parent)
    assert list(suite.tasks) == list(suite.task_sha256) == ["helpdesk", "icons"]
    task = suite.tasks["icons"]
    assert task.images is not None and task.images.paths == (folder / "images/a.png",)
    assert task.document_keys == task.images.sha256 == (hashlib.sha256(b"\x89PNG").hexdigest(),)
    assert task.document_texts == ("",)
    assert suite.tasks["helpdesk"].images is None
    assert suite.tasks["helpdesk"].document_keys == suite.tasks["helpdesk"].document_texts
    (folder / "images/a.png").write_bytes(b"other")
    again = read_suite(folder.parent)
    assert again.task_sha256["icons"] != suite.task_sha256["icons"]
    assert read_task(folder).document_keys != task.document_keys


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("images/b.png", "there is no image 'images/b.png' in the task folder. Add the file or correct the path."),
        ("../outside.png", "image '../outside.png' lies outside the task folder. Give a path inside it."),
        ("images/../../outside.png", "lies outside the task folder. Give a path inside it."),
        ("/etc/hostname", "image '/etc/hostname' lies outside the task folder. Give a path inside it."),
        ("images/link.png", "image 'images/link.png' lies outside the task folder. Give a path inside it."),
        ("images", "there is no image 'images' in the task folder."),
    ],
)
def test_an_image_must_lie_in_the_task_folder(write_folder, path: str, message: str):
    folder = image_folder(write_folder, path)
    (folder / "images/link.png").symlink_to(folder.parent / "outside.png")
    assert refusal(folder).startswith("corpus.jsonl:1: ")
    assert message in refusal(folder)


def test_the_path_of_an_image_is_not_absolute_even_inside_its_folder(write_folder, tmp_path: Path):
    folder = image_folder(write_folder, str(tmp_path / "suite/icons/images/a.png"))
    assert "lies outside the task folder. Give a path inside it." in refusal(folder)


def test_a_suite_is_read_in_name_order_beside_loose_files(write_folder):
    folder = write_folder("zeta").parent
    write_folder("alpha")
    write_folder("mid_2")
    (folder / "INDEX.md").write_text("notes")
    (folder / "drawings").mkdir()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "corpus.jsonl").write_text("")
    assert suite_names(folder) == ["alpha", "mid_2", "zeta"]
    suite = read_suite(folder)
    assert list(suite.tasks) == ["alpha", "mid_2", "zeta"]
    assert suite.folder == folder


def test_folders_that_are_no_suite_are_named(write_folder, tmp_path: Path):
    folder = write_folder()
    with pytest.raises(UserError, match=r"is one task, not a folder of tasks. Give the folder that holds it: .*suite"):
        read_suite(folder)
    with pytest.raises(UserError, match=r"siute: no such folder. Did you mean 'suite'\? Check the path."):
        read_suite(tmp_path / "siute")
    with pytest.raises(UserError, match=r"helpdsk: no such folder. Did you mean 'helpdesk'\? Check the path."):
        read_task(folder.parent / "helpdsk")
    with pytest.raises(UserError, match=r"holds no task folder. A task is a folder with task.json"):
        read_suite(folder / "qrels")
    (folder / "task.json").unlink()
    with pytest.raises(
        UserError, match=r"helpdesk/task.json: missing, although the folder holds task files. Write the card."
    ):
        suite_names(folder.parent)


def test_the_hash_covers_the_files_of_tasks_and_nothing_else(write_folder, tmp_path: Path):
    folder = write_folder("alpha")
    write_folder("beta")
    before = read_suite(folder.parent)
    (folder / "README.md").write_text("loose")
    (folder.parent / "INDEX.md").write_text("loose")
    assert read_suite(folder.parent).sha256 == before.sha256
    (folder.parent).rename(tmp_path / "moved")
    assert read_suite(tmp_path / "moved").sha256 == before.sha256
    with (tmp_path / "moved/alpha/qrels/test.tsv").open("a") as file:
        file.write("q3\tkb1\t1\n")
    after = read_suite(tmp_path / "moved")
    assert after.sha256 != before.sha256
    assert after.task_sha256["alpha"] != before.task_sha256["alpha"]
    assert after.task_sha256["beta"] == before.task_sha256["beta"]


def test_the_hash_is_the_one_documented(write_folder):
    folder = write_folder()
    names = ("corpus.jsonl", "qrels/test.tsv", "qrels/train.tsv", "queries.jsonl", "task.json")
    listing = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    one = hashlib.sha256(listing.encode()).hexdigest()
    suite = read_suite(folder.parent)
    assert suite.task_sha256 == {"helpdesk": one}
    assert suite.sha256 == hashlib.sha256(f"{one}  helpdesk\n".encode()).hexdigest()


def test_the_example_of_the_documentation_is_a_task(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    script = page.split("```bash\n")[1].split("```")[0]
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)
    suite = read_suite(tmp_path / "my_suite")
    task = suite.tasks["helpdesk"]
    assert task.document_texts[0] == "Reset a password Open Settings, choose Security, then Reset."
    assert f"# {task.document_texts[0]}\n" in page
    assert {split: len(one) for split, one in task.splits.items()} == {"train": 1, "dev": 1, "test": 1}
    qrels = tmp_path / "my_suite/helpdesk/qrels/test.tsv"
    qrels.write_text(qrels.read_text().replace("kb3", "kb33"))
    assert f"\nmy_suite/helpdesk/{refusal(tmp_path / 'my_suite/helpdesk')}\n" in page


PARTS = TaskParts(
    card=TaskCard(
        "notes", "article", "office", ("en", "de"), "Retrieve the \u201enote\u201c.", "CC0-1.0", "here", cutoffs=(2,)
    ),
    documents=[
        {"_id": "d1", "title": "T", "text": "a\nb\u2028"},
        {"_id": "d2", "text": "\u00e9t\u00e9"},
        {"_id": "d3", "text": "c"},
    ],
    queries={"q1": "x\ty", "q2": "\U0001f600"},
    qrels={"train": [("q1", "d1", 1)], "test": [("q2", "d2", 0.1), ("q2", "d1", 0)]},
    negatives={"train": [("q1", "d2", 0.25)]},
    exclude=[("q2", "d3")],
)


def test_what_is_written_is_read_back(tmp_path: Path):
    folder = tmp_path / "new" / "notes"
    write_task(PARTS, folder)
    task = read_task(folder)
    assert task.card == PARTS.card
    assert task.document_texts == ("T a\nb", "\u00e9t\u00e9", "c")
    assert task.query_texts == ("x\ty", "\U0001f600")
    assert task.splits["test"].documents.tolist() == [0, 1]
    assert task.splits["test"].scores.tolist() == [0.0, 0.1]
    assert task.negatives["train"].scores.tolist() == [0.25]
    assert task.exclude is not None
    assert task.exclude.documents.tolist() == [2]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["notes"]
    assert b"\r" not in (folder / "qrels/train.tsv").read_bytes()
    assert "material" not in json.loads((folder / "task.json").read_text())


def test_writing_never_replaces_a_folder(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match=r"notes: exists already and is never overwritten. Remove it or choose another"):
        write_task(PARTS, tmp_path / "notes")
    with pytest.raises(
        UserError, match=r"other: the folder must be named as the card is, 'notes'. Rename one of them."
    ):
        write_task(PARTS, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* Check the path and its permissions."):
        write_task(PARTS, tmp_path / "file" / "notes")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"notes: cannot be written \(No space left on device\)."):
        write_task(PARTS, tmp_path / "notes")
    assert list(tmp_path.iterdir()) == []
