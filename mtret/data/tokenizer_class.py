"""How the class of a tokenizer reads texts: transformers builds BertTokenizer and XLMRobertaTokenizer again from the
vocabulary and tokenizer_config.json, whatever else tokenizer.json says. Where the two differ, the folder is refused."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from mtret.errors import UserError
from mtret.files import AnyPath

# By class: the tokens that it writes, by role, where the settings do not name others.
BERT, XLMR = "BertTokenizer", "XLMRobertaTokenizer"
TOKENS: dict[str, dict[str, str]] = {
    BERT: {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    XLMR: {"bos_token": "<s>", "eos_token": "</s>"},
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
    """Raises UserError where tokenizer.json reads a text otherwise than the tokenizer's class does by its settings."""
    if kind not in TOKENS:
        return  # read by tokenizer.json alone
    for what, theirs, ours in _compared(backend, kind, given):
        if theirs != ours:
            raise UserError(
                f"{folder / 'tokenizer_config.json'}: by {kind}, {what} {theirs!r}, but {ours!r} by tokenizer.json; "
                "correct one, or give tokenizer_class as PreTrainedTokenizerFast, which takes the latter as it is"
            )


def _compared(backend: Tokenizer, kind: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What decides how a text is read, as the class does it, and as tokenizer.json does."""
    tokens = _tokens(kind, given)
    if kind == BERT:
        model: Any = backend.model
        yield "its model is", models.WordPiece.__name__, type(model).__name__
        yield "unk_token is", tokens["unk_token"], model.unk_token
        yield "continuing_subword_prefix is", "##", model.continuing_subword_prefix
        yield "max_input_chars_per_word is", WORD_CHARACTERS, model.max_input_chars_per_word
        around = [tokens["cls_token"], tokens["sep_token"]]
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
        around = [tokens["bos_token"], tokens["eos_token"]]
        scheme = "always" if given.get("add_prefix_space", True) else "never"
        spaces = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme=scheme)]
        theirs = Pipeline(_precompiled(backend.normalizer), pre_tokenizers.Sequence(spaces))
    ours = Pipeline(backend.normalizer, backend.pre_tokenizer)
    for text in PROBES:
        yield f"{text!r} is", theirs.words(text), ours.words(text)
    yield "the tokens around a text are", around, backend.encode("").tokens


def _precompiled(normalizer: Any) -> Any:
    """The part of a normalizer that XLMRobertaTokenizer keeps: the character map of SentencePiece."""
    parts = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return next((part for part in parts if isinstance(part, normalizers.Precompiled)), None)
