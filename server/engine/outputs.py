"""What a model gave, checked against what its folder promises, as bytes that can be sent.

What lives here: names, dtypes, rows and shapes of outputs; the copy of those in memory that is not provably ours, since
a reply is written when its caller reads it, and the model may have used that memory again by then. What must not:
running models, requests. A model's mistake is an OutputError that names the output; it is never sent on.

What a model returned comes in a list of its own, which it is taken out of: a reference that is held on the way would
look like the model's (ownership.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import FREE, CodecError, Encoder, Kind, MetadataCache, RaggedArray, check_signature, resolve, to_numpy
from ...codec.errors import shown
from ...codec.metadata import describe_tensor
from .ownership import is_ours
from .redaction import is_ctrl_c, text_of, type_of

if TYPE_CHECKING:
    from ...codec import Encoded, TensorSpec
    from .api import OutputSignature
    from .blocks import Block
    from .inputs import Inputs
    from .spec import ModelSpec

__all__ = ["OutputError", "Outputs"]

Array = np.ndarray[Any, Any]
_ndarray = np.ndarray

COPY_BELOW = 4096
"""Bytes of an output that is copied in any case: that costs 0.2 us, and asking whether it must be costs more."""


WHY_LENGTH = 120
"""Characters of what a library says of an output that is no array."""


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
    """The outputs of one model. One per engine and thread. `proven` is Backend.gives_own."""

    def __init__(self, spec: ModelSpec, proven: bool = False) -> None:
        self._proven = proven
        self._model = spec.name
        self._version = spec.version
        self._specs = spec.outputs
        self._expected = tuple(_Expected(output) for output in spec.outputs)
        self._names = [output.name for output in spec.outputs]
        self._encoder = Encoder()
        self._metadata = MetadataCache(64, 1 << 20)
        self._signature = self._last_signature()  # not given out before a batch fits it: no array has an axis of -1

    def batch(self, raw: list[Any], rows: int, inputs: Inputs | None) -> tuple[OutputSignature, list[memoryview]]:
        """Return the bytes of the outputs of a batch of `rows` rows, in memory that stays as it is. Raises OutputError.

        Those that are what the model was lent are sent from there, if nobody else holds it.
        """
        values: Any = raw.pop()
        if type(values) is not dict or len(values) != len(self._names):
            values = self.by_name(values)
        taken: list[Any] = []
        large = False
        for expected in self._expected:
            array: Any = values.get(expected.name)
            if type(array) is not _ndarray:
                array = _as_array(expected.name, self.by_name(values)[expected.name])
            dtype = array.dtype
            if dtype is not expected.numpy and not dtype.isnative:
                array = _native(array)
                dtype = array.dtype
            shape = array.shape
            if shape != expected.shape or shape[0] != rows or dtype is not expected.numpy:
                if shape != (rows, *expected.row_shape) or array.dtype != expected.numpy:
                    self._look_closer(expected, str(array.dtype), shape, rows)
                expected.shape = shape
            if array.nbytes <= COPY_BELOW:
                taken.append(memoryview(array.tobytes()))
            else:
                taken.append(array)
                large = True
        if large:
            values = array = None
            self._settle(taken, inputs)
        return self._signature, taken

    def _settle(self, taken: list[Any], inputs: Inputs | None) -> None:
        """Put bytes in memory that stays as it is in the place of each array."""
        block = None if inputs is None else inputs.block
        lent = None if inputs is None else inputs.lent
        returned: list[tuple[int, int, int]] = []
        for index in range(len(taken)):
            if type(taken[index]) is memoryview:
                continue
            if lent is not None and lent is block and (place := _place(taken[index], lent)) is not None:
                returned.append((index, place, taken[index].nbytes))
                taken[index] = None
                continue
            _own(taken, index, self._proven, block)
            taken[index] = _bytes_of(taken[index])
        if inputs is None or lent is None or not returned:
            return
        kept = lent.keep() if inputs.take_back() else None
        for index, start, nbytes in returned:
            end = start + nbytes
            taken[index] = memoryview(bytes(lent.memory[start:end])) if kept is None else kept[start:end]

    def device_batch(self, raw: Any, rows: int) -> dict[str, Any]:
        """Check torch tensors alike; they stay where they are. Raises OutputError."""
        values = self.by_name(raw)
        for expected in self._expected:
            tensor = values[expected.name]
            dtype = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
            shape = tuple(getattr(tensor, "shape", ()))
            if shape != (rows, *expected.row_shape) or dtype != expected.dtype:
                self._look_closer(expected, dtype, shape, rows)
        return {name: values[name] for name in self._names}

    def from_host(self, copies: Mapping[str, memoryview]) -> tuple[OutputSignature, list[memoryview]]:
        """Return the outputs of the last `device_batch`, whose bytes have been copied to the host."""
        return self._signature, [copies[name] for name in self._names]

    def alone(self, raw: list[Any], inputs: Inputs | None) -> Encoded:
        """Return the outputs of one request that ran alone, encoded whole. Raises OutputError."""
        block = None if inputs is None else inputs.block
        values: Any = self.by_name(raw.pop())
        taken = [values[name] for name in self._names]
        values = None
        for index, spec in enumerate(self._specs):
            if spec.kind is Kind.DENSE:
                if type(taken[index]) is not _ndarray or not taken[index].dtype.isnative:
                    taken[index] = _native(_as_array(spec.name, taken[index]))
                _own(taken, index, self._proven, block)
            elif type(taken[index]) is RaggedArray:
                parts = [taken[index].offsets, taken[index].values]
                taken[index] = None
                _own(parts, 0, self._proven, block)
                _own(parts, 1, self._proven, block)
                taken[index] = RaggedArray(parts[0], parts[1])
        try:
            encoded = self._encoder.encode(self._model, self._version, dict(zip(self._names, taken, strict=True)))
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
        """Return what the model returned as a mapping with exactly the promised names. Raises OutputError."""
        names = self._names
        fields = getattr(raw, "_fields", None) if isinstance(raw, tuple) else None
        if fields is not None and set(fields) == set(names):  # a NamedTuple; with other fields it counts in order
            return dict(zip(fields, raw, strict=True))
        if isinstance(raw, Mapping):
            if len(raw) == len(names) and all(name in raw for name in names):
                return raw
            raise OutputError(f"model outputs are named {_listed(raw)}, expected {_listed(names)}")
        values = list(raw) if isinstance(raw, tuple | list) else [raw]
        if len(values) != len(names):
            raise OutputError(f"model gave {len(values)} outputs, expected {len(names)}: {_listed(names)}")
        return dict(zip(names, values, strict=True))


def _own(taken: list[Any], index: int, proven: bool, block: Block | None) -> None:
    """Put a copy, in C order, in the place of an array that is not that already, in memory that is provably ours.

    What was `proven` by the backend is ours unless it lies in `block`, where the inputs are.
    """
    if not taken[index].flags.c_contiguous or taken[index].nbytes <= COPY_BELOW:
        taken[index] = taken[index].copy()
    elif not proven:
        if not is_ours(taken, index):
            taken[index] = taken[index].copy()
    elif block is not None and np.may_share_memory(taken[index], block.flat):
        taken[index] = taken[index].copy()


def _place(array: Array, block: Block) -> int | None:
    """Where in the block the array's bytes are, if they are there in C order."""
    if not array.flags.c_contiguous or not np.may_share_memory(array, block.flat):
        return None
    start: int = array.ctypes.data - block.flat.ctypes.data
    return start if 0 <= start <= len(block.memory) - array.nbytes else None


def _bytes_of(array: Array) -> memoryview:
    view: memoryview = array.reshape(-1).view(np.uint8).data
    return view


def _as_array(name: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise OutputError(
            f"model output {name!r} is a masked array, and the mask would be lost: return array.filled(...), and the "
            f"mask as an output of its own"
        )
    try:
        array = to_numpy(value)
        return array if type(value) is _ndarray else array.copy()  # what an object shows is its own memory
    except BaseException as error:  # the model's own object may raise anything
        if is_ctrl_c(error):
            raise
        why = f": {shown(text_of(error), WHY_LENGTH)}" if isinstance(error, CodecError) else ""
        raise OutputError(f"model output {name!r} is a {type_of(value)}, expected an array{why}") from error


def _native(array: Array) -> Array:
    """Return the same numbers in the byte order of this machine, which is the wire's."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _listed(names: Any) -> str:
    shown = [ascii(name)[:40] for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
