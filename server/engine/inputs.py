"""The memory that a model gets its inputs in: a copy of its own, or, for one large request, where the request lies.

What lives here: which of the two, the copy, and what becomes of memory that a model has kept. What must not: outputs,
running, the rule itself in words (docs/models.md).

A copy is the model's to write and to keep: so the rows as they were sent stay as they are for the requests that are
run once more alone (core.py), and a reference that the model keeps shows nobody else's bytes. The copy's memory serves
the next batch, too, unless something still refers to it (ownership.py). A large lone request is lent where it lies,
since a request that ran alone is not repeated. If the model keeps that, the memory is left to it, and this model gets
copies from then on: it can hold one body of the pool, once per load.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import Kind, decode_arrays
from .outputs import OutputError
from .ownership import nobody_else
from .slots import ALIGNMENT, Block

if TYPE_CHECKING:
    from .api import Prepared
    from .slots import Run
    from .spec import ModelSpec

__all__ = ["Inputs"]

Array = np.ndarray[Any, Any]

logger = logging.getLogger("tensorwire.engine")

COPY_BELOW = 64 << 10
"""Bytes of a lone request that are copied in any case: about a microsecond, as much as it costs to find out."""
SCRATCH_KEPT = 64 << 20
"""Bytes of the copy's memory that are kept between batches; beyond it a batch pays for fresh pages."""


class Inputs:
    """The inputs of one model. One per engine and thread.

    `lent` is the block whose own memory the model has been given, until `take_back()`; `block` where the inputs of the
    last batch lie: it, or the copy.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._tensors = spec.inputs
        self._promised = spec.lend_inputs
        self._keeps = False
        self._scratch: Any = None
        self._copy: Block | None = None
        self._held: tuple[Any, ...] = (object(),)  # the base of the copy's arrays, and how many have it
        self._known = 0
        self.lent: Block | None = None
        self.block: Block | None = None

    def batch(self, runs: list[Run], rows: int, requests: int) -> dict[str, Array]:
        """The rows of these runs, by input name."""
        if self.lent is not None:
            self.take_back()
        block, start, _ = runs[0]
        large = len(block.memory) > COPY_BELOW
        if (large or self._promised) and len(runs) == 1 and self._may_lend(block, rows, requests):
            self.lent = block
        else:
            block = self._copied(runs, rows)
            start = 0
        self.block = block
        stop = start + rows
        inputs: dict[str, Array] = {}
        for name, array in block.named_arrays:
            inputs[name] = array[start:stop]
        return inputs

    def whole(self, prepared: Prepared, block: Block) -> dict[str, Any]:
        """The inputs of a request that runs alone, in the model's order. Raises CodecError on a malformed body."""
        if self.lent is not None:
            self.take_back()
        nbytes = len(block.memory)
        if self._keeps or (nbytes <= COPY_BELOW and not self._promised):
            copy = self._memory(nbytes)
            copy[:] = block.memory
            block = Block(None, copy, 1, (), None)
            self._hold(block)
        else:
            self.lent = block
        self.block = block
        owner = block.flat
        inputs: dict[str, Any] = decode_arrays(prepared.resolved, owner.data)
        for tensor in prepared.resolved.tensors:
            if tensor.kind is Kind.DENSE:  # writable, as in a batch
                dtype = tensor.dtype.numpy or tensor.dtype.storage
                inputs[tensor.name] = np.ndarray(tensor.shape, dtype, owner, tensor.offset)
        return {tensor.name: inputs[tensor.name] for tensor in self._tensors}

    def take_back(self) -> bool:
        """Whether nothing refers to the memory that was lent any more; else it is left to who does, and none is lent
        again. Call it when inputs and outputs are gone.
        """
        block, self.lent = self.lent, None
        if block is None or nobody_else((block.flat,), 0, block.references):
            return True
        block.left = [block.flat]
        self.note_kept()
        return False

    def note_kept(self) -> None:
        """The model has kept an input: it gets copies from now on."""
        if self._promised and not self._keeps:
            name = f"{self._spec.name}/{self._spec.version}"
            logger.warning("%s: lend_inputs is set, but the model keeps its inputs: it gets copies from now on", name)
        self._keeps = True

    def trim(self) -> None:
        """Drop the copy's memory."""
        self._scratch = self._copy = self.block = None
        self._held = (object(),)
        self._known = 0

    def _may_lend(self, block: Block, rows: int, requests: int) -> bool:
        """Whether the model keeps nothing that we know of, and no other request is or will be placed in this block."""
        bucket = block.bucket
        alone = requests == 1 and block.capacity == rows and bucket is not None and bucket.forming is not block
        return not self._keeps and (alone or self._promised)

    def _copied(self, runs: list[Run], rows: int) -> Block:
        """These rows, run by run, in memory that is the model's."""
        bucket = runs[0][0].bucket
        if bucket is None:
            raise OutputError("a request that runs alone is in a batch")
        copy = self._copy
        if (
            copy is None
            or copy.bucket is not bucket
            or copy.capacity < rows
            or not nobody_else(self._held, 0, self._known)
        ):
            offsets, nbytes = bucket.layout(rows)
            copy = Block(bucket, self._memory(nbytes), rows, offsets, None)
            copy.named_arrays  # noqa: B018 - made now, so that they count
            self._hold(copy)
        views = copy.views
        for index, field in enumerate(bucket.fields):
            view = views[index]
            at = 0
            for block, start, count in runs:
                size = count * field.row_bytes
                start *= field.row_bytes
                view[at : at + size] = block.views[index][start : start + size]
                at += size
        return copy

    def _hold(self, copy: Block) -> None:
        """Note this copy, to find out later whether the model has kept it."""
        self._copy = copy if len(copy.memory) <= SCRATCH_KEPT else None
        self._held = (copy.flat,)
        self._known = copy.references
        if self._copy is None:
            self.trim()

    def _memory(self, nbytes: int) -> memoryview:
        scratch = self._scratch
        if scratch is None or len(scratch) < nbytes or not nobody_else(self._held, 0, self._known):
            raw = np.empty(nbytes + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            scratch = raw[start : start + nbytes]
            self._scratch = scratch if nbytes <= SCRATCH_KEPT else None
        view: memoryview = scratch[:nbytes].data
        return view
