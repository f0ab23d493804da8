"""Pictures: what is decoded, how it is scaled, what is refused."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtret.data import images
from mtret.data.images import ImageFiles, Images, decode, read_pixels
from mtret.errors import UserError


def save(folder: Path, name: str, image: Image.Image, **how: object) -> Path:
    path = folder / name
    image.save(path, **how)  # type: ignore[arg-type]
    return path


def test_an_image_is_scaled_to_a_square_of_three_channels(tmp_path: Path) -> None:
    grey = np.add.outer(np.arange(20), np.arange(40)).astype(np.uint8) * 4
    path = save(tmp_path, "grey.png", Image.fromarray(grey))
    found = decode(path, 8)
    assert found.shape == (8, 8, 3) and found.dtype == np.uint8
    wanted = np.asarray(Image.fromarray(grey).convert("RGB").resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found, wanted)
    assert found[0, 0, 0] < found[-1, -1, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    drawn = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    drawn.paste((200, 0, 0, 255), (0, 0, 2, 4))
    path = save(tmp_path, "icon.png", drawn.convert(mode))
    found = decode(path, 4)
    assert (found[:, 2:] == 255).all()
    assert (found[:, :2] != 255).any(axis=2).all()


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    whole = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)).save(whole, "PNG")
    torn, text, postscript = (tmp_path / name for name in ("torn.png", "text.png", "drawing.png"))
    torn.write_bytes(whole.getvalue()[:200])
    text.write_text("no image")
    postscript.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch) run\n"
    )  # Pillow would call a program
    for path in (torn, text, postscript):
        with pytest.raises(UserError, match=rf"{path.name}: no readable image \(.+\); known formats: PNG, JPEG"):
            decode(path, 4)


def test_what_is_gone_or_unreadable_is_no_broken_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png: missing; it was there when the task was read"):
        decode(tmp_path / "none.png", 4)
    with pytest.raises(IsADirectoryError):  # the command line says so in one line
        decode(tmp_path, 4)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_more_than_eight_bits_are_not_cut_in_silence(tmp_path: Path, kind: type) -> None:
    path = save(tmp_path, "deep.tiff", Image.fromarray(np.linspace(0, 1, 64).reshape(8, 8).astype(kind)))
    with pytest.raises(UserError, match=r"deep\.tiff: has more than 8 bits a channel; save it with 8"):
        decode(path, 4)


def test_what_is_absurdly_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, "large.png", Image.new("L", (300, 50)))
    monkeypatch.setattr(images, "MOST_PIXELS", 10_000)
    with pytest.raises(UserError, match=r"large.png: 300 x 50 pixels are more than 10,000; scale it down"):
        decode(path, 4)


def test_pixels_are_kept_by_content_and_size(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    paths = tuple(save(tmp_path, f"{i}.png", Image.new("RGB", (5, 5), colour)) for i, colour in enumerate(colours))
    files, cache = ImageFiles(paths, ("a", "b", "c")), tmp_path / "cache"
    cache.mkdir()
    told: list[int] = []
    first = read_pixels(files, 3, cache, told.append)
    assert [tuple(image[0, 0]) for image in first] == colours and sum(told) == 3
    paths[0].unlink()
    np.testing.assert_array_equal(read_pixels(files, 3, cache, told.append), first)
    assert sum(told) == 6
    for other in (ImageFiles(paths, ("a", "b", "x")), files):
        with pytest.raises(UserError, match=r"0\.png: missing"):
            read_pixels(other, 3 if other is not files else 4, cache)


def test_some_of_a_tasks_images() -> None:
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    some = Images(pixels, np.array([4, 0, 2]))
    assert (len(some), some.size) == (3, 2)
    assert some.take(np.array([2, 0]))[:, 0, 0, 0].tolist() == [2, 4]
