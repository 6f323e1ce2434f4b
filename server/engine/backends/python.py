"""Models that are plain Python: a callable that takes a dict of numpy arrays.

What lives here: the python backend. What must not: conversion of outputs (outputs.py does it for every backend).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import Backend, LoadError
from .source import make

if TYPE_CHECKING:
    from ..spec import ModelSpec

__all__ = ["PythonBackend", "load"]


class PythonBackend(Backend):
    """Calls `model(inputs)`; `close()` calls the model's own close, if it has one."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._close = getattr(model, "close", None)

    def run(self, inputs: dict[str, Any]) -> Any:
        """One batch."""
        return self._model(inputs)

    def close(self) -> None:
        """Close the model."""
        if callable(self._close):
            self._close()


def load(spec: ModelSpec) -> Backend:
    """Load a folder's Python model."""
    model = make(spec)
    if not callable(model):
        raise LoadError(f"factory {spec.factory!r} gave a {type(model).__name__}, expected a callable")
    return PythonBackend(model)
