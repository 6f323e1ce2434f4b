"""Rows of several slabs become one batch in order, and results become bytes. On the host; for a device: test_cuda."""

from __future__ import annotations

import numpy as np
import pytest

from tensorwire.gpu import SlabPool
from tensorwire.gpu.staging import BatchInput, HostStager


def memory(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))


def raw(array: np.ndarray) -> memoryview:
    return memoryview(bytearray(array.tobytes()))


def test_one_run_is_a_view_of_its_slab() -> None:
    slab = SlabPool(1 << 20).allocate(64)
    assert slab is not None
    batch = HostStager(memory).copy_in([BatchInput("x", "float32", (4,), [slab.view])], 4)
    slab.view[:4] = np.float32(7).tobytes()
    assert batch["x"].shape == (4, 4)
    assert batch["x"][0, 0] == 7


def test_several_runs_are_gathered_in_order() -> None:
    rows = np.arange(24, dtype=np.int64).reshape(6, 2, 2)
    runs = [raw(rows[:1]), raw(rows[1:4]), raw(rows[4:])]
    batch = HostStager(memory).copy_in([BatchInput("x", "int64", (2, 2), runs)], 6)
    np.testing.assert_array_equal(batch["x"], rows)


def test_inputs_keep_their_names_and_dtypes() -> None:
    x, y = np.ones((2, 3), np.float16), np.zeros((2,), np.bool_)
    inputs = [BatchInput("x", "float16", (3,), [raw(x)]), BatchInput("y", "bool", (), [raw(y)])]
    batch = HostStager(memory).copy_in(inputs, 2)
    assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
        "x": ("float16", (2, 3)),
        "y": ("bool", (2,)),
    }


def test_dtypes_numpy_lacks_come_as_unsigned_integers() -> None:
    batch = HostStager(memory).copy_in([BatchInput("x", "bfloat16", (2,), [memory(8)])], 2)
    assert batch["x"].dtype == np.uint16


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="no dtype 'object'"):
        HostStager(memory).copy_in([BatchInput("x", "object", (), [memory(8)])], 1)


def test_rows_without_elements_are_fine() -> None:
    batch = HostStager(memory).copy_in([BatchInput("x", "float32", (0,), [memory(0)])], 3)
    assert batch["x"].shape == (3, 0)


def test_results_are_copied_into_the_memory_given() -> None:
    given: list[memoryview] = []

    def allocate(nbytes: int) -> memoryview:
        given.append(memory(nbytes))
        return given[-1]

    output = np.arange(12, dtype=np.float32).reshape(3, 4).T
    copies = HostStager(memory).copy_out({"y": output}, allocate)
    assert copies["y"] is given[0]
    output[:] = 0
    assert np.frombuffer(copies["y"], np.float32).reshape(4, 3)[1].tolist() == [1.0, 5.0, 9.0]
