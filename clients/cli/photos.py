"""Photos to model inputs: resize, crop, normalise as the model's image hints say. Pillow is imported only when a photo
is read.

Here: pixels. Not here: where the hints come from (the model's description), other kinds of input (``inputs``).
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ...codec import ImageHints, Kind, TensorSpec
from ..errors import printable
from .failures import Failure

PHOTO_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_photo(label: str, file: BinaryIO, name: str, spec: TensorSpec, hints: ImageHints | None) -> npt.NDArray[Any]:
    """The photo as an array for ``spec``, without the batch axis: [C,H,W] or [H,W,C].

    Raises Failure where the file is no photo or the model takes none.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise Failure(f"{label}: photos need Pillow: pip install 'tensorwire[cli]'") from error
    hints = hints or _guess(label, spec)
    channels = _channels(label, spec, hints)
    try:
        photo = ImageOps.exif_transpose(Image.open(file)).convert("L" if channels == 1 else "RGB")
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise Failure(
            f"{label}: {printable(name, 80)} is no photo that can be read ({printable(str(error), 120)})"
        ) from error
    pixels = np.asarray(_scaled(photo, hints))
    if spec.dtype.name != "uint8":
        pixels = (pixels / np.float32(255) - np.asarray(hints.mean, np.float32)) / np.asarray(hints.std, np.float32)
    pixels = pixels.reshape(*hints.size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if hints.layout == "NCHW" else pixels


def _guess(label: str, spec: TensorSpec) -> ImageHints:
    """Hints from the shape alone, for a model that gives none: values 0..1, scaled to the model's own height and
    width.
    """
    rows = spec.shape[-3:]
    layout = "NHWC" if len(rows) == 3 and rows[2] in (1, 3) and rows[0] not in (1, 3) else "NCHW"
    size = rows[:2] if layout == "NHWC" else rows[1:]
    if len(rows) != 3 or min(size) < 1:
        raise _no_photo(label, spec)
    return ImageHints((size[0], size[1]), mean=(0.0,), std=(1.0,), layout=layout)


def _channels(label: str, spec: TensorSpec, hints: ImageHints) -> int:
    channels = spec.shape[-1 if hints.layout == "NHWC" else -3] if len(spec.shape) >= 3 else 0
    if spec.kind is not Kind.DENSE or spec.dtype.numpy is None or channels not in (-1, 1, 3):
        raise _no_photo(label, spec)
    return 3 if channels == -1 else channels


def _no_photo(label: str, spec: TensorSpec) -> Failure:
    shape = list(spec.shape)
    return Failure(
        f"{label}: the model does not say how {spec.name} of shape {shape} is made from a photo: send it as .npy"
    )


def _scaled(photo: Any, hints: ImageHints) -> Any:
    from PIL import Image

    height, width = hints.size
    scale = max(height / photo.height, width / photo.width)
    if hints.resize:
        scale = max(scale, hints.resize / min(photo.size))
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    return photo.crop((left, top, left + width, top + height))
