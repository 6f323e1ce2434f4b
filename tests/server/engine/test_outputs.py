"""What a model may return, and how its mistakes are named; a reply never shows memory that is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.server.engine.outputs import OutputError, Outputs
from tensorwire.server.engine.slots import Block
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


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(python_spec(tmp_path, TOML))


@pytest.mark.parametrize("raw", [{"a": A, "b": B}, {"b": B, "a": A}, (A, B), [A, B]])
def test_a_dict_or_a_tuple(outputs: Outputs, raw: Any) -> None:
    signature, (a, b) = outputs.batch(raw, 3, None)
    assert signature == (("a", "float32", (4,), 16), ("b", "int64", (5, 2), 80))
    assert (bytes(a), bytes(b)) == (A.tobytes(), B.tobytes())
    assert a.format == "B"


def test_the_signature_is_the_same_object_while_the_shapes_of_rows_are_the_same(outputs: Outputs) -> None:
    first, _ = outputs.batch((A, B), 3, None)
    assert outputs.batch((A[:2], B[:2]), 2, None)[0] is first
    other, _ = outputs.batch((A, B[:, :1]), 3, None)
    assert other[1] == ("b", "int64", (1, 2), 16)
    assert outputs.batch((A, B), 3, None)[0] == first


def test_a_batch_that_fails_half_way_leaves_the_signature_true(outputs: Outputs) -> None:
    outputs.batch((A, B), 3, None)
    with pytest.raises(OutputError):
        outputs.batch((A[:, :2], B[:, :1]), 3, None)
    with pytest.raises(OutputError):
        outputs.batch((A.astype("f8"), B[:, :1]), 3, None)
    assert outputs.batch((A, B[:, :1]), 3, None)[0][1][2] == (1, 2)


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
        outputs.batch(raw, 3, None)


def test_an_output_that_shares_the_inputs_memory_is_copied(outputs: Outputs) -> None:
    memory = np.zeros(1 << 20, np.uint8)
    alias = np.ndarray((3, 4), np.float32, memory)
    large_alias = np.ndarray((3, 1000, 2), np.int64, memory)
    _, (a, b) = outputs.batch((alias, large_alias), 3, Block(None, memory.data, 1, (), None))
    memory[:] = 255
    assert bytes(a) == bytes(48)
    assert bytes(b) == bytes(48000)


def test_a_large_output_with_memory_of_its_own_is_not_copied(outputs: Outputs) -> None:
    large = np.ones((3, 1000, 2), np.int64)
    _, (_, b) = outputs.batch((A, large), 3, None)
    assert np.shares_memory(np.frombuffer(b, np.uint8), large)


def test_arrays_out_of_order_are_made_contiguous_once(outputs: Outputs) -> None:
    columns = np.asfortranarray(np.arange(6000, dtype=np.int64).reshape(3, 1000, 2))
    small = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    _, (a, b) = outputs.batch((small, columns), 3, None)
    assert np.frombuffer(a, np.float32).tolist() == list(range(12))
    assert np.frombuffer(b, np.int64).tolist() == list(range(6000))


def test_a_column_of_a_matrix_is_made_contiguous(tmp_path: Path) -> None:
    outputs = Outputs(python_spec(tmp_path, TOML.partition('[[outputs]]\nname = "b"')[0].replace("[-1, 4]", "[-1]")))
    signature, (a,) = outputs.batch(np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1], 3, None)
    assert np.frombuffer(a, np.float32).tolist() == [1, 5, 9]
    assert signature == (("a", "float32", (), 4),)


def test_an_empty_output_has_no_bytes(outputs: Outputs) -> None:
    signature, (_, b) = outputs.batch((A, np.zeros((3, 0, 2), np.int64)), 3, None)
    assert (signature[1], len(b)) == (("b", "int64", (0, 2), 0), 0)


def test_lists_of_numbers_are_taken_when_they_fit(outputs: Outputs) -> None:
    signature, _ = outputs.batch((A, [[[1, 2]]] * 3), 3, None)
    assert signature[1][2] == (1, 2)
