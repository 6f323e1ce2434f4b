"""Photos to model inputs: resize, crop, normalise as the model's image hints say. Pillow is imported only when a photo
is read.

Here: pixels. Not here: where the hints come from (the model's description), other kinds of input (``inputs``).
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ...codec import ImageHints, Kind, TensorSpec, TypeCode
from ...protocol.safe_text import printable
from .failures import Failure

PHOTO_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339


def read_photo(
    label: str, file: BinaryIO, name: str, spec: TensorSpec, hints: ImageHints | None, *, batched: bool
) -> npt.NDArray[Any]:
    """Make the photo one row for ``spec``: [C,H,W], [H,W,C] or, grey, [H,W]; without the batch axis where there is one.

    ``batched``: the first axis of ``spec`` is the batch. Raises Failure where the file is no photo, has several
    pictures, transparent pixels or numbers of unknown range, or where the model takes none.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise Failure(f"{label}: photos need Pillow: pip install 'tensorwire[cli]'") from error
    row = _row(spec, batched=batched)
    hints = hints or _guess(label, spec, row)
    channels = _channels(label, spec, row, hints)
    title = f"{label}: {printable(name, 80)}"
    try:
        photo = _opened(title, Image.open(file)).convert("L" if channels == 1 else "RGB")
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise Failure(f"{title} is no photo that can be read ({printable(str(error), 120)})") from error
    pixels = np.asarray(_scaled(photo, hints)).reshape(*hints.size, channels)
    if spec.dtype.name != "uint8":
        pixels = (pixels / np.float32(255) - np.asarray(hints.mean, np.float32)) / np.asarray(hints.std, np.float32)
    if len(row) == 2:
        return pixels[:, :, 0]
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if hints.layout == "NCHW" else pixels
    return pixels if batched or len(spec.shape) == 3 else pixels[np.newaxis]


def _row(spec: TensorSpec, *, batched: bool) -> tuple[int, ...]:
    """Return the axes of one row: those behind the batch, or behind a first axis for one picture."""
    return spec.shape[1:] if batched or (len(spec.shape) == 4 and spec.shape[0] in {-1, 1}) else spec.shape


def _guess(label: str, spec: TensorSpec, row: tuple[int, ...]) -> ImageHints:
    """Hints from the shape alone, for a model that gives none: values 0..1, scaled to the model's own height and
    width.
    """
    layouts = {"NCHW": row[0], "NHWC": row[-1]} if len(row) == 3 else {"NCHW": 1}
    fitting = [layout for layout, channels in layouts.items() if channels in {1, 3}]
    counts = spec.dtype.code in {TypeCode.INT, TypeCode.UINT, TypeCode.BOOL} and spec.dtype.name != "uint8"
    if len(row) not in {2, 3} or len(fitting) != 1 or counts:
        raise _no_photo(label, spec)
    height, width = row[-2:] if fitting == ["NCHW"] else row[:2]
    if min(height, width) < 1:
        raise _no_photo(label, spec)
    return ImageHints((height, width), mean=(0.0,), std=(1.0,), layout=fitting[0])


def _channels(label: str, spec: TensorSpec, row: tuple[int, ...], hints: ImageHints) -> int:
    if len(row) not in {2, 3} or spec.kind is not Kind.DENSE or spec.dtype.numpy is None:
        raise _no_photo(label, spec)
    channels = 1 if len(row) == 2 else row[-1 if hints.layout == "NHWC" else 0]
    channels = 3 if channels == -1 else channels
    if channels not in {1, 3} or not {len(hints.mean), len(hints.std)} <= {1, channels} or 0 in hints.std:
        raise _no_photo(label, spec)
    return channels


def _no_photo(label: str, spec: TensorSpec) -> Failure:
    shape = list(spec.shape)
    return Failure(
        f"{label}: the model does not say how {spec.name} of shape {shape} is made from a photo: send it as .npy"
    )


def _opened(title: str, photo: Any) -> Any:
    """Return the picture as it is to be seen, in 8 bits. Raises Failure where that is not told."""
    from PIL import Image, ImageOps

    kind, tags = photo.format, getattr(photo, "tag_v2", {})
    if (
        getattr(photo, "is_animated", False) and kind != "MPO"
    ):  # a camera's MPO: the photo first, then other views of it
        raise Failure(f"{title} holds {photo.n_frames} pictures: save the one that is meant alone")
    deep = photo.mode.startswith("I;16") or (photo.mode == "I" and kind in {"PNG", "PPM"})
    white_is_zero = deep and tags.get(_PHOTOMETRIC) == 0
    if (photo.mode in {"I", "F"} and not deep) or set(tags.get(_SAMPLE_FORMAT, (1,))) != {1} or white_is_zero:
        raise Failure(f"{title} holds numbers whose range it does not tell (mode {photo.mode}): send it as .npy")
    photo = ImageOps.exif_transpose(photo)
    if photo.has_transparency_data and _transparent(photo, deep=deep):
        raise Failure(f"{title} is transparent in places: save it on the background that is meant")
    if deep:
        top = (1 << tags.get(_BITS, (16,))[0]) - 1
        photo = Image.fromarray(np.rint(np.asarray(photo, np.float32) * np.float32(255 / top)).astype(np.uint8))
    return photo


def _transparent(photo: Any, *, deep: bool) -> bool:
    if deep:  # Pillow does not convert these
        return bool((np.asarray(photo) == photo.info["transparency"]).any())
    return bool(photo.convert("RGBA").getchannel("A").getextrema()[0] < 255)


def _scaled(photo: Any, hints: ImageHints) -> Any:
    from PIL import Image

    height, width = hints.size
    scale = max(height / photo.height, width / photo.width)
    if hints.resize:
        scale = max(scale, hints.resize / min(photo.size))
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    return photo.crop((left, top, left + width, top + height))
