"""Suites as data sets of TensorFlow Datasets: everything comes back, others can read them, damage is named."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtret.data import tfds_suites
from mtret.data.formats import Suite, read_suite
from mtret.data.images import decode, read_pixels
from mtret.data.tasks import Judgements, Task
from mtret.data.tfds_suites import count_records, dataset_folder, read_dataset, write_dataset
from mtret.errors import UserError

Write = Callable[..., Path]
EVERYTHING: dict[str, str | bytes | None] = {
    # Titles, a control character, other scripts; queries and documents that occur in no pair.
    "corpus.jsonl": (
        '{"_id": "kb1", "title": "Reset", "text": "Reset: open\\u0000 Settings\\r\\n and  wait"}\n'
        '{"_id": "kb 2", "title": "VPN", "text": "\U0001f511 トークン"}\n'
        '{"_id": "kb3", "text": "Printers are on every floor."}\n'
        '{"_id": "kb10", "text": "Nobody asks for this."}\n'
    ),
    "queries.jsonl": "".join(f'{{"_id": "q{i}", "text": "question {i}"}}\n' for i in (3, 1, 2, 10, 4)),
    "qrels/train.tsv": "query-id\tcorpus-id\tscore\nq1\tkb1\t0.1\nq1\tkb 2\t-3\nq3\tkb3\t1e300\nq10\tkb3\t0\n",
    "qrels/dev.tsv": "query-id\tcorpus-id\tscore\nq4\tkb3\t1\n",
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq2\tkb 2\t2\n",
    "negatives/train.tsv": "query-id\tcorpus-id\nq1\tkb3\n",
    "negatives/test.tsv": "query-id\tcorpus-id\tscore\nq2\tkb1\t0.30000000000000004\n",
    "exclude.tsv": "query-id\tcorpus-id\nq4\tkb1\n",
}
PLAIN = ("card", "query_ids", "query_texts", "document_ids", "document_texts", "parent_ids")


def test_no_field_of_a_task_is_forgotten() -> None:
    """A field that is new is to be written, read and compared."""
    assert {field.name for field in fields(Task)} == {*PLAIN, "splits", "negatives", "exclude", "images"}


def picture(colour: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (5, 3), (colour, 0, 200)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def suite(write_folder: Write) -> Suite:
    """Tasks of texts, one with every kind of file, whose names begin alike, and one of images."""
    write_folder("helpdesk")
    write_folder("helpdesk-all", EVERYTHING, cutoffs=[1, 3], languages=["en", "ja"], material="desk", notes="ü")
    documents = '{"_id": "i0", "image": "a.png"}\n{"_id": "i1", "image": "b.png", "text": "a word"}\n'
    pairs = "query-id\tcorpus-id\tscore\nq1\ti0\t1\nq3\ti1\t1\n"
    files = {"corpus.jsonl": documents, "a.png": picture(0), "b.png": picture(90), "qrels/test.tsv": None}
    chunks = [("c2", "kb2"), ("a1", "kb1"), ("b2", "kb2"), ("kb3", ""), ("b1", "kb1")]
    lines = [f'{{"_id": "{own}", "parent": "{parent}", "text": "text of {own}"}}\n' for own, parent in chunks]
    write_folder("in_chunks", {"corpus.jsonl": "".join(lines)})
    folder = write_folder("icons", {**files, "qrels/train.tsv": pairs}, modality="image")
    return read_suite(folder.parent)


@pytest.fixture
def written(suite: Suite, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "tasks" / "1.0.0"
    write_dataset(suite, folder)
    return folder


def assert_same_pairs(ours: Judgements | None, theirs: Judgements | None) -> None:
    assert (ours is None) == (theirs is None)
    if ours and theirs:
        for field in ("queries", "offsets", "documents", "scores"):
            one, other = getattr(ours, field), getattr(theirs, field)
            assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def assert_same(ours: Suite, theirs: Suite) -> None:
    assert (list(ours.tasks), ours.sha256, ours.task_sha256) == (list(theirs.tasks), theirs.sha256, theirs.task_sha256)
    for one, other in zip(ours.tasks.values(), theirs.tasks.values(), strict=True):
        for field in PLAIN:
            assert getattr(one, field) == getattr(other, field)
        for kind in ("splits", "negatives"):
            relations, others = getattr(one, kind), getattr(other, kind)
            assert list(relations) == list(others)
            for split in relations:
                assert_same_pairs(relations[split], others[split])
        assert_same_pairs(one.exclude, other.exclude)
        assert (one.images is None) == (other.images is None)
        if one.images and other.images:
            assert one.images.sha256 == other.images.sha256
            assert [path.read_bytes() for path in one.images.paths] == [p.read_bytes() for p in other.images.paths]


def test_everything_comes_back(suite: Suite, written: Path) -> None:
    found = read_dataset(str(written))
    assert_same(found, suite)
    assert str(found.folder) == "tfds:tasks:1.0.0"
    assert found.tasks["helpdesk-all"].splits["train"].scores.tolist() == [1e300, 0.1, -3.0]
    assert found.tasks["icons"].document_texts == ("", "a word")
    assert found.tasks["in_chunks"].splits["train"].documents.tolist() == [1]


def test_images_are_decoded_as_from_files(suite: Suite, written: Path) -> None:
    ours, theirs = read_dataset(str(written)).tasks["icons"].images, suite.tasks["icons"].images
    assert ours and theirs
    np.testing.assert_array_equal(read_pixels(ours, 4), read_pixels(theirs, 4))


def test_a_broken_image_is_named(write_folder: Write, tmp_path: Path) -> None:
    files = {"corpus.jsonl": '{"_id": "kb1", "image": "a.png"}\n', "a.png": picture(0)[:40], "qrels/test.tsv": None}
    folder = tmp_path / "data" / "tasks" / "1.0.0"
    write_dataset(read_suite(write_folder("icons", files, modality="image").parent), folder)
    images = read_dataset(str(folder)).tasks["icons"].images
    assert images
    with pytest.raises(UserError, match=r"^tfds:tasks:1\.0\.0 icons record 0: no readable image"):
        decode(images.paths[0], 4)


def test_chunks_keep_their_parents(write_folder: Write, tmp_path: Path) -> None:
    """Pairs name parents, of which no document need have the id."""
    documents = "".join(
        f'{{"_id": "{own}", "text": "about {own}"{more}}}\n'
        for own, more in [("b", ""), ("a#2", ', "parent": "a"'), ("c#1", ', "parent": "c"'), ("a#1", ', "parent": "a"')]
    )
    pairs = "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tc\t0\nq2\tb\t1\n"
    files = {"corpus.jsonl": documents, "qrels/train.tsv": pairs, "qrels/test.tsv": None}
    suite = read_suite(write_folder("helpdesk", files).parent)
    write_dataset(suite, tmp_path / "tasks" / "1.0.0")
    found = read_dataset(str(tmp_path / "tasks"))
    assert_same(found, suite)
    assert found.tasks["helpdesk"].parent_ids == ("b", "a", "c", "a")
    assert found.tasks["helpdesk"].splits["train"].documents.tolist() == [1, 2, 0]


@pytest.mark.slow
@pytest.mark.system
def test_the_enterprise_comes_back(tmp_path: Path) -> None:
    from mtret.data.suites import load_suite

    write_dataset(load_suite("enterprise"), tmp_path / "enterprise" / "1.0.0")
    assert_same(read_dataset(str(tmp_path / "enterprise")), load_suite("enterprise"))


def test_a_split_may_take_several_files(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_suites, "SHARD_BYTES", 200)
    monkeypatch.setattr(tfds_suites, "BLOCK", 2)
    folder = tmp_path / "tasks" / "1.0.0"
    write_dataset(suite, folder)
    assert len(list(folder.glob("tasks-helpdesk-corpus.array_record-0000?"))) == 2
    assert_same(read_dataset(str(folder)), suite)


def test_negatives_that_are_all_of_unused_queries_come_back_as_none(write_folder: Write, tmp_path: Path) -> None:
    pairs = "query-id\tcorpus-id\tscore\nq1\tkb1\t1\nq2\tkb1\t0\n"
    files = {"qrels/train.tsv": pairs, "qrels/test.tsv": None, "negatives/train.tsv": "query-id\tcorpus-id\nq2\tkb2\n"}
    suite = read_suite(write_folder("helpdesk", files).parent)
    assert len(suite.tasks["helpdesk"].negatives["train"]) == 0
    write_dataset(suite, tmp_path / "tasks" / "1.0.0")
    assert_same(read_dataset(str(tmp_path / "tasks")), suite)


def test_others_read_it_by_name(suite: Suite, written: Path) -> None:
    """With nothing of mtret, in the library's own way."""
    import tensorflow_datasets as tfds

    def read(part: str) -> list[dict[str, Any]]:
        source: Any = tfds.data_source("tasks", split=f"helpdesk-all-{part}", data_dir=written.parents[1])
        return list(source)

    task = suite.tasks["helpdesk-all"]
    documents, pairs = read("corpus"), read("qrels_train")
    assert [(one["corpus_id"].decode(), one["text"].decode()) for one in documents] == list(
        zip(task.document_ids, task.document_texts, strict=True)
    )
    assert [one["text"].decode() for one in read("queries")] == list(task.query_texts)
    assert [(one["query_id"], one["corpus_id"], float(one["score"])) for one in pairs] == [
        (b"q3", b"kb3", 1e300),
        (b"q1", b"kb1", 0.1),
        (b"q1", b"kb 2", -3.0),
    ]
    builder: Any = tfds.builder("tasks", data_dir=written.parents[1])
    (image,) = builder.as_data_source(split="icons-corpus[:1]")
    assert image["image"] == picture(0)
    assert builder.info.metadata["tasks"]["icons"]["card"]["license"] == "CC0-1.0"


def test_neither_way_needs_tensorflow(suite: Suite, written: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mtret.data.tfds_suites import *; "
        "suite = read_dataset(sys.argv[1]); write_dataset(suite, Path(sys.argv[2])); "
        "print(len(suite.tasks), {'tensorflow', 'torch', 'jax'} & {*sys.modules})"
    )
    again = tmp_path / "again" / "1.0.0"
    done = subprocess.run([sys.executable, "-c", code, written, again], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("4 set()\n", 0), done.stderr
    assert_same(read_dataset(str(again)), suite)


def test_the_same_suite_is_written_byte_for_byte_the_same(suite: Suite, written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again" / "tasks" / "1.0.0"
    write_dataset(suite, again)
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all((written / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_data_sets_are_found_by_name_and_version(
    suite: Suite, written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(written.parents[1]))
    for version in ("1.10.0", "1.9.0"):
        write_dataset(suite, written.parent / version)
    assert str(read_dataset("tasks").folder) == "tfds:tasks:1.10.0"
    assert str(read_dataset("tasks:1.9.0").folder) == "tfds:tasks:1.9.0"
    assert str(read_dataset(str(written.parent)).folder) == "tfds:tasks:1.10.0"
    for reference, complaint in [
        ("task", r"tfds:task: no data set 'task' in .*/data\. Did you mean 'tasks'\? It holds: tasks\. Give tfds:PATH"),
        ("tasks:2.0.0", r"no version '2\.0\.0' in .*/data/tasks, only 1\.0\.0, 1\.9\.0, 1\.10\.0\."),
        ("./nowhere", r"tfds:\./nowhere: no such folder"),
        (str(tmp_path), r"holds no dataset_info\.json, and no version of a data set"),
        ("s3://bucket/tasks/1.0.0", r"tfds:s3://bucket.*: array_record files are read from local folders only; copy"),
    ]:
        with pytest.raises(UserError, match=complaint):
            read_dataset(reference)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(
        UserError, match=r"no data set 'tasks' in .*/none\. It holds none\. Give tfds:PATH, or set TFDS"
    ):
        read_dataset("tasks")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def older(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "mtret_suite": 0}), encoding="utf-8")


def cardless(path: Path) -> None:
    found = json.loads(path.read_text())
    del found["tasks"]["icons"]["card"]["license"]
    path.write_text(json.dumps(found), encoding="utf-8")


SHARD = "tasks-icons-queries.array_record-00000"


@pytest.mark.parametrize(
    ("name", "spoil", "complaint"),
    [
        (SHARD, cut, rf"1\.0\.0/{SHARD}: is damaged, or not the file that was written; write the data set again"),
        (SHARD, flip, rf"1\.0\.0/{SHARD}: is damaged, or not the file that was written"),
        (SHARD, Path.unlink, rf"1\.0\.0/{SHARD}: is missing; write the data set again .* or copy all its files"),
        ("metadata.json", Path.unlink, r"1\.0\.0: is not a suite; only what mtret data tfds wrote"),
        ("metadata.json", cut, r"1\.0\.0/metadata\.json: is damaged \(not valid JSON\); write the data set again"),
        ("metadata.json", older, r"1\.0\.0: was written by another mtret \(format 0, not 1\); write it again"),
        ("metadata.json", cardless, r"1\.0\.0: is damaged \(MissingKeyError: .*license.*\); write the data set again"),
        ("dataset_info.json", cut, r"1\.0\.0: is damaged \(\w+: .*\); write the data set again"),
        ("dataset_info.json", Path.unlink, r"1\.0\.0: is damaged \(\w+: .*\); write the data set again"),
        ("features.json", Path.unlink, r"1\.0\.0: is damaged \(\w+: .*\); write the data set again"),
    ],
)
def test_what_is_torn_is_named_in_one_line(
    written: Path, name: str, spoil: Callable[[Path], None], complaint: str
) -> None:
    spoil(written / name)
    with pytest.raises(UserError, match=complaint) as raised:
        read_dataset(str(written))
    assert "\n" not in str(raised.value)


def test_other_peoples_data_sets_are_no_suites(written: Path) -> None:
    (written / "metadata.json").write_text('{"classes": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"1\.0\.0: is not a suite; only what mtret data tfds wrote holds cards"):
        read_dataset(str(written))


def test_nothing_is_overwritten(suite: Suite, written: Path) -> None:
    before = {path: path.read_bytes() for path in written.iterdir()}
    with pytest.raises(UserError, match=r"tasks/1\.0\.0: exists already and is never overwritten; give another --vers"):
        write_dataset(suite, written)
    assert {path: path.read_bytes() for path in written.iterdir()} == before
    assert [path.name for path in written.parents[1].iterdir()] == ["tasks"]


@pytest.mark.parametrize(
    ("name", "version", "complaint"),
    [
        ("My Tasks", "1.0.0", r"--name=My Tasks: a data set's name has small letters, digits and _, a letter first"),
        ("1st", "1.0.0", r"--name=1st: "),
        ("tasks", "1.0", r"--version=1\.0: must be three numbers such as 1\.0\.0"),
        ("tasks", "1.0.01", r"--version=1\.0\.01: "),
    ],
)
def test_names_and_versions_are_those_of_the_library(tmp_path: Path, name: str, version: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        dataset_folder(tmp_path, name, version)
    assert dataset_folder(tmp_path, "a_2", "0.10.3") == tmp_path / "a_2" / "0.10.3"


def test_what_is_interrupted_leaves_nothing(suite: Suite, tmp_path: Path) -> None:
    seen = list[int]()

    def stop(count: int) -> None:
        seen.append(count)
        if len(seen) == 3:
            raise KeyboardInterrupt

    (tmp_path / "data").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_dataset(suite, tmp_path / "data" / "tasks" / "1.0.0", stop)
    assert list((tmp_path / "data").iterdir()) == []
    seen.clear()
    write_dataset(suite, tmp_path / "data" / "tasks" / "1.0.0", lambda count: seen.append(count))
    assert sum(seen) == count_records(suite)


def test_what_is_not_read_as_it_was_written_is_not_kept(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tfds_suites._read_task

    def read(builder: Any, label: str, name: str, about: dict[str, Any]) -> Task:
        task = real(builder, label, name, about)
        object.__setattr__(task, "query_texts", ("another", *task.query_texts[1:]))
        return task

    (tmp_path / "data").mkdir()
    monkeypatch.setattr(tfds_suites, "_read_task", read)
    with pytest.raises(UserError, match=r"tasks/1\.0\.0: was not read again as it was written; check the disk"):
        write_dataset(suite, tmp_path / "data" / "tasks" / "1.0.0")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("library", ["tensorflow_datasets", "array_record"])
def test_a_missing_extra_is_named(
    suite: Suite, written: Path, monkeypatch: pytest.MonkeyPatch, library: str, tmp_path: Path
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else real(name))
    complaint = rf"^TFDS data sets need {library}, not installed here; pip install 'mtret\[tfds\]'$"
    with pytest.raises(UserError, match=complaint):
        read_dataset(str(written))
    with pytest.raises(UserError, match=complaint):
        write_dataset(suite, tmp_path / "more" / "tasks" / "1.0.0")
    assert not (tmp_path / "more").exists()


def test_a_data_set_that_was_moved_is_read(suite: Suite, written: Path, tmp_path: Path) -> None:
    moved = shutil.move(written.parent, tmp_path / "elsewhere")
    assert_same(read_dataset(str(moved)), suite)
