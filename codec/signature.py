"""Do these tensors fit what the model takes (or promised to give)?

What lives here: comparing a Resolved message with a list of TensorSpec. What must not: bytes, arrays, wire codes.
The result depends on (metadata, dims) and the model alone, so the caller keeps it with the Resolved.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import islice

from .errors import SignatureError, shown
from .layout import Placed, Resolved
from .metadata import FREE, Kind, TensorSpec


def check_signature(
    expected: Sequence[TensorSpec], resolved: Resolved, batched: bool, optional: Sequence[TensorSpec] = ()
) -> int:
    """Return the number of rows of the message. SignatureError names the first tensor that does not fit.

    Names may come in any order; those of `optional` may be missing. With `batched`, axis 0 of every tensor counts rows:
    at least one, the same for all. Without, a message is one row. Other dimensions must be equal where the signature
    does not say -1.
    """
    sent = {tensor.name: tensor for tensor in resolved.tensors}
    wanted = {spec.name: spec for spec in (*expected, *optional)}
    for name in sent:
        if name not in wanted:
            raise SignatureError(shown(name), f"a tensor of that name{_nearest(name, wanted)}", _names(wanted))
    for spec in expected:
        if spec.name not in sent:
            raise SignatureError(shown(spec.name), f"no such tensor{_nearest(spec.name, sent)}", str(spec))
    for name, tensor in sent.items():
        _check_tensor(wanted[name], tensor, batched)
    if not batched or not resolved.tensors:
        return 1
    return _rows(resolved.tensors)


def _check_tensor(spec: TensorSpec, sent: Placed, batched: bool) -> None:
    fits = sent.dtype is spec.dtype and sent.kind is spec.kind and len(sent.shape) == len(spec.shape)
    if fits:
        skip = 1 if batched else 0
        fits = all(want in (FREE, got) for want, got in zip(spec.shape[skip:], sent.shape[skip:], strict=True))
    if not fits:
        raise SignatureError(shown(spec.name), str(sent), str(spec) + _advice(spec, sent, batched))


def _advice(spec: TensorSpec, sent: Placed, batched: bool) -> str:
    """Say what makes the one the other where that is plain; lists of numbers arrive as float64 and int64."""
    if spec.kind is not sent.kind:
        return "; pass rows of different lengths as a RaggedArray" if spec.kind is Kind.RAGGED else ""
    advice = "" if sent.dtype is spec.dtype else f"; convert it, as with numpy.asarray(..., '{spec.dtype.name}')"
    if batched and len(sent.shape) == len(spec.shape) - 1:
        advice += "; add the batch axis in front, as with [None]"
    return advice


def _rows(tensors: Sequence[Placed]) -> int:
    first = tensors[0]
    for tensor in tensors:
        if not tensor.shape:
            raise SignatureError(shown(tensor.name), str(tensor), "a batch axis")
        if tensor.shape[0] != first.shape[0]:
            expected = f"{first.shape[0]}, as {shown(first.name)} has"
            raise SignatureError(shown(tensor.name), f"{tensor.shape[0]} rows", expected)
    if first.shape[0] < 1:
        raise SignatureError(shown(first.name), "0 rows", "at least 1")
    return first.shape[0]


def _nearest(name: str, known: Iterable[str]) -> str:
    # Cut, because matching costs the product of the lengths and the names are a peer's.
    near = difflib.get_close_matches(name[:64], [other[:64] for other in islice(known, 64)], n=1)
    return f" (nearest: {shown(near[0])})" if near else ""


def _names(wanted: Iterable[str]) -> str:
    names = [shown(name, 40) for name in wanted]
    return f"one of {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "no tensors"
