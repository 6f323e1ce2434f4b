"""Which input goes where: modules, scripts and exported programs, called as their own libraries would call them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from tensorwire.server.engine.backends import LoadError, load_backend
from tensorwire.server.engine.spec import load_spec
from tests.server.engine import forwards
from tests.server.engine.helpers import Harness, model_folder

MODULES = Path(forwards.__file__).read_text()
TOML = """
backend = "{backend}"
max_batch = 4
warmup = false
[[inputs]]
name = "{first}"
dtype = "float32"
shape = [-1, 2]
[[inputs]]
name = "{second}"
dtype = "float32"
shape = [-1, 2]
[[outputs]]
name = "{outputs[0]}"
dtype = "float32"
shape = [-1, 2]
[[outputs]]
name = "{outputs[1]}"
dtype = "float32"
shape = [-1, 2]
"""
A, B = np.array([[1, 2], [3, 4]], np.float32), np.array([[10, 20], [30, 40]], np.float32)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytree._register_namedtuple(forwards.Pair, serialized_type_name="Pair")
        yield


def folder_of(root: Path, backend: str, source: str | None = None, names: str = "a b", outputs: str = "") -> Path:
    first, second = names.split()
    given = (outputs or "total difference").split()
    return model_folder(root, TOML.format(backend=backend, first=first, second=second, outputs=given), source)


def check(folder: Path, names: str = "a b", outputs: str = "difference total") -> None:
    """`outputs` are the names of difference and total."""
    harness = Harness(load_spec(folder))
    a, b = names.split()
    for rows in (slice(0, 1), slice(0, 2)):
        got = harness.infer({a: A[rows], b: B[rows]})
        difference, total = outputs.split()
        np.testing.assert_array_equal(got[difference], (A - B)[rows])
        np.testing.assert_array_equal(got[total], (A + B)[rows])
    harness.engine.stop()


def exported(folder: Path, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any] | None = None) -> Path:
    """Save the program of a module, with a free batch axis."""
    module = getattr(forwards, name)()
    bound = inspect.signature(module.forward).bind(*arguments, **(keywords or {})).arguments
    free = {0: torch.export.Dim.AUTO}
    shapes = pytree.tree_map(lambda leaf: free if isinstance(leaf, torch.Tensor) else None, dict(bound))
    program = torch.export.export(module, arguments, keywords, dynamic_shapes=shapes)
    torch.export.save(program, folder / "model.pt2")
    return folder


def scripted(folder: Path, name: str) -> Path:
    torch.jit.save(torch.jit.script(getattr(forwards, name)()), folder / "model.pt")
    return folder


ONE, OTHER = torch.zeros(2, 2), torch.ones(2, 2)


@pytest.mark.parametrize("names", ["a b", "b a"])
@pytest.mark.parametrize("name", ["Two", "Keyword", "Between"])
def test_a_modules_inputs_go_where_forward_names_them(tmp_path: Path, name: str, names: str) -> None:
    check(folder_of(tmp_path, "torch", f"{MODULES}\ndef build():\n    return {name}()\n", names))


@pytest.mark.parametrize("names", ["a b", "b a"])
@pytest.mark.parametrize("name", ["Two", "Keyword", "OfDict", "Between"])
def test_a_scripts_inputs_go_where_forward_names_them(tmp_path: Path, name: str, names: str) -> None:
    check(scripted(folder_of(tmp_path, "torchscript", names=names), name))


PROGRAMS: dict[str, tuple[tuple[Any, ...], dict[str, Any] | None]] = {
    "Keyword": ((ONE,), {"b": OTHER}),
    "Scaled": ((ONE,), {"b": OTHER, "scale": 1.0}),
    "OfDict": (({"a": ONE, "b": OTHER},), None),
    "Two": ((ONE, OTHER), None),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_exported_programs_inputs_go_where_it_was_exported_with_them(tmp_path: Path, name: str) -> None:
    folder = exported(folder_of(tmp_path, "torch_export", names="b a"), name, *PROGRAMS[name])
    check(folder)
    assert load_backend(load_spec(folder)).declared() == {"a": ("float32", (-1, 2)), "b": ("float32", (-1, 2))}


def test_names_that_are_not_forwards_are_taken_in_order(tmp_path: Path) -> None:
    source = MODULES + "\ndef build():\n    return Two()\n"
    check(folder_of(tmp_path / "1", "torch", source, "left right"), "left right")
    check(scripted(folder_of(tmp_path / "2", "torchscript", names="left right"), "Two"), "left right")
    check(exported(folder_of(tmp_path / "3", "torch_export", names="left right"), "Two", (ONE, OTHER)), "left right")


def test_parts_of_a_program_have_names_of_their_own(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "torch_export", names="rest_0 a", outputs="d t")
    exported(folder, "Nested", ({"a": ONE}, [OTHER], None))
    check(folder, "a rest_0", "d t")


def test_what_is_taken_by_name_alone_must_be_named_so(tmp_path: Path) -> None:
    source = f"{MODULES}\ndef build():\n    return Keyword()\n"
    with pytest.raises(LoadError, match=r"has \['a', 'c'\], forward takes \['a', 'b'\]; use its names"):
        load_backend(load_spec(folder_of(tmp_path / "module", "torch", source, "a c")))
    program = exported(folder_of(tmp_path / "program", "torch_export", names="a c"), "Keyword", *PROGRAMS["Keyword"])
    with pytest.raises(LoadError, match=r"has \['a', 'c'\], the program takes \['a', 'b'\]; use its names"):
        load_backend(load_spec(program))


def test_a_named_tuples_fields_are_outputs_by_name_or_else_in_order(tmp_path: Path) -> None:
    for backend, source in {
        "torch": "\ndef build():\n    return Two()\n",
        "python": "\ndef build():\n    return lambda x: Two()(*map(torch.from_numpy, x.values()))\n",
    }.items():
        check(folder_of(tmp_path / backend, backend, MODULES + source, outputs="total difference"))
        check(folder_of(tmp_path / backend, backend, MODULES + source, outputs="d t"), outputs="d t")


FACTORIES = {
    "program": "torch.export.load(spec.path / 'model.pt2').module()",
    "a module around a program": "Around(torch.export.load(spec.path / 'model.pt2').module())",
    "script": "torch.jit.load(spec.path / 'model.pt')",
    "a module around a script": "Around(torch.jit.load(spec.path / 'model.pt'))",
    "frozen": "torch.jit.freeze(torch.jit.load(spec.path / 'model.pt').eval())",
    "scripted": "torch.jit.script(Two())",
    "traced": "torch.jit.trace(Two(), (torch.zeros(2, 2), torch.zeros(2, 2)))",
    "symbolically traced": "torch.fx.symbolic_trace(Two())",
}


@pytest.mark.parametrize("given", FACTORIES)
def test_a_factory_may_give_what_a_library_has_saved(tmp_path: Path, given: str) -> None:
    source = f"{MODULES}\ndef build(spec):\n    return {FACTORIES[given]}\n"
    folder = folder_of(tmp_path, "torch", source, outputs="d t")
    scripted(folder, "Two")
    exported(folder, "Two", (ONE, OTHER))
    check(folder, outputs="d t")
