"""Weights for a torch module: safetensors, a state dict, or the index of either in shards, told apart by content.

What lives here: reading them, and putting them into a module whose parameters may be tied. What must not: pickle (state
dicts load with weights_only), building the module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from ..spec import SpecError, inside
from . import LoadError
from .archives import backend_of, saved_by

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_weights"]

State = Mapping[str, Any]

MAX_INDEX_BYTES = 64 << 20
"""Bytes of an index: a name and a file for each tensor."""
NAMES_SHOWN = 8


def load_weights(
    module: torch.nn.Module,
    path: Path,
    folder: Path,
    *,
    key: str | None = None,
    strict: bool = True,
    link_roots: Sequence[Path] = (),
) -> None:
    """Put the weights at `path`, in a model's `folder`, into the module. Raises LoadError.

    key: where a checkpoint has them. strict: False leaves out what the module does not have. link_roots: see ModelSpec.
    """
    state: dict[str, Any] = {}
    for part in _shards(path, folder, link_roots) if _kind(path) == "index" else [path]:
        state.update(_part(_read(part), part, key))
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise LoadError(f"weights {path.name!r} do not fit the module: {error}") from error
    missing = _not_tied(module, missing, state)
    wrong = [f"{_listed(missing)} missing"] if missing else []
    if unexpected and strict:
        wrong.append(f"{_listed(unexpected)} unexpected{_advice(state, missing)}")
    if wrong:
        raise LoadError(f"weights {path.name!r} do not fit the module: {'; '.join(wrong)}")


def _kind(path: Path) -> str:
    """Tell by the first bytes: "safetensors" (the length of its header, then JSON), "index" (JSON) or "state dict"."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return "safetensors"
    return "index" if start.lstrip().startswith(b"{") else "state dict"


def _read(path: Path) -> State:
    kind = _kind(path)
    try:
        if kind == "safetensors":
            state = load_file(path)
        else:
            with path.open("rb") as file:  # not by its name, from which torch draws conclusions
                state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the libraries find in a file that is damaged, or something else
        what = "a damaged safetensors file" if kind == "safetensors" else "neither safetensors nor a plain state dict"
        if backend_of(path) not in {"", "torch"}:
            what = saved_by(path)
        raise LoadError(
            f"weights {path.name!r} are {what} ({type(error).__name__}: {str(error).partition(chr(10))[0]}); "
            f"write them with safetensors.torch.save_model, or torch.save(module.state_dict(), ...)"
        ) from error
    if not isinstance(state, Mapping):
        raise LoadError(f"weights {path.name!r} hold a {type(state).__name__}, expected a state dict")
    return state


def _part(state: State, path: Path, key: str | None) -> State:
    """Return what a checkpoint has under this key, None: all of it."""
    if key is None:
        return state
    part = state.get(key)
    if not isinstance(part, Mapping):
        have = f"a {type(part).__name__} there" if key in state else f"only {_listed(state)}"
        raise LoadError(f"weights_key: is {key!r}, {path.name!r} has {have}, expected a state dict")
    return part


def _advice(state: State, missing: Sequence[str]) -> str:
    """Say how what is too much could be left out, if the rest is what is wanted."""
    inner = [key for key, value in state.items() if isinstance(value, Mapping) and not {*missing}.isdisjoint(value)]
    if inner:
        return f"; it looks like a checkpoint: set weights_key = {json.dumps(inner[0])}"
    return "" if missing else "; set strict = false if they may be left out"


def _shards(path: Path, folder: Path, link_roots: Sequence[Path]) -> list[Path]:
    """Return the files that an index names, which lie beside it."""
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"it is larger than {MAX_INDEX_BYTES} bytes")
        names = sorted({str(name) for name in json.loads(path.read_bytes())["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LoadError(f"weights {path.name!r}: no index of shards (a weight_map): {error}") from error
    beside = path.parent.relative_to(folder)
    try:
        return [inside(folder, "weights", str(beside / name), link_roots) for name in names]
    except SpecError as error:
        raise LoadError(str(error)) from None


def _not_tied(module: torch.nn.Module, missing: Iterable[str], state: State) -> list[str]:
    """Return the missing names but for those that lie in the memory of one that is there: a file holds that once."""
    own = module.state_dict()
    filled = [_span(own[name]) for name in state if isinstance(own.get(name), torch.Tensor)]
    return [name for name in missing if not _lies_in(own.get(name), filled)]


def _lies_in(value: Any, filled: list[tuple[int, int]]) -> bool:
    if not isinstance(value, torch.Tensor):
        return False
    start, end = _span(value)
    return any(first <= start < end <= last for first, last in filled)


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Where the tensor's memory begins and ends."""
    steps = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (steps + 1) * tensor.element_size() if tensor.numel() else start


def _listed(names: Iterable[str]) -> str:
    names = [str(name) for name in names]
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
