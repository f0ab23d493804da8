"""mtret/files.py in an object store: a real client against a server on this machine."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from mtret.data.suites import load_suite
from mtret.data.task_files import TaskParts, write_task
from mtret.data.tasks import TaskCard
from mtret.errors import UserError
from mtret.files import (
    check_writable,
    folder_draft,
    inside,
    locate,
    read_arrays,
    read_metadata,
    remove,
    replace_arrays,
    replace_bytes,
    replace_folder,
    replace_json,
    replace_text,
    written_locally,
)

pytestmark = pytest.mark.system


@pytest.fixture
def place(store: str, request: pytest.FixtureRequest) -> epath.Path:
    """A place of the test's own."""
    found = locate(f"{store}/{request.node.name}")
    assert isinstance(found, epath.Path)
    return found


def names(folder: epath.Path) -> list[str]:
    return [path.name for path in inside(folder)]


def test_a_name_says_what_kind_of_path_it_is(store: str) -> None:
    assert locate("~/tasks") == Path.home() / "tasks"
    assert locate("runs/a") == Path("runs/a")
    found = locate("s3://bucket/runs/a")
    assert isinstance(found, epath.Path)
    assert (str(found / "model"), found.name, str(found.parent)) == (
        "s3://bucket/runs/a/model",
        "a",
        "s3://bucket/runs",
    )


@pytest.mark.parametrize("name", ["hdfs://cluster/a", "http://host/a", "file:///a"])
def test_other_stores_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"is not known; give a local path, gs://BUCKET/\.\.\. or s3://BUCKET/\.\.\."):
        locate(name)


def test_a_missing_client_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://b/a: needs gcsfs, .* pip install 'mtret\[remote\]'"):
        locate("gs://b/a")


def test_files_are_replaced_and_read(place: epath.Path) -> None:
    path = place / "a" / "note.txt"
    replace_text(path, "Störung")
    replace_text(path, "second")
    assert path.read_text() == "second"
    replace_json(place / "a" / "x.json", {"x": 1})
    assert json.loads((place / "a" / "x.json").read_text()) == {"x": 1}
    assert names(place / "a") == ["note.txt", "x.json"]
    assert names(place) == ["a"]
    assert (place / "a").is_dir() and not path.is_dir()
    assert not (place / "b").exists() and inside(place / "b") == []


def test_what_another_process_writes_or_removes_is_seen_at_once(place: epath.Path) -> None:
    import boto3

    replace_bytes(place / "a", b"1")
    assert names(place) == ["a"]
    other = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    key = str(place).removeprefix("s3://bucket/")
    other.put_object(Bucket="bucket", Key=f"{key}/b", Body=b"2")
    other.delete_object(Bucket="bucket", Key=f"{key}/a")
    assert names(place) == ["b"]
    assert not (place / "a").exists() and (place / "b").exists()


def test_a_folder_s_own_mark_is_not_inside_it(place: epath.Path) -> None:
    """Consoles mark a folder by an empty object whose name ends in a slash."""
    import boto3

    key = str(place).removeprefix("s3://bucket/")
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).put_object(Bucket="bucket", Key=f"{key}/")
    assert inside(place) == []
    replace_bytes(place / "a", b"")
    assert names(place) == ["a"]


def test_arrays_come_back_equal_with_their_metadata(place: epath.Path) -> None:
    path = place / "x.safetensors"
    arrays = {"turned": np.arange(6, dtype=np.int32).reshape(2, 3).T, "one": np.array(3.5, np.float32)}
    replace_arrays(path, arrays, {"step": "7"})
    found = read_arrays(path)
    assert found is not None and found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert (found[name].dtype, found[name].tobytes()) == (value.dtype, value.tobytes())
    assert read_metadata(path) == {"step": "7"}
    assert read_arrays(place / "none") is None
    replace_bytes(path, path.read_bytes()[:-4])
    assert read_arrays(path) is None


def test_a_large_object_comes_back_equal(place: epath.Path) -> None:
    """Above the size that clients send in one piece."""
    content = np.random.default_rng(0).bytes(120 * 2**20)
    replace_bytes(place / "x", content)
    assert (place / "x").read_bytes() == content


def test_a_folder_is_replaced_and_its_marks_come_last(place: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / "model"
    for name in ("old", "config.json", "modules.json"):
        replace_bytes(folder / name, b"old")
    written: list[str] = []
    original = replace_bytes

    def watched(path: epath.Path, content: bytes) -> None:
        if not written:
            assert inside(folder) == []  # no old mark beside a new file
        written.append(str(path).removeprefix(f"{folder}/"))
        original(path, content)

    monkeypatch.setattr("mtret.files.replace_bytes", watched)
    with folder_draft(folder) as draft:
        for name in ("config.json", "modules.json", "weights", "1_Pooling/config.json"):
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(b"new")
        replace_folder(draft, folder, last=("config.json", "modules.json"))
    assert written == ["1_Pooling/config.json", "weights", "config.json", "modules.json"]
    assert names(folder) == ["1_Pooling", "config.json", "modules.json", "weights"]
    assert not draft.exists()


def test_what_writes_only_to_local_folders_is_copied(place: epath.Path, tmp_path: Path) -> None:
    with written_locally(place / "profile") as folder:
        (folder / "a").mkdir()
        (folder / "a" / "trace").write_bytes(b"1")
    assert (place / "profile" / "a" / "trace").read_bytes() == b"1"
    with written_locally(tmp_path / "profile") as folder:
        assert folder == tmp_path / "profile"


def test_a_check_for_writing_leaves_nothing(place: epath.Path) -> None:
    check_writable(place, "--workdir")
    assert inside(place) == []


PARTS = TaskParts(
    card=TaskCard("cars", "table", "traffic", ("en",), "Find the car", "CC0-1.0", "made up"),
    documents=[{"_id": "d1", "text": "a red car"}, {"_id": "d2", "title": "Bus", "text": "a blue bus"}],
    queries={"q1": "red", "q2": "blue"},
    qrels={"train": [("q1", "d1", 1)], "test": [("q2", "d2", 1)]},
)


def test_a_suite_is_written_and_read_as_a_local_one_is(place: epath.Path, tmp_path: Path) -> None:
    for folder in (place / "suite", tmp_path / "suite"):
        for name in ("cars", "vans"):
            write_task(replace(PARTS, card=replace(PARTS.card, name=name)), folder / name)
    ours, theirs = load_suite(f"{place}/suite"), load_suite(str(tmp_path / "suite"))
    assert list(ours.tasks) == ["cars", "vans"]
    assert (ours.sha256, ours.task_sha256) == (theirs.sha256, theirs.task_sha256)
    assert ours.tasks["cars"].document_texts == ("a red car", "Bus a blue bus")
    with pytest.raises(UserError, match=f"{place}/suite/cars: exists already and is never overwritten"):
        write_task(PARTS, place / "suite" / "cars")
    replace_text(place / "suite" / "vans" / "queries.jsonl", '{"_id": "q1", "text": "red"}\n{"_id": 2}\n')
    with pytest.raises(UserError, match=rf"{place}/suite/vans/queries\.jsonl:2: '_id' must be a string"):
        load_suite(f"{place}/suite")
    with pytest.raises(UserError, match=rf"{place}/suit: no such folder\. Did you mean 'suite'\?"):
        load_suite(f"{place}/suit")


def test_a_name_with_brackets_is_no_pattern(place: epath.Path) -> None:
    replace_bytes(place / "a[1]", b"")
    replace_bytes(place / "a1", b"")
    remove(place / "a[1]")
    remove(place / "b")
    assert names(place) == ["a1"]


def test_a_bucket_that_is_not_there_is_named(store: str) -> None:
    missing = locate("s3://no-such-bucket/runs")
    with pytest.raises(UserError, match=r"s3://no-such-bucket/runs: cannot be reached \(.*bucket.*\)\. Check bucket"):
        check_writable(missing, "--workdir")
    with pytest.raises(UserError, match="s3://no-such-bucket/runs: no such folder"):
        load_suite(str(missing))


PROGRAM = """
import sys
from mtret.cli import main
sys.exit(main(["train", "--config=configs/quickstart.py", "--workdir=s3://bucket/run"]))
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
            "EndpointConnectionError|ClientConnectorError|Could not connect",
        ),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}, "redentials"),
    ],
)
@pytest.mark.slow
def test_an_unreachable_store_is_one_line(store: str, change: dict[str, str], reason: str) -> None:
    environment = {**os.environ, **change, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment = {key: value for key, value in environment.items() if value}
    line = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        rf"mtret: s3://bucket/run: cannot be reached \(.*({reason}).*\)\. Check bucket, .*\n", done.stderr
    )
