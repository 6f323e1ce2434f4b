"""What can run a model: one module per kind, each imported only when a model asks for it.

What lives here: the Backend interface and `load_backend`. What must not: torch or ONNX Runtime at import time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ....version import __version__ as __version__
from ..redaction import is_ctrl_c, text_of, type_of

if TYPE_CHECKING:
    import numpy as np

    from ....gpu.staging import Stager
    from ..spec import ModelSpec

__all__ = ["Backend", "LoadError", "load_backend"]

MODULES = {
    "python": "python",
    "torch": "torch_backend",
    "torchscript": "torch_backend",
    "torch_export": "torch_backend",
    "onnx": "onnx",
}


class LoadError(Exception):
    """A model that cannot be loaded or warmed up; the message says why and what to change in its folder."""


class Backend(ABC):
    """A loaded model. `stager` is set if it takes and gives device tensors instead of numpy arrays."""

    stager: Stager | None = None
    gives_own: bool = False
    """Whether `run` gives arrays in memory that is provably ours (ownership.py), or in that of the inputs; what is no
    array may show any memory, and is copied."""

    @abstractmethod
    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> Any:
        """One batch: arrays by input name, in order of the spec; gives a dict, tuple or array. May raise anything."""

    def declared(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return what the file itself says of tensors: dtype name ("string" for text) and shape by name, -1 where an
        axis is free. Only what it says: a tensor that is not there, or of an unknown type, is left out.
        """
        return {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes that the model's own outputs name, known once it has run; none is the rule."""
        return ()

    def hint(self) -> str:
        """Words about parts of the model that give all rows of a batch one scale, "" if none is known: only a hint."""
        return ""

    def wait(self) -> None:
        """Return when what `run` began is done (nothing to wait for on a CPU)."""
        return

    def to_host(self, value: Any) -> Any:
        """Return an output as a numpy array in host memory."""
        return value

    def close(self) -> None:
        """Give back what the model holds."""
        return


def load_backend(spec: ModelSpec) -> Backend:
    """Load the model of a folder. Raises LoadError; what the model's own code raises is its cause."""
    try:
        module = import_module(f".{MODULES[spec.backend]}", __name__)
    except ImportError as error:
        raise LoadError(f"backend {spec.backend!r} needs a package that is not installed: {error}") from error
    try:
        backend: Backend = module.load(spec)
    except LoadError:
        raise
    except BaseException as error:  # a model's code and files may raise anything
        if is_ctrl_c(error):
            raise
        raise LoadError(f"loading failed: {type_of(error)}: {text_of(error)}") from error
    return backend
