"""``--input`` to arrays: ``NAME=VALUE`` parsed, its source read, the array matched with what the model describes.

VALUE is ``@file`` (.npy, .npz, .json, .wav, or a photo), ``random[:dtype:shape]``, JSON, or ``-`` for JSON, a .npy or
a .npz on standard input. A .npz and an object of JSON without a name are several inputs, by their names.
Here: text and files in, arrays that fit a TensorSpec out. Not here: pixels (``photos``), talking to a server.
"""

from __future__ import annotations

import io
import json
import math
import re
import wave
import zipfile
import zlib
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
    "@values.json, @sound.wav, random or random:float32:1x3x224x224, JSON such as '[1,2,3]', or - for JSON, .npy or "
    ".npz on standard input. Repeat it for each input of the model, or give all at once, without NAME=: @arrays.npz, "
    "or a JSON object of names and values."
)
EXPECTED = "expected NAME=@FILE, NAME=random:DTYPE:SHAPE, NAME=JSON or NAME=-"
RANDOM_SEED = 0
"""Random inputs are the same on every run, so that two runs can be compared."""
WIDEST_RANDOM = 1 << 32
"""Bytes of a random input: a slip of the keyboard must not take the machine's memory."""

# Names are the model's: "0", "sepal length (cm)". What begins so is a value that holds a "=".
_NAME = re.compile(r"""([^=@\[{"][^=]*)=(.*)""", re.DOTALL)
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Json:
    """What JSON holds."""

    value: Any


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
    if match is None and not value.startswith(("@", "[", "{", "-", "random")) and not _is_json(value):
        raise Failure(f"--input {printable(text, 80)!r} cannot be read: {EXPECTED}")
    return InputArgument(name, value)


def build_inputs(
    arguments: Sequence[InputArgument],
    specs: Sequence[TensorSpec],
    *,
    batched: bool,
    images: Mapping[str, ImageHints] | None = None,
    stdin: BinaryIO | None = None,
    optional: Sequence[TensorSpec] = (),
) -> dict[str, Any]:
    """Make the arrays for one call. Raises Failure naming the input, what was given and what the model expects.

    ``batched``: the first axis of every input is the batch. A first axis of 1, or of any size, is added to arrays that
    lack it. ``optional``: inputs that need not be given.
    """
    required = {spec.name: spec for spec in specs}
    by_name = required | {spec.name: spec for spec in optional}
    arrays: dict[str, Any] = {}
    if sum(argument.value == "-" for argument in arguments) > 1:
        raise Failure("standard input is given to several inputs: give it to one, or without a name as a .npz or JSON")
    for argument in arguments:
        content = _content(argument, stdin or io.BytesIO())
        for name, part in _by_name(argument, content, required).items():
            if name not in by_name:
                takes = _signature([*specs, *optional])
                raise Failure(f"the model has no input {printable(name, 80)!r}: it takes {takes}")
            if name in arrays:
                raise Failure(f"--input {printable(name, 80)} is given twice: give each input once")
            label = f"--input {printable(name, 80)}" if content is not part else argument.label
            arrays[name] = _fitting(label, part, by_name[name], (images or {}).get(name), batched=batched)
    missing = [name for name in required if name not in arrays]
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


def _content(argument: InputArgument, stdin: BinaryIO) -> Any:
    """Read what is read without a look at the model: an array, a dict of them, or _Json; else the text or the path."""
    label, value = argument.label, argument.value
    if value == "-":
        return _read_any(label, io.BytesIO(stdin.read()), "standard input")
    if value == "random" or value.startswith("random:"):
        return value
    if not value.startswith("@"):
        return _parse_json(label, value, "")
    path = Path(value[1:]).expanduser()
    if path.suffix.lower() not in {".npy", ".npz", ".json"}:
        return path
    try:
        with path.open("rb") as file:
            return _read_any(label, file, path.name)
    except OSError as error:
        raise _unreadable(label, path, error) from error


def _by_name(argument: InputArgument, content: Any, by_name: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Return the parts of ``content`` by the inputs that they are for."""
    name = argument.name
    if name is None and isinstance(content, dict):
        return content
    if name is None and isinstance(content, _Json) and isinstance(content.value, dict):
        return {key: _Json(value) for key, value in content.value.items()}
    name = name or _only_name(by_name)
    if isinstance(content, dict):
        if name not in content and len(content) != 1:
            names = ", ".join(printable(key, 40) for key in content)
            raise Failure(f"{argument.label}: the .npz has no array {printable(name, 80)!r}, but {names or 'none'}")
        content = content.get(name, next(iter(content.values())))
    return {name: content}


def _fitting(label: str, content: Any, spec: TensorSpec, image: ImageHints | None, *, batched: bool) -> Any:
    if isinstance(content, Path):
        content = _read_file(label, content, spec, image, batched=batched)
    elif isinstance(content, str):
        content = random_array(label, content.partition(":")[2], spec)
    elif isinstance(content, _Json):
        content = _of_json(label, content.value, spec)
    return fit(label, content, spec) if isinstance(content, np.ndarray) else content


def _unreadable(label: str, path: Path, error: OSError) -> Failure:
    return Failure(f"{label}: cannot read {printable(str(path), 200)!r}: {error.strerror or error}")


def _read_file(label: str, path: Path, spec: TensorSpec, image: ImageHints | None, *, batched: bool) -> Array:
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            if suffix == ".wav":
                return _read_wav(label, file, path.name, spec)
            if suffix in PHOTO_SUFFIXES:
                return read_photo(label, file, path.name, spec, image, batched=batched)
    except OSError as error:
        raise _unreadable(label, path, error) from error
    kinds = ".npy, .npz, .json, .wav, " + ", ".join(sorted(PHOTO_SUFFIXES))
    raise Failure(f"{label}: {printable(path.name, 80)!r} is of no known kind, expected one of {kinds}")


def _read_any(label: str, file: BinaryIO, name: str) -> Any:
    """Read a .npy, a .npz or JSON, whichever the first bytes say, from a file that can seek."""
    start = file.read(len(_NPY))
    file.seek(0)
    name = printable(name, 80)
    if start == _NPY or name.endswith(".npy"):
        return _read_npy(label, file, name)
    if start.startswith(_ZIP) or name.endswith(".npz"):
        return _read_npz(label, file, name)
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failure(f"{label}: {name} is neither .npy nor .npz nor JSON in UTF-8") from error
    return _parse_json(label, text, name)


def _read_npy(label: str, file: BinaryIO, name: str) -> Array:
    try:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except Exception as error:  # numpy reads the header with Python's parser, which raises all kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Failure(
            f"{label}: {name} is no .npy file ({printable(reason, 120)}): write one with numpy.save"
        ) from error


def _read_npz(label: str, file: BinaryIO, name: str) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = {}
            for entry in archive.namelist():
                with archive.open(entry) as member:
                    part = entry.removesuffix(".npy")
                    arrays[part] = _read_npy(label, io.BytesIO(member.read()), f"{name}: {printable(part, 80)}")
            return arrays
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        reason = printable(str(error), 120)
        raise Failure(f"{label}: {name} is no .npz file ({reason}): write one with numpy.savez") from error


def _read_wav(label: str, file: BinaryIO, name: str, spec: TensorSpec) -> Array:
    """Read a PCM .wav as float32 in [-1, 1), channels averaged into one: samples are the last axis of ``spec``."""
    if spec.dtype.code in {TypeCode.INT, TypeCode.UINT, TypeCode.BOOL}:
        raise Failure(
            f"{label}: sound is floats from -1 to 1, the model expects {describe_spec(spec)}: send it as .npy"
        )
    try:
        with wave.open(file) as sound:
            width, channels, raw = sound.getsampwidth(), sound.getnchannels(), sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise Failure(f"{label}: {printable(name, 80)} is no PCM .wav file ({error or 'it is cut off'})") from error
    raw = raw[: len(raw) - len(raw) % (width * channels)]  # a file that was cut off may end within a sample
    if width == 1:
        samples: Array = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    elif width in (2, 4):
        samples = np.frombuffer(raw, f"<i{width}").astype(np.float32) / float(1 << (8 * width - 1))
    else:
        raise Failure(f"{label}: {name} has {8 * width} bits per sample, expected 8, 16 or 32")
    mono = np.asarray(samples.reshape(-1, channels).mean(axis=1), np.float32)
    return mono.reshape(*(1 for _ in spec.shape[1:]), -1) if set(spec.shape[:-1]) <= {1, -1} else mono


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


def _parse_json(label: str, text: str, where: str) -> _Json:
    """Parse JSON as it was typed, or of the file ``where``."""
    try:
        return _Json(json.loads(text, parse_float=_finite))
    except (ValueError, RecursionError) as error:
        shown = where or repr(printable(text, 80))
        raise Failure(f"{label}: {shown} is no JSON ({error}): {EXPECTED}") from error


def _of_json(label: str, value: Any, spec: TensorSpec) -> Any:
    if spec.kind is Kind.RAGGED:
        return _ragged(label, value, spec)
    try:
        if spec.kind is Kind.STRING:
            return _strings(np.full((1,) * len(spec.shape), value, object) if isinstance(value, str) else value)
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


def fit(label: str, array: Array, spec: TensorSpec) -> Array:
    """``array`` with the dtype and the number of axes that ``spec`` asks for. Raises Failure where that would change
    values.
    """
    if spec.kind is not Kind.DENSE:
        return array
    if array.ndim == len(spec.shape) - 1 and spec.shape[0] in {1, -1}:
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
