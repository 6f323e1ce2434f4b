"""Body bytes -> arrays: read-only views, no copy (except strings, which become Python's).

What lives here: views over a body that is already in memory, and the checks of bytes that have rules of their own.
What must not: sizes and places, which come from layout.resolve; keeping the body alive is the views' own business.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .conversion import Array
from .errors import CodecError, shown
from .layout import Placed, Resolved
from .metadata import Kind
from .ragged import RaggedArray, check_offsets

_INT64 = np.dtype("<i8")
_UINT8 = np.dtype("u1")
_ndarray = np.ndarray
_DENSE = Kind.DENSE


def decode_arrays(resolved: Resolved, body: memoryview | bytes | bytearray) -> dict[str, Any]:
    """Return the tensors by name, in order, as read-only views of `body` that keep it alive.

    DENSE: an array (0-d ones too). STRING: an object array of str, copied. RAGGED: a RaggedArray. CodecError if the
    body has another length than `resolved` says, breaks a rule of tensor.fbs, or has a dtype that needs ml_dtypes here.
    """
    nbytes = len(body) if type(body) is bytes else memoryview(body).nbytes
    if nbytes != resolved.body_length:
        raise CodecError(f"body: {nbytes} bytes, expected {resolved.body_length}")
    memory: Any
    if type(body) is bytes and body and not resolved.unchecked:
        memory = body  # never moves, never changes: the arrays may hold it themselves
    else:
        view = memoryview(body).toreadonly()
        if resolved.unchecked:
            check_body(resolved, view)
        # An array over a memoryview would hold the object below it, but not the export: mmap.close() could pull the
        # memory away. One over this array holds both.
        memory = np.frombuffer(view, _UINT8)  # guard: no-pickle
    arrays: dict[str, Any] = {}
    for tensor in resolved.tensors:
        dtype = tensor.dtype.numpy
        if dtype is None:
            raise CodecError(f"{shown(tensor.name)}: {tensor.dtype.name} needs ml_dtypes here: pip install ml_dtypes")
        if tensor.kind is _DENSE:
            arrays[tensor.name] = _ndarray(tensor.shape, dtype, memory, tensor.offset)
        elif tensor.kind is Kind.STRING:
            arrays[tensor.name] = _strings(tensor, memory)
        else:
            arrays[tensor.name] = _ragged(tensor, memory, dtype)
    return arrays


def check_body(resolved: Resolved, body: memoryview) -> None:
    """Raise CodecError if padding is not zero, a bool is neither 0 nor 1, or string or ragged offsets do not fit.

    Needed before the bytes reach anything but decode_arrays, which calls it: numpy and torch trust bools to be 0 or 1.
    Costs one pass over padding, bools and offsets; nothing where `resolved.unchecked` is False.
    """
    memory = np.frombuffer(body, _UINT8)
    for start, end in resolved.gaps:
        if memory[start:end].any():  # guard: padding
            raise CodecError(f"body: padding at {start} to {end} is not zero")
    for tensor in resolved.tensors:
        if tensor.kind is not _DENSE:
            check_offsets(shown(tensor.name), _offsets(tensor, memory), tensor.items)
        if tensor.dtype.name == "bool":
            dense = tensor.kind is _DENSE
            start, nbytes = (tensor.offset, tensor.nbytes) if dense else (tensor.data_offset, tensor.data_nbytes)
            if nbytes and memory[start : start + nbytes].max() > 1:
                raise CodecError(f"{shown(tensor.name)}: a bool is neither 0 nor 1")


def _offsets(tensor: Placed, memory: Array) -> Array:
    return _ndarray((tensor.nbytes // 8,), _INT64, memory, tensor.offset)


def _ragged(tensor: Placed, memory: Array, dtype: np.dtype[Any]) -> RaggedArray:
    values: Array = _ndarray((tensor.items, *tensor.shape[1:]), dtype, memory, tensor.data_offset)
    return RaggedArray(_offsets(tensor, memory), values)


def _strings(tensor: Placed, memory: Array) -> Array:
    bounds = _offsets(tensor, memory).tolist()
    blob = memory[tensor.data_offset : tensor.data_offset + tensor.data_nbytes].tobytes()
    try:
        if blob.isascii():  # one byte is one character: decode once, cut the text
            text = blob.decode("ascii")
            strings = [text[start:end] for start, end in pairwise(bounds)]
        else:
            strings = [blob[start:end].decode() for start, end in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise CodecError(f"{shown(tensor.name)}: a string is not UTF-8 ({error.reason})") from None
    array: Array = np.empty(len(strings), dtype=object)
    array[:] = strings
    array = array.reshape(tensor.shape)
    array.flags.writeable = False
    return array
