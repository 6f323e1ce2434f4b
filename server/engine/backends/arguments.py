"""Which input of model.toml is which argument of a torch module's forward.

What lives here: what forward takes, as its signature, a script's schema or an exported program says, and the call that
gives it that. What must not: loading, running.

By name where all names fit, else in order, as model.toml has them. What forward takes by name alone (keywords, keys of
a dict) must be named so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.utils import _pytree as pytree

from . import LoadError

__all__ = ["call_of", "program_values"]

Tensors = Mapping[str, Any]
Call = Callable[[Tensors], Any]


def call_of(module: torch.nn.Module, names: Sequence[str]) -> Call:
    """Return what calls the module with tensors of these names. Raises LoadError where they are not what it takes."""
    if _is_program(module):
        return _call_of_program(module, names)
    if isinstance(module, torch.jit.ScriptModule):
        schema = cast("Any", module.forward).schema
        takes = [(a.name, a.kwarg_only, a.has_default_value()) for a in schema.arguments[1:]]
        if len(takes) == 1 and schema.arguments[1].type.kind() == "DictType":
            return lambda tensors: module({name: tensors[name] for name in names})
        return _call_by(module, names, takes)
    try:
        parameters = [*inspect.signature(module.forward).parameters.values()]
    except (TypeError, ValueError):
        parameters = []
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    return _call_by(
        module,
        names,
        [(p.name, p.kind is p.KEYWORD_ONLY, p.default is not p.empty) for p in parameters if p.kind in named],
    )


def program_values(module: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return what an exported program says of its inputs, as tensors without memory, by name; of others nothing."""
    if not _is_program(module):
        return {}
    values = [node.meta.get("val") for node in _placeholders(module)]
    return {name: values[index] for index, name in zip(_leaves(module, names), names, strict=True)}


def _call_by(module: torch.nn.Module, names: Sequence[str], takes: Sequence[tuple[str, bool, bool]]) -> Call:
    """See call_of. `takes` says of each parameter its name, whether it is known by that alone, and may be left out."""
    known = [name for name, _, _ in takes]
    required = {name for name, _, optional in takes if not optional}
    if required <= set(names) <= set(known):
        if list(names) != [name for name, keyword, _ in takes if not keyword][: len(names)]:
            return lambda tensors: module(**{name: tensors[name] for name in names})
    elif any(keyword and not optional for _, keyword, optional in takes):
        raise LoadError(f"inputs: model.toml has {list(names)}, forward takes {known}; use its names")
    return lambda tensors: module(*[tensors[name] for name in names])


def _is_program(module: Any) -> bool:
    """Whether it is what `ExportedProgram.module()` gives, which wants its arguments in one certain structure."""
    return isinstance(module, torch.fx.GraphModule) and getattr(module, "_in_spec", None) is not None


def _placeholders(module: Any) -> list[Any]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _call_of_program(module: Any, names: Sequence[str]) -> Call:
    """Fill the structure that was exported; what is no tensor there (a number, None) is what it was then."""
    given = [node.meta.get("val") for node in _placeholders(module)]
    places = dict(zip(names, _leaves(module, names), strict=True))
    structure = module._in_spec  # noqa: SLF001 - torch has no public name for it

    def call(tensors: Tensors) -> Any:
        leaves = list(given)
        for name, index in places.items():
            leaves[index] = tensors[name]
        arguments, keywords = pytree.tree_unflatten(leaves, structure)
        return module(*arguments, **keywords)

    return call


def _leaves(module: Any, names: Sequence[str]) -> list[int]:
    """Return the place of each name among the leaves of the program's arguments. Raises LoadError."""
    nodes, structure = _placeholders(module), module._in_spec  # noqa: SLF001
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(nodes, structure))
    keys = [getattr(path[-1], "key", getattr(path[-1], "name", None)) for path, _ in paths]
    tensors = [index for index, node in enumerate(nodes) if isinstance(node.meta.get("val"), torch.Tensor)]
    takes = {
        nodes[index].name if keys[index] is None or keys.count(keys[index]) > 1 else str(keys[index]): index
        for index in tensors
    }
    if set(names) == set(takes):
        return [takes[name] for name in names]
    if len(names) != len(takes) or any(keys[index] is not None for index in tensors):
        raise LoadError(f"inputs: model.toml has {list(names)}, the program takes {list(takes)}; use its names")
    return tensors
