"""Pictures from files: decoded by Pillow, scaled, and kept as bytes."""

import hashlib
import importlib.metadata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from mtret.errors import UserError
from mtret.files import AnyPath, read_arrays, replace_arrays

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # none that runs a program, as EPS does
MOST_PIXELS = 25_000_000  # of a file; more is a mistake, or an attack: a decoded pixel takes up to 12 bytes
READERS = 4  # at a time, for the same reason


@runtime_checkable
class ImageFile(Protocol):
    """A path, or whatever else holds an image's file; `str` names it to the user."""

    def read_bytes(self) -> bytes:
        """The whole file."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """The images of a task: where they are, and what is in them."""

    paths: tuple[ImageFile, ...]
    sha256: tuple[str, ...]  # of each file's bytes


@dataclass(frozen=True, eq=False)
class Images:
    """Some of a task's images."""

    pixels: UInt8[np.ndarray, "m H H 3"]  # of all
    rows: Int64[np.ndarray, "n"]  # those that are meant

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.pixels.shape[1]

    def take(self, images: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k H H 3"]:
        """The chosen ones."""
        return self.pixels[self.rows[images]]


def read_pixels(
    files: ImageFiles, size: int, cache: AnyPath | None = None, on_progress: Callable[[int], None] = lambda done: None
) -> UInt8[np.ndarray, "m H H 3"]:
    """Every image, `size` pixels a side; from the cache where they were read before.

    Raises UserError, naming the file, for one that is not an image, or too large.
    """
    decoder = importlib.metadata.version("pillow")
    key = hashlib.sha256("\n".join([decoder, str(size), *files.sha256]).encode()).hexdigest()[:32]
    path = cache / f"images-{key}.safetensors" if cache else None
    if path is not None and (found := read_arrays(path)) is not None:
        on_progress(len(files.paths))
        return found["pixels"]
    pixels = np.zeros((len(files.paths), size, size, 3), np.uint8)

    def read(row: int) -> None:
        pixels[row] = decode(files.paths[row], size)
        on_progress(1)

    with ThreadPoolExecutor(READERS) as readers:  # Pillow decodes without holding Python's lock
        for _ in readers.map(read, range(len(files.paths))):
            pass
    if path is not None:
        replace_arrays(path, {"pixels": pixels})
    return pixels


def decode(path: ImageFile, size: int) -> UInt8[np.ndarray, "H H 3"]:
    """One image, scaled to a square as SigLIP's preprocessing does (bicubic, whatever its proportions), on white where
    it is transparent. Raises UserError for a file that cannot be read, is not an image, too large, or not of 8 bits."""
    from PIL import Image

    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; it was there when the task was read") from error
    try:
        with Image.open(BytesIO(raw), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(
                    f"{path}: {image.width} x {image.height} pixels are more than {MOST_PIXELS:,}; scale it down"
                )
            if image.mode.startswith(("I", "F")):  # Pillow would cut them to white, or to black
                raise UserError(f"{path}: has more than 8 bits a channel; save it with 8")
            image.load()
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                ground = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(ground, image.convert("RGBA"))
            scaled = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            return np.asarray(scaled, np.uint8)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds, all of which mean the same to the user
        raise UserError(f"{path}: no readable image ({error}); known formats: {', '.join(FORMATS)}") from error


def fill_images(
    images: Images, chosen: Int32[np.ndarray, "own Nd"], shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "C own R H H 3"]:
    """Each in the place of its slot; places of empty slots stay black."""
    chunks, rows, _ = shape
    filled = np.zeros((len(chosen), chunks * rows, images.size, images.size, 3), np.uint8)
    for shard, slots in enumerate(chosen):
        there = np.flatnonzero(slots >= 0)
        filled[shard, there] = images.take(slots[there])
    return filled.reshape(len(chosen), chunks, rows, *filled.shape[2:]).swapaxes(0, 1)
