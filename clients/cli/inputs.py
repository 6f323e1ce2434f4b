"""``--input`` to arrays: ``NAME=VALUE`` parsed, its source read, the array matched with what the model describes.

VALUE is ``@file`` (.npy, .wav, or a photo), ``random[:dtype:shape]``, JSON, or ``-`` for a .npy on standard input.
Here: text and files in, arrays that fit a TensorSpec out. Not here: pixels (``photos``), talking to a server.
"""

from __future__ import annotations

import io
import json
import math
import re
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ...codec import CodecError, ImageHints, Kind, RaggedArray, TensorSpec, TypeCode, as_numpy, convert, dtype_by_name
from ...protocol.safe_text import printable
from .failures import Failure
from .photos import PHOTO_SUFFIXES, read_photo

HELP = (
    "An input, NAME=VALUE; NAME= may be left out where the model has one input. VALUE is @photo.jpg, @array.npy, "
    "@sound.wav, random or random:float32:1x3x224x224, JSON such as '[1,2,3]', or - for a .npy on standard input. "
    "Repeat it for each input of the model."
)
EXPECTED = "expected NAME=@FILE, NAME=random:DTYPE:SHAPE, NAME=JSON or NAME=-"
RANDOM_SEED = 0
"""Random inputs are the same on every run, so that two runs can be compared."""
WIDEST_RANDOM = 1 << 32
"""Bytes of a random input: a slip of the keyboard must not take the machine's memory."""

_NAME = re.compile(r"([A-Za-z_][\w.\-/:]*)=(.*)", re.DOTALL)
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class InputArgument:
    """One parsed ``--input``: the name (None: the model's only input) and the value as it was written."""

    name: str | None
    value: str

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"--input {self.name}" if self.name else "--input"


def parse_argument(text: str) -> InputArgument:
    """Split ``NAME=VALUE``. Raises Failure where there is no value or the name is none."""
    match = _NAME.fullmatch(text)
    name, value = (match[1], match[2]) if match else (None, text)
    if not value:
        raise Failure(f"--input {text!r} has no value: {EXPECTED}")
    if match is None and not value.startswith(("@", "[", "-", "random")) and not _is_json(value):
        raise Failure(f"--input {printable(text, 80)!r} cannot be read: {EXPECTED}")
    return InputArgument(name, value)


def build_inputs(
    arguments: Sequence[InputArgument],
    specs: Sequence[TensorSpec],
    *,
    batched: bool,
    images: Mapping[str, ImageHints] | None = None,
    stdin: BinaryIO | None = None,
) -> dict[str, Any]:
    """Make the arrays for one call. Raises Failure naming the input, what was given and what the model expects.

    ``batched``: the first axis of every input is the batch; it is added to arrays that lack it.
    """
    by_name = {spec.name: spec for spec in specs}
    arrays: dict[str, Any] = {}
    for argument in arguments:
        name = argument.name or _only_name(by_name)
        if name not in by_name:
            raise Failure(f"the model has no input {printable(name, 80)!r}: it takes {_signature(specs)}")
        if name in arrays:
            raise Failure(f"--input {name} is given twice: give each input once")
        arrays[name] = _read_fitting(argument, by_name[name], batched, (images or {}).get(name), stdin)
    missing = [name for name in by_name if name not in arrays]
    if missing:
        raise Failure(f"missing --input {missing[0]}=...: the model takes {_signature(specs)}")
    return arrays


def random_inputs(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Random arrays that fit ``specs``; free dimensions are 1."""
    return {spec.name: random_array(f"input {spec.name}", "", spec) for spec in specs}


def describe_spec(spec: TensorSpec) -> str:
    """``x: float32[-1,3,224,224]`` and its likes for strings and ragged tensors."""
    kind = {Kind.DENSE: spec.dtype.name, Kind.STRING: "string", Kind.RAGGED: f"ragged {spec.dtype.name}"}[spec.kind]
    return f"{spec.name}: {kind}[{','.join(map(str, spec.shape))}]"


def _signature(specs: Sequence[TensorSpec]) -> str:
    return "; ".join(describe_spec(spec) for spec in specs) or "no inputs"


def _only_name(by_name: Mapping[str, TensorSpec]) -> str:
    if len(by_name) != 1:
        raise Failure(
            f"an --input without a name needs a model with one input; this one takes {_signature([*by_name.values()])}"
        )
    return next(iter(by_name))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _read_fitting(
    argument: InputArgument, spec: TensorSpec, batched: bool, image: ImageHints | None, stdin: BinaryIO | None
) -> Any:
    value, label = argument.value, argument.label
    if value.startswith("@"):
        array = _read_file(label, Path(value[1:]).expanduser(), spec, image, batched=batched)
    elif value == "-":
        array = _read_npy(label, stdin or io.BytesIO(), "standard input")
    elif value == "random" or value.startswith("random:"):
        array = random_array(label, value.partition(":")[2], spec)
    else:
        array = _read_json(label, value, spec)
        if not isinstance(array, np.ndarray):
            return array
    return fit(label, array, spec, batched=batched)


def _read_file(label: str, path: Path, spec: TensorSpec, image: ImageHints | None, *, batched: bool) -> Array:
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            if suffix == ".npy":
                return _read_npy(label, file, path.name)
            if suffix == ".wav":
                return _read_wav(label, file, path.name, spec)
            if suffix in PHOTO_SUFFIXES:
                return read_photo(label, file, path.name, spec, image, batched=batched)
    except OSError as error:
        raise Failure(f"{label}: cannot read {printable(str(path), 200)!r}: {error.strerror or error}") from error
    kinds = ".npy, .wav, " + ", ".join(sorted(PHOTO_SUFFIXES))
    raise Failure(f"{label}: {printable(path.name, 80)!r} is of no known kind, expected one of {kinds}")


def _read_npy(label: str, file: BinaryIO, name: str) -> Array:
    try:
        # Standard input cannot seek, and numpy wants to.
        source = file if file.seekable() else io.BytesIO(file.read())
        array = np.lib.format.read_array(source, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Failure(
            f"{label}: {name} is no .npy file ({printable(reason, 120)}): write one with numpy.save"
        ) from error
    return np.asarray(array)


def _read_wav(label: str, file: BinaryIO, name: str, spec: TensorSpec) -> Array:
    """Read the samples of a PCM .wav as float32 in [-1, 1): [samples], channels averaged into one."""
    if spec.dtype.code in {TypeCode.INT, TypeCode.UINT, TypeCode.BOOL}:
        raise Failure(
            f"{label}: sound is floats from -1 to 1, the model expects {describe_spec(spec)}: send it as .npy"
        )
    try:
        with wave.open(file) as sound:
            width, channels, raw = sound.getsampwidth(), sound.getnchannels(), sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise Failure(f"{label}: {name} is no PCM .wav file ({error})") from error
    raw = raw[: len(raw) - len(raw) % (width * channels)]  # a file that was cut off may end within a sample
    if width == 1:
        samples: Array = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    elif width in (2, 4):
        samples = np.frombuffer(raw, f"<i{width}").astype(np.float32) / float(1 << (8 * width - 1))
    else:
        raise Failure(f"{label}: {name} has {8 * width} bits per sample, expected 8, 16 or 32")
    return np.asarray(samples.reshape(-1, channels).mean(axis=1), np.float32)


def random_array(label: str, text: str, spec: TensorSpec) -> Array:
    """``DTYPE:SHAPE`` (``float32:1x3x224x224``); what is left out is as in ``spec``, its free dimensions 1."""
    dtype_name, _, dims = text.partition(":")
    if spec.kind is not Kind.DENSE:
        raise Failure(f"{label}: a random value cannot be made for {describe_spec(spec)}: give it as JSON")
    try:
        dtype = dtype_by_name(dtype_name) if dtype_name else spec.dtype
    except CodecError as error:
        raise Failure(f"{label}: {error}") from error
    if dims and not re.fullmatch(r"\d{1,9}(x\d{1,9})*", dims):
        raise Failure(
            f"{label}: the shape {printable(dims, 60)!r} cannot be read, expected numbers such as 1x3x224x224"
        )
    shape = tuple(map(int, dims.split("x"))) if dims else tuple(1 if dim < 0 else dim for dim in spec.shape)
    if dtype.numpy is None:
        raise Failure(f"{label}: {dtype.name} needs the package ml_dtypes: pip install ml_dtypes")
    size = dtype.itemsize * int(np.prod([float(dim) for dim in shape]))
    if size > WIDEST_RANDOM:
        raise Failure(f"{label}: a random array of {size} bytes is more than {WIDEST_RANDOM}: give a smaller shape")
    generator = np.random.default_rng(RANDOM_SEED)
    if dtype.name == "bool":
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype.numpy.kind in "iu":
        return generator.integers(0, 100, shape, np.int64).astype(dtype.numpy)
    return generator.random(shape, np.float32).astype(dtype.numpy)


def _read_json(label: str, text: str, spec: TensorSpec) -> Any:
    try:
        value = json.loads(text, parse_float=_finite)
    except ValueError as error:
        raise Failure(f"{label}: {printable(text, 80)!r} is no JSON ({error}): {EXPECTED}") from error
    if spec.kind is Kind.RAGGED:
        return _ragged(label, value, spec)
    try:
        if spec.kind is Kind.STRING:
            return _strings([value] if isinstance(value, str) else value)
        array = as_numpy(value)
    except ValueError as error:
        reason = str(error).partition(";")[0]
        raise Failure(f"{label}: {reason}; {describe_spec(spec)} needs rows of equal length, of one kind") from error
    if array.dtype.kind not in "biuf":
        raise Failure(f"{label}: the JSON holds {_json_kind(value)}, {describe_spec(spec)} needs numbers")
    return array


def _strings(value: Any) -> Array:
    array = np.array(value, dtype=object)
    if not all(isinstance(item, str) for item in array.flat):
        raise ValueError("the JSON holds more than text")
    return array


def _finite(text: str) -> float:
    """Read a number of JSON; Python would read 1e999 as infinite."""
    if math.isinf(number := float(text)):
        raise ValueError(f"{printable(text, 40)} is beyond float64")
    return number


def _ragged(label: str, value: Any, spec: TensorSpec) -> Any:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise Failure(f"{label}: {describe_spec(spec)} needs a list of lists, such as '[[1,2],[3]]'")
    try:
        return RaggedArray.from_rows([fit_values(label, as_numpy(row), spec) for row in value], spec.dtype.numpy)
    except ValueError as error:
        reason = str(error).partition(";")[0]
        raise Failure(
            f"{label}: {reason}; the rows of {describe_spec(spec)} differ in their first size only"
        ) from error


def _json_kind(value: Any) -> str:
    while isinstance(value, list) and value:
        value = value[0]
    return {str: "text", dict: "an object", type(None): "null"}.get(type(value), "mixed values")


def fit(label: str, array: Array, spec: TensorSpec, *, batched: bool) -> Array:
    """``array`` with the dtype and the number of axes that ``spec`` asks for. Raises Failure where that would change
    values.
    """
    if spec.kind is not Kind.DENSE:
        return array
    if batched and array.ndim == len(spec.shape) - 1:
        array = array[np.newaxis]
    dims = list(array.shape)
    wanted = list(spec.shape)
    if len(dims) != len(wanted) or any(want not in (-1, have) for have, want in zip(dims, wanted, strict=True)):
        raise Failure(f"{label} has shape {dims}, the model expects {describe_spec(spec)} (-1: any)")
    return fit_values(label, array, spec)


def fit_values(label: str, array: Array, spec: TensorSpec) -> Array:
    """``array`` in the dtype of ``spec``: numbers may be rounded to the nearest of a narrower float, nothing else."""
    dtype = spec.dtype.numpy
    if dtype is None:
        raise Failure(f"{label}: {spec.dtype.name} needs the package ml_dtypes: pip install ml_dtypes")
    try:
        return convert(array, dtype)
    except CodecError as error:
        raise Failure(f"{label}: {error}; the model expects {describe_spec(spec)}") from error
