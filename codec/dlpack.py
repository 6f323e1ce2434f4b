"""DLPack in and out for what numpy's own bridge does not take: bfloat16 and the float8 kinds, and clear errors.

What lives here: reading a capsule of host memory into an array without a copy. What must not: torch, cupy or any other
producer by name; all that is asked of one is the protocol (__dlpack__, __dlpack_device__).
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np

from .conversion import Array, as_numpy, first_line
from .dtypes import DType, dtype_by_triple, dtype_of
from .errors import CodecError

_NO_MEMORY = "array has no memory (a placeholder, or zeros that are not written anywhere); make a real one of it"
_HOST_DEVICES = frozenset({1, 3, 11, 13})  # kDLCPU, kDLCUDAHost, kDLROCMHost, kDLCUDAManaged: all readable from here


class DLPackArray(Protocol):
    """Anything that speaks DLPack."""

    def __dlpack__(self, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


class _Borrowed:
    """Tells numpy where the memory is (its array interface) and keeps the capsule, and so the memory, alive."""

    __slots__ = ("__array_interface__", "capsule")

    def __init__(self, capsule: Any, interface: dict[str, Any]) -> None:
        self.capsule = capsule
        self.__array_interface__ = interface


def to_numpy(value: Any) -> Array:
    """Read `value` as an array: through DLPack if it speaks that (torch tensors, bfloat16), else as numpy does.

    CodecError from either; see `from_dlpack` and `as_numpy`.
    """
    if isinstance(value, np.ndarray | np.generic) or not hasattr(value, "__dlpack__"):
        return as_numpy(value)
    dtype, array = from_dlpack(value)
    return array if dtype.numpy is None else array.view(dtype.numpy)


def from_dlpack(source: DLPackArray) -> tuple[DType, Array]:
    """Return the element type and an array over the same memory; ml_dtypes kinds as their storage (uint8, uint16).

    Values that a torch tensor holds only as a flag (negative, conjugate) are worked out first. CodecError if the memory
    is not the host's, if there is none, or if the producer refuses (a torch tensor that requires grad).
    """
    try:
        device = int(source.__dlpack_device__()[0])
    except Exception as error:  # noqa: BLE001 - as for the exports below: whatever a producer raises is a refusal
        raise CodecError(
            f"{type(source).__name__} has __dlpack__ but no usable __dlpack_device__: {first_line(error)}"
        ) from None
    if device not in _HOST_DEVICES:
        raise CodecError(
            f"array is in device memory (DLPack device type {device}); copy it to the host, as with .cpu()"
        )
    try:
        source = _resolved(source)
        array: Array = np.from_dlpack(source)
    except Exception:  # noqa: BLE001
        return _from_capsule(source)
    if array.flags.owndata and array.size:  # where a producer gives no memory, numpy takes some of its own, unwritten
        raise CodecError(_NO_MEMORY)
    return dtype_of(array), array


def _resolved(source: Any) -> Any:
    """Return `source` with those flags worked out that no capsule carries: torch exports a negated one as it is."""
    for flag in ("neg", "conj"):
        is_set, resolve = getattr(source, f"is_{flag}", None), getattr(source, f"resolve_{flag}", None)
        if is_set is not None and resolve is not None and is_set():
            source = resolve()
    return source


def _from_capsule(source: DLPackArray) -> tuple[DType, Array]:
    try:
        # Unconsumed, the capsule keeps its name and gives the memory back when it is collected.
        capsule = source.__dlpack__()
        pointer = _get_pointer(capsule, b"dltensor")
    except Exception as error:  # noqa: BLE001
        raise CodecError(f"array is not exported through DLPack: {first_line(error)}") from None
    tensor = _DLTensor.from_address(pointer)
    dtype = dtype_by_triple(tensor.code, tensor.bits, tensor.lanes)
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim]) if tensor.strides else None
    if 0 in shape:
        return dtype, np.empty(shape, dtype.storage)
    if not tensor.data:
        raise CodecError(_NO_MEMORY)
    address = tensor.data + tensor.byte_offset
    interface = {"version": 3, "typestr": dtype.storage.str, "shape": shape, "strides": strides}
    array: Array = np.asarray(_Borrowed(capsule, interface | {"data": (address, True)}))
    return dtype, array
