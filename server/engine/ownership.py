"""Whether memory is ours alone: reference counts, held against those of an object that nobody can have kept.

What lives here: the proof for numpy arrays (torch's is in backends/torch_memory.py). What must not: deciding what
follows from it; compilation, for these functions count on how the interpreter calls them. An object is handed over as
its place in a list or tuple, the only one that the caller has left of it: so whatever else refers to it shows.

A reference too many makes memory count as somebody else's, and it is copied; that is never wrong. What no count shows
is a bare address (`array.ctypes.data`, `tensor.data_ptr()`) that a model has noted and writes to later.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import numpy as np

__all__ = ["arrays_in", "is_ours", "nobody_else", "nobody_keeps"]


def _references(holder: Any, index: int) -> int:
    return getrefcount(holder[index])


#: References to an object that only its holder has; what asking adds is the interpreter's affair.
_ALONE = _references((object(),), 0)


def nobody_else(holder: Any, index: int, known: int = 0) -> bool:
    """Whether nothing but `holder`, and so many `known` others, refers to `holder[index]`.

    A weak reference counts, for it can become a full one.
    """
    return getrefcount(holder[index]) == _ALONE + known and not getweakrefcount(holder[index])


def arrays_in(inputs: dict[str, Any]) -> list[Any]:
    """Return the arrays among these: here, for a compiled function holds what it has iterated over until it returns."""
    return [value for value in inputs.values() if isinstance(value, np.ndarray)]


def nobody_keeps(arrays: list[Any]) -> bool:
    """Whether nothing but this list refers to any of these."""
    return all(nobody_else(arrays, index) for index in range(len(arrays)))


def is_ours(holder: list[Any], index: int) -> bool:
    """Whether the array at `holder[index]` lies in memory that numpy allocated and that nothing else refers to."""
    if not nobody_else(holder, index):
        return False
    base = holder[index].base
    if base is None:
        return bool(holder[index].flags.owndata)
    if type(base) is not np.ndarray or base.base is not None or not base.flags.owndata:
        return False
    bases = (base,)
    del base
    return nobody_else(bases, 0, 1)  # the array
