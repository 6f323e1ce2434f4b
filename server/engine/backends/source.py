"""Models that are Python source: finding the factory in a model folder's file and calling it.

What lives here: importing one file of the folder under a name of its own. What must not: any change of sys.path; other
files of the folder are reached by relative import (`from .net import Net`).
"""

from __future__ import annotations

import inspect
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from typing import TYPE_CHECKING, Any

from . import LoadError

if TYPE_CHECKING:
    from ..spec import ModelSpec

__all__ = ["make"]

_loads = count()


def make(spec: ModelSpec) -> Any:
    """Call the factory that `spec` names, with the spec if it takes a positional parameter. Raises LoadError."""
    # Every load is a module of its own, so that a reload beside the old version shares nothing with it.
    name = f"tensorwire_model_{next(_loads)}"
    found = spec_from_file_location(name, spec.file, submodule_search_locations=[str(spec.path)])
    if found is None or found.loader is None:
        raise LoadError(f"file {spec.file.name!r} is not a Python file; its name must end in .py")
    module = module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    factory = getattr(module, spec.factory, None)
    if not callable(factory):
        raise LoadError(
            f"factory {spec.factory!r} is not a function in {spec.file.name!r}; define it, or name it in model.toml"
        )
    return factory(spec) if _takes_spec(factory) else factory()


def _takes_spec(factory: Any) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)
