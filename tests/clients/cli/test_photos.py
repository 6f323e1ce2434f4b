"""Photos: scaled, cut and normalised as the model asks."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tensorwire.clients.cli.failures import Failure
from tensorwire.clients.cli.inputs import fit
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


def read(file: io.BytesIO, tensor: TensorSpec, hints: ImageHints | None = None, *, batched: bool = True) -> Any:
    return read_photo("--input x", file, "p.png", tensor, hints, batched=batched)


def saved(image: Any, kind: str = "png", **save: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **save)
    file.seek(0)
    return file


def tiff(bits: int, numbers: bytes, *, photometric: int = 1, sample_format: int = 1) -> io.BytesIO:
    """A grey TIFF of 2 x 1 pixels, uncompressed; tags as in TIFF 6.0."""
    short = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1, 339: sample_format}
    long = {273: 8 + 2 + 12 * 10 + 4, 279: len(numbers)}
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in short.items()]
    entries += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in long.items()]
    return io.BytesIO(struct.pack("<2sHIH", b"II", 42, 8, 10) + b"".join(sorted(entries)) + bytes(4) + numbers)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY_SPEC = TensorSpec("x", dtype_by_name("float32"), (-1, 1, 16, 16), Kind.DENSE)


@pytest.mark.parametrize(("dtype", "kind"), [("<u2", "png"), ("<u2", "tiff"), (">u2", "tiff"), ("<u2", "ppm")])
def test_16_bits_are_scaled_by_their_range(dtype: str, kind: str) -> None:
    deep = Image.fromarray(GREY.astype(dtype) * 257)
    assert read(saved(deep, kind), GREY_SPEC)[0] == pytest.approx(GREY / 255)


def test_12_bits_are_scaled_by_their_range() -> None:
    x = read(tiff(12, b"\xff\xf8\x00"), spec(-1, 1, 1, 2))
    assert x[0, 0].tolist() == pytest.approx([1.0, 128 / 255], abs=1e-3)


@pytest.mark.parametrize(
    "file",
    [
        saved(Image.fromarray(GREY.astype(np.float32) / 255), "tiff"),
        saved(Image.fromarray(GREY.astype(np.int32)), "tiff"),
        tiff(16, bytes(4), sample_format=2),
        tiff(8, bytes(2), sample_format=2),
        tiff(16, bytes(4), photometric=0),
    ],
)
def test_numbers_of_unknown_range_are_refused(file: io.BytesIO) -> None:
    with pytest.raises(Failure, match="range it does not tell"):
        read(file, GREY_SPEC)


def palette() -> Any:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    return image


@pytest.mark.parametrize(
    ("file", "right"),
    [
        (saved(palette()), [0, 0, 255]),
        (saved(palette(), "gif"), [0, 0, 255]),
        (saved(palette(), transparency=0), [0, 0, 255]),
        (saved(Image.new("1", (16, 16), 1)), [255, 255, 255]),
        (saved(Image.new("1", (16, 16), 1), "tiff"), [255, 255, 255]),
        (saved(Image.new("LA", (16, 16), (7, 255))), [7, 7, 7]),
        (saved(Image.new("RGBA", (16, 16), (1, 2, 3, 255))), [1, 2, 3]),
        (saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "tiff"), [0, 255, 255]),
        (tiff(8, b"\0\0", photometric=0), [255, 255, 255]),
    ],
)
def test_every_mode_of_picture_has_its_colours(file: io.BytesIO, right: list[int]) -> None:
    assert read(file, spec(-1, 3, 2, 2, dtype="uint8"))[:, 0, 0].tolist() == right


@pytest.mark.parametrize(
    "file",
    [
        saved(Image.new("RGBA", (16, 16), (0, 0, 0, 0))),
        saved(Image.new("LA", (16, 16), (7, 254))),
        saved(palette(), transparency=1),
        saved(palette(), "gif", transparency=1),
        saved(Image.new("L", (16, 16), 7), transparency=7),
        saved(Image.fromarray(GREY.astype(np.uint16)), transparency=7),
        saved(Image.new("RGBA", (16, 16), (0, 0, 0, 9)), "webp", lossless=True),
    ],
)
def test_what_is_behind_a_transparent_picture_is_not_guessed(file: io.BytesIO) -> None:
    with pytest.raises(Failure, match="save it on the background"):
        read(file, GREY_SPEC)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_several_pictures_are_refused(kind: str) -> None:
    file = saved(Image.new("RGB", (4, 4)), kind, save_all=True, append_images=[Image.new("RGB", (4, 4), (255, 9, 9))])
    with pytest.raises(Failure, match="holds 2 pictures"):
        read(file, GREY_SPEC)


def test_a_camera_s_jpeg_with_more_views_is_its_photo() -> None:
    image = Image.new("RGB", (4, 4), (255, 255, 255))
    file = saved(image, "mpo", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert read(file, GREY_SPEC).min() > 0.99


def test_a_deep_picture_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    x = read(saved(Image.fromarray(GREY.astype(np.uint16) * 257), exif=exif), GREY_SPEC)
    assert x[0] == pytest.approx(np.rot90(GREY, -1) / 255)


# --- axes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "batched", "row"),
    [
        ((-1, 28, 28), True, (28, 28)),
        ((-1, 1, 28, 28), True, (1, 28, 28)),
        ((-1, 28, 28, 1), True, (28, 28, 1)),
        ((-1, 28, 28, 3), True, (28, 28, 3)),
        ((-1, 3, 28, 28), True, (3, 28, 28)),
        ((28, 28), False, (28, 28)),
        ((3, 28, 28), False, (3, 28, 28)),
        ((1, 28, 28), False, (1, 28, 28)),
        ((28, 28, 3), False, (28, 28, 3)),
        ((1, 3, 28, 28), False, (1, 3, 28, 28)),
        ((-1, 28, 28, 1), False, (1, 28, 28, 1)),
    ],
)
def test_a_photo_is_one_row(shape: tuple[int, ...], batched: bool, row: tuple[int, ...]) -> None:
    x = read(photo(28, 28), spec(*shape), batched=batched)
    assert x.shape == row
    assert fit("--input x", x, spec(*shape)).shape == ((1, *row) if len(shape) > len(row) else row)


@pytest.mark.parametrize(
    ("shape", "batched"),
    [
        ((-1, -1, 28, 28), True),  # how many channels?
        ((-1, 28, 28), False),  # a free number of what?
        ((-1, 3, 28, 3), True),  # which are the channels?
        ((-1, 4, 28, 28), True),
        ((-1, 28, 28, 4), True),
        ((-1, 3, -1, -1), True),
        ((-1, -1, -1), True),
        ((-1, 28), True),
        ((2, 3, 28, 28), False),
        ((-1, 2, 3, 28, 28), True),
    ],
)
def test_axes_that_could_mean_something_else_are_refused(shape: tuple[int, ...], batched: bool) -> None:
    with pytest.raises(Failure, match=r"send it as \.npy"):
        read(photo(28, 28), spec(*shape), batched=batched)


@pytest.mark.parametrize(
    ("hints", "channels"),
    [(HINTS, 1), (ImageHints((4, 6), (0.0, 0.0), (1.0,)), 3), (ImageHints((4, 6), (0.0,), (0.0,)), 3)],
)
def test_hints_for_other_channels_and_a_deviation_of_zero_are_refused(hints: ImageHints, channels: int) -> None:
    with pytest.raises(Failure, match=r"send it as \.npy"):
        read(photo(6, 4), spec(-1, channels, 4, 6), hints)


def test_without_hints_integers_are_no_brightness() -> None:
    with pytest.raises(Failure, match=r"send it as \.npy"):
        read(photo(6, 4, (255, 255, 255)), spec(-1, 3, 4, 6, dtype="int32"))


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
