"""What the class of a tokenizer adds to its tokenizer.json, or has otherwise: transformers builds BertTokenizer and
XLMRobertaTokenizer anew from the vocabulary and tokenizer_config.json, and gives every tokenizer the tokens that its
settings name. What is added is obeyed; what is otherwise is refused by name."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from mtret.encoder_folder.reading import read_json
from mtret.errors import UserError
from mtret.files import AnyPath

# By class: its tokens by role, where the settings do not name others. The first and last stand around a text.
BERT, XLMR = "BertTokenizer", "XLMRobertaTokenizer"
TOKENS: dict[str, dict[str, str]] = {
    BERT: {f"{role}_token": f"[{role.upper()}]" for role in ("cls", "unk", "pad", "mask", "sep")},
    XLMR: {"bos_token": "<s>", "cls_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    | {"sep_token": "</s>", "eos_token": "</s>"},
}
BY_MODEL = {"bert": BERT, "xlm-roberta": XLMR, "gte": XLMR}  # model_type, where no class is named
LISTS = ("additional_special_tokens", "extra_special_tokens")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
WORD_CHARACTERS = 100  # of the longest word that BertTokenizer reads
# Texts by which two ways of cutting one into words are told apart: case, accents, punctuation, spaces, ideographs, a
# character for control, full width.
PROBES = ("Ab É", "a-b c.d", "a_b ...", "  a  b", "a\tb\nc", "中国a", "a\x07b", "\uff41")


class Pipeline(NamedTuple):
    """How a text becomes words."""

    normalizer: Any
    pre_tokenizer: Any

    def words(self, text: str) -> list[str]:
        """Before the vocabulary makes tokens of them."""
        normal = self.normalizer.normalize_str(text) if self.normalizer else text
        return [word for word, _ in self.pre_tokenizer.pre_tokenize_str(normal)] if self.pre_tokenizer else [normal]


def class_of(given: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The class by which transformers reads a tokenizer's folder, without the `Fast` that is none of its name today.

    Args:
      given: tokenizer_config.json.
      config: config.json.
    """
    named = given.get("tokenizer_class") or config.get("tokenizer_class")
    return str(named).removesuffix("Fast") if named else BY_MODEL.get(str(config.get("model_type")), "")


def add_tokens(backend: Tokenizer, kind: str, given: Mapping[str, Any], folder: AnyPath) -> str:
    """Adds the tokens that the settings name and tokenizer.json does not have; returns what was added.

    Raises UserError where a token is none, or has another id.
    """
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    added = []
    for token, place, given_id in _named(given, folder):
        if token.content not in there:
            there.add(token.content)
            added.append(token)
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        own = backend.token_to_id(token.content)
        if given_id not in (None, own):
            raise UserError(
                f"{place}: the token '{token.content}' has the id {given_id}, but {own} in tokenizer.json; correct one"
            )
    for content in set(named_tokens(kind, given, folder).values()) - there if kind in TOKENS else ():
        if backend.token_to_id(content) is not None:  # one by default alone need not be in the vocabulary
            added.append(AddedToken(content, special=True))
            backend.add_special_tokens([content])
    return "".join(sorted(map(repr, added)))


def _named(given: Mapping[str, Any], folder: AnyPath) -> Iterator[tuple[AddedToken, AnyPath, int | None]]:
    """Tokens, where each is named, and the id that it is given there."""
    path = folder / "tokenizer_config.json"
    for number, token in (given.get("added_tokens_decoder") or {}).items():
        yield _token(token, path, special=False), path, int(number) if str(number).isdecimal() else -1
    older, added = _older(given, folder)
    for content, number in added.items():
        yield AddedToken(content, special=False), folder / "added_tokens.json", number
    for key, value in {**given, **older}.items():
        place = folder / "special_tokens_map.json" if key in older else path
        if key in ROLES or (key.endswith("_token") and isinstance(value, str | dict)):
            several = [value] if value else []
        elif key in LISTS:
            values = [value, given.get(key)] if key == "extra_special_tokens" and key in older else [value]
            several = [one for each in values if each for one in (each.values() if isinstance(each, dict) else each)]
        else:
            continue
        for token in several:
            yield _token(token, place), place, None


def _older(given: Mapping[str, Any], folder: AnyPath) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two files that go before tokenizer_config.json, but count only where that does not list its tokens."""
    if "added_tokens_decoder" in given:
        return {}, {}
    names = ("special_tokens_map.json", "added_tokens.json")
    tokens, added = (read_json(folder / name, optional=True) for name in names)
    return tokens, added


def _token(value: Any, where: AnyPath, special: bool = True) -> AddedToken:
    """Of its text, or of an object with `content`. `special`: where the object does not say."""
    if isinstance(value, str) and value:
        return AddedToken(value, special=special)
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        flags = {key: bool(value[key]) for key in ("lstrip", "rstrip", "single_word", "normalized") if key in value}
        return AddedToken(value["content"], special=special or bool(value.get("special")), **flags)
    raise UserError(f"{where}: the token {value!r} is neither a text nor an object with its content; correct it")


def named_tokens(kind: str, given: Mapping[str, Any], folder: AnyPath) -> dict[str, str]:
    """The tokens of a class by role, as the settings name them or by default."""
    settings = {**given, **_older(given, folder)[0]}
    named = {role: settings.get(role) or token for role, token in TOKENS[kind].items()}
    return {
        role: token if isinstance(token, str) else _token(token, folder / "tokenizer_config.json").content
        for role, token in named.items()
    }


def check_class(backend: Tokenizer, kind: str, given: Mapping[str, Any], folder: AnyPath) -> None:
    """Raises UserError where tokenizer.json reads a text otherwise than the tokenizer's class does."""
    if kind not in TOKENS:
        return  # read by tokenizer.json alone
    path, tokens = folder / "tokenizer_config.json", named_tokens(kind, given, folder)
    if kind == BERT:
        _check_word_piece(backend, tokens["unk_token"], folder)
        first, last = tokens["cls_token"], tokens["sep_token"]
        theirs = Pipeline(
            normalizers.BertNormalizer(
                clean_text=True,
                handle_chinese_chars=given.get("tokenize_chinese_chars", True),
                strip_accents=given.get("strip_accents"),
                lowercase=given.get("do_lower_case", True),
            ),
            pre_tokenizers.BertPreTokenizer(),
        )
    else:
        first, last = tokens["bos_token"], tokens["eos_token"]
        scheme = "always" if given.get("add_prefix_space", True) else "never"
        spaces = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme=scheme)]
        theirs = Pipeline(_precompiled(backend.normalizer), pre_tokenizers.Sequence(spaces))
    remedy = "correct tokenizer.json, or give tokenizer_class as PreTrainedTokenizerFast, which takes it as it is"
    ours = Pipeline(backend.normalizer, backend.pre_tokenizer)
    for text in PROBES:
        if ours.words(text) != theirs.words(text):
            differing = f"{theirs.words(text)}, but {ours.words(text)} by tokenizer.json"
            raise UserError(f"{path}: by {kind}, {text!r} is {differing}; {remedy}")
    around = backend.encode("").tokens
    if around != [first, last]:
        differing = f"{[first, last]}, but {around} by tokenizer.json"
        raise UserError(f"{path}: by {kind}, the tokens around a text are {differing}; {remedy}")


def _check_word_piece(backend: Tokenizer, unknown: str, folder: AnyPath) -> None:
    model, path = backend.model, folder / "tokenizer.json"
    if not isinstance(model, models.WordPiece):
        raise UserError(
            f"{path}: its model is {type(model).__name__}, of which {BERT} makes a WordPiece; give tokenizer_class "
            "as PreTrainedTokenizerFast in tokenizer_config.json, which takes it as it is"
        )
    fixed = {
        "unk_token": unknown,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": WORD_CHARACTERS,
    }
    for key, value in fixed.items():
        if getattr(model, key) != value:
            raise UserError(
                f"{path}: {key} is {getattr(model, key)!r}, where {BERT} has {value!r}; correct it, or give "
                "tokenizer_class as PreTrainedTokenizerFast in tokenizer_config.json, which takes it as it is"
            )


def _precompiled(normalizer: Any) -> Any:
    """The part of a normalizer that XLMRobertaTokenizer keeps: the character map of SentencePiece."""
    parts = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return next((part for part in parts if isinstance(part, normalizers.Precompiled)), None)
