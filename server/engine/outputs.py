"""What a model gave, checked against what its folder promises, as bytes that can be sent.

What lives here: names, dtypes, rows and shapes of outputs; the copy of those that alias memory about to be reused.
What must not: running models, requests. A model's mistake is an OutputError that names the output; it is never sent on.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import FREE, CodecError, Encoder, MetadataCache, RaggedArray, check_signature, resolve
from ...codec.metadata import describe_tensor

if TYPE_CHECKING:
    from ...codec import Encoded, TensorSpec
    from .api import OutputSignature
    from .slots import Block
    from .spec import ModelSpec

__all__ = ["OutputError", "Outputs"]

Array = np.ndarray[Any, Any]
_ndarray = np.ndarray

COPY_BELOW = 4096
"""Bytes of an output that is copied in any case: that costs 0.2 us, and asking whether it must be costs 0.4."""


class OutputError(Exception):
    """Outputs that are not what model.toml says; the message names the output, what it was and what was expected."""


class _Expected:
    """One promised output, and what it was in the last batch: the same again needs no closer look."""

    __slots__ = ("dtype", "name", "numpy", "row_shape", "shape", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.dtype = spec.dtype.name
        self.numpy = spec.dtype.numpy
        self.row_shape = spec.shape[1:]
        self.shape: tuple[int, ...] = (-1,)

    def check(self, dtype: str, shape: tuple[int, ...], rows: int) -> None:
        """Remember the shape of these rows. Raises OutputError if it, or the dtype, is not what was promised."""
        promised = (rows, *self.spec.shape[1:])
        fits = dtype == self.dtype and len(shape) == len(promised)
        if not fits or any(want not in (FREE, got) for want, got in zip(promised, shape, strict=True)):
            want = describe_tensor(self.spec.dtype, promised, self.spec.kind)
            raise OutputError(f"model output {self.name!r} is {dtype}{list(shape)}, expected {want}")
        self.row_shape = shape[1:]

    def entry(self) -> tuple[str, str, tuple[int, ...], int]:
        """Its part of the signature of the last batch."""
        return self.name, self.dtype, self.row_shape, prod(self.row_shape) * self.spec.dtype.itemsize


class Outputs:
    """The outputs of one model. One per engine and thread."""

    def __init__(self, spec: ModelSpec) -> None:
        self._model = spec.name
        self._version = spec.version
        self._specs = spec.outputs
        self._expected = tuple(_Expected(output) for output in spec.outputs)
        self._names = [output.name for output in spec.outputs]
        self._encoder = Encoder()
        self._metadata = MetadataCache(64, 1 << 20)
        self._signature = self._last_signature()  # not given out before a batch fits it: no array has an axis of -1

    def batch(self, raw: Any, rows: int, block: Block | None) -> tuple[OutputSignature, list[memoryview]]:
        """Outputs of a batch of `rows` rows; those that lie in the inputs' `block` are copied. Raises OutputError."""
        values = raw if type(raw) is dict and len(raw) == len(self._names) else self.by_name(raw)
        taken: list[memoryview] = []
        for expected in self._expected:
            array = values.get(expected.name)
            if type(array) is not _ndarray:
                array = _as_array(expected.name, self.by_name(raw)[expected.name])
            shape = array.shape
            if shape != expected.shape or shape[0] != rows or array.dtype is not expected.numpy:
                if shape != (rows, *expected.row_shape) or array.dtype != expected.numpy:
                    self._look_closer(expected, str(array.dtype), shape, rows)
                expected.shape = shape
            taken.append(memoryview(array.tobytes()) if array.nbytes <= COPY_BELOW else _flat(array, block))
        return self._signature, taken

    def device_batch(self, raw: Any, rows: int) -> dict[str, Any]:
        """The same check for torch tensors, which stay where they are. Raises OutputError."""
        values = self.by_name(raw)
        for expected in self._expected:
            tensor = values[expected.name]
            dtype = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
            shape = tuple(getattr(tensor, "shape", ()))
            if shape != (rows, *expected.row_shape) or dtype != expected.dtype:
                self._look_closer(expected, dtype, shape, rows)
        return {name: values[name] for name in self._names}

    def from_host(self, copies: Mapping[str, memoryview]) -> tuple[OutputSignature, list[memoryview]]:
        """The outputs of the last `device_batch`, whose bytes have been copied to the host."""
        return self._signature, [copies[name] for name in self._names]

    def alone(self, raw: Any, memory: Array) -> Encoded:
        """The outputs of one request that ran alone, encoded whole. Raises OutputError."""
        values = self.by_name(raw)
        arrays = {name: _unshared(values[name], memory) for name in self._names}
        try:
            encoded = self._encoder.encode(self._model, self._version, arrays)
            check_signature(self._specs, resolve(self._metadata.get(encoded.meta), encoded.dims), batched=False)
        except CodecError as error:
            raise OutputError(f"model output {error}") from error
        return encoded

    def _look_closer(self, expected: _Expected, dtype: str, shape: tuple[int, ...], rows: int) -> None:
        expected.check(dtype, shape, rows)
        self._signature = self._last_signature()

    def _last_signature(self) -> OutputSignature:
        return tuple(expected.entry() for expected in self._expected)

    def by_name(self, raw: Any) -> Mapping[str, Any]:
        """What the model returned as a mapping with exactly the promised names. Raises OutputError."""
        names = self._names
        if isinstance(raw, Mapping):
            if len(raw) == len(names) and all(name in raw for name in names):
                return raw
            raise OutputError(f"model outputs are named {_listed(raw)}, expected {_listed(names)}")
        values = list(raw) if isinstance(raw, tuple | list) else [raw]
        if len(values) != len(names):
            raise OutputError(f"model gave {len(values)} outputs, expected {len(names)}: {_listed(names)}")
        return dict(zip(names, values, strict=True))


def _flat(array: Array, block: Block | None) -> memoryview:
    """The bytes in C order, where they are if that is not in `block`, or if the block can be kept for them."""
    if not array.flags.c_contiguous:
        array = array.copy()
    elif block is not None and np.may_share_memory(array, block.flat):
        start = array.ctypes.data - block.flat.ctypes.data
        kept = block.keep() if 0 <= start <= len(block.memory) - array.nbytes else None
        if kept is not None:
            return kept[start : start + array.nbytes]
        array = array.copy()
    return array.reshape(-1).view(np.uint8).data


def _as_array(name: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except Exception as error:  # the model's own object may raise anything
        raise OutputError(f"model output {name!r} is a {type(value).__name__}, expected an array") from error


def _unshared(value: Any, memory: Array) -> Any:
    if isinstance(value, RaggedArray):
        return RaggedArray(_unshared(value.offsets, memory), _unshared(value.values, memory))
    if isinstance(value, np.ndarray) and np.may_share_memory(value, memory):
        return value.copy()
    return value


def _listed(names: Any) -> str:
    shown = [ascii(name)[:40] for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
