"""What a model folder says about itself: `models/<name>/<version>/model.toml`, read and checked.

What lives here: the ModelSpec, its reader, what the keys mean together, and the files that they name. What must not:
the form of model.toml (model_toml.py), loading weights, torch, I/O beyond the folder and what links in it may lead to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...codec import CodecError, Kind, TensorSpec, dtype_by_name, encode_metadata
from .model_toml import Backend, BatchWith, Image, Input, Model, Placement, SpecError, Tensor, read_model_toml

__all__ = ["ImageHint", "ModelSpec", "SpecError", "as_named", "inside", "load_spec"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
DEFAULT_MAX_BATCH = 32
MAX_LABEL_BYTES = 1 << 20
DEFAULT_FREE_AXIS = 8
DEFAULT_FILES = {
    "python": "model.py",
    "torch": "model.py",
    "torchscript": "model.pt",
    "torch_export": "model.pt2",
    "onnx": "model.onnx",
}
BACKENDS_OF = {
    "factory": ("python", "torch"),
    "weights": ("torch",),
    "weights_key": ("torch",),
    "strict": ("torch",),
}
"""Keys that do nothing with other backends."""
KINDS = {"dense": Kind.DENSE, "string": Kind.STRING, "ragged": Kind.RAGGED}

T = TypeVar("T")
WarmUpValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class ImageHint:
    """How a client turns a picture into the input `input`; sizes in pixels, mean and std in pixel units."""

    input: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    resize: int = 0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of one model, as its folder describes it. Times in seconds, paths absolute.

    path: the folder itself, whatever links lead to it. link_roots: where links in it may lead beside.
    """

    name: str
    version: str
    path: Path
    backend: Backend
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file: Path
    factory: str = "build"
    weights: Path | None = None
    weights_key: str | None = None
    strict: bool = True
    max_batch: int = 0
    batch_with: BatchWith = "auto"
    max_wait: float = 0.0
    max_queue: int = 1024
    run_limit: float | None = None
    result_bytes: int | None = None
    device: str = "cpu"
    engine: Placement = "auto"
    threads: int = 0
    warmup: bool = True
    lend_inputs: bool = False
    warmup_shapes: tuple[tuple[int, ...], ...] = ()
    warmup_values: tuple[WarmUpValue | None, ...] = ()
    labels: tuple[str, ...] = ()
    images: tuple[ImageHint, ...] = ()
    optional: tuple[TensorSpec, ...] = ()
    """Inputs that a call may leave out; `inputs` are those that it may not, and `warmup_shapes` are theirs."""
    link_roots: tuple[Path, ...] = ()

    @property
    def batched(self) -> bool:
        """Whether the first axis of every input and output is a batch axis."""
        return self.max_batch > 0


class _Mistakes:
    """What is wrong with a folder, line by line: all of it is told at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def but(self, default: T, read: Callable[..., T], *arguments: object) -> T:
        """Return what `read` gives, or note what is wrong and return the default."""
        try:
            return read(*arguments)
        except SpecError as error:
            self.lines += str(error).split("\n")
            return default


def load_spec(folder: Path, *, name: str = "", version: str = "", link_roots: Sequence[Path] = ()) -> ModelSpec:
    """Read `folder/model.toml`. Raises SpecError with a line for each mistake.

    name, version: by default the last two parts of the folder's path as it is written, links included. link_roots:
    absolute paths of folders outside, in which links of this one may end.
    """
    named = as_named(folder)
    name, version = name or named.parent.name, version or named.name
    where, path = named / "model.toml", named.resolve()
    try:
        return _load(path, name, version, read_model_toml(where), tuple(root.resolve() for root in link_roots))
    except SpecError as error:
        raise SpecError("\n".join(f"{where}: {line}" for line in str(error).split("\n"))) from error


def as_named(folder: Path) -> Path:
    """Return the absolute path whose last parts are as they were written; only what stands before a `..` is followed,
    and that of links.
    """
    parts = folder.absolute().parts
    followed = len(parts) - parts[::-1].index("..") if ".." in parts else 1
    return Path(*parts[:followed]).resolve().joinpath(*parts[followed:])


def inside(folder: Path, key: str, value: str, link_roots: Sequence[Path] = ()) -> Path:
    """Return the file of that name in the folder; a link stays one, since what belongs to a file lies beside its name.

    folder, link_roots: absolute, without links. Raises SpecError.
    """
    path = folder / value
    if not Path(os.path.normpath(path)).is_relative_to(folder):
        raise SpecError(f"{key}: {value!r} leaves the model's folder; put the file into it")
    there = path.resolve()
    if not any(there.is_relative_to(root) for root in (folder, *link_roots)):
        raise SpecError(
            f"{key}: {value!r} is a link that leaves the model's folder, to {str(there)!r}; put the file into the "
            f"folder, or allow links to where it is with link_roots (serve --link-roots)"
        )
    if not path.is_file():
        raise SpecError(f"{key}: there is no file {value!r} in the model's folder")
    return path


def _load(path: Path, name: str, version: str, model: Model, link_roots: tuple[Path, ...]) -> ModelSpec:
    mistakes = _Mistakes()
    mistakes.lines += [*_names(name, version), *_idle_keys(model)]

    def file(key: str, value: str) -> Path:
        return mistakes.but(path, inside, path, key, value, link_roots)

    none: tuple[TensorSpec, ...] = ()
    every = mistakes.but(none, _tensors, "inputs", model.inputs, name, version)
    outputs = mistakes.but(none, _tensors, "outputs", model.outputs, name, version)
    whole = len(every) == len(model.inputs) and len(outputs) == len(model.outputs)
    max_batch = mistakes.but(0, _max_batch, model.max_batch, every + outputs) if whole else 0
    mistakes.lines += _optional_mistakes(model)
    required = [item for item in model.inputs if not item.optional]
    inputs = tuple(tensor for tensor, item in zip(every, model.inputs, strict=False) if not item.optional)
    spec = ModelSpec(
        name=name,
        version=version,
        path=path,
        backend=model.backend,
        inputs=inputs,
        outputs=outputs,
        file=file("file", model.file or DEFAULT_FILES[model.backend]),
        factory=model.factory,
        weights=None if model.weights is None else file("weights", model.weights),
        weights_key=model.weights_key,
        strict=model.strict,
        max_batch=max_batch,
        batch_with=model.batch_with,
        max_wait=model.max_wait_ms / 1000,
        max_queue=model.max_queue,
        run_limit=model.run_limit_s,
        result_bytes=None if model.result_bytes is None else int(model.result_bytes),
        device=model.device,
        engine=model.engine,
        threads=model.threads,
        warmup=model.warmup,
        lend_inputs=model.lend_inputs,
        warmup_shapes=mistakes.but((), _warmup_shapes, required, max_batch > 0) if whole else (),
        warmup_values=mistakes.but((), _warmup_values, required, inputs) if whole else (),
        labels=() if model.labels is None else mistakes.but((), _labels, path, model.labels, link_roots),
        images=mistakes.but((), _images, model.inputs, max_batch > 0) if whole else (),
        optional=tuple(tensor for tensor in every if tensor not in inputs),
        link_roots=link_roots,
    )
    if mistakes.lines:
        raise SpecError("\n".join(mistakes.lines))
    return spec


def _names(name: str, version: str) -> Iterator[str]:
    for what, value in (("model name", name), ("version", version)):
        if not NAME.match(value):
            yield f"{what} {value!r} (a folder's name): expected letters, digits, '.', '_' or '-', at most 128"


def _idle_keys(model: Model) -> Iterator[str]:
    for key, backends in BACKENDS_OF.items():
        if key in model.model_fields_set and model.backend not in backends:
            where = " and ".join(f'"{backend}"' for backend in backends)
            yield f'{key}: does nothing with backend = "{model.backend}", only with {where}; leave it out'
    if model.weights is None:
        for key in {"weights_key", "strict"} & model.model_fields_set:
            yield f"{key}: does nothing without weights; name their file, or leave it out"


def _optional_mistakes(model: Model) -> Iterator[str]:
    optional = [item for item in model.inputs if item.optional]
    for item in optional:
        if model.backend not in {"python", "onnx"}:
            yield f"inputs ({item.name!r}): optional is for backends python and onnx"
        for key in sorted({"warmup_shape", "warmup_value"} & item.model_fields_set):
            yield f"inputs ({item.name!r}): warm-up leaves optional inputs out; drop {key}"
    if len(optional) == len(model.inputs):
        yield "inputs: all are optional; at least one must not be"


def _tensors(key: str, items: Sequence[Tensor], model: str, version: str) -> tuple[TensorSpec, ...]:
    specs: list[TensorSpec] = []
    mistakes: list[str] = []
    for index, item in enumerate(items):
        try:
            if any(item.name == other.name for other in items[:index]):
                raise CodecError("name is used twice; each tensor needs its own")
            specs.append(_tensor(item))
        except CodecError as error:
            mistakes.append(f"{key}[{index}] ({item.name!r}): {error}")
    if not mistakes:
        try:
            encode_metadata(model, version, specs)
        except CodecError as error:
            mistakes.append(f"{key}: no message can carry them: {error}")
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return tuple(specs)


def _tensor(item: Tensor) -> TensorSpec:
    kind = KINDS[item.kind]
    if item.dtype is None and kind is not Kind.STRING:
        raise CodecError('dtype is missing and required, for example "float32"')
    try:
        dtype = dtype_by_name(item.dtype or "uint8")
    except KeyError as error:
        raise CodecError(f"dtype {item.dtype!r}: {error}") from error
    if dtype.numpy is None:
        raise CodecError(f"dtype {item.dtype!r} needs a package that is not installed: pip install ml-dtypes")
    return TensorSpec(item.name, dtype, tuple(item.shape), kind)


def _max_batch(asked: int | None, tensors: tuple[TensorSpec, ...]) -> int:
    if all(tensor.kind is Kind.DENSE and tensor.shape[:1] == (-1,) for tensor in tensors):
        return DEFAULT_MAX_BATCH if asked is None else asked
    if asked:
        raise SpecError(
            f"max_batch: is {asked}, but batching needs every input and output dense with a first axis of -1; give "
            f"each that axis or set max_batch = 0"
        )
    return 0


def _labels(folder: Path, value: str, link_roots: Sequence[Path]) -> tuple[str, ...]:
    path = inside(folder, "labels", value, link_roots)
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise SpecError(f"labels: {value!r} is larger than {MAX_LABEL_BYTES} bytes")
    try:
        return tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise SpecError(f"labels: {value!r} is not UTF-8 text") from error


def _row(item: Tensor, *, batched: bool) -> list[int]:
    """Return the axes without that of the batch."""
    return item.shape[1:] if batched else item.shape


def _warmup_shapes(inputs: Sequence[Input], batched: bool) -> tuple[tuple[int, ...], ...]:
    shapes: list[tuple[int, ...]] = []
    mistakes: list[str] = []
    for item in inputs:
        row = _row(item, batched=batched)
        asked = item.warmup_shape
        if asked is None:
            asked = [DEFAULT_FREE_AXIS if size == -1 else size for size in row]
        elif len(asked) != len(row) or any(have not in (-1, want) for want, have in zip(asked, row, strict=True)):
            mistakes.append(f"inputs ({item.name!r}): warmup_shape {asked} does not fit {row}")
        shapes.append(tuple(asked))
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return tuple(shapes)


def _warmup_values(items: Sequence[Input], inputs: Sequence[TensorSpec]) -> tuple[WarmUpValue | None, ...]:
    mistakes = [
        f"inputs ({item.name!r}): warmup_value {item.warmup_value!r} is no {item.dtype or 'text'}"
        for item, tensor in zip(items, inputs, strict=True)
        if item.warmup_value is not None and not _is_value(tensor, item.warmup_value)
    ]
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return tuple(item.warmup_value for item in items)


def _is_value(tensor: TensorSpec, value: object) -> bool:
    """Whether an element of the tensor can be this, but for rounding."""
    if tensor.kind is Kind.STRING or not isinstance(value, bool | int | float):
        return tensor.kind is Kind.STRING and isinstance(value, str)
    kind = np.dtype(tensor.dtype.numpy or tensor.dtype.storage)
    try:
        with np.errstate(over="ignore"):
            there = np.array(value, kind)
    except OverflowError:
        return False
    if isinstance(value, bool) is not (kind.kind == "b"):
        return False
    return bool(there == value) if kind.kind in "iu" else bool(np.isfinite(there))


def _images(inputs: Sequence[Input], batched: bool) -> tuple[ImageHint, ...]:
    mistakes = [
        f"inputs ({item.name!r}): image: {mistake}"
        for item in inputs
        if item.image is not None
        for mistake in _image_mistakes(item, item.image, batched=batched)
    ]
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return tuple(
        ImageHint(
            item.name,
            (image.size[0], image.size[1]),
            tuple(image.mean),
            tuple(image.std),
            image.layout,
            image.resize,
        )
        for item in inputs
        if (image := item.image) is not None
    )


def _image_mistakes(item: Input, image: Image, *, batched: bool) -> Iterator[str]:
    """Say why no picture becomes one row of this input by these hints."""
    row = _row(item, batched=batched)
    if not batched and len(row) == 4 and row[0] in {-1, 1}:  # a first axis for one picture
        row = row[1:]
    if item.kind != "dense" or len(row) not in {2, 3}:
        yield f"a picture has axes for height, width and, but for grey, channels; this is {item.kind} {item.shape}"
        return
    channels_at = 2 if image.layout == "NHWC" else 0
    channels = 1 if len(row) == 2 else 3 if row[channels_at] == -1 else row[channels_at]
    if channels not in {1, 3}:
        yield f'layout = "{image.layout}" makes {channels} of {row} the number of channels, which is 1 or 3'
        return
    sides = row if len(row) == 2 else [size for axis, size in enumerate(row) if axis != channels_at]
    if any(side not in (-1, size) for side, size in zip(sides, image.size, strict=True)):
        yield f"size {image.size} is not the height and width of the input, {sides}"
    for key, values in (("mean", image.mean), ("std", image.std)):
        if len(values) not in {1, channels}:
            yield f"{key} has {len(values)} values, expected 1 or one for each of {channels} channels"
    if 0 in image.std:
        yield "std has a 0, by which nothing can be divided"
