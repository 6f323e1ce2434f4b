"""What a model gave, checked against what its folder promises, as bytes that can be sent.

What lives here: names, dtypes, rows and shapes of outputs; the copy of those that alias memory about to be reused.
What must not: running models, requests. A model's mistake is an OutputError that names the output; it is never sent on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import CodecError, Encoder, MetadataCache, RaggedArray, check_signature, resolve
from ...codec.metadata import describe_tensor
from .api import OutputArray

if TYPE_CHECKING:
    from ...codec import Encoded, TensorSpec
    from .spec import ModelSpec

__all__ = ["OutputError", "Outputs"]

Array = np.ndarray[Any, Any]


class OutputError(Exception):
    """Outputs that are not what model.toml says; the message names the output, what it was and what was expected."""


class _Expected:
    """One promised output. `fixed` rows have no free axis, so a shape is compared whole."""

    __slots__ = ("dtype", "fixed", "kind", "name", "numpy", "row_shape", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.dtype = spec.dtype.name
        self.numpy = spec.dtype.numpy
        self.row_shape = spec.shape[1:]
        self.fixed = -1 not in self.row_shape

    def fits(self, shape: tuple[int, ...], rows: int) -> bool:
        """Whether a batch of `rows` rows may have this shape."""
        if self.fixed:
            return shape == (rows, *self.row_shape)
        same_rank = len(shape) == len(self.row_shape) + 1
        return (
            same_rank and shape[0] == rows and all(w in (-1, s) for w, s in zip(self.row_shape, shape[1:], strict=True))
        )

    def error(self, dtype: str, shape: tuple[int, ...], rows: int) -> OutputError:
        want = describe_tensor(self.spec.dtype, (rows, *self.row_shape), self.spec.kind)
        return OutputError(f"model output {self.name!r} is {dtype}{list(shape)}, expected {want}")


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

    def batch(self, raw: Any, rows: int, memory: Array) -> tuple[OutputArray, ...]:
        """Outputs of a batch of `rows` rows; those that share `memory` (the inputs') are copied. Raises OutputError."""
        values = self.by_name(raw)
        taken = []
        for expected in self._expected:
            array = values[expected.name]
            if type(array) is not np.ndarray:
                array = _as_array(expected.name, array)
            shape = array.shape
            if array.dtype != expected.numpy or not expected.fits(shape, rows):
                raise expected.error(str(array.dtype), shape, rows)
            if not array.flags.c_contiguous or np.may_share_memory(array, memory):
                array = array.copy()
            data = array.reshape(-1).view(np.uint8).data
            taken.append(OutputArray(expected.name, expected.dtype, shape[1:], data, len(data) // rows))
        return tuple(taken)

    def device_batch(self, raw: Any, rows: int) -> dict[str, Any]:
        """The same check for torch tensors, which stay where they are. Raises OutputError."""
        values = self.by_name(raw)
        for expected in self._expected:
            tensor = values[expected.name]
            dtype = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
            shape = tuple(getattr(tensor, "shape", ()))
            if dtype != expected.dtype or not expected.fits(shape, rows):
                raise expected.error(dtype, shape, rows)
        return {name: values[name] for name in self._names}

    def from_host(
        self, copies: Mapping[str, memoryview], tensors: Mapping[str, Any], rows: int
    ) -> tuple[OutputArray, ...]:
        """OutputArrays of checked device outputs whose bytes have been copied to the host."""
        return tuple(
            OutputArray(e.name, e.dtype, tuple(tensors[e.name].shape[1:]), copies[e.name], len(copies[e.name]) // rows)
            for e in self._expected
        )

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
