"""How the Transformer module of a folder is to be run, key by key: how it reads texts, and how long they may be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtret.encoder_folder.modules import SETTINGS, EncoderFolder
from mtret.encoder_folder.reading import check_keys, check_values, read_json, typed
from mtret.errors import UserError
from mtret.files import AnyPath

ADAPTER = "adapter_config.json"
# What sentence-transformers 6 writes of an encoder of texts; older versions write the first two of these keys alone.
FEATURES = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
FIXED: dict[str, Any] = {
    "transformer_task": ("feature-extraction",),
    "modality_config": (FEATURES,),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": ({}, None),
    "unpad_inputs": (None, True, False),  # no vector depends on it
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
ARGUMENTS = {"model": ("model_args", "model_kwargs"), "tokenizer": ("tokenizer_args", "processor_kwargs")} | {
    "config": ("config_args", "config_kwargs")
}
DTYPES = ("auto", "float32", "float16", "bfloat16")
# Arguments that change no vector but by rounding.
IDLE = {
    "model": (
        *("attn_implementation", "trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "device_map"),
        *("add_pooling_layer", "use_memory_efficient_attention", "unpad_inputs", "revision", "code_revision"),
    ),
    "tokenizer": ("use_fast", "trust_remote_code", "padding_side", "clean_up_tokenization_spaces", "revision"),
    "config": ("trust_remote_code", "use_cache", "use_memory_efficient_attention", "unpad_inputs", "revision"),
}
# Classes of tokenizers: two that are compared with tokenizer.json (data/tokenizer_class.py), two that take it as it is.
CLASSES = ("BertTokenizer", "XLMRobertaTokenizer", "PreTrainedTokenizer", "TokenizersBackend")
NORMALIZER = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")  # of BertTokenizer
TOKENIZER_ARGUMENTS = ("model_max_length", "truncation_side", *NORMALIZER)
SIDES = ("right", "left")
SHORTEST = 3  # two of which are special tokens: with less, all texts would have one vector
ENDLESS = 10**20  # tokenizers without a limit are published with such a number


@dataclass(frozen=True)
class TransformerSettings:
    """What the folder of a Transformer says beside its config.json."""

    max_length: int | None = None  # tokens of a text, if that is said
    tokenizer_length: int | None = None  # otherwise, if the tokenizer says it
    do_lower_case: bool = False  # before all else that the tokenizer does
    dtype: str = "float32"
    tokenizer: Mapping[str, Any] = field(default_factory=dict)  # tokenizer_config.json, and what overrides it
    arguments: Mapping[str, Any] = field(default_factory=dict)  # what overrides it alone


def read_settings(folder: EncoderFolder) -> TransformerSettings:
    """Raises UserError for a key or a value that is not supported, by its name."""
    place = folder.transformer
    if (place / ADAPTER).exists():
        raise UserError(
            f"{place / ADAPTER}: adapters of PEFT are not supported; merge them into the weights (merge_and_unload, "
            "then save_pretrained, in peft)"
        )
    path, config = _sentence_config(folder)
    given = {kind: _arguments(config, kind, path) for kind in ARGUMENTS}
    tokenizer = _tokenizer_config(place, given["tokenizer"])
    return TransformerSettings(
        max_length=_length(given["tokenizer"].get("model_max_length", config.get("max_seq_length")), path),
        tokenizer_length=_length(tokenizer.get("model_max_length"), str(place / "tokenizer_config.json")),
        do_lower_case=typed(config, "do_lower_case", bool, False, path),
        dtype=given["model"].get("torch_dtype") or given["model"].get("dtype") or "float32",
        tokenizer=tokenizer,
        arguments={key: value for key, value in given["tokenizer"].items() if key in TOKENIZER_ARGUMENTS[1:]},
    )


def _sentence_config(folder: EncoderFolder) -> tuple[str, Mapping[str, Any]]:
    """The first of the files that there may be. Without a list of modules none is read."""
    for name in SETTINGS if folder.listed else ():
        path = folder.transformer / name
        config = read_json(path, optional=True)
        if config:
            names = [each for names in ARGUMENTS.values() for each in names]
            check_keys(config, ("max_seq_length", "do_lower_case", *names, *FIXED), str(path))
            check_values(config, FIXED, str(path))
            return str(path), config
    return str(folder.transformer / SETTINGS[0]), {}


def _arguments(config: Mapping[str, Any], kind: str, path: str) -> dict[str, Any]:
    """Of either spelling; where both are there, the older one counts."""
    name = next((name for name in ARGUMENTS[kind] if name in config), ARGUMENTS[kind][0])
    found = typed(config, name, dict, {}, path)
    obeyed = {"model": ("torch_dtype", "dtype"), "tokenizer": TOKENIZER_ARGUMENTS, "config": ()}[kind]
    check_keys(found, (*obeyed, *IDLE[kind]), f"{path}: {name}")
    if kind == "model":
        check_values(found, {"torch_dtype": (None, *DTYPES), "dtype": (None, *DTYPES)}, f"{path}: {name}")
    return found


def _tokenizer_config(place: AnyPath, arguments: Mapping[str, Any]) -> dict[str, Any]:
    path = place / "tokenizer_config.json"
    config = {**read_json(path, optional=True), **arguments}
    if "auto_map" in config:
        raise UserError(f"{path}: auto_map names code of the tokenizer's own, which is never run")
    for key in ("add_bos_token", "add_eos_token"):  # tokenizer.json, where there is one, overrides them
        if config.get(key) is not None and not (place / "tokenizer.json").exists():
            raise UserError(
                f"{path}: {key} is not supported; write a tokenizer.json, e.g. by AutoTokenizer and save_pretrained in "
                "transformers"
            )
    if "added_tokens_decoder" not in config:  # else it stands for both of these
        config = {**config, **read_json(place / "special_tokens_map.json", optional=True)}
        added = read_json(place / "added_tokens.json", optional=True)
        config["added_tokens_decoder"] = {str(number): {"content": token} for token, number in added.items()}
    check_values(config, {"truncation_side": (*SIDES, None)}, str(path))
    flags: dict[str, tuple[Any, ...]] = dict.fromkeys((*NORMALIZER, "add_prefix_space"), (True, False))
    check_values(
        config, flags | dict.fromkeys(("strip_accents", "split_special_tokens"), (True, False, None)), str(path)
    )
    return config


def _length(given: Any, path: str) -> int | None:
    if given is None:
        return None
    whole = isinstance(given, int | float) and not isinstance(given, bool) and float(given).is_integer()
    if not whole or given < SHORTEST:
        raise UserError(
            f"{path}: the longest text is {given!r} tokens; give an integer of {SHORTEST} or more, since special "
            "tokens take two"
        )
    return int(given) if given < ENDLESS else None
