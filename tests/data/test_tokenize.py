import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from mtret.data.tokenize import Tokenizer, Tokens, concatenate, offsets_of, ranges
from mtret.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "reset", "the", "password"]
ID = {word: i for i, word in enumerate(WORDS)}
TEXTS = ["reset the password", "", "a b c d e", "reset unheard-of password", "a b c d d"]


def write_tokenizer(folder: Path, template: str = "[CLS] $A [SEP]") -> Path:
    """A word-level tokenizer whose file asks for a truncation and a padding that must not happen."""
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(word, ID[word]) for word in ("[CLS]", "[SEP]") if word in template]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def expected(text: str) -> list[int]:
    return [ID["[CLS]"], *(ID.get(word, ID["[UNK]"]) for word in text.split()), ID["[SEP]"]]


def lists(tokens: Tokens, limit: int = 99) -> list[list[int]]:
    return [tokens.take(np.array([i]), limit).tolist() for i in range(len(tokens))]


def test_whole_texts_with_special_tokens_whatever_the_file_says_of_truncation_and_padding(tmp_path: Path):
    tokens = Tokenizer(write_tokenizer(tmp_path / "t"))(TEXTS)
    assert lists(tokens) == [expected(text) for text in TEXTS]
    assert tokens.suffix == 1
    assert tokens.ids.dtype == np.int32 and tokens.offsets.dtype == np.int64


@pytest.mark.parametrize(("template", "suffix"), [("[CLS] $A", 0), ("[CLS] $A [SEP] [SEP]", 2), ("$A", 0)])
def test_the_special_tokens_that_close_a_text_are_counted(tmp_path: Path, template: str, suffix: int):
    assert Tokenizer(write_tokenizer(tmp_path / "t", template))(["a"]).suffix == suffix


def test_a_truncated_text_still_closes_with_its_special_token(tmp_path: Path):
    tokens = Tokenizer(write_tokenizer(tmp_path / "t"))(TEXTS)
    cut = [text if len(text) <= 5 else [*text[:4], ID["[SEP]"]] for text in map(expected, TEXTS)]
    assert lists(tokens, 5) == cut
    assert tokens.lengths(5).tolist() == [len(text) for text in cut]
    order = np.array([2, 0, 2, 1])
    assert tokens.take(order, 5).tolist() == [i for text in order for i in cut[text]]
    assert tokens.take(np.array([], np.int64), 5).tolist() == []


def test_truncation_without_a_closing_token_is_the_plain_beginning():
    tokens = Tokens(np.arange(10, dtype=np.int32), np.array([0, 7, 10]), suffix=0)
    assert lists(tokens, 3) == [[0, 1, 2], [7, 8, 9]]
    two = Tokens(np.arange(10, dtype=np.int32), np.array([0, 7, 10]), suffix=2)
    assert lists(two, 3) == [[0, 5, 6], [7, 8, 9]]


def test_texts_that_a_truncation_makes_equal_are_one(tmp_path: Path):
    tokens = Tokenizer(write_tokenizer(tmp_path / "t"))(TEXTS)
    rows, identity = tokens.distinct(99)
    assert rows.tolist() == [0, 1, 2, 3, 4] and identity.tolist() == [0, 1, 2, 3, 4]
    rows, identity = tokens.distinct(6)  # "a b c d e" and "a b c d d" agree in their first five tokens
    assert rows.tolist() == [0, 1, 2, 3] and identity.tolist() == [0, 1, 2, 3, 2]
    assert identity.dtype == np.int32


def test_a_texts_boundary_is_part_of_its_identity():
    """[1, 2], [1], [2, 1]: the same ids laid end to end, other texts."""
    tokens = Tokens(np.array([1, 2, 1, 2, 1, 1, 2], np.int32), offsets_of(np.array([2, 1, 2, 2])), 0)
    rows, identity = tokens.distinct(9)
    assert rows.tolist() == [0, 1, 2] and identity.tolist() == [0, 1, 2, 0]


def test_subset_and_concatenation_keep_texts_whole():
    one = Tokens(np.arange(6, dtype=np.int32), np.array([0, 1, 4, 6]), 1)
    two = Tokens(np.arange(6, 9, dtype=np.int32), np.array([0, 3]), 1)
    assert lists(one.subset(np.array([2, 1]))) == [[4, 5], [1, 2, 3]]
    assert len(one.subset(np.array([], np.int64))) == 0
    both = concatenate([one, two])
    assert lists(both) == [[0], [1, 2, 3], [4, 5], [6, 7, 8]] and both.suffix == 1


def test_ranges_and_offsets():
    assert ranges(np.array([3, 0, 2])).tolist() == [0, 1, 2, 0, 1]
    assert ranges(np.array([], np.int64)).tolist() == []
    assert offsets_of(np.array([3, 0, 2])).tolist() == [0, 3, 3, 5]


def test_the_cache_answers_instead_of_the_tokenizer(tmp_path: Path):
    folder, cache = write_tokenizer(tmp_path / "t"), tmp_path / "cache"
    seen: list[int] = []
    first = Tokenizer(folder, cache)(TEXTS, seen.append)
    again = Tokenizer(folder, cache)(TEXTS, seen.append)
    assert sum(seen) == len(TEXTS)  # the second call tokenised nothing
    assert lists(again) == lists(first) and again.suffix == first.suffix
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("other", [TEXTS[:-1], ["reset the passworda", *TEXTS[1:]], ["ab", ""], ["a", "b"]])
def test_other_texts_have_another_cache_name(tmp_path: Path, other: list[str]):
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "t"), tmp_path / "cache")
    for texts in (TEXTS, ["a", "b"], ["", "ab"], other):
        assert lists(tokenizer(texts)) == [expected(text) for text in texts]


def test_another_tokenizer_has_another_cache_name(tmp_path: Path):
    plain = Tokenizer(write_tokenizer(tmp_path / "t"), tmp_path / "cache")(TEXTS)
    bare = Tokenizer(write_tokenizer(tmp_path / "u", "[CLS] $A"), tmp_path / "cache")(TEXTS)
    assert lists(bare) == [text[:-1] for text in lists(plain)]


def test_another_version_of_the_library_has_another_cache_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It may cut the same text otherwise by the same file."""
    folder, seen = write_tokenizer(tmp_path / "t"), list[int]()
    Tokenizer(folder, tmp_path / "cache")(TEXTS)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    Tokenizer(folder, tmp_path / "cache")(TEXTS, seen.append)
    assert sum(seen) == len(TEXTS)


def test_a_damaged_cache_is_written_anew(tmp_path: Path):
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "t"), tmp_path / "cache")
    tokenizer(TEXTS)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert lists(tokenizer(TEXTS)) == [expected(text) for text in TEXTS]
    seen: list[int] = []
    tokenizer(TEXTS, seen.append)
    assert seen == []


def test_many_texts_are_tokenised_in_blocks_and_in_order(tmp_path: Path):
    texts = [" ".join(np.array(["a", "b", "c"])[list(map(int, np.base_repr(i, 3)))]) for i in range(2500)]
    seen: list[int] = []
    tokens = Tokenizer(write_tokenizer(tmp_path / "t"))(texts, seen.append)
    assert seen == [2048, 452]
    assert tokens.ids.tolist() == [i for text in texts for i in expected(text)]
    assert len(Tokenizer(tmp_path / "t")([])) == 0


def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"no readable tokenizer \(.+\)$"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(UserError, match=r"no readable tokenizer \(.+\)$"):
        Tokenizer(tmp_path)


def test_a_prompt_may_be_left_out_of_the_vector(tmp_path: Path):
    folder = write_tokenizer(tmp_path / "t")
    texts = ["a b", "c"]
    pooled, left_out = (Tokenizer(folder, None, pools).after("d e ", texts) for pools in (True, False))
    assert lists(pooled) == lists(left_out) == lists(Tokenizer(folder)(["d e a b", "d e c"]))
    assert pooled.skip is None and left_out.skipped(np.arange(2)).tolist() == [3, 3]  # [CLS] d e
    assert Tokenizer(folder, None, False).after("", texts).skip is None
    bare = Tokenizer(folder)(["d e c"])
    both = concatenate([left_out, bare])
    assert both.skipped(np.array([2, 1])).tolist() == [0, 3]
    assert both.subset(np.array([1, 2])).skipped(np.arange(2)).tolist() == [3, 0]
    rows, identity = both.distinct(9)  # the same ids, but not the same vector
    assert rows.tolist() == [0, 1, 2] and identity.tolist() == [0, 1, 2]


def described(folder: Path, **files: dict) -> Path:
    """With such JSON files beside the tokenizer's: name, without its ending, and content."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def settings(folder: Path, **content: object) -> Path:
    """As an encoder's folder, whose Transformer has these."""
    types = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling")]
    modules = [{"name": kind, "path": path, "type": kind} for kind, path in zip(types, ("", "1_Pooling"), strict=True)]
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 8}', encoding="utf-8")
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    return described(folder, sentence_bert_config=content)


@pytest.mark.parametrize("where", ["tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"])
def test_a_text_is_cut_on_the_side_that_the_folder_says(tmp_path: Path, where: str):
    folder = write_tokenizer(tmp_path / "t", "[CLS] [CLS] $A [SEP]")
    if where == "tokenizer.json":
        backend = Backend.from_file(str(folder / where))
        backend.enable_truncation(4, direction="left")
        backend.save(str(folder / where))
    elif where == "tokenizer_config.json":
        described(folder, tokenizer_config={"truncation_side": "left"})
    else:
        settings(folder, tokenizer_args={"truncation_side": "left"})
    cls, sep, a, d, e = (ID[word] for word in ("[CLS]", "[SEP]", "a", "d", "e"))
    tokens = Tokenizer(folder)(["a b c d e", "a"])
    assert lists(tokens, 5) == [[cls, cls, d, e, sep], [cls, cls, a, sep]]
    both = concatenate([tokens.subset(np.array([1, 0])), tokens])
    assert lists(both, 5) == [[cls, cls, a, sep], [cls, cls, d, e, sep], [cls, cls, d, e, sep], [cls, cls, a, sep]]
    described(folder, tokenizer_config={"truncation_side": "right"})
    right = lists(Tokenizer(folder)(["a b c d e"]), 5)
    assert right == ([[cls, cls, d, e, sep]] if where == "sentence_bert_config.json" else [[cls, cls, a, ID["b"], sep]])


def test_lower_case_before_all_else_where_the_folder_says_so(tmp_path: Path):
    folder = write_tokenizer(tmp_path / "t")
    plain, cache = Tokenizer(folder, tmp_path / "cache"), tmp_path / "cache"
    assert lists(plain(["Reset THE a"])) == [[2, 1, 1, 4, 3]]
    lower = Tokenizer(settings(folder, do_lower_case=True), cache)
    assert lists(lower(["Reset THE a"])) == [expected("reset the a")]  # not the other's from the cache


def bert_tokenizer(folder: Path, lowercase: bool, **config: object) -> Path:
    """Of that class, with BERT's own parts in its file."""
    write_tokenizer(folder)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.model = models.WordPiece(ID, unk_token="[UNK]")
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.save(str(folder / "tokenizer.json"))
    return described(folder, tokenizer_config={"tokenizer_class": "BertTokenizerFast", **config})


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_settings_of_berts_tokenizer_agree_with_its_file_or_are_refused(tmp_path: Path, lowercase: bool):
    folder = bert_tokenizer(tmp_path / "t", lowercase, do_lower_case=lowercase, strip_accents=None)
    assert lists(Tokenizer(folder)(["The"])) == [expected("the" if lowercase else "The")]
    described(folder, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": not lowercase})
    with pytest.raises(UserError, match=r"by BertTokenizer, 'Ab É' is \['.*, but \['.* by tokenizer\.json; correct"):
        Tokenizer(folder)


def test_settings_of_berts_tokenizer_that_are_not_there_are_asked_for(tmp_path: Path):
    folder = bert_tokenizer(tmp_path / "t", False)
    with pytest.raises(UserError, match=r"by BertTokenizer, 'Ab É' is \['ab', 'e'\], but \['Ab', 'É'\] by tokenizer"):
        Tokenizer(folder)
    described(folder, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"})
    assert lists(Tokenizer(folder)(["The"])) == [expected("The")]


def test_lower_case_that_a_tokenizer_cannot_be_told_is_refused(tmp_path: Path):
    folder = described(write_tokenizer(tmp_path / "t"), config={"model_type": "bert"})
    described(folder, tokenizer_config={"do_lower_case": True})
    with pytest.raises(
        UserError, match=r"by BertTokenizer, its model is 'WordPiece', but 'WordLevel' by tokenizer.json; correct"
    ):
        Tokenizer(folder)


def test_special_words_within_a_text_are_taken_apart_where_the_folder_says_so(tmp_path: Path):
    folder = write_tokenizer(tmp_path / "t")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["[SEP]"])
    backend.save(str(folder / "tokenizer.json"))
    assert lists(Tokenizer(folder)(["a[SEP]"])) == [[2, 4, 3, 3]]
    described(folder, tokenizer_config={"split_special_tokens": True})
    assert lists(Tokenizer(folder)(["a[SEP]"])) == [[2, 1, 3]]


def test_an_id_beyond_the_word_embeddings_is_refused(tmp_path: Path):
    folder = described(write_tokenizer(tmp_path / "t"), config={"vocab_size": len(WORDS)})
    Tokenizer(folder)
    described(folder, config={"vocab_size": len(WORDS) - 1})
    with pytest.raises(
        UserError, match=r"gives the token 'password' the id 11, but the encoder has 11 word embeddings"
    ):
        Tokenizer(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"sep_token": "[SEP]", "added_tokens_decoder": {"9": {"content": "reset"}}}},
        {"special_tokens_map": {"sep_token": {"content": "[SEP]", "lstrip": False}}, "added_tokens": {"reset": 9}},
        {"tokenizer_config": {"extra_special_tokens": ["reset", "[SEP]"]}},
    ],
)
def test_words_that_other_files_name_are_one_token_wherever_they_stand(tmp_path: Path, files: dict[str, dict]):
    folder = described(write_tokenizer(tmp_path / "t"), **files)
    assert lists(Tokenizer(folder)(["a[SEP]resetb"])) == [[2, 4, 3, 9, 5, 3]]
    described(bert_tokenizer(folder, True), special_tokens_map={}, added_tokens={})
    assert lists(Tokenizer(folder)(["a[SEP]resetb"])) == [[2, 4, 3, 1, 3]]  # by that class's own list


def test_special_tokens_that_cannot_be_read_or_have_no_vector_are_refused(tmp_path: Path):
    folder = described(write_tokenizer(tmp_path / "t"), tokenizer_config={"added_tokens_decoder": {"x": {}}})
    with pytest.raises(UserError, match=r"tokenizer_config\.json: its special tokens cannot be read \(ValueError: "):
        Tokenizer(folder)
    described(folder, tokenizer_config={"mask_token": "[MASK]"}, config={"vocab_size": len(WORDS)})
    with pytest.raises(
        UserError, match=r"gives the token '\[MASK\]' the id 12, but the encoder has 12 word embeddings"
    ):
        Tokenizer(folder)


def test_a_tokenizer_that_gives_types_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"tokenizer\.json: gives tokens the type 1; towers know the type 0 only"):
        Tokenizer(write_tokenizer(tmp_path / "t", "[CLS]:0 $A:1 [SEP]:1"))
