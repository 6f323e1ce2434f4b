"""Arrays -> one message: metadata (cached by call signature), dims, and a gather list over the caller's own memory.

What lives here: the hot path of sending. What must not: tensor bytes; the buffers given back are views of the caller's
arrays (adapt.py copies the few that are not as the wire wants them), who must not change them until they are sent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .adapt import Adapted, adapt
from .dtypes import DType
from .errors import CodecError
from .limits import ALIGNMENT, MAX_FREE_DIMS
from .metadata import FREE, Kind, TensorSpec, encode_metadata

_PADDING = tuple(memoryview(bytes(count)) for count in range(ALIGNMENT))
_ndarray = np.ndarray

Signature = tuple[tuple[str, DType, Kind, tuple[int, ...]], ...]


class Encoded:
    """One message to send. `buffers` is the body as a gather list of flat byte views, padding included."""

    __slots__ = ("body_length", "buffers", "dims", "meta")

    def __init__(self, meta: bytes, dims: bytes, buffers: list[memoryview], body_length: int) -> None:
        self.meta = meta
        self.dims = dims
        self.buffers = buffers
        self.body_length = body_length


class _CallSite:
    """What stays the same between calls of one signature."""

    __slots__ = ("meta", "pack_dims")

    def __init__(self, model: str, version: str, signature: Signature) -> None:
        specs = [TensorSpec(name, dtype, shape, kind) for name, dtype, kind, shape in signature]
        self.meta = encode_metadata(model, version, specs)
        count = sum(shape.count(FREE) + (kind is not Kind.DENSE) for _, _, kind, shape in signature)
        self.pack_dims: Callable[..., bytes] = struct.Struct(f"<{count}Q").pack


class Encoder:
    """Encodes messages; keeps the metadata of the last `max_entries` call signatures (first in, first out).

    A signature is model, version and per tensor name, dtype, kind and number of dimensions: every dimension is free, as
    long as all of them fit the dims of one message; else the first tensors have fixed ones (SPEC 18.4).
    Safe to use from several threads under the GIL.
    """

    __slots__ = ("_max_entries", "_sites")

    def __init__(self, max_entries: int = 256) -> None:
        self._max_entries = max_entries
        self._sites: dict[Any, _CallSite] = {}

    def encode(self, model: str, version: str, arrays: Mapping[str, Any]) -> Encoded:
        """Encode one message with these tensors, in order. CodecError names the tensor that cannot be sent.

        Accepted: numpy arrays, anything with DLPack or the buffer protocol in host memory (torch CPU tensors), Python
        numbers, str, nested lists of them, RaggedArray. Contiguous little-endian memory is not copied. What numpy would
        change without a word (a mask dropped, an integer rounded beside floats) is refused.
        """
        if len(arrays) == 1:
            for name, array in arrays.items():
                # Most calls: one plain array. The cast refuses what is not contiguous, native and a plain number.
                if type(array) is _ndarray:
                    site = self._sites.get((model, version, name, array.dtype, array.ndim))
                    if site is not None:
                        try:
                            view = array.data.cast("B")
                        except (TypeError, ValueError, BufferError):
                            break
                        return Encoded(site.meta, site.pack_dims(*array.shape), [view], view.nbytes)
        return self._encode(model, version, arrays)

    def _encode(self, model: str, version: str, arrays: Mapping[str, Any]) -> Encoded:
        adapted = [adapt(name, value) for name, value in arrays.items()]
        shapes, sizes = _free_sizes(adapted)
        signature = tuple(
            (name, tensor.dtype, tensor.kind, shape)
            for name, tensor, shape in zip(arrays, adapted, shapes, strict=True)
        )
        site = self._sites.get((model, version, signature))
        if site is None:
            site = _CallSite(model, version, signature)
            self._keep((model, version, signature), site)
            if len(adapted) == 1:
                self._keep_fast(model, version, arrays, adapted[0], site)
        buffers, body_length = _gather(adapted)
        return Encoded(site.meta, site.pack_dims(*sizes), buffers, body_length)

    def _keep_fast(self, model: str, version: str, arrays: Mapping[str, Any], tensor: Adapted, site: _CallSite) -> None:
        """Also file the site under the key of the fast path, if the array can take it."""
        for name, array in arrays.items():
            if type(array) is _ndarray and tensor.kind is Kind.DENSE and array.dtype == tensor.dtype.numpy:
                self._keep((model, version, name, array.dtype, array.ndim), site)

    def _keep(self, key: Any, site: _CallSite) -> None:
        self._sites[key] = site
        while len(self._sites) > self._max_entries:
            self._sites.pop(next(iter(self._sites)), None)


def _free_sizes(tensors: list[Adapted]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the shapes that the metadata gives, and the sizes that travel in dims."""
    excess = sum(len(tensor.sizes) for tensor in tensors) - MAX_FREE_DIMS
    shapes: list[tuple[int, ...]] = []
    sizes: list[int] = []
    for tensor in tensors:
        if excess > 0:
            excess -= tensor.ndim
            shapes.append(tensor.sizes[: tensor.ndim])
            sizes.extend(tensor.sizes[tensor.ndim :])
        else:
            shapes.append((FREE,) * tensor.ndim)
            sizes.extend(tensor.sizes)
    if excess > 0:
        raise CodecError(
            f"tensors: {len(sizes)} of them are strings or ragged, at most {MAX_FREE_DIMS} fit one message"
        )
    return shapes, sizes


def _gather(tensors: list[Adapted]) -> tuple[list[memoryview], int]:
    """Make the gather list, with its length: each buffer at the next multiple of 64, empty ones nowhere."""
    buffers: list[memoryview] = []
    end = 0
    for tensor in tensors:
        for buffer in tensor.buffers:
            if not buffer.nbytes:
                continue
            padding = -end % ALIGNMENT
            if padding:
                buffers.append(_PADDING[padding])
            buffers.append(buffer)
            end += padding + buffer.nbytes
    return buffers, end
