"""Photos: scaled, cut and normalised as the model asks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tensorwire.clients.cli.failures import Failure
from tensorwire.clients.cli.photos import read_photo
from tensorwire.codec import ImageHints, Kind, TensorSpec, dtype_by_name

HINTS = ImageHints(size=(4, 6), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def spec(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", dtype_by_name(dtype), shape, Kind.DENSE)


def photo(
    width: int, height: int, color: tuple[int, ...] = (255, 0, 127), mode: str = "RGB", **save: Any
) -> io.BytesIO:
    file = io.BytesIO()
    Image.new(mode, (width, height), color).save(file, "png" if not save else "jpeg", **save)
    file.seek(0)
    return file


def read(file: io.BytesIO, tensor: TensorSpec, hints: ImageHints | None = None) -> Any:
    return read_photo("--input x", file, "p.png", tensor, hints)


def test_channels_first_and_normalised_per_channel() -> None:
    x = read(photo(60, 40), spec(-1, 3, 4, 6), HINTS)
    assert x.shape == (3, 4, 6)
    assert x.dtype == np.float32
    assert x[:, 0, 0].tolist() == pytest.approx([1.0, -1.0, -0.0039], abs=1e-3)


def test_channels_last() -> None:
    hints = ImageHints(size=(4, 6), mean=(0.0,), std=(1.0,), layout="NHWC")
    x = read(photo(60, 40), spec(-1, 4, 6, 3), hints)
    assert x.shape == (4, 6, 3)
    assert x[0, 0].tolist() == pytest.approx([1.0, 0.0, 127 / 255])


def test_bytes_stay_bytes() -> None:
    x = read(photo(60, 40), spec(-1, 3, 4, 6, dtype="uint8"), HINTS)
    assert x.dtype == np.uint8
    assert x[:, 0, 0].tolist() == [255, 0, 127]


def test_one_channel_is_grey() -> None:
    assert read(photo(60, 40), spec(-1, 1, 4, 6), ImageHints((4, 6), (0.0,), (1.0,))).shape == (1, 4, 6)


@pytest.mark.parametrize(("resize", "shade"), [(0, 0.0), (40, 0.0), (4, 0.0)])
def test_the_cut_is_from_the_centre(resize: int, shade: float) -> None:
    image = Image.new("RGB", (100, 40), (255, 255, 255))
    image.paste((0, 0, 0), (30, 0, 70, 40))
    file = io.BytesIO()
    image.save(file, "png")
    x = read(file, spec(-1, 3, 4, 4), ImageHints((4, 4), (0.0,), (1.0,), resize=resize))
    assert x[0, :, 1:3].max() == pytest.approx(shade, abs=0.02)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 500), (500, 3), (5, 7)])
def test_every_size_of_photo_fits(width: int, height: int) -> None:
    assert read(photo(width, height), spec(-1, 3, 4, 6), HINTS).shape == (3, 4, 6)


def test_a_turned_photo_is_turned_back() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees to show"
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 20, 20))
    file = io.BytesIO()
    image.save(file, "jpeg", exif=exif)
    x = read(file, spec(-1, 3, 4, 2), ImageHints((4, 2), (0.0,), (1.0,)))
    assert x[0, 0].max() < 0.2
    assert x[0, 3].min() > 0.8


def test_without_hints_the_shape_says_enough() -> None:
    x = read(photo(60, 40), spec(-1, 3, 8, 8))
    assert x.shape == (3, 8, 8)
    assert x.max() <= 1.0


@pytest.mark.parametrize("shape", [(-1, 16), (-1, 3, -1, -1), (-1, 5, 8, 8)])
def test_a_model_that_takes_no_photo_says_so(shape: tuple[int, ...]) -> None:
    with pytest.raises(Failure, match=r"send it as \.npy"):
        read(photo(8, 8), spec(*shape))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n garbage"])
def test_a_file_that_is_no_photo_says_so(content: bytes) -> None:
    with pytest.raises(Failure, match="no photo that can be read"):
        read(io.BytesIO(content), spec(-1, 3, 4, 6), HINTS)
