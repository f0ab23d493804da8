"""Tokenizers whose files say different things: read as transformers reads them, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mtret.data.tokenizer_backend import open_backend
from mtret.errors import UserError

pytestmark = pytest.mark.parity

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
TEXTS = ["a b", "Ab c. 中国", "é [SEP] b", "ab-c", "dd d", "É a", "a [MASK] [CLS]", "A\x07b", "a_b ...", "  a  b "]
CLASSES = ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", None]
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "case": {"do_lower_case": False},
    "accents": {"strip_accents": False},
    "case and accents": {"do_lower_case": False, "strip_accents": True},
    "ideographs": {"tokenize_chinese_chars": False},
    "special tokens as texts": {"split_special_tokens": True},
    "another first token": {"cls_token": "b"},
    "another unknown token": {"unk_token": "a"},
    "no first token": {"cls_token": None},
    "a token as an object": {"cls_token": {"content": "[CLS]", "lstrip": False, "__type": "AddedToken"}},
    "more tokens": {"additional_special_tokens": ["d"]},
    "more tokens by name": {"extra_special_tokens": {"x": "b"}},
    "a list of tokens": {"added_tokens_decoder": {"8": {"content": "d", "special": True}}},
    "a list of words": {"added_tokens_decoder": {"8": {"content": "d", "special": False}}},
    "an empty list": {"added_tokens_decoder": {}},
}
BACKENDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no normalizer": {"normalizer": None},
    "lower case": {"normalizer": normalizers.Lowercase()},
    "no cleaning": {"normalizer": normalizers.BertNormalizer(clean_text=False)},
    "words": {"pre_tokenizer": pre_tokenizers.Whitespace()},
    "spaces": {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()},
    "no last token": {
        "post_processor": processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    },
}
MAP = {"cls_token": "[CLS]", "additional_special_tokens": ["d"]}


def write(folder: Path, backend: str, settings: dict[str, Any], kind: str | None, older: dict[str, Any] | None) -> Path:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    parts = {
        "normalizer": normalizers.BertNormalizer(),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        "post_processor": processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        ),
    }
    for name, part in (parts | BACKENDS[backend]).items():
        if part is not None:
            setattr(tokenizer, name, part)
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "config": {"model_type": "bert", "vocab_size": 40},
        "tokenizer_config": settings if kind is None else {"tokenizer_class": kind, **settings},
        "special_tokens_map": older,
    }
    for name, value in files.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def compare(folder: Path) -> bool:
    """Whether the folder is read; then as transformers reads it."""
    from transformers import AutoTokenizer

    try:
        backend = open_backend(folder)[0]
    except UserError:
        return False
    theirs = AutoTokenizer.from_pretrained(str(folder))
    assert [backend.encode(text).ids for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    return True


@pytest.mark.parametrize("kind", CLASSES)
def test_tokens_are_those_of_transformers_or_refused(tmp_path: Path, kind: str | None) -> None:
    """Each setting with each tokenizer.json, with and without the older file, which names the first token
    of all. What tokenizer.json has as its class does by the settings is read."""
    read = set()
    for backend in BACKENDS:
        for name, settings in SETTINGS.items():
            for older in (None, MAP):
                folder = tmp_path / f"{backend}-{name}-{older is None}"
                folder.mkdir()
                if compare(write(folder, backend, settings, kind, older)):
                    read.add((backend, name, older is None))
    plain = {name for backend, name, _ in read if backend == "plain"}
    of_class = kind != "PreTrainedTokenizerFast"
    contradicting = {"another unknown token", "case", "accents", "case and accents", "ideographs"}
    assert {*SETTINGS} - plain == (contradicting if of_class else set())
    assert {backend for backend, _, _ in read} == ({"plain"} if of_class else {*BACKENDS})
