"""The image tower with random weights here and in transformers, and what comes before it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.images import ImageFiles, Images, read_pixels
from mtret.index.encode import ImageEmbedder
from mtret.models import hf_images
from mtret.models.siglip import PREFIXES, UNUSED, SiglipConfig, SiglipTower
from mtret.models.vision import VisionConfig
from mtret.models.weights import match, published, read
from mtret.pytrees import flatten

pytestmark = [pytest.mark.parity, pytest.mark.slow]

GEOMETRIES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 50,
        "image_size": 13,  # three patches and a pixel
        "patch_size": 4,
    },
    "siglip-base-patch16-224": {},
}


@pytest.fixture(params=GEOMETRIES)
def model(request: pytest.FixtureRequest) -> Any:
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    model = SiglipVisionModel(SiglipVisionConfig(**GEOMETRIES[request.param])).eval()
    generator = torch.Generator().manual_seed(3)
    spread = 0.3 if request.param == "tiny" else 0.03
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(around + spread * torch.randn(weight.shape, generator=generator))
    return model


def load(folder: Path) -> tuple[SiglipTower, Any, dict[str, np.ndarray], str]:
    where = folder / "config.json"
    tower = SiglipTower(SiglipConfig.from_json(json.loads(where.read_text(encoding="utf-8")), str(where)))
    size = tower.config.image_size
    wanted = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.uint8))["params"]
    found = match(read(folder), flatten(wanted), PREFIXES, UNUSED, where)
    return tower, found.params, dict(found.unused), found.prefix


def test_vectors_and_patches_after_every_layer(model: Any, tmp_path: Path) -> None:
    import torch

    model.save_pretrained(tmp_path)
    tower, params, _, _ = load(tmp_path)
    size = tower.config.image_size
    images = np.random.default_rng(4).integers(0, 256, (3, size, size, 3)).astype(np.uint8)
    with torch.no_grad():
        given = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        theirs = model(pixel_values=given, output_hidden_states=True)

    def layers(module: Any, _: str) -> bool:
        return type(module).__name__ in ("Embeddings", "Layer")

    apply = jax.jit(partial(tower.apply, capture_intermediates=layers))
    vectors, captured = apply({"params": params}, images)
    kept = captured["intermediates"]
    stack = kept["encoder"]["layers"]
    states = [kept["embeddings"]["__call__"][0]]
    states += [stack[str(number)]["__call__"][0] for number in range(tower.config.num_hidden_layers)]
    for ours, reference in zip(states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(ours, reference.numpy().reshape(ours.shape), rtol=0, atol=1e-4)
    wanted = theirs.pooler_output.numpy()
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-4)
    cosines = (vectors * wanted).sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.99999
    assert np.linalg.norm(vectors[0] - vectors[1]) > 1e-3 * np.linalg.norm(vectors[0])


def test_every_tensor_comes_back(model: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model.save_pretrained(tmp_path)
    _, params, unused, prefix = load(tmp_path)
    before, after = load_file(tmp_path / "model.safetensors"), {**unused, **published(params, prefix)}
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


def test_an_exported_tower_is_called_as_its_folder_says(tmp_path: Path) -> None:
    """Through transformers, from files of images: preprocessing, tower and projection."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import SiglipImageProcessor, SiglipVisionModel

    config = VisionConfig(source="scratch", image_size=24, patch_size=8, width=24, layers=2, heads=3)
    made = hf_images.begin(config, 16, seed=0)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + random.normal(0, 0.2, x.shape).astype(np.float32), made.params)
    (tmp_path / "vision").mkdir()
    hf_images.write(tmp_path / "vision", made, params)
    paths = tuple(tmp_path / f"{size}.png" for size in (10, 24, 57))
    for path, size in zip(paths, (10, 24, 57), strict=True):
        Image.fromarray(random.integers(0, 256, (size, size + 3, 3)).astype(np.uint8)).save(path)
    ours = ImageEmbedder(made.tower, params)(Images(read_pixels(ImageFiles(paths, ("a", "b", "c")), 24), np.arange(3)))

    tower = SiglipVisionModel.from_pretrained(tmp_path / "vision").eval()
    processor = SiglipImageProcessor.from_pretrained(tmp_path / "vision")
    projection = load_file(tmp_path / "vision" / "projection.safetensors")["weight"]
    with torch.no_grad():
        given = processor(images=[Image.open(path) for path in paths], return_tensors="pt")
        theirs = torch.nn.functional.normalize(tower(**given).pooler_output @ projection.T).numpy()
    assert (ours * theirs).sum(axis=1).min() >= 0.9999
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01
