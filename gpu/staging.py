"""Rows in, device batch, results out: how a batch reaches the memory the model computes in, and how it comes back.

What lives here: `Stager` and its two implementations. What must not: which rows make a batch (the engine's batcher)
and running the model (the engine's backend, `graphs.py`).

The order on a GPU: each run of rows goes from its pinned slab straight into its place of the device batch, on a copy
stream; the compute stream waits for the event behind the last copy; results go from the compute stream into pinned
memory, and `copy_out` returns when they are there. So a slab may be released, and a device batch refilled, as soon as
`copy_out` of its batch has returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

#: Gives writable host memory of so many bytes for results: a slab's view, or plain memory.
Allocate = Callable[[int], memoryview]


@dataclass(frozen=True, slots=True)
class BatchInput:
    """One input of a batch: `runs` are flat byte views that hold, one after another, all rows in C order.

    `dtype` is the codec's dtype name, `row_shape` leaves the batch axis out.
    """

    name: str
    dtype: str
    row_shape: tuple[int, ...]
    runs: Sequence[memoryview]


class Stager(ABC):
    """One per model instance and thread; holds what is reused between batches."""

    @abstractmethod
    def copy_in(self, inputs: Sequence[BatchInput], rows: int) -> dict[str, Any]:
        """Return the batch as the model takes it, one tensor of shape (rows, *row_shape) per input."""

    @abstractmethod
    def copy_out(self, outputs: Mapping[str, Any], allocate: Allocate) -> dict[str, memoryview]:
        """Return the flat bytes of every output in host memory; complete when this returns."""

    def close(self) -> None:
        """Wait for the device and give back what was kept."""
        return


class HostStager(Stager):
    """For models that compute on the CPU: a batch of one run is a view of its slab, several runs are gathered once."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate

    def copy_in(self, inputs: Sequence[BatchInput], rows: int) -> dict[str, Any]:
        """Numpy arrays (dtypes numpy does not have come as the unsigned integer of their size)."""
        return {each.name: self._place(each, rows) for each in inputs}

    def copy_out(self, outputs: Mapping[str, Any], allocate: Allocate) -> dict[str, memoryview]:
        """Every output copied into memory from `allocate`, so that the model may reuse its own."""
        copies = {}
        for name, output in outputs.items():
            array = np.ascontiguousarray(output)
            target = allocate(array.nbytes)
            target[:] = array.reshape(-1).view(np.uint8).data
            copies[name] = target
        return copies

    def _place(self, each: BatchInput, rows: int) -> np.ndarray[Any, Any]:
        dtype = _numpy_dtype(each.dtype)
        if len(each.runs) == 1:
            whole = each.runs[0]
        else:
            whole = self._allocate(rows * prod(each.row_shape) * dtype.itemsize)
            start = 0
            for run in each.runs:
                whole[start : start + len(run)] = run
                start += len(run)
        return np.frombuffer(whole, dtype).reshape(rows, *each.row_shape)


class CudaStager(Stager):
    """For torch models on one CUDA device. `static` keeps one device batch per shape, as CUDA graphs need it.

    Runs must lie in registered memory (`pinned.Registration`): from other memory the copies are correct but wait.
    """

    def __init__(self, device: str, static: bool = True) -> None:
        import torch

        self._torch = torch
        self.device = torch.device("cuda", torch.device(device).index or 0)
        torch.cuda.set_device(self.device)  # CUDA graphs and events are made on the current one
        self._static = static
        self._batches: dict[tuple[str, str, tuple[int, ...]], Any] = {}
        self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._free = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def copy_in(self, inputs: Sequence[BatchInput], rows: int) -> dict[str, Any]:
        """Device tensors, ready for whatever runs next on the current stream of the device."""
        torch = self._torch
        compute = torch.cuda.current_stream(self.device)
        # Its memory may still be in use by the compute stream: the first copy waits for that, the host does not.
        self._free.record(compute)
        self._copies.wait_event(self._free)
        batch: dict[str, Any] = {}
        for each in inputs:
            target = self._batch(each, rows)
            flat = target.view(-1).view(torch.uint8) if target.numel() else target
            with torch.cuda.stream(self._copies):
                start = 0
                for run in each.runs:
                    if len(run):
                        flat[start : start + len(run)].copy_(_host_tensor(torch, run), non_blocking=True)
                        start += len(run)
            batch[each.name] = target
        self._copied.record(self._copies)
        compute.wait_event(self._copied)
        return batch

    def copy_out(self, outputs: Mapping[str, Any], allocate: Allocate) -> dict[str, memoryview]:
        """Device to host on the compute stream, then one wait for all outputs."""
        torch = self._torch
        copies = {}
        for name, output in outputs.items():
            source = output.detach().resolve_conj().resolve_neg().contiguous()  # bytes know no flags
            target = allocate(source.numel() * source.element_size())
            if len(target):
                _host_tensor(torch, target).copy_(source.view(-1).view(torch.uint8), non_blocking=True)
            copies[name] = target
        torch.cuda.current_stream(self.device).synchronize()
        return copies

    def close(self) -> None:
        """Wait for the device, drop the kept batches."""
        self._torch.cuda.synchronize(self.device)
        self._batches.clear()

    def _batch(self, each: BatchInput, rows: int) -> Any:
        key = (each.name, each.dtype, (rows, *each.row_shape))
        kept = self._batches.get(key)
        if kept is None:
            kept = self._torch.empty(key[2], dtype=torch_dtype(each.dtype), device=self.device)
            if self._static:
                self._batches[key] = kept
        return kept


_TORCH_NAMES = frozenset(
    "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128 "  # noqa: SIM905
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz".split()
)


def torch_dtype(name: str) -> Any:
    """Return the torch dtype of a codec dtype name. ValueError if torch has none."""
    import torch

    if name not in _TORCH_NAMES:
        raise ValueError(f"torch has no dtype {name!r}; it has {', '.join(sorted(_TORCH_NAMES))}")
    return getattr(torch, name)


def _host_tensor(torch: Any, run: memoryview) -> Any:
    """Return a uint8 tensor over `run` without a copy (torch never writes to it here when it is read-only)."""
    return torch.frombuffer(run, dtype=torch.uint8)


_NUMPY_SUBSTITUTES = {
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
}


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name not in _TORCH_NAMES:
        raise ValueError(f"no dtype {name!r}; there are {', '.join(sorted(_TORCH_NAMES))}")
    return np.dtype(_NUMPY_SUBSTITUTES.get(name, name))
