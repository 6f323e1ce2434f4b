"""The metadata of a message: what tensors travel, without sizes and bytes (tensor.fbs, SPEC 18).

What lives here: the plain objects, encoding them to a FlatBuffer and decoding one after it was verified. What must not:
sizes of free dimensions and places in the body (layout.py), arrays (encoder.py, decoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from .dtypes import UINT8, DType, dtype_by_triple
from .errors import CodecError, shown
from .generated import tensor_generated
from .limits import MAX_DIM, MAX_DIMS, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TENSORS
from .verifier import IDENTIFIER, verify

_wire: Any = tensor_generated  # generated code is not annotated

FREE = -1
"""A dimension whose size travels in dims."""


class Kind(IntEnum):
    """How the bytes of a tensor are laid out (tensor.fbs, Kind)."""

    DENSE = 0
    STRING = 1
    RAGGED = 2


_KINDS = tuple(Kind)  # by number


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, element type, shape (-1 = free) and kind of a tensor. STRING has dtype uint8, RAGGED at least one axis."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    kind: Kind = Kind.DENSE

    def __str__(self) -> str:
        return describe_tensor(self.dtype, self.shape, self.kind)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied and pickled by the constructor: a frozen class that is compiled has no other way to be filled.
        return TensorSpec, (self.name, self.dtype, self.shape, self.kind)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the metadata region of a frame says: the model, its version ("" = the server chooses) and the tensors."""

    model: str
    version: str
    tensors: tuple[TensorSpec, ...]


def describe_tensor(dtype: DType, shape: tuple[int, ...], kind: Kind) -> str:
    """Show a tensor's type to people: "float32[-1, 3, 224, 224]", "string[2]", "ragged int64[5]"."""
    prefix = {Kind.DENSE: dtype.name, Kind.STRING: "string", Kind.RAGGED: f"ragged {dtype.name}"}[kind]
    return f"{prefix}[{', '.join(map(str, shape))}]"


def encode_metadata(model: str, version: str, tensors: Sequence[TensorSpec]) -> bytes:
    """Build the FlatBuffer of these tensors, the same bytes every time. CodecError if a receiver would refuse it."""
    _check(model, version, tensors)
    builder = _wire.flatbuffers.Builder(256)
    offsets = [_build_tensor(builder, spec) for spec in tensors]
    model_at = builder.CreateString(model)
    version_at = builder.CreateString(version) if version else 0
    _wire.MetadataStartTensorsVector(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    vector = builder.EndVector()
    _wire.MetadataStart(builder)
    _wire.MetadataAddTensors(builder, vector)
    if version:
        _wire.MetadataAddVersion(builder, version_at)
    _wire.MetadataAddModel(builder, model_at)
    builder.Finish(_wire.MetadataEnd(builder), file_identifier=IDENTIFIER)
    raw = bytes(builder.Output())
    if len(raw) > MAX_METADATA_BYTES:
        raise CodecError(f"metadata: {len(raw)} bytes for {len(tensors)} tensors, at most {MAX_METADATA_BYTES} allowed")
    return raw


def decode_metadata(raw: bytes) -> Metadata:
    """Verify `raw` and read it. CodecError says which field is wrong; no other exception leaves on any bytes."""
    model, version, fields = verify(bytes(raw))
    tensors = tuple(
        TensorSpec(name, dtype_by_triple(*triple), shape, _KINDS[kind]) for name, triple, kind, shape in fields
    )
    _check(model, version, tensors)
    return Metadata(model, version, tensors)


def _build_tensor(builder: Any, spec: TensorSpec) -> int:
    name = builder.CreateString(spec.name)
    _wire.TensorStartShapeVector(builder, len(spec.shape))
    for size in reversed(spec.shape):
        builder.PrependInt64(size)
    shape = builder.EndVector()
    _wire.TensorStart(builder)
    _wire.TensorAddShape(builder, shape)
    _wire.TensorAddKind(builder, int(spec.kind))
    _wire.TensorAddDtype(builder, _wire.CreateElementType(builder, *spec.dtype.triple))
    _wire.TensorAddName(builder, name)
    offset: int = _wire.TensorEnd(builder)
    return offset


def _check(model: str, version: str, tensors: Sequence[TensorSpec]) -> None:
    """Check the rules that both directions share; the verifier has already proved the ones about bytes."""
    _check_name("model", model)
    if version:
        _check_name("version", version)
    if len(tensors) > MAX_TENSORS:
        raise CodecError(f"tensors: {len(tensors)} of them, at most {MAX_TENSORS} are allowed")
    names = set()
    for spec in tensors:
        check_spec(spec)
        if spec.name in names:  # guard: same-name-twice
            raise CodecError(f"tensors: the name {shown(spec.name)} appears twice")
        names.add(spec.name)


def _check_name(field: str, name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise CodecError(f"{field}: {shown(name)} holds a lone surrogate and has no UTF-8 form") from None
    if not 1 <= size <= MAX_NAME_BYTES:
        raise CodecError(f"{field}: {shown(name)} has {size} bytes, expected 1 to {MAX_NAME_BYTES}")


def check_spec(spec: TensorSpec) -> None:
    """CodecError if the name, shape or kind of this tensor breaks a rule of tensor.fbs."""
    _check_name("tensor name", spec.name)
    if len(spec.shape) > MAX_DIMS:
        raise CodecError(f"{shown(spec.name)}: {len(spec.shape)} dimensions, at most {MAX_DIMS} are allowed")
    for size in spec.shape:
        if not FREE <= size <= MAX_DIM:
            raise CodecError(f"{shown(spec.name)}: dimension {size}, expected -1 (free) or 0 to {MAX_DIM}")
    if spec.kind is Kind.STRING and spec.dtype is not UINT8:
        raise CodecError(f"{shown(spec.name)}: strings have dtype uint8, not {spec.dtype.name}")
    if spec.kind is Kind.RAGGED and not spec.shape:
        raise CodecError(f"{shown(spec.name)}: a ragged tensor has at least one dimension, its rows")
