"""The tokenizer of an encoder's folder, as its files and its settings say together."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers

from mtret.data.tokenizer_class import BERT, check_class, class_of
from mtret.encoder_folder.modules import read_folder
from mtret.encoder_folder.reading import read_json
from mtret.encoder_folder.transformer import TransformerSettings, read_settings
from mtret.errors import UserError, first_line
from mtret.files import AnyPath, inside

SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
BERTS = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")  # without a word in any file


def open_backend(folder: AnyPath) -> tuple[Tokenizer, bytes, str]:
    """The tokenizer, without truncation or padding; bytes that tell it from any other; and the side on which a text
    that is too long is cut, "left" or "right".

    Raises UserError where there is none, its settings cannot be obeyed, or it gives ids that the encoder has no vector
    for.
    """
    encoder = read_folder(folder)
    settings = read_settings(encoder)
    backend, content = _load(encoder.transformer)
    side = settings.tokenizer.get("truncation_side") or (backend.truncation or {}).get("direction") or "right"
    # sentence-transformers gives a limit of its own, and pads a batch to its longest text.
    backend.no_truncation()
    backend.no_padding()
    config = read_json(encoder.transformer / "config.json", optional=True)
    changes = _as_set(backend, settings, config, encoder.transformer)
    _check_ids(backend, config, encoder.transformer)
    return backend, content + changes.encode(), side.lower()


def _load(folder: AnyPath) -> tuple[Tokenizer, bytes]:
    path = folder / "tokenizer.json"
    try:
        if path.exists():
            content = path.read_bytes()
            return Tokenizer.from_buffer(content), content
        backend = _load_older(folder)  # with the vocabulary alone
        return backend, backend.to_str().encode()
    except Exception as error:  # the backend raises bare Exception
        raise UserError(f"{folder}: no readable tokenizer ({first_line(error)})") from error


def _as_set(backend: Tokenizer, settings: TransformerSettings, config: Mapping[str, Any], folder: AnyPath) -> str:
    """Sets a tokenizer as its folder's settings say; returns what was changed. Raises UserError where it cannot be."""
    changes = _add_special_tokens(backend, settings, config, folder)
    check_class(backend, class_of(settings.tokenizer, config), settings.tokenizer, folder)
    if settings.do_lower_case and not _has_lowercase(backend.normalizer):
        first = [normalizers.Lowercase()]
        backend.normalizer = normalizers.Sequence(first + ([backend.normalizer] if backend.normalizer else []))
        changes += "do_lower_case"
    if settings.tokenizer.get("split_special_tokens"):
        backend.encode_special_tokens = True
        changes += "split_special_tokens"
    return changes


def _add_special_tokens(
    backend: Tokenizer, settings: TransformerSettings, config: Mapping[str, Any], folder: AnyPath
) -> str:
    """Words that are one token wherever they stand in a text: those that tokenizer_config.json and the older files
    beside it name, where tokenizer.json has them not."""
    given = settings.tokenizer
    listed: Any = given.get("added_tokens_decoder") or {}
    more: list[Any] = [given.get(f"{kind}_special_tokens") or [] for kind in ("extra", "additional")]
    try:
        tokens = [listed[number] for number in sorted(listed, key=int)]
        tokens += [given[name] for name in SPECIAL if given.get(name) is not None]
        tokens += [token for each in more for token in (each.values() if isinstance(each, Mapping) else each)]
        made = [_added_token(token) for token in tokens]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        path = folder / "tokenizer_config.json"
        raise UserError(f"{path}: its special tokens cannot be read ({type(error).__name__}: {error})") from error
    if class_of(given, config) == BERT:
        made += [AddedToken(word, special=True) for word in BERTS if backend.token_to_id(word) is not None]
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = list({token.content: token for token in made if token.content not in there}.values())
    backend.add_special_tokens(missing)
    return repr([token.content for token in missing]) if missing else ""


def _added_token(token: Any) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    flags = {name: bool(token[name]) for name in ("lstrip", "rstrip", "normalized", "single_word") if name in token}
    return AddedToken(token["content"], special=True, **flags)


def _check_ids(backend: Tokenizer, config: Mapping[str, Any], folder: AnyPath) -> None:
    kinds = {kind for kind in backend.encode("a").type_ids if kind}
    if kinds:
        raise UserError(f"{folder / 'tokenizer.json'}: gives tokens the type {max(kinds)}; towers know the type 0 only")
    rows = config.get("vocab_size")
    token, largest = max(backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1], default=("", -1))
    if isinstance(rows, int) and largest >= rows:
        raise UserError(
            f"{folder / 'tokenizer.json'}: gives the token {token!r} the id {largest}, but the encoder has {rows} word "
            "embeddings (vocab_size in config.json); they are not of one model"
        )


def _has_lowercase(normalizer: Any) -> bool:
    """As sentence-transformers looks for one."""
    parts = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return any(isinstance(part, normalizers.Lowercase) for part in parts)


def _load_older(folder: AnyPath):
    """By transformers, which reads local folders only."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as room:
        if not isinstance(folder, Path):
            for path in inside(folder):
                if path.suffix in (".json", ".txt", ".model"):
                    (Path(room) / path.name).write_bytes(path.read_bytes())
        return AutoTokenizer.from_pretrained(folder if isinstance(folder, Path) else room).backend_tokenizer
