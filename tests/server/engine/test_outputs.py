"""What a model may return, and how its mistakes are named; a reply never shows memory that is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.server.engine.outputs import OutputError, Outputs
from tests.server.engine.helpers import python_spec

TOML = """
backend = "python"
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 4]
[[outputs]]
name = "a"
dtype = "float32"
shape = [-1, 4]
[[outputs]]
name = "b"
dtype = "int64"
shape = [-1, -1, 2]
"""
A = np.ones((3, 4), np.float32)
B = np.ones((3, 5, 2), np.int64)
NOWHERE = np.empty(0, np.uint8)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(python_spec(tmp_path, TOML))


@pytest.mark.parametrize("raw", [{"a": A, "b": B}, {"b": B, "a": A}, (A, B), [A, B]])
def test_a_dict_or_a_tuple(outputs: Outputs, raw: Any) -> None:
    a, b = outputs.batch(raw, 3, NOWHERE)
    assert (a.name, a.dtype, a.row_shape, a.row_bytes, len(a.data)) == ("a", "float32", (4,), 16, 48)
    assert (b.name, b.dtype, b.row_shape, b.row_bytes, len(b.data)) == ("b", "int64", (5, 2), 80, 240)
    assert a.data.format == "B"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"a": A}, "outputs are named 'a', expected 'a', 'b'"),
        ({"a": A, "b": B, "c": B}, "outputs are named 'a', 'b', 'c', expected 'a', 'b'"),
        ({"a": A, "c": B}, "outputs are named 'a', 'c', expected 'a', 'b'"),
        ((A,), "gave 1 outputs, expected 2"),
        (A, "gave 1 outputs, expected 2"),
        (None, "gave 1 outputs, expected 2"),
        ((A.astype("f8"), B), r"output 'a' is float64\[3, 4\], expected float32\[3, 4\]"),
        ((A.astype(">f4"), B), r"output 'a' is >f4\[3, 4\], expected float32"),
        ((A[:2], B), r"output 'a' is float32\[2, 4\], expected float32\[3, 4\]"),
        ((A[:, :2], B), r"output 'a' is float32\[3, 2\], expected float32\[3, 4\]"),
        ((A, B[..., :1]), r"output 'b' is int64\[3, 5, 1\], expected int64\[3, -1, 2\]"),
        ((A, B[0]), r"output 'b' is int64\[5, 2\], expected int64\[3, -1, 2\]"),
        ((A, B[:2]), r"output 'b' is int64\[2, 5, 2\], expected int64\[3, -1, 2\]"),
        ((A, None), "output 'b' is object"),
        ((A, [[1], [1, 2]]), "output 'b' is a list, expected an array"),
    ],
)
def test_each_mistake_names_the_output(outputs: Outputs, raw: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        outputs.batch(raw, 3, NOWHERE)


def test_an_output_that_shares_the_inputs_memory_is_copied(outputs: Outputs) -> None:
    memory = np.zeros(4096, np.uint8)
    alias = np.ndarray((3, 4), np.float32, memory)
    a, b = outputs.batch((alias, B), 3, memory)
    memory[:] = 255
    assert bytes(a.data) == bytes(48)
    assert np.shares_memory(np.frombuffer(b.data, np.uint8), B), "others are not"


def test_arrays_out_of_order_are_made_contiguous_once(outputs: Outputs) -> None:
    a, _ = outputs.batch((np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)), B), 3, NOWHERE)
    assert np.frombuffer(a.data, np.float32).tolist() == list(range(12))


def test_a_column_of_a_matrix_is_made_contiguous(tmp_path: Path) -> None:
    outputs = Outputs(python_spec(tmp_path, TOML.partition('[[outputs]]\nname = "b"')[0].replace("[-1, 4]", "[-1]")))
    (a,) = outputs.batch(np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1], 3, NOWHERE)
    assert np.frombuffer(a.data, np.float32).tolist() == [1, 5, 9]
    assert (a.row_shape, a.row_bytes) == ((), 4)


def test_an_empty_output_has_no_bytes(outputs: Outputs) -> None:
    _, b = outputs.batch((A, np.zeros((3, 0, 2), np.int64)), 3, NOWHERE)
    assert (b.row_shape, b.row_bytes, len(b.data)) == ((0, 2), 0, 0)


def test_lists_of_numbers_are_taken_when_they_fit(outputs: Outputs) -> None:
    _, b = outputs.batch((A, [[[1, 2]]] * 3), 3, NOWHERE)
    assert b.row_shape == (1, 2)
