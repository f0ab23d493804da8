import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from mtret.errors import UserError
from mtret.files import (
    check_new,
    check_writable,
    read_arrays,
    read_metadata,
    replace_arrays,
    replace_bytes,
    replace_json,
    replace_text,
    split_places,
)


def test_text_is_written_in_utf8_into_folders_that_are_made(tmp_path: Path):
    path = tmp_path / "a" / "b" / "note.txt"
    replace_text(path, "Störung\n東京")
    assert path.read_bytes() == "Störung\n東京".encode()
    replace_text(path, "second")
    assert path.read_text() == "second"
    assert [each.name for each in path.parent.iterdir()] == ["note.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "kept"
    replace_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_that_any_new_file_would_have(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    replace_bytes(tmp_path / "ours", b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_json_keeps_words_readable_and_refuses_numbers_that_it_does_not_have(tmp_path: Path):
    path = tmp_path / "x.json"
    replace_json(path, {"name": "Prüfung", "values": [1, 0.5]})
    assert "Prüfung" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Prüfung", "values": [1, 0.5]}
    with pytest.raises(ValueError):
        replace_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8"))["values"] == [1, 0.5]


def test_arrays_come_back_equal_with_their_metadata(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    arrays = {
        "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,  # not contiguous
        "none": np.zeros((0, 4), np.float32),
        "bounds": np.array([0, 2**40], np.int64),
    }
    replace_arrays(path, arrays, {"step": "7"})
    found = read_arrays(path)
    assert found is not None and set(found) == set(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    assert read_metadata(path) == {"step": "7"}


def test_metadata_that_was_not_given_is_empty(tmp_path: Path):
    replace_arrays(tmp_path / "x", {"a": np.zeros(1)})
    assert read_metadata(tmp_path / "x") == {}


@pytest.mark.parametrize("spoil", ["absent", "empty", "garbage", "cut"])
def test_an_unreadable_cache_is_no_cache(tmp_path: Path, spoil: str):
    path = tmp_path / "x.safetensors"
    replace_arrays(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    assert read_arrays(path) is not None
    if spoil == "absent":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "garbage": b"\xff" * 64, "cut": whole[:-100]}[spoil])
    assert read_arrays(path) is None


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("FAQ, final.csv", ["FAQ, final.csv"]),
        ("other.csv,FAQ, final.csv", ["other.csv", "FAQ, final.csv"]),
        ("dev=FAQ, final.csv,test=other.csv", ["dev=FAQ, final.csv", "test=other.csv"]),
        ("FAQ, f*,x", ["FAQ, f*", "x"]),
        ("minilm,hub/id", ["minilm", "hub/id"]),
        ("other.csv,,x,", ["other.csv", "x"]),
        ("s3://a,s3://b", ["s3://a", "s3://b"]),
    ],
)
def test_a_comma_may_be_a_part_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, places: list[str]
) -> None:
    for name in ("FAQ, final.csv", "other.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert split_places(text) == places


def test_what_is_there_is_not_new(tmp_path: Path) -> None:
    check_new(tmp_path / "a" / "b", "--out")
    with pytest.raises(UserError, match=rf"^{tmp_path}: exists already and is never overwritten; give another --to$"):
        check_new(tmp_path, "--to")


def test_a_place_is_writable_if_its_nearest_folder_is(tmp_path: Path) -> None:
    check_writable(tmp_path, "--out")
    check_writable(tmp_path / "a" / "b" / "c", "--out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in ("file", "file/a/b", "dangling", "dangling/a"):
        with pytest.raises(UserError, match=rf"^--out={tmp_path}/{place}: .* is not writable; choose"):
            check_writable(tmp_path / place, "--out")
