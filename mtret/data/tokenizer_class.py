"""How the class of a tokenizer reads texts: transformers builds BertTokenizer and XLMRobertaTokenizer again from the
vocabulary and tokenizer_config.json, whatever else tokenizer.json says. Where the two differ, the folder is refused."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from mtret.errors import UserError
from mtret.files import AnyPath

# By class: its tokens by role, where the settings do not name others.
BERT, XLMR = "BertTokenizer", "XLMRobertaTokenizer"
TOKENS: dict[str, dict[str, str]] = {
    BERT: {f"{role}_token": f"[{role.upper()}]" for role in ("cls", "unk", "pad", "mask", "sep")},
    XLMR: {"bos_token": "<s>", "cls_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    | {"sep_token": "</s>", "eos_token": "</s>"},
}
BY_MODEL = {"bert": BERT, "xlm-roberta": XLMR, "gte": XLMR}  # model_type, where no class is named
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
      given: tokenizer_config.json, with the older files beside it.
      config: config.json.
    """
    named = given.get("tokenizer_class") or config.get("tokenizer_class")
    return str(named).removesuffix("Fast") if named else BY_MODEL.get(str(config.get("model_type")), "")


def _tokens(kind: str, given: Mapping[str, Any]) -> dict[str, str]:
    """The tokens of a class by role, as the settings name them or by default."""
    named = {role: given.get(role) or token for role, token in TOKENS[kind].items()}
    return {role: token if isinstance(token, str) else str(token.get("content")) for role, token in named.items()}


def check_class(backend: Tokenizer, kind: str, given: Mapping[str, Any], folder: AnyPath) -> None:
    """Raises UserError where tokenizer.json reads a text otherwise than the tokenizer's class does."""
    if kind not in TOKENS:
        return  # read by tokenizer.json alone
    path, tokens = folder / "tokenizer_config.json", _tokens(kind, given)
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
