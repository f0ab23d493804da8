"""Image towers in and out: SigLIP's published files, with the projection to the text tower's space beside them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtret.errors import UserError
from mtret.files import AnyPath, replace_arrays, replace_json
from mtret.models import hf, weights
from mtret.models.siglip import DEFAULTS, LARGEST_SIDE, PREFIXES, UNUSED, SiglipConfig
from mtret.models.vision import SCRATCH, ImageTower, VisionConfig
from mtret.models.weights import file_sha256, read_json
from mtret.pytrees import Tree, flatten

PROJECTION = "projection.safetensors"
MODEL_TYPES = ("siglip", "siglip_vision_model")


@dataclass(frozen=True)
class PretrainedImages:
    """An image tower as loaded or begun. `params`: {"vision_model": ..., "projection": ...}."""

    tower: ImageTower
    params: Tree
    sha256: str  # of its files; of an untrained one, what it was drawn from

    @property
    def config(self) -> SiglipConfig:
        """The tower's."""
        return self.tower.config


def begin(
    config: VisionConfig, features: int, seed: int, matmul_dtype: str = "float32", remat: bool = False
) -> PretrainedImages:
    """The tower that a training starts from: published weights or random ones, and a random projection.

    Raises UserError where the source is none, or the sizes do not fit together.
    """
    if config.source == SCRATCH:
        tower = ImageTower(replace(_of_sizes(config), matmul_dtype=matmul_dtype, remat=remat), features)
        return PretrainedImages(tower, _drawn(tower, seed), f"{SCRATCH}, seed {seed}")
    try:
        folder = hf.resolve(config.source)
    except UserError as error:
        raise UserError(f"model.vision.source: {error}, or '{SCRATCH}'") from error
    tower = ImageTower(replace(_read_config(folder), matmul_dtype=matmul_dtype, remat=remat), features)
    drawn = _drawn(tower, seed)
    params = {**drawn, "vision_model": _read_tower(folder, tower)}
    return PretrainedImages(tower, params, weights.sha256(folder))


def _of_sizes(config: VisionConfig) -> SiglipConfig:
    if not config.patch_size <= config.image_size <= LARGEST_SIDE:
        raise UserError(
            f"model.vision.image_size: {config.image_size} is not between one patch of {config.patch_size} and "
            f"{LARGEST_SIDE} pixels"
        )
    if config.width % config.heads:
        raise UserError(f"model.vision.width: {config.width} is not a multiple of {config.heads} attention heads")
    return config.siglip()


def load(folder: AnyPath, matmul_dtype: str = "float32") -> PretrainedImages:
    """What `write` wrote. Raises UserError where it is damaged."""
    path = folder / PROJECTION
    kernel = weights.read_file(path).get("weight")
    own = replace(_read_config(folder), matmul_dtype=matmul_dtype)
    if kernel is None or kernel.ndim != 2 or kernel.shape[1] != own.hidden_size:
        raise UserError(f"{path}: holds no projection of {own.hidden_size} dimensions; export the model again")
    weights.check_finite(kernel, "weight", path)
    tower = ImageTower(own, kernel.shape[0])
    params = {"vision_model": _read_tower(folder, tower), "projection": {"kernel": np.ascontiguousarray(kernel.T)}}
    return PretrainedImages(tower, params, weights.sha256(folder) + file_sha256(path))


def _read_config(folder: AnyPath) -> SiglipConfig:
    where = folder / "config.json"
    published = read_json(where)
    if published.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{where}: model_type '{published.get('model_type')}' is not an image tower; known: "
            f"{', '.join(MODEL_TYPES)}"
        )
    config: SiglipConfig = SiglipConfig.from_json(published, str(where))
    return config


def _read_tower(folder: AnyPath, tower: ImageTower) -> Tree:
    wanted = flatten(_abstract(tower)["vision_model"])
    return weights.match(weights.read(folder), wanted, PREFIXES, UNUSED, weights.place(folder)).params


def _abstract(tower: ImageTower) -> dict[str, Any]:
    size = tower.config.image_size
    return jax.eval_shape(tower.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8))["params"]


def _drawn(tower: ImageTower, seed: int) -> dict[str, Any]:
    size = tower.config.image_size
    init = jax.jit(nn.Module.init, static_argnums=0)
    return jax.device_get(init(tower, jax.random.key(seed), jnp.zeros((1, size, size, 3), jnp.uint8))["params"])


def write(folder: Path, images: PretrainedImages, params: Tree) -> None:
    """Writes `params` in the form of transformers' SiglipVisionModel, and the projection, into a new folder or an empty
    one."""
    config = images.config
    replace_arrays(folder / weights.SINGLE, weights.published(params["vision_model"], PREFIXES[0]), {"format": "pt"})
    replace_arrays(folder / PROJECTION, {"weight": np.asarray(params["projection"]["kernel"]).T})
    replace_json(
        folder / "config.json",
        {
            "architectures": ["SiglipVisionModel"],
            "model_type": "siglip_vision_model",
            "hidden_act": "gelu_pytorch_tanh",
            "num_channels": 3,
            **{name: getattr(config, name) for name in (*DEFAULTS, "attention_dropout")},
        },
    )
    replace_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": config.image_size, "width": config.image_size},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    )
