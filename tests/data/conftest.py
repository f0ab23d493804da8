"""A small, valid task folder that tests spoil or extend file by file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = {
    "corpus.jsonl": (
        '{"_id": "kb1", "title": "Reset a password", "text": "Open Settings and choose Security."}\n'
        '{"_id": "kb2", "title": "VPN", "text": "VPN access needs a token."}\n'
        '{"_id": "kb3", "title": "", "text": "Printers are on every floor."}\n'
    ),
    "queries.jsonl": (
        '{"_id": "q1", "text": "How do I change my password?"}\n'
        '{"_id": "q2", "text": "connect from home"}\n'
        '{"_id": "q3", "text": "where can I print"}\n'
    ),
    "qrels/train.tsv": "query-id\tcorpus-id\tscore\nq1\tkb1\t1\n",
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq2\tkb2\t2\nq2\tkb1\t0\nq3\tkb3\t1\n",
}
CARD = {
    "name": "helpdesk",
    "family": "article",
    "domain": "internal IT support",
    "languages": ["en"],
    "instruction": "Given a question of an employee, retrieve the article that answers it.",
    "license": "CC0-1.0",
    "source": "written for this test",
}

WriteTask = Callable[..., Path]


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteTask:
    """`write_folder(name, files, **card)`: a valid task folder but for these files (None: absent) and card entries."""

    def write(name: str = "helpdesk", files: dict[str, str | bytes | None] | None = None, **card: object) -> Path:
        folder = tmp_path / "suite" / name
        content: dict[str, str | bytes | None] = {
            "task.json": json.dumps({**CARD, "name": name, **card}, indent=1),
            **FILES,
            **(files or {}),
        }
        for place, text in content.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    return write
