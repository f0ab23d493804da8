"""Image towers in and out: nothing is lost, and nothing that is damaged gets in."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mtret.errors import UserError
from mtret.models import hf_images
from mtret.models.siglip import SiglipConfig
from mtret.models.vision import VisionConfig
from mtret.pytrees import flatten

pytestmark = pytest.mark.unoptimised  # of what a file holds, not of what a tower computes

SCRATCH = VisionConfig(source="scratch", image_size=13, patch_size=4, width=12, layers=2, heads=3)


def written(folder: Path, seed: int = 0) -> hf_images.PretrainedImages:
    made = hf_images.begin(SCRATCH, 16, seed)
    hf_images.write(folder, made, made.params)
    return made


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = written(tmp_path / "vision")
    again = hf_images.load(tmp_path / "vision")
    ours, theirs = flatten(again.params), flatten(made.params)
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value)
    assert again.config == made.config and again.tower.features == 16
    assert hf_images.load(tmp_path / "vision", "bfloat16").config.matmul_dtype == "bfloat16"


def test_scratch_is_drawn_by_the_seed() -> None:
    one, same, other = (flatten(hf_images.begin(SCRATCH, 16, seed).params) for seed in (1, 1, 2))
    assert all(np.array_equal(one[path], same[path]) for path in one)
    assert not np.array_equal(one["projection/kernel"], other["projection/kernel"])
    assert hf_images.begin(SCRATCH, 16, 1).sha256 != hf_images.begin(SCRATCH, 16, 2).sha256


@pytest.mark.slow
def test_published_weights_come_with_a_fresh_projection_and_without_the_text_tower(tmp_path: Path) -> None:
    made = written(tmp_path / "siglip")
    path = tmp_path / "siglip" / "model.safetensors"
    save_file(
        {**load_file(path), "text_model.embeddings.x": np.zeros(3, np.float32), "logit_scale": np.ones(1, np.float32)},
        path,
    )
    config = json.loads((tmp_path / "siglip" / "config.json").read_text())
    joint = {"model_type": "siglip", "vision_config": config, "text_config": {}}
    (tmp_path / "siglip" / "config.json").write_text(json.dumps(joint))
    begun = hf_images.begin(VisionConfig(source=str(tmp_path / "siglip")), 20, 5)
    ours, theirs = flatten(begun.params), flatten(made.params)
    for name in theirs:
        if name.startswith("vision_model/"):
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert ours["projection/kernel"].shape == (12, 20)


def test_a_published_file_may_leave_out_what_is_as_by_default() -> None:
    base = SiglipConfig.from_json({"model_type": "siglip"}, "here")
    assert (base.hidden_size, base.num_hidden_layers, base.image_size, base.patches) == (768, 12, 224, 196)
    large = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    config = SiglipConfig.from_json({"model_type": "siglip", "vision_config": {**large, "patch_size": 14}}, "here")
    assert (config.hidden_size, config.heads, config.patches) == (1152, (16, 72), 256)
    assert SiglipConfig.from_json({"model_type": "siglip_vision_model", "patch_size": 32}, "here").patches == 49


def absurd_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_size": 1_000_000}))


def no_projection(folder: Path) -> None:
    (folder / "projection.safetensors").unlink()


def other_projection(folder: Path) -> None:
    save_file({"weight": np.zeros((16, 7), np.float32)}, folder / "projection.safetensors")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def text_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_size": 17}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_projection, r"projection.safetensors: missing, but another file speaks of it; fetch it"),
        (other_projection, r"projection.safetensors: holds no projection of 12 dimensions"),
        (cut_weights, r"model.safetensors: damaged or truncated"),
        (text_model, r"config.json: model_type 'bert' is not an image tower; known: siglip, siglip_vision_model"),
        (absurd_size, r"config.json: image_size 1000000 is not between one patch of 4 and 4096 pixels"),
        (other_sizes, r"position_embedding.weight' has shape \[9, 12\], config.json asks for \[16, 12\]"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    written(tmp_path / "vision")
    spoil(tmp_path / "vision")
    with pytest.raises(UserError, match=message):
        hf_images.load(tmp_path / "vision")


def test_a_source_must_be_an_image_tower(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.vision.source: model 'nowhere': no such folder.* or 'scratch'"):
        hf_images.begin(replace(SCRATCH, source="nowhere"), 16, 0)
