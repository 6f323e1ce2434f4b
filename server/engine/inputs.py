"""The memory that a model gets its inputs in: a copy of its own, or, for a lone request, where the request lies.

What lives here: which of the two, the copy, and what becomes of memory that a model has kept. What must not: outputs,
running, the rule itself in words (docs/models.md).

A copy is the model's to write and to keep: so the rows as they were sent stay as they are for the requests that are
run once more alone (core.py), and a reference that the model keeps shows nobody else's bytes. The copy's memory serves
the next batch, too, unless something still refers to it (ownership.py). A lone request is lent where it lies, since a
request that ran alone is not repeated. If the model keeps that, the memory is left to it, and this model gets copies
from then on: it can hold one block of the pool, once per load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import CodecError, Kind, decode_arrays
from ...codec.limits import ALIGNMENT
from .blocks import Block
from .log import log

if TYPE_CHECKING:
    from .api import Prepared
    from .batch_memory import Run
    from .spec import ModelSpec

__all__ = ["BodyError", "Inputs"]

Array = np.ndarray[Any, Any]

SCRATCH_KEPT = 64 << 20
"""Bytes of the copy's memory that are kept between batches; beyond it a batch pays for fresh pages."""


class BodyError(Exception):
    """A body that is malformed where only decoding shows it, as a string that is not UTF-8: its sender's fault."""


class Inputs:
    """The inputs of one model. One per engine and thread.

    `lent` is the block whose own memory the model has been given, until `take_back()`; `block` where the inputs of the
    last batch lie: it, or the copy.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._tensors = (*spec.inputs, *spec.optional)
        self._promised = spec.lend_inputs
        self._keeps = False
        self._scratch: Any = None
        self._copy: Block | None = None
        self.lent: Block | None = None
        self.block: Block | None = None

    def batch(self, runs: list[Run], rows: int, requests: int) -> dict[str, Array]:
        """Return the rows of these runs, by input name."""
        if self.lent is not None:
            self.take_back()
        block, start, _ = runs[0]
        if len(runs) == 1 and not self._keeps and (requests == 1 or self._promised):
            self.lent = block
        else:
            block = self._copied(runs, rows)
            start = 0
        self.block = block
        arrays = block.arrays
        if arrays is None:
            arrays = block.named_arrays
        stop = start + rows
        inputs: dict[str, Array] = {}
        for name, array in arrays:
            inputs[name] = array[start:stop]
        return inputs

    def whole(self, prepared: Prepared, block: Block) -> dict[str, Any]:
        """Return the inputs of a request that runs alone, in order. Raises BodyError."""
        if self.lent is not None:
            self.take_back()
        if self._keeps:
            copy = self._memory(len(block.memory))
            copy[:] = block.memory
            block = Block(None, copy, 1, (), None)
            self._hold(block)
        else:
            self.lent = block
        self.block = block
        owner = block.flat
        try:
            inputs: dict[str, Any] = decode_arrays(prepared.resolved, owner.data)
        except CodecError as error:  # not as it is: the model may raise one, too
            raise BodyError(str(error)) from None
        for tensor in prepared.resolved.tensors:
            if tensor.kind is Kind.DENSE:  # writable, as in a batch
                dtype = tensor.dtype.numpy or tensor.dtype.storage
                inputs[tensor.name] = np.ndarray(tensor.shape, dtype, owner, tensor.offset)
        return {tensor.name: inputs[tensor.name] for tensor in self._tensors if tensor.name in inputs}

    def take_back(self) -> bool:
        """Whether nothing refers to the memory that was lent any more; else it is left to who does, and none is lent
        again. Call it when inputs and outputs are gone.
        """
        block = self.lent
        self.lent = None
        if block is None or block.is_ours():
            return True
        self.leave(block)
        return False

    def leave(self, block: Block) -> None:
        """Leave the memory of this block to the model, which has kept it, and give it copies from now on."""
        block.left = [block.flat]
        self.note_kept()

    def note_kept(self) -> None:
        """Note that the model has kept an input: it gets copies from now on."""
        if self._promised and not self._keeps:
            name = f"{self._spec.name}/{self._spec.version}"
            log.warning(f"{name}: lend_inputs is set, but the model keeps its inputs: it gets copies from now on")
        self._keeps = True

    def trim(self) -> None:
        """Drop the copy's memory."""
        self._scratch = self._copy = self.block = None

    def _copied(self, runs: list[Run], rows: int) -> Block:
        """Copy these rows, run by run, into memory that is the model's."""
        bucket = runs[0][0].bucket
        if bucket is None:
            raise RuntimeError("a request that runs alone is in a batch")
        copy = self._copy
        if copy is None or copy.bucket is not bucket or copy.capacity < rows or not copy.is_ours():
            offsets, nbytes = bucket.layout(rows)
            copy = Block(bucket, self._memory(nbytes), rows, offsets, None)
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
        """Keep this copy for the next batch, unless it is too large for that."""
        if len(copy.memory) <= SCRATCH_KEPT:
            self._copy = copy
        else:
            self.trim()

    def _memory(self, nbytes: int) -> memoryview:
        scratch = self._scratch
        copy = self._copy
        if scratch is None or len(scratch) < nbytes or copy is None or not copy.is_ours():
            raw = np.empty(nbytes + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            scratch = raw[start : start + nbytes]
            self._scratch = scratch if nbytes <= SCRATCH_KEPT else None
        view: memoryview = scratch[:nbytes].data
        return view
