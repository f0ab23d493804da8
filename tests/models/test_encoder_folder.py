"""What a folder says is obeyed or refused by name, and stands in its export."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mtret.errors import UserError
from mtret.models import hf
from mtret.pytrees import flatten

WriteModel = Callable[..., Path]
MODELS = "sentence_transformers.models"
DENSE = {"in_features": 8, "out_features": 5}


def listed(*kinds: str, **changes: Any) -> str:
    """A list of modules; `changes`: of the last one. A kind with a dot is a whole type."""
    modules: list[dict[str, Any]] = []
    for i, kind in enumerate(kinds):
        path = "" if i == 0 else f"{i}_{kind.split('.')[-1]}"
        modules.append({"idx": i, "name": str(i), "path": path, "type": kind if "." in kind else f"{MODELS}.{kind}"})
    modules[-1].update(changes)
    return json.dumps(modules)


def with_dense(write_model: WriteModel, config: Mapping[str, Any] = DENSE, **tensors: np.ndarray | None) -> Path:
    files = {
        "modules.json": listed("Transformer", "Pooling", "Dense", "Normalize"),
        "2_Dense/config.json": json.dumps(config),
    }
    folder = write_model(files=files)
    found = {"linear.weight": np.ones((5, 8), np.float32), "linear.bias": np.zeros(5, np.float32)}
    found |= {name.replace("_", "."): value for name, value in tensors.items()}
    save_file({n: x for n, x in found.items() if x is not None}, folder / "2_Dense" / "model.safetensors")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        hf.load(str(folder))
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message.replace(str(folder) + "/", "")


SUPPORTED = "supported: Transformer, Pooling, Dense, Normalize, Dropout"
REFUSED: dict[str, tuple[dict[str, str | None], str]] = {
    # The list of modules.
    "no module": (
        {"modules.json": "[]"},
        "modules.json: its modules are none; supported: one Transformer, one Pooling",
    ),
    "no list": ({"modules.json": "{}"}, "modules.json: is not a list of modules"),
    "no list of objects": ({"modules.json": '["Transformer"]'}, "modules.json: is not a list of modules"),
    "no type": ({"modules.json": '[{"name": "0", "path": ""}]'}, "modules.json: module 0: has no 'type'"),
    "order": (
        {"modules.json": listed("Transformer", "Normalize", "Pooling")},
        "modules.json: its modules are Transformer, Normalize, Pooling; supported: one Transformer, one Pooling, then",
    ),
    "no pooling": ({"modules.json": listed("Transformer")}, "modules.json: its modules are Transformer; supported"),
    "two poolings": (
        {"modules.json": listed("Transformer", "Pooling", "Pooling")},
        "its modules are Transformer, Pool",
    ),
    **{
        kind: ({"modules.json": listed("Transformer", "Pooling", kind)}, f"module 2: the type '{MODELS}.{kind}' is not")
        for kind in (
            *("LayerNorm", "WeightedLayerPooling", "WordWeights", "CNN", "LSTM", "BoW", "CLIPModel", "Asym"),
            *("Router", "StaticEmbedding", "WordEmbeddings", "Transformers"),
        )
    },
    "code of its own": (
        {"modules.json": listed("custom_st.Transformer", "Pooling")},
        f"module 0: the type 'custom_st.Transformer' is not supported; {SUPPORTED} of sentence_transformers. Code of",
    ),
    "another library": (
        {"modules.json": listed("Transformer", "Pooling", "pylate.models.Dense")},
        "the type 'pylate.models.Dense' is not supported",
    ),
    "sparse": (
        {"modules.json": listed("sentence_transformers.sparse_encoder.modules.Transformer", "Pooling")},
        "the type 'sentence_transformers.sparse_encoder.modules.Transformer' is not supported",
    ),
    "key of a module": (
        {"modules.json": listed("Transformer", "Pooling", scale=2)},
        "module 1: the key 'scale' is not supported; supported: idx, name, path, type, kwargs",
    ),
    "arguments of a module": (
        {"modules.json": listed("Transformer", "Pooling", kwargs=["task"])},
        "module 1: kwargs is ['task']; supported: [], None, {}",
    ),
    "absolute path": (
        {"modules.json": listed("Transformer", "Pooling", path="/etc")},
        "modules.json: module 1: the path '/etc' leads out of the folder; give one below it",
    ),
    "path upwards": (
        {"modules.json": listed("Transformer", "Pooling", path="a/../../other")},
        "module 1: the path 'a/../../other' leads out of the folder",
    ),
    "path of Windows": ({"modules.json": listed("Transformer", "Pooling", path="..\\x")}, "leads out of the folder"),
    "no path": (
        {"modules.json": listed("Transformer", "Pooling", path=None)},
        "module 1: the path None is not a string",
    ),
    "one name twice": (
        {"modules.json": listed("Transformer", "Pooling", name="0")},
        "modules.json: two modules have the same name",
    ),
    "one path twice": (
        {"modules.json": listed("Transformer", "Pooling", path="")},
        "modules.json: two modules have the same path",
    ),
    "files without a list": (
        {"modules.json": None},
        "modules.json: missing, and without it sentence-transformers does not read 1_Pooling; fetch it, or remove "
        "1_Pooling to read the folder as a Transformer with mean pooling",
    ),
    # Pooling.
    "pooling without configuration": ({"1_Pooling/config.json": None}, "1_Pooling/config.json: missing"),
    "pooling mode": (
        {"1_Pooling/config.json": '{"pooling_mode": "attention"}'},
        "1_Pooling/config.json: pooling_mode is 'attention'; supported: cls, max, mean, mean_sqrt_len_tokens, "
        "weightedmean, lasttoken, or a list of some of them",
    ),
    "one of several modes": ({"1_Pooling/config.json": '{"pooling_mode": ["mean", "first"]}'}, "is ['mean', 'first']"),
    "no mode": ({"1_Pooling/config.json": '{"pooling_mode": []}'}, "pooling_mode is []"),
    "pooling key": (
        {"1_Pooling/config.json": '{"pooling_mode_mean_token": true}'},
        "the key 'pooling_mode_mean_token' is not supported; supported: word_embedding_dimension, ",
    ),
    "pooling flag": (
        {"1_Pooling/config.json": '{"pooling_mode_mean_tokens": "yes"}'},
        "pooling_mode_mean_tokens is 'yes', where true or false is needed",
    ),
    "include_prompt": ({"1_Pooling/config.json": '{"include_prompt": 0}'}, "include_prompt is 0, where true or false"),
    "size": (
        {"1_Pooling/config.json": '{"word_embedding_dimension": 384}'},
        "modules.json: its Pooling takes 384 dimensions, config.json gives 8",
    ),
    # Normalize and Dropout.
    "normalised tokens": (
        {
            "modules.json": listed("Transformer", "Pooling", "Normalize"),
            "2_Normalize/config.json": '{"module_input_name": "token_embeddings"}',
        },
        "2_Normalize/config.json: module_input_name is 'token_embeddings'; supported: 'sentence_embedding'",
    ),
    "key of Normalize": ({"2_Normalize/config.json": '{"p": 1}'}, "2_Normalize/config.json: the key 'p' is not"),
    "key of Dropout": (
        {
            "modules.json": listed("Transformer", "Pooling", "Dropout"),
            "2_Dropout/config.json": '{"dropout": 0.1, "inplace": true}',
        },
        "2_Dropout/config.json: the key 'inplace' is not supported",
    ),
    # How it is used.
    "similarity": (
        {"config_sentence_transformers.json": '{"similarity_fn_name": "euclidean"}'},
        "config_sentence_transformers.json: similarity_fn_name is 'euclidean'; supported: 'cosine', 'dot', None",
    ),
    "another similarity": (
        {"config_sentence_transformers.json": '{"similarity_fn_name": "manhattan"}'},
        "similarity_fn_name is 'manhattan'",
    ),
    "kind of model": (
        {"config_sentence_transformers.json": '{"model_type": "SparseEncoder"}'},
        "model_type is 'SparseEncoder'; supported: 'SentenceTransformer', None",
    ),
    "truncate_dim": (
        {"config_sentence_transformers.json": '{"truncate_dim": 0}'},
        "truncate_dim is 0, not a number of dimensions",
    ),
    "truncate_dim as text": ({"config_sentence_transformers.json": '{"truncate_dim": "64"}'}, "truncate_dim is '64'"),
    "prompts": ({"config_sentence_transformers.json": '{"prompts": ["query: "]}'}, "prompts is ['query: '], where an"),
    "a prompt": (
        {"config_sentence_transformers.json": '{"prompts": {"query": 3}}'},
        "the prompt 'query' is 3, where a string is needed",
    ),
    "default prompt": (
        {"config_sentence_transformers.json": '{"prompts": {"search": "x"}, "default_prompt_name": "searhc"}'},
        "default_prompt_name is 'searhc', which is none of its prompts",
    ),
    "key of use": (
        {"config_sentence_transformers.json": '{"similarity": "dot"}'},
        "the key 'similarity' is not supported",
    ),
    # The Transformer.
    "key of settings": (
        {"sentence_bert_config.json": '{"max_length": 9}'},
        "sentence_bert_config.json: the key 'max_length' is not supported; supported: max_seq_length, do_lower_case, ",
    ),
    "length": ({"sentence_bert_config.json": '{"max_seq_length": 0}'}, "the longest text is 0 tokens; give an integer"),
    "task": ({"sentence_bert_config.json": '{"transformer_task": "fill-mask"}'}, "transformer_task is 'fill-mask'"),
    "length of queries": ({"sentence_bert_config.json": '{"query_length": 32}'}, "query_length is 32; supported: None"),
    "processing": (
        {"sentence_bert_config.json": '{"processing_kwargs": {"text": {"max_length": 4}}}'},
        "processing_kwargs is {'text': {'max_length': 4}}",
    ),
    "argument of the model": (
        {"sentence_bert_config.json": '{"model_args": {"hidden_act": "relu"}}'},
        "sentence_bert_config.json: model_args: the key 'hidden_act' is not supported",
    ),
    "dtype": (
        {"sentence_bert_config.json": '{"model_kwargs": {"torch_dtype": "float64"}}'},
        "model_kwargs: torch_dtype is 'float64'",
    ),
    "argument of the tokenizer": (
        {"sentence_roberta_config.json": '{"tokenizer_args": {"pad_to_multiple_of": 8, "vocab_file": "x"}}'},
        "sentence_roberta_config.json: tokenizer_args: the key 'pad_to_multiple_of' is not supported",
    ),
    "argument of the configuration": (
        {"sentence_bert_config.json": '{"config_args": {"num_hidden_layers": 1}}'},
        "config_args: the key 'num_hidden_layers' is not supported",
    ),
    "adapters": ({"adapter_config.json": "{}"}, "adapter_config.json: adapters of PEFT are not supported; merge them"),
    "code of the tokenizer": (
        {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'},
        "tokenizer_config.json: auto_map names code of the tokenizer's own",
    ),
    "added tokens": (
        {"tokenizer_config.json": '{"add_eos_token": true}', "tokenizer.json": None},
        "tokenizer_config.json: add_eos_token is not supported; write a tokenizer.json",
    ),
    "side": ({"tokenizer_config.json": '{"truncation_side": "middle"}'}, "truncation_side is 'middle'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(write_model: WriteModel, name: str) -> None:
    files, message = REFUSED[name]
    assert message in refusal(write_model(files=files))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"auto_map": {"AutoModel": "modeling.Own"}},
            "config.json: auto_map names code of the model's own, which is nev",
        ),
        ({"is_decoder": True}, "config.json: is_decoder is True, which is not supported; encoders alone are read"),
        ({"quantization_config": {"bits": 4}}, "config.json: quantization_config is {'bits': 4}, which is not"),
    ],
)
def test_what_config_json_asks_of_no_encoder_is_refused(
    write_model: WriteModel, changes: dict[str, Any], message: str
) -> None:
    assert message in refusal(write_model(**changes))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_features": 6}, "2_Dense/config.json: in_features is 6, but the module before it gives 8"),
        ({"out_features": 0}, "2_Dense/config.json: out_features is 0, not a number of dimensions"),
        (
            {"activation_function": "torch.nn.modules.activation.PReLU"},
            "activation_function is 'torch.nn.modules.activa",
        ),
        ({"activation_function": "custom.Tanh"}, "activation_function is 'custom.Tanh'; supported: Identity, Tanh, "),
        ({"activation_function": None}, "activation_function is None"),
        ({"bias": 1}, "2_Dense/config.json: bias is 1, where true or false is needed"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
        ({"module_output_name": "other"}, "module_output_name is 'other'"),
        ({"init_scale": 2}, "the key 'init_scale' is not supported"),
        ({"bias": False}, "2_Dense/model.safetensors: 1 tensors have no place in this tower (linear.bias)"),
        ({"use_residual": True}, "2_Dense/model.safetensors: 1 tensors are missing (residual.weight)"),
        ({"out_features": 4}, "tensor 'linear.weight' has shape [5, 8], config.json asks for [4, 8]"),
    ],
)
def test_a_dense_module_that_cannot_be_obeyed_is_refused(
    write_model: WriteModel, config: dict[str, Any], message: str
) -> None:
    assert message in refusal(with_dense(write_model, {**DENSE, **config}))


def test_pickled_weights_of_a_dense_module_are_never_opened(write_model: WriteModel) -> None:
    folder = with_dense(write_model)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    assert refusal(folder).startswith("2_Dense/model.safetensors: missing; pytorch_model.bin is pickled")


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling", "1_Pooling/config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_refused(write_model: WriteModel, name: str) -> None:
    folder, elsewhere = write_model("tiny"), write_model("other")
    link = folder / name
    link.rename(folder / "moved")
    link.symlink_to(elsewhere / name)
    assert refusal(folder).startswith(f"{name}: a link that leads out of the model's folder, to {elsewhere / name}")
    link.unlink()
    link.symlink_to(folder / "moved")  # a link within it is none of our business
    hf.load(str(folder))


def test_weights_of_a_dense_module_are_read_hashed_and_written_again(write_model: WriteModel, tmp_path: Path) -> None:
    folder = with_dense(write_model, linear_weight=np.arange(40, dtype=np.float32).reshape(5, 8))
    encoder = hf.load(str(folder))
    params = flatten(encoder.params["dense"])
    np.testing.assert_array_equal(params["0/linear/kernel"], np.arange(40).reshape(5, 8).T)
    trained = {**encoder.params, "dense": {"0": {"linear": {"kernel": np.ones((8, 5)), "bias": np.full(5, 2.0)}}}}
    hf.write(tmp_path / "out", encoder, trained, {})
    again = hf.load(str(tmp_path / "out"))
    assert flatten(again.params["dense"])["0/linear/bias"].tolist() == [2.0] * 5
    assert load_file(tmp_path / "out" / "2_Dense" / "model.safetensors")["linear.weight"].shape == (5, 8)
    assert again.dimension == encoder.dimension == 5
    first = hf.load(str(with_dense(lambda **given: write_model("another", **given)))).weights_sha256
    assert encoder.weights_sha256 != first  # whose towers are equal
    assert encoder.weights_sha256 != again.weights_sha256


def test_an_export_says_all_that_its_source_said(write_model: WriteModel, tmp_path: Path) -> None:
    """In places and by names that every version of the library has."""
    modules = json.loads(listed("Transformer", "Pooling", "Normalize"))
    modules[0] |= {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    modules[1] |= {"path": "pool/here", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}
    files = {
        "modules.json": json.dumps(modules),
        "pool/here/config.json": '{"embedding_dimension": 8, "pooling_mode": "lasttoken", "include_prompt": false}',
        "sentence_xlm-roberta_config.json": json.dumps(
            {"max_seq_length": 12, "do_lower_case": True, "tokenizer_args": {"truncation_side": "left"}}
        ),
        "config_sentence_transformers.json": json.dumps(
            {
                "__version__": {"sentence_transformers": "5.0.0"},
                "prompts": {"query": "q: ", "document": None},
                "default_prompt_name": "query",
                "similarity_fn_name": "dot",
                "truncate_dim": 4,
            }
        ),
    }
    encoder = hf.load(str(write_model(files=files)))
    out = tmp_path / "out"
    hf.write(out, encoder, encoder.params, encoder.prompts)
    written = {
        path.name if path.parent == out else f"{path.parent.name}/{path.name}": path for path in out.rglob("*.json")
    }
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in written.items()}
    assert [(each["path"], each["type"]) for each in found["modules.json"]] == [
        ("", f"{MODELS}.Transformer"),
        ("1_Pooling", f"{MODELS}.Pooling"),
        ("2_Normalize", f"{MODELS}.Normalize"),
    ]
    pooling = found["1_Pooling/config.json"]
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_lasttoken"]
    assert len(pooling) == 8 and pooling["include_prompt"] is False and pooling["word_embedding_dimension"] == 8
    assert found["sentence_bert_config.json"] == {
        "max_seq_length": 12, "do_lower_case": True, "tokenizer_args": {"truncation_side": "left"}
    }  # fmt: skip
    assert found["config_sentence_transformers.json"] == {
        "prompts": {"query": "q: ", "document": ""},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
        "truncate_dim": 4,
    }
    again = hf.load(str(out))
    for name in ("config", "prompts", "default_prompt_name", "similarity", "max_length", "dimension", "pools_prompt"):
        assert getattr(again, name) == getattr(encoder, name), name


def test_a_default_prompt_goes_with_its_prompt(write_model: WriteModel, tmp_path: Path) -> None:
    use = {"prompts": {"search": "s: "}, "default_prompt_name": "search"}
    encoder = hf.load(str(write_model(files={"config_sentence_transformers.json": json.dumps(use)})))
    assert (encoder.prompts, encoder.default_prompt_name) == ({"search": "s: "}, "search")
    hf.write(tmp_path / "out", encoder, encoder.params, {"query": "q: "})
    assert hf.load(str(tmp_path / "out")).default_prompt_name is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, 32),
        ({"tokenizer_config.json": {"model_max_length": 20}}, 20),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 32),
        ({"tokenizer_config.json": {"model_max_length": 20}, "sentence_bert_config.json": {"max_seq_length": 24}}, 24),
        (
            {"tokenizer_config.json": {"model_max_length": 20}, "sentence_bert_config.json": {"max_seq_length": None}},
            20,
        ),
        (
            {
                "sentence_bert_config.json": {
                    "max_seq_length": 24,
                    "tokenizer_args": {"model_max_length": 9},
                }
            },
            9,
        ),
        ({"sentence_bert_config.json": {}, "sentence_albert_config.json": {"max_seq_length": 7}}, 7),
        ({"sentence_bert_config.json": {"max_seq_length": 6}, "sentence_albert_config.json": {"max_seq_length": 7}}, 6),
        ({"sentence_bert_config.json": {"max_seq_length": 512}}, 32),
    ],
)
def test_the_longest_text_in_the_order_of_sentence_transformers(
    write_model: WriteModel, given: dict[str, Any], wanted: int
) -> None:
    encoder = hf.load(str(write_model(files={name: json.dumps(value) for name, value in given.items()})))
    assert encoder.max_length == wanted
    beyond = [line for line in encoder.remarks if "texts are cut at 32 tokens" in line]
    assert bool(beyond) == (given == {"sentence_bert_config.json": {"max_seq_length": 512}})


def test_a_folder_without_modules_is_their_default_and_says_so(write_model: WriteModel) -> None:
    folder = write_model()
    (folder / "modules.json").unlink()
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "1_Pooling").rmdir()
    encoder = hf.load(str(folder))
    assert (encoder.pooling, encoder.normalises, encoder.max_length) == ("mean", False, 32)
    assert encoder.remarks == (
        f"{folder}: has no modules.json; read as sentence-transformers does, a Transformer with mean pooling",
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["XForCausalLM"]}), encoding="utf-8")
    assert "architectures names XForCausalLM, and without modules.json sentence-transformers" in refusal(folder)


def test_half_precision_is_computed_and_exported_in_float32_and_said(write_model: WriteModel, tmp_path: Path) -> None:
    encoder = hf.load(str(write_model(torch_dtype="bfloat16")))
    assert encoder.remarks == (f"{encoder.folder}: published in bfloat16; computed and exported in float32",)
    hf.write(tmp_path / "out", encoder, encoder.params, {})
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == "float32"
    assert hf.load(str(tmp_path / "out")).remarks == ()


def test_a_tokenizers_class_that_is_not_compared_is_said(write_model: WriteModel) -> None:
    for kind, said in (("ElectraTokenizerFast", ["ElectraTokenizer"]), ("PreTrainedTokenizerFast", []), (None, [])):
        folder = write_model(
            str(kind), files={"tokenizer_config.json": json.dumps({"tokenizer_class": kind} if kind else {})}
        )
        found = [line for line in hf.load(str(folder)).remarks if "texts are read by tokenizer.json" in line]
        assert [line.split("whether ")[1].split(",")[0] for line in found] == said


def test_the_hubs_cache_keeps_a_snapshots_files_beside_it(write_model: WriteModel, tmp_path: Path) -> None:
    made = write_model("made")
    folder, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for path in [path for path in made.rglob("*") if path.is_file()]:
        link = folder / path.relative_to(made)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path.rename(blobs / path.relative_to(made).as_posix().replace("/", "-")))
    assert hf.load(str(folder)).dimension == 8
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(write_model("elsewhere") / "config.json")
    assert "config.json: a link that leads out of the model's folder" in refusal(folder)
