"""Exported folders of every text tower, read by sentence-transformers: none has code of its own, vectors are equal."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mtret.data.roles import TrainedTask, TrainingRecord
from mtret.data.templates import Templates
from mtret.errors import UserError
from mtret.model_folder.folder import check, prompts_of, save_model_folder
from mtret.model_folder.golden import encoder_of
from mtret.model_folder.towers import Towers
from mtret.models import hf

# What XLA makes of these towers test_transformers_text compares.
pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.unoptimised]

GEOMETRY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
RECORD = TrainingRecord(
    (TrainedTask("desk", "article", "it", ("en",), None), TrainedTask("shop", "item", "retail", ("de", "en"), None)),
    *(np.zeros(0, np.uint64) for _ in range(3)),
)
DETAILS = {"mtret": "0", "source": "random", "source_sha256": "x", "step": 1, "config": {}}
INSTRUCTIONS = {"desk": "Find the article that helps", "shop": "Find the item"}


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(max_position_embeddings=128, **GEOMETRY))


def xlmr() -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    return XLMRobertaModel(
        XLMRobertaConfig(
            max_position_embeddings=130, pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5, **GEOMETRY
        )
    )


def gte() -> Any:
    from transformers import GteConfig, GteModel

    rope = {"rope_type": "linear", "rope_theta": 160_000.0, "factor": 8 ** (2 / 6)}
    return GteModel(GteConfig(max_position_embeddings=128, rope_parameters=rope, **GEOMETRY))


def modernbert() -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    return ModernBertModel(
        ModernBertConfig(
            max_position_embeddings=128, local_attention=8, pad_token_id=0, cls_token_id=2, sep_token_id=3,
            bos_token_id=2, eos_token_id=3, **GEOMETRY
        )
    )  # fmt: skip


BUILDERS: dict[str, Callable[[], Any]] = {"bert": bert, "xlmr": xlmr, "gte": gte, "modernbert": modernbert}


def write_tokenizer(folder: Path) -> None:
    """Bytes as words, so that every script is read; padding is 0, or 1 where the first positions belong to it."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing

    specials = ["<pad>", "<pad1>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*specials, *sorted(ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    padding = "<pad1>" if "roberta" in (folder / "config.json").read_text(encoding="utf-8") else "<pad>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100, "pad_token": padding}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}), encoding="utf-8"
    )


@pytest.fixture(params=BUILDERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As published: GTE with its own spelling of config.json, and a name for code of its own."""
    import torch

    model = BUILDERS[request.param]().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            weight.copy_(around + 0.3 * torch.randn(weight.shape, generator=generator))
    folder = tmp_path / "source"
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "1_Pooling").mkdir()
    modules = [
        {"name": kind, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    cls = request.param in ("gte", "modernbert")
    modes = {"pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": not cls}
    pooling = {"word_embedding_dimension": model.config.hidden_size, **modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    if request.param == "gte":
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        del config["rope_parameters"]
        config |= {"model_type": "new", "rope_theta": 20_000, "rope_scaling": {"factor": 8.0, "type": "ntk"}}
        config |= {"auto_map": {"AutoModel": "configuration.NewModel"}, "position_embedding_type": "rope"}
        path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_sentence_transformers_reads_it_and_answers_alike(source: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder, templates = hf.load(str(source)), Templates(document="text: {document}")
    prompts = prompts_of(templates, INSTRUCTIONS)
    out = tmp_path / "model"
    save_model_folder(out, Towers(encoder), templates, prompts, RECORD, DETAILS)
    for through in (False, True):
        assert check(out, through_sentence_transformers=through).cosine >= 0.9999
    model = SentenceTransformer(str(out), device="cpu")
    ours = encoder_of(encoder, prompts)
    texts = ["how do I reset it", "Rückgabe einer Bestellung", "x"]
    # Random vectors lie close together: those of different prompts and texts must still be told apart.
    for name, method in (("desk", None), ("shop", None), ("query", "encode_query"), ("document", "encode_document")):
        found = getattr(model, method)(texts) if method else model.encode(texts, prompt_name=name)
        wanted = ours(texts, [name])[0]
        assert ((found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1)).min() >= 0.9999
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    desk, shop = ours(texts, ["desk", "shop"])
    assert np.abs(desk - shop).max() > 0.01


def test_the_check_that_its_page_shows_needs_that_library_alone(source: Path, tmp_path: Path) -> None:
    encoder, templates, out = hf.load(str(source)), Templates(), tmp_path / "model"
    save_model_folder(out, Towers(encoder), templates, prompts_of(templates, INSTRUCTIONS), RECORD, DETAILS)
    blocks = re.findall(r"```python\n(.*?)```", (out / "INTEGRATE.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "golden.json" in blocks[1] and "mtret" not in blocks[1]
    load, see = (block.replace("path/of/this/folder", str(out)) for block in blocks[:2])
    exec(load + see, {})
    golden = load_file(out / "golden.safetensors")["vectors"]
    save_file({"vectors": np.ascontiguousarray(golden[:, ::-1])}, out / "golden.safetensors")
    with pytest.raises(AssertionError, match="prompt desk: "):
        exec(load + see, {})


def test_the_export_is_read_again_here(source: Path, tmp_path: Path) -> None:
    """What GTE is exported as has other fields, and is the same tower."""
    encoder = hf.load(str(source))
    save_model_folder(
        tmp_path / "model", Towers(encoder), Templates(), prompts_of(Templates(), INSTRUCTIONS), RECORD, DETAILS
    )
    again = hf.load(str(tmp_path / "model"))
    assert again.config == encoder.config
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert "auto_map" not in config and config["model_type"] != "new"


def test_the_target_tei_gets_the_fields_that_it_reads(source: Path, tmp_path: Path) -> None:
    encoder = hf.load(str(source))
    prompts = prompts_of(Templates(), INSTRUCTIONS)
    out = tmp_path / "model"
    save_model_folder(out, Towers(encoder), Templates(), prompts, RECORD, DETAILS, target="tei")
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if encoder.model_type == "new":
        assert config["model_type"] == "gte" and "rope_parameters" not in config
        assert config["rope_theta"] == pytest.approx(20_000)
        assert config["rope_scaling"] == {"type": "ntk", "factor": pytest.approx(8.0)}
    if encoder.model_type == "modernbert":
        assert (config["global_attn_every_n_layers"], config["local_rope_theta"]) == (3, 10_000)
    again = hf.load(str(out)).config
    assert again.max_length == encoder.config.max_length
    if encoder.model_type != "new":  # its rotations are computed back and forth
        assert again == encoder.config


@pytest.mark.parametrize("source", ["bert", "gte"], indirect=True)  # pooled by mean, and by the first token
def test_a_prompt_that_is_left_out_of_the_vector(source: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    path = source / "1_Pooling" / "config.json"
    published = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**published, "include_prompt": False}), encoding="utf-8")
    encoder = hf.load(str(source))
    assert not encoder.pools_prompt
    prompts = prompts_of(Templates(), INSTRUCTIONS)
    save_model_folder(tmp_path / "model", Towers(encoder), Templates(), prompts, RECORD, DETAILS)
    assert check(tmp_path / "model", through_sentence_transformers=True).cosine >= 0.9999
    model, texts = SentenceTransformer(str(tmp_path / "model"), device="cpu"), ["how do I reset it", "x"]
    ours, theirs = encoder_of(encoder, prompts)(texts, ["desk"])[0], model.encode(texts, prompt_name="desk")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    path.write_text(json.dumps(published), encoding="utf-8")
    whole = encoder_of(hf.load(str(source)), prompts)(texts, ["desk"])[0]
    assert np.abs(ours - whole).max(axis=1).min() > 1e-3
    for target in ("tei", "elastic"):
        with pytest.raises(UserError, match=f"--target={target}: this encoder leaves prompts out of the mean"):
            save_model_folder(tmp_path / target, Towers(encoder), Templates(), prompts, RECORD, DETAILS, target=target)
        assert not (tmp_path / target).exists()
