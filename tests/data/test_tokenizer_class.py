"""What settings and class of a tokenizer do beside tokenizer.json. Expected ids are those of transformers 5
(tests/parity/test_tokenizer_class.py compares with it)."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mtret.data.tokenizer_backend import open_backend
from mtret.errors import UserError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "b",
    "c",
    "d",
    "é",
    "e",
    "A",
    "##b",
    "中",
    "国",
    "中国",
    ".",
]
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁b", "▁c", "a", "b", "c", "▁", "A", "▁A", "<mask>"]
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


def bert() -> Tokenizer:
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = around("[CLS] $A [SEP]", WORDS)
    backend.add_special_tokens(WORDS[:5])
    return backend


def xlmr() -> Tokenizer:
    backend = Tokenizer(models.Unigram([(piece, -float(i + 1)) for i, piece in enumerate(PIECES)], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.post_processor = around("<s> $A </s>", PIECES)
    backend.add_special_tokens([*PIECES[:4], "<mask>"])
    return backend


def around(template: str, words: list[str]) -> Any:
    special = [(word, words.index(word)) for word in template.split() if word != "$A"]
    return processors.TemplateProcessing(single=template, special_tokens=special)


def write(folder: Path, backend: Tokenizer, model_type: str = "bert", **files: Any) -> Path:
    """`files`: of JSON, by name; tokenizer_config.json is empty unless given."""
    backend.save(str(folder / "tokenizer.json"))
    config = {"model_type": model_type, "vocab_size": 20}
    for name, value in {"config": config, "tokenizer_config": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def ids(folder: Path, text: str) -> list[int]:
    return open_backend(folder)[0].encode(text).ids


@pytest.mark.parametrize("named", [None, "BertTokenizer", "BertTokenizerFast"])
@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "Ab É", [2, 5, 12, 10, 3]),
        ({"additional_special_tokens": ["d"]}, "dd d", [2, 8, 8, 8, 3]),
        ({"extra_special_tokens": {"x": "d"}}, "dd d", [2, 8, 8, 8, 3]),
        ({"added_tokens_decoder": {"8": {"content": "d", "special": False}}}, "dd d", [2, 8, 8, 8, 3]),
        ({"mask_token": {"content": "d", "__type": "AddedToken"}}, "dd", [2, 8, 8, 3]),
        ({"split_special_tokens": True}, "a [SEP] b", [2, 5, 1, 1, 1, 6, 3]),
    ],
)
def test_what_settings_ask_for_is_done(
    tmp_path: Path, named: str | None, settings: dict[str, Any], text: str, expected: list[int]
) -> None:
    given = settings if named is None else {"tokenizer_class": named, **settings}
    assert ids(write(tmp_path, bert(), tokenizer_config=given), text) == expected


@pytest.mark.parametrize("settings", [{}, FAST])
@pytest.mark.parametrize(
    "older", [{"special_tokens_map": {"additional_special_tokens": ["d"]}}, {"added_tokens": {"d": 8}}]
)
def test_older_files_name_tokens_where_the_newer_one_does_not(
    tmp_path: Path, settings: dict[str, Any], older: dict[str, Any]
) -> None:
    assert ids(write(tmp_path, bert(), tokenizer_config=settings, **older), "dd") == [2, 8, 8, 3]
    listed = {**settings, "added_tokens_decoder": {}}
    if "special_tokens_map" in older:
        assert ids(write(tmp_path, bert(), tokenizer_config=listed, **older), "dd") == [2, 1, 3]


def test_tokens_of_the_class_are_its_own_whatever_tokenizer_json_lists(tmp_path: Path) -> None:
    bare = json.loads(bert().to_str())
    folder = write(tmp_path, bert())
    (folder / "tokenizer.json").write_text(json.dumps({**bare, "added_tokens": []}), encoding="utf-8")
    assert ids(folder, "a [SEP] b") == [2, 5, 3, 6, 3]
    (folder / "tokenizer_config.json").write_text(json.dumps(FAST))
    assert ids(folder, "a [SEP] b") == [2, 5, 1, 1, 1, 6, 3]


def test_what_is_added_is_part_of_the_tokenizers_name(tmp_path: Path) -> None:
    plain = open_backend(write(tmp_path, bert()))[1]
    assert open_backend(write(tmp_path, bert(), tokenizer_config={"extra_special_tokens": ["d"]}))[1] != plain


def changed(backend: Tokenizer, **parts: Any) -> Tokenizer:
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


OTHERWISE = {
    "no closing token": (bert, {"post_processor": around("[CLS] $A", WORDS)}, "the tokens around a text are"),
    "spaces alone": (bert, {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()}, "'a-b c.d' is"),
    "words of symbols": (bert, {"pre_tokenizer": pre_tokenizers.Whitespace()}, "'a_b ...' is"),
    "control characters": (bert, {"normalizer": normalizers.BertNormalizer(clean_text=False)}, r"'a\\x07b' is"),
    "case": (bert, {"normalizer": normalizers.NFD()}, "'Ab É' is"),
    "accents": (bert, {"normalizer": normalizers.Lowercase()}, "'Ab É' is"),
    "short words": (bert, {"model": models.WordPiece({"[UNK]": 0}, max_input_chars_per_word=9)}, "max_input_chars"),
    "prefix": (bert, {"model": models.WordPiece({"[UNK]": 0}, continuing_subword_prefix="@")}, "continuing_subword_"),
    "whole words": (
        bert,
        {"model": models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")},
        "'WordPiece', but 'WordLevel' by",
    ),
    "no end": (xlmr, {"post_processor": around("<s> $A", PIECES)}, "the tokens around a text are"),
    "all spaces": (xlmr, {"pre_tokenizer": pre_tokenizers.Metaspace()}, "'  a  b' is"),
    "lower case": (xlmr, {"normalizer": normalizers.Lowercase()}, "'Ab É' is"),
    "width": (xlmr, {"normalizer": normalizers.NFKC()}, "'\uff41' is"),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_tokenizer_json_that_reads_otherwise_than_its_class_is_refused(tmp_path: Path, name: str) -> None:
    build, parts, said = OTHERWISE[name]
    folder = write(tmp_path, changed(build(), **parts), "bert" if build is bert else "xlm-roberta")
    with pytest.raises(UserError, match=said) as caught:
        open_backend(folder)
    assert str(caught.value).startswith(f"{tmp_path}/tokenizer") and "PreTrainedTokenizerFast" in str(caught.value)
    (folder / "tokenizer_config.json").write_text(json.dumps(FAST))  # the remedy
    open_backend(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cls_token": "b"}, r"the tokens around a text are \['b', '\[SEP\]'\]"),
        ({"unk_token": "a"}, "unk_token is "),
        ({"do_lower_case": False}, r"'Ab É' is \['Ab', 'É'\], but \['ab', 'e'\] by tokenizer.json"),
        ({"strip_accents": False}, r"'Ab É' is \['ab', 'é'\], but \['ab', 'e'\] by tokenizer.json"),
        ({"tokenize_chinese_chars": False}, "'中国a' is "),
        ({"added_tokens_decoder": {"x": {"content": "d"}}}, "its special tokens cannot be read"),
        ({"do_lower_case": None}, "do_lower_case is None; supported: True, False"),
        ({"additional_special_tokens": ["<1>", "<2>", "<3>", "<4>"]}, "gives the token '<4>' the id 20"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_backend(write(tmp_path, bert(), tokenizer_config=settings))


def test_an_xlmr_is_read_by_its_class(tmp_path: Path) -> None:
    folder = write(tmp_path, xlmr(), "xlm-roberta")
    assert ids(folder, " a  b <pad>") == [0, 4, 5, 1, 2]
    with pytest.raises(UserError, match="'Ab É' is"):
        open_backend(write(tmp_path, xlmr(), "xlm-roberta", tokenizer_config={"add_prefix_space": False}))
