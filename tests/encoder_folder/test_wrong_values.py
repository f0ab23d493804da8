"""Values that no encoder folder can have are refused by file and key, before any array is made."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtret.encoder_folder.modules import read_folder
from mtret.encoder_folder.transformer import read_settings
from mtret.errors import UserError

MODULES = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
]


def write(folder: Path, **files: Any) -> Path:
    """A folder whose files hold what is given, `__` for `/` in their names; None: not there."""
    sound = {
        "modules": MODULES,
        "1_Pooling__config": {"word_embedding_dimension": 8},
        "config": {"model_type": "bert"},
        "sentence_bert_config": {"max_seq_length": 24},
    }
    for name, value in {**sound, **files}.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        if value is not None:
            path.write_text(json.dumps(value), encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_settings(read_folder(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", ["abc", [5], -1, 0, True, 1, 2, 2.5, float("inf"), float("nan"), {}])
@pytest.mark.parametrize(
    ("name", "key"), [("sentence_bert_config", "max_seq_length"), ("tokenizer_config", "model_max_length")]
)
def test_a_length_that_no_text_can_have_is_refused(tmp_path: Path, name: str, key: str, length: Any) -> None:
    message = refusal(write(tmp_path, **{name: {key: length}}))
    assert message.startswith(f"{tmp_path / name}.json: the longest text is {length!r} tokens; ")


@pytest.mark.parametrize("length", [3, 24.0, 512])
def test_a_length_that_leaves_room_for_a_text_is_read(tmp_path: Path, length: Any) -> None:
    folder = write(tmp_path, sentence_bert_config={"max_seq_length": length})
    assert read_settings(read_folder(folder)).max_length == length


@pytest.mark.parametrize("config", [None, {}, {"pooling_mode_cls_token": True}, {"word_embedding_dimension": None}])
def test_a_pooling_without_its_dimensions_is_refused(tmp_path: Path, config: Any) -> None:
    """The class of sentence-transformers cannot be made without; a folder that was fetched in part has no other."""
    assert refusal(write(tmp_path, **{"1_Pooling__config": config})).startswith(f"{tmp_path}/1_Pooling/config.json: ")


@pytest.mark.parametrize("prompts", [["query: "], "query: ", 5, {"query": 5}, {"query": ["a"]}])
def test_prompts_that_are_none_are_refused(tmp_path: Path, prompts: Any) -> None:
    message = refusal(write(tmp_path, config_sentence_transformers={"prompts": prompts}))
    assert message.startswith(f"{tmp_path}/config_sentence_transformers.json: ") and "prompt" in message


def test_a_prompt_of_null_is_no_prompt(tmp_path: Path) -> None:
    """As for sentence-transformers."""
    folder = write(tmp_path, config_sentence_transformers={"prompts": {"query": None, "document": "d: "}})
    assert read_folder(folder).prompts == {"query": "", "document": "d: "}
