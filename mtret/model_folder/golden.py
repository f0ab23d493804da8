"""Golden vectors: what a model folder answers to fixed texts, so that anyone can see whether it was loaded right."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError

from mtret.data.images import Images
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError
from mtret.files import AnyPath, load_arrays, replace_arrays, replace_json
from mtret.index.encode import ImageEmbedder, Texts
from mtret.model_folder.towers import embedder
from mtret.models import hf, hf_images

GOLDEN, VECTORS = "golden.json", "golden.safetensors"
COSINE = 0.9999  # at least, of a vector to its golden one
PICTURES: dict[str, Any] = {"prompts": ("image",), "texts": ("0", "1", "2"), "cosine": COSINE}
LENGTH = 0.02  # at most, by which it may be longer or shorter
# Of no task: nobody's data goes into a model folder. Several scripts, code, one short and one past most limits.
TEXTS = (
    "reset",
    "How do I return an item that arrived damaged?",
    "SELECT name, price FROM products WHERE stock < 10 ORDER BY price",
    "La réunion de lundi est déplacée à 14 h 30, salle B.",
    "データベースの列名と説明",
    "كيف أغيّر كلمة المرور؟",
    " ".join(f"Step {i}: open the valve, wait, and note the pressure." for i in range(1, 61)),
)

# (texts, names of prompts) -> vectors of every text with each prompt
Encode = Callable[[Sequence[str], Sequence[str]], Float32[np.ndarray, "prompts n D"]]


@dataclass(frozen=True)
class Agreement:
    """The least cosine of a vector to its golden one, and whose it is."""

    cosine: float
    prompt: str
    text: str
    vectors: int


def encoder_of(encoder: hf.Pretrained, prompts: Mapping[str, str]) -> Encode:
    """Embeds as what is deployed must: the prompt before the text. All at once, as batches have a fixed size."""
    tokenizer = Tokenizer(encoder.folder, None, encoder.pools_prompt)
    embed = embedder(encoder)

    def encode(texts: Sequence[str], named: Sequence[str]) -> Float32[np.ndarray, "prompts n D"]:
        return np.stack(embed([Texts(tokenizer.after(prompts[name], texts), encoder.max_length) for name in named]))

    return encode


def write(folder: AnyPath, encode: Encode, prompts: Sequence[str]) -> None:
    """Golden vectors of all prompts into a model folder."""
    replace_json(folder / GOLDEN, {"prompts": list(prompts), "texts": list(TEXTS), "cosine": COSINE})
    replace_arrays(folder / VECTORS, {"vectors": encode(TEXTS, prompts)})


def verify(folder: AnyPath, encode: Encode, of_pictures: bool = False) -> Agreement:
    """How near `encode` comes to a folder's golden vectors. Raises UserError where it misses one, or there are none.

    `of_pictures`: of an image tower, whose folder has no list of texts.
    """
    named = folder / (VECTORS if of_pictures else GOLDEN)
    try:
        golden = PICTURES if of_pictures else json.loads(named.read_text(encoding="utf-8"))
        prompts, texts, bar = list(golden["prompts"]), list(golden["texts"]), float(golden["cosine"])
        expected = load_arrays(folder / VECTORS)["vectors"]
        if expected.shape[:-1] != ((len(texts),) if of_pictures else (len(prompts), len(texts))):
            raise ValueError(f"{len(prompts)} prompts and {len(texts)} texts, but vectors {expected.shape}")
    except FileNotFoundError as error:
        raise UserError(f"{folder}: has no golden vectors ({named.name}); mtret export writes them") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{named}: damaged ({error}); export the model again") from error
    expected = expected.reshape(len(prompts), len(texts), -1)
    found = encode(texts, prompts)
    if found.shape != expected.shape:
        raise UserError(f"{folder / VECTORS}: vectors {expected.shape}, found {found.shape}; export the model again")
    lengths = np.linalg.norm(found, axis=-1), np.linalg.norm(expected, axis=-1)
    cosines = (found * expected).sum(axis=-1) / lengths[0] / lengths[1]
    worst = np.unravel_index(np.argmin(np.nan_to_num(cosines, nan=-1.0)), cosines.shape)
    agreement = Agreement(float(cosines[worst]), prompts[worst[0]], texts[worst[1]], cosines.size)
    if not agreement.cosine >= bar:
        text = f"with the prompt '{agreement.prompt}', the text '{agreement.text[:40]}'"
        raise UserError(
            f"{folder}: {f'golden image {agreement.text}' if of_pictures else text} has cosine {agreement.cosine:.6f} "
            f"to its golden vector, where {bar} is needed: this is not the model that was exported"
        )
    # Where the last module does not normalise, and vectors are compared by their dot product, lengths count.
    if not (np.abs(lengths[0] / lengths[1] - 1) <= LENGTH).all():
        raise UserError(
            f"{folder}: its vectors are longer or shorter than its golden ones; it is not what was exported"
        )
    return agreement


def pictures(size: int) -> Images:
    """Golden images, by arithmetic: a slope, stripes and a disc, each in its own colours."""
    row, column = np.mgrid[:size, :size] / size
    disc = np.hypot(row - 0.4, column - 0.6) < 0.3
    grey = np.stack([column, (row * 6) % 1 < 0.5, disc]).astype(np.float64)
    tint = np.array([[1.0, 0.5, 0.2], [0.1, 0.9, 0.6], [0.7, 0.2, 1.0]])
    return Images((255 * grey[..., None] * tint[:, None, None]).round().astype(np.uint8), np.arange(3))


def picture_encoder(images: hf_images.PretrainedImages) -> Encode:
    """Embeds the golden images, whatever texts it is given."""
    return lambda texts, named: ImageEmbedder(images.tower, images.params)(pictures(images.config.image_size))[None]


def write_pictures(folder: AnyPath, images: hf_images.PretrainedImages) -> None:
    """Golden vectors of images into the folder of an image tower."""
    replace_arrays(folder / VECTORS, {"vectors": picture_encoder(images)((), ())[0]})


def sentence_transformers_encoder(folder: Path) -> Encode:
    """The same folder through that library. Raises UserError where it is not installed, or does not load the folder."""
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(f"sentence-transformers cannot be imported ({error}); pip install 'mtret[parity]'") from error
    try:
        model = SentenceTransformer(str(folder), device="cpu")
    except Exception as error:  # of whatever kind: it is what the user wants to know
        raise UserError(f"{folder}: sentence-transformers does not load it ({error})") from error

    def encode(texts: Sequence[str], named: Sequence[str]) -> Float32[np.ndarray, "prompts n D"]:
        found = [
            model.encode(list(texts), prompt_name=name, convert_to_numpy=True, show_progress_bar=False)
            for name in named
        ]
        return np.stack(found).astype(np.float32)

    return encode
