"""Checking a call against a model's signature and working out its slots, once per distinct (metadata, dims).

What lives here: the CallPreparer, the same on both sides of a process boundary. What must not: bodies, memory, the
cache of what it gives (the front's, per principal).
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Protocol

from ...codec import SignatureError, check_signature
from .api import Prepared
from .blocks import Bucket, Field

if TYPE_CHECKING:
    from ...codec import Resolved
    from .spec import ModelSpec

__all__ = ["Buckets", "CallPreparer"]


class Buckets(Protocol):
    """Where buckets come from: batch_memory.BatchMemory, so that calls of one shape share one."""

    def bucket(self, fields: tuple[Field, ...], /) -> Bucket:
        """Return the one bucket of these fields."""


class CallPreparer:
    """Makes the Prepared of calls of one model; numbers them 0, 1, 2 ..."""

    def __init__(self, spec: ModelSpec, buckets: Buckets) -> None:
        self._spec = spec
        self._buckets = buckets
        self._numbers = count()

    def prepare(self, resolved: Resolved, meta: bytes, dims: bytes) -> Prepared:
        """Check a call. Raises SignatureError naming the field, what was sent and what the model expects."""
        spec = self._spec
        rows = check_signature(spec.inputs, resolved, spec.batched, spec.optional)
        if spec.batched and rows > spec.max_batch:
            first = spec.inputs[0].name
            raise SignatureError(ascii(first), f"{rows} rows", f"at most {spec.max_batch}; split the call")
        sent = {tensor.name: tensor for tensor in resolved.tensors}
        placed = [sent[tensor.name] for tensor in (*spec.inputs, *spec.optional) if tensor.name in sent]
        bucket = None
        if spec.batched:
            bucket = self._buckets.bucket(
                tuple(Field(t.name, t.dtype.numpy or t.dtype.storage, t.shape[1:]) for t in placed)
            )
        parts = tuple((tensor.offset, tensor.nbytes) for tensor in placed)
        return Prepared(next(self._numbers), rows, bucket, parts, resolved, meta, dims)
