"""codec: tensors and service messages <-> bytes.

What lives here: tensor metadata, layout, dtypes, arrays in and out, msgpack service messages. What must not: sockets,
asyncio, torch, cupy, frames (protocol/). Only CodecError (SignatureError is one) leaves this part on bad input.
The service messages and the check of signatures are loaded on first use: a client that only infers pays for neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..version import __version__ as __version__
from .cache import BoundedCache, FairCache, MetadataCache, metadata_cost
from .conversion import as_numpy, convert
from .decoder import check_body, decode_arrays
from .dlpack import to_numpy
from .dtypes import DTYPES, DType, TypeCode, dtype_by_name, dtype_by_numpy, dtype_by_triple, dtype_of
from .encoder import Encoded, Encoder
from .errors import CodecError, SignatureError
from .layout import Placed, Resolved, count_dims, resolve
from .metadata import FREE, Kind, Metadata, TensorSpec, decode_metadata, encode_metadata
from .ragged import RaggedArray

if TYPE_CHECKING:
    from .service import (
        DescribeRequest,
        Description,
        Health,
        HealthReport,
        HealthRequest,
        ImageHints,
        ModelEntry,
        ModelList,
        Ready,
        State,
    )
    from .signature import check_signature
    from .strict_msgpack import pack_service, unpack_service

_LAZY = {
    ".signature": ("check_signature",),
    ".strict_msgpack": ("pack_service", "unpack_service"),
    ".service": (
        "DescribeRequest", "Description", "Health", "HealthReport", "HealthRequest", "ImageHints", "ModelEntry",
        "ModelList", "Ready", "State",
    ),
}  # fmt: skip

__all__ = [
    "DTYPES",
    "FREE",
    "BoundedCache",
    "CodecError",
    "DType",
    "DescribeRequest",
    "Description",
    "Encoded",
    "Encoder",
    "FairCache",
    "Health",
    "HealthReport",
    "HealthRequest",
    "ImageHints",
    "Kind",
    "Metadata",
    "MetadataCache",
    "ModelEntry",
    "ModelList",
    "Placed",
    "RaggedArray",
    "Ready",
    "Resolved",
    "SignatureError",
    "State",
    "TensorSpec",
    "TypeCode",
    "as_numpy",
    "check_body",
    "check_signature",
    "convert",
    "count_dims",
    "decode_arrays",
    "decode_metadata",
    "dtype_by_name",
    "dtype_by_numpy",
    "dtype_by_triple",
    "dtype_of",
    "encode_metadata",
    "metadata_cost",
    "pack_service",
    "resolve",
    "to_numpy",
    "unpack_service",
]


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            found = globals()[name] = getattr(import_module(module, __name__), name)
            return found
    raise AttributeError(f"module 'tensorwire.codec' has no attribute {name!r}")
