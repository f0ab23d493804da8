"""`mtret encode`: vectors as the model makes them, in every format, whole or not at all."""

import builtins
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.tokenize import Tokenizer
from mtret.index.encode import Texts
from mtret.index.exact import truncate
from mtret.model_folder.folder import load_model
from mtret.model_folder.towers import embedder
from mtret.runs import encode
from mtret.runs.encode import read_texts

pytestmark = pytest.mark.slow

Mtret = Callable[..., tuple[int, str, str]]


def vectors_of(run: Path, prompt: str, texts: list[str]) -> np.ndarray:
    """By the definition."""
    encoder = load_model(str(run)).encoder
    tokens = Tokenizer(encoder.folder)([prompt + text for text in texts])
    return embedder(encoder)([Texts(tokens, encoder.max_length)])[0]


def test_documents_as_parquet(mtret: Mtret, finished: Path, tiny_suite: Path, tmp_path: Path) -> None:
    from pyarrow import parquet, types

    code, said, _ = mtret("encode", f"--model={finished}", "--task=alpha", f"--out={tmp_path}/a.parquet")
    assert code == 0
    assert said.splitlines()[-2] == f"wrote {tmp_path}/a.parquet: 60 vectors of 32 dimensions, length 1, prompt ''"
    assert said.splitlines()[-1].startswith(f"next: mtret encode --model={finished} --task=alpha --side=queries")
    table = parquet.read_table(tmp_path / "a.parquet")
    kind = table.schema.field("vector").type
    assert types.is_fixed_size_list(kind) and kind.list_size == 32 and types.is_float32(kind.value_type)
    about = json.loads(table.schema.metadata[b"mtret"])
    assert about["prompt"] == "" and about["weights_sha256"] == load_model(str(finished)).towers.weights_sha256
    task = read_task(tiny_suite / "alpha")
    assert table["id"].to_pylist() == list(task.document_ids)
    found = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, vectors_of(finished, "", list(task.document_texts)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_queries_with_their_instruction_cut_short(
    mtret: Mtret, finished: Path, tiny_suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "q.jsonl"
    assert (
        mtret("encode", f"--model={finished}", "--task=alpha", "--side=queries", "--dimensions=8", f"--out={out}")[0]
        == 0
    )
    task, prompt = read_task(tiny_suite / "alpha"), load_model(str(finished)).prompts["alpha"]
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [each["id"] for each in found] == list(task.query_ids)
    wanted = truncate(vectors_of(finished, prompt, list(task.query_texts)), 8)
    np.testing.assert_allclose([each["vector"] for each in found], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "prompt"),
    [
        ((), "document"),
        (("--side=queries",), "query"),
        (("--prompt=beta",), "beta"),
        (("--prompt=document",), "document"),
    ],
)
def test_texts_as_json_lines_block_by_block(
    mtret: Mtret,
    finished: Path,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    prompt: str,
) -> None:
    monkeypatch.setattr(encode, "BLOCK", 2)
    texts = [" ".join(words[i : i + 5]) for i in range(5)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([texts[0], "", *texts[1:]])))
    out = tmp_path / "t.jsonl"
    assert mtret("encode", f"--model={finished}", "--texts=-", *flags, f"--out={out}")[0] == 0
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [each["id"] for each in found] == ["1", "3", "4", "5", "6"]
    wanted = vectors_of(finished, load_model(str(finished)).prompts[prompt], texts)
    np.testing.assert_allclose([each["vector"] for each in found], wanted, atol=1e-6)


def test_a_file_of_documents_equals_the_task(mtret: Mtret, finished: Path, tiny_suite: Path, tmp_path: Path) -> None:
    """The same ids, titles before texts, the same vectors."""
    for name, source in (("a", "--task=alpha"), ("b", f"--texts={tiny_suite}/alpha/corpus.jsonl")):
        assert mtret("encode", f"--model={finished}", source, f"--out={tmp_path}/{name}.jsonl")[0] == 0
    a, b = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in "ab"
    )
    assert [each["id"] for each in a] == [each["id"] for each in b]
    np.testing.assert_allclose([each["vector"] for each in a], [each["vector"] for each in b], atol=1e-6)


def test_lines_and_objects() -> None:
    lines = ['{"_id": "x", "title": "T", "text": "one"}\n', "\n", '{"id": 7, "text": "two"}\n']
    assert list(read_texts(lines, "a.jsonl", documents=True)) == [("x", "T one"), ("7", "two")]
    assert list(read_texts(lines, "a.jsonl", documents=False)) == [("x", "one"), ("7", "two")]
    assert list(read_texts(["a b\n", "\n", "{}\n"], "a.txt", documents=True)) == [("1", "a b"), ("3", "{}")]


def test_what_is_cut_or_empty_is_counted(mtret: Mtret, finished: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    rows = [("a", "word " * 100), ("b", ""), ("c", "short"), ("d", "  "), ("e", "more " * 100)]
    texts.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in rows), encoding="utf-8")
    out = tmp_path / "v.jsonl"
    code, said, _ = mtret("encode", finished, f"--texts={texts}", f"--out={out}")
    assert code == 0 and f"wrote {out}: 3 vectors" in said
    assert "2 texts are longer than the model reads" in said and "2 without text were left out" in said
    assert [json.loads(line)["id"] for line in out.read_text(encoding="utf-8").splitlines()] == ["a", "c", "e"]


def test_mistakes_are_one_line_and_leave_nothing(
    mtret: Mtret, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, bad, latin = tmp_path / "there.jsonl", tmp_path / "bad.jsonl", tmp_path / "latin.txt"
    there.write_bytes(b"mine")
    bad.write_text('{"_id": "a", "text": "x"}\n{"_id": "b"}\n', encoding="utf-8")
    latin.write_bytes(b"caf\xe9\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    model, out = f"--model={finished}", f"--out={tmp_path}/new.jsonl"
    before = sorted(path.name for path in tmp_path.iterdir())
    for flags, message in (
        ((model, out), "encode: give either --task or --texts"),
        ((model, out, "--task=alpha", "--texts=-"), "encode: give either --task or --texts"),
        ((model, "--task=alpha", f"--out={there}"), "there.jsonl: exists already and is never overwritten"),
        ((model, "--task=alpha", f"--out={tmp_path}/x.csv"), "must end in .parquet, .jsonl, which"),
        ((model, out, "--task=alpa"), "no task 'alpa' in"),
        ((model, out, "--texts=-", "--prompt=betta"), "only alpha, beta, query, document. Did you mean 'beta'?"),
        ((model, out, "--task=alpha", "--prompt=beta"), "--prompt: a task has its own"),
        ((model, out, "--task=alpha", "--dimensions=33"), "--dimensions=33: this model's vectors have 32 dimensions"),
        ((model, out, "--texts=nowhere.txt"), "--texts=nowhere.txt: no such file"),
        ((model, out, "--texts=-"), "nothing to encode"),
        ((model, out, f"--texts={bad}"), "bad.jsonl:2: must be a JSON object with '_id' and 'text' (KeyError: 'text')"),
        ((model, out, f"--texts={latin}"), "latin.txt: not UTF-8"),
    ):
        code, _, said = mtret("encode", *flags)
        assert code == 2 and message in said and said.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert there.read_bytes() == b"mine"


def test_parquet_without_pyarrow_names_the_extra(mtret: Mtret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, said = mtret("encode", "--model=minilm", "--task=x", f"--out={tmp_path}/x.parquet")
    assert code == 2 and "pip install 'mtret[parquet]'" in said
