"""Whether a tensor's memory is ours alone: the counts of Python, TensorImpl and storage (see ../ownership.py).

What lives here: the proof, and the trial that shows whether it can be had from this torch. What must not: copies.
"""
# ruff: noqa: SLF001 - torch has no public names for its counts; whether these are there and say it is tried below

from __future__ import annotations

from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import torch

__all__ = ["is_ours"]


def _counts(holder: list[Any], index: int) -> tuple[int, ...]:
    """Of the tensor as Python has it, of its TensorImpl, of its storage, and of that as Python has it.

    A storage is one Python object, wherever it is asked for: if a model keeps it, its own count shows that.
    """
    storages = [holder[index].untyped_storage()]
    return (
        getrefcount(holder[index]),
        getweakrefcount(holder[index]),
        holder[index]._use_count(),
        torch._C._storage_Use_Count(storages[0]._cdata),
        getrefcount(storages[0]),
        getweakrefcount(storages[0]),
    )


def _is_ours(holder: list[Any], index: int) -> bool:
    if type(holder[index]) is not torch.Tensor or _counts(holder, index) != _ALONE:
        return False
    storage = holder[index].untyped_storage()
    # Resizable: torch allocated it, and no numpy array was made over it. What other processes share is resizable, too.
    return bool(storage.resizable() and not storage.is_shared())


def _tried() -> bool:
    """Whether this torch's counts show each way of keeping memory, and none where nobody does."""
    kept: list[Any] = []
    with torch.inference_mode():
        for keep in (
            lambda tensor: tensor,
            lambda tensor: tensor[:1],
            lambda tensor: tensor.detach(),
            lambda tensor: tensor.untyped_storage(),
            lambda tensor: tensor.numpy(),
            torch.Tensor.__dlpack__,
        ):
            tensors = [torch.empty(8), torch.empty(8), torch.empty(8)[:4]]
            kept.append(keep(tensors[0]))
            if [_is_ours(tensors, index) for index in range(3)] != [False, True, True]:
                return False
        return not _is_ours([torch.frombuffer(bytearray(8), dtype=torch.uint8)], 0)


try:
    _ALONE = _counts([torch.empty(8)], 0)
    _provable = _tried()
except AttributeError:  # another torch, without these names: then nothing is known to be ours
    _provable = False


def is_ours(holder: list[Any], index: int) -> bool:
    """Whether the tensor at `holder[index]` lies in memory that torch allocated and that nothing else refers to.

    Not so: a buffer or a parameter, a view of a tensor that is kept, memory that came from numpy, a file or another
    process, a tensor that a script keeps in an attribute.
    """
    return _provable and _is_ours(holder, index)
