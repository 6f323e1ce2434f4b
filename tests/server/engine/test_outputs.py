"""What a model may return, and how its mistakes are named; a reply never shows memory that is used again."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tensorwire.codec import RaggedArray, dtype_by_name
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
Array = np.ndarray[Any, Any]
A = np.ones((3, 4), np.float32)
B = np.ones((3, 5, 2), np.int64)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(python_spec(tmp_path, TOML))


@pytest.mark.parametrize("raw", [{"a": A, "b": B}, {"b": B, "a": A}, (A, B), [A, B]])
def test_a_dict_or_a_tuple(outputs: Outputs, raw: Any) -> None:
    signature, (a, b) = outputs.batch([raw], 3, None)
    assert signature == (("a", "float32", (4,), 16), ("b", "int64", (5, 2), 80))
    assert (bytes(a), bytes(b)) == (A.tobytes(), B.tobytes())
    assert a.format == "B"


def test_the_signature_is_the_same_object_while_the_shapes_of_rows_are_the_same(outputs: Outputs) -> None:
    first, _ = outputs.batch([(A, B)], 3, None)
    assert outputs.batch([(A[:2], B[:2])], 2, None)[0] is first
    other, _ = outputs.batch([(A, B[:, :1])], 3, None)
    assert other[1] == ("b", "int64", (1, 2), 16)
    assert outputs.batch([(A, B)], 3, None)[0] == first


def test_a_batch_that_fails_half_way_leaves_the_signature_true(outputs: Outputs) -> None:
    outputs.batch([(A, B)], 3, None)
    with pytest.raises(OutputError):
        outputs.batch([(A[:, :2], B[:, :1])], 3, None)
    with pytest.raises(OutputError):
        outputs.batch([(A.astype("f8"), B[:, :1])], 3, None)
    assert outputs.batch([(A, B[:, :1])], 3, None)[0][1][2] == (1, 2)


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
        ((np.ma.masked_less(A, 0), B), r"output 'a' is a masked array, .* return array.filled\(...\), and the mask as"),
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
        outputs.batch([raw], 3, None)


class Raises(BaseException):
    pass


class NoArray:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Raises("never an array")


def test_an_output_object_may_raise_anything(outputs: Outputs) -> None:
    with pytest.raises(OutputError, match="output 'a' is a NoArray, expected an array"):
        outputs.batch([(NoArray(), B)], 3, None)


def kept_part(keep: list[Any]) -> Array:
    keep.append(np.ones((9, 1000, 2), np.int64))
    return cast("Array", keep[0][3:6])


def kept_whole(keep: list[Any]) -> Array:
    keep.append(np.ones((3, 1000, 2), np.int64))
    return cast("Array", keep[0])


def kept_view(keep: list[Any]) -> Array:
    mine = np.ones((3, 1000, 2), np.int64)
    keep.append(mine[1:])
    return mine


def kept_memoryview(keep: list[Any]) -> Array:
    mine = np.ones((3, 1000, 2), np.int64)
    keep.append(np.asarray(mine.data))
    return mine


def weakly_kept(keep: list[Any]) -> Array:
    mine = np.ones((3, 1000, 2), np.int64)
    keep.append(weakref.ref(mine))
    return mine


def over_other_memory(keep: list[Any]) -> Array:
    keep.append(bytearray(3 * 1000 * 2 * 8))
    return np.frombuffer(keep[0], np.int64).reshape(3, 1000, 2)


def mapped_from_a_file(keep: list[Any]) -> Array:
    keep.append(tempfile.NamedTemporaryFile())  # noqa: SIM115 - the model keeps it
    return np.memmap(keep[0], np.int64, "w+", shape=(3, 1000, 2))


@pytest.mark.parametrize(
    "model",
    [kept_part, kept_whole, kept_view, kept_memoryview, weakly_kept, over_other_memory, mapped_from_a_file],
)
def test_memory_that_somebody_else_may_write_to_is_copied(
    outputs: Outputs, model: Callable[[list[Any]], Array]
) -> None:
    keep: list[Any] = []
    array = model(keep)
    before, where = array.tobytes(), array.ctypes.data
    raw: list[Any] = [(A, array)]
    del array
    _, (_, b) = outputs.batch(raw, 3, None)
    assert bytes(b) == before
    assert np.frombuffer(b, np.uint8).ctypes.data != where


@pytest.mark.parametrize(
    "model", [lambda: np.ones((3, 1000, 2), np.int64), lambda: np.ones((9, 1000, 2), np.int64)[3:6]]
)
def test_memory_that_is_ours_alone_is_not_copied(outputs: Outputs, model: Callable[[], Array]) -> None:
    raw: list[Any] = [model()]
    where = raw[0].ctypes.data
    raw[0] = (A, raw[0])
    _, (_, b) = outputs.batch(raw, 3, None)
    assert np.frombuffer(b, np.uint8).ctypes.data == where


def test_two_outputs_in_the_same_memory_are_each_what_they_were(tmp_path: Path) -> None:
    outputs = Outputs(python_spec(tmp_path, TOML.replace("[-1, -1, 2]", "[-1, -1]").replace("[-1, 4]", "[-1, -1]")))
    both = np.arange(6000, dtype=np.int64).reshape(3, 2000)
    raw: list[Any] = [(both.view(np.float32), both)]
    _, (a, b) = outputs.batch(raw, 3, None)
    before = both.copy()
    both[:] = 0
    assert bytes(a) == bytes(b) == before.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows", [1, 1000])
def test_either_byte_order_is_the_same_numbers(outputs: Outputs, order: str, rows: int) -> None:
    values = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    raw: list[Any] = [(values.astype(f"{order}f4"), np.ones((rows, 5, 2), np.int64))]
    signature, (a, _) = outputs.batch(raw, rows, None)
    assert (np.frombuffer(a, np.float32).reshape(rows, 4) == values).all()
    assert signature[0][1] == "float32"


ALONE = TOML.replace('backend = "python"', 'backend = "python"\nmax_batch = 0')


class Subclass(np.ndarray[Any, Any]):
    pass


def test_alone_and_in_a_batch_one_rule(tmp_path: Path) -> None:
    """Masks are refused, byte orders converted, odd strides and subclasses taken as the numbers that they are."""
    outputs = Outputs(python_spec(tmp_path, ALONE))
    with pytest.raises(OutputError, match=r"output 'a' is a masked array, .* return array.filled"):
        outputs.alone([(np.ma.masked_less(A, 0), B)], None)
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    for given in (values[::-2].astype(">f4"), values[::-2], values.view(Subclass)[::-2]):
        for array in (given, given[:, ::-1][:, ::-1]):
            encoded = outputs.alone([(array, B)], None)
            assert bytes(encoded.buffers[0]) == values[::-2].tobytes()
            _, (a, _) = outputs.batch([(array, B)], 3, None)
            assert bytes(a) == values[::-2].tobytes()


COMPLEX = torch.tensor([[1 + 2j, 3 - 4j, 5 + 6j, 7 - 8j]] * 3)


@pytest.mark.parametrize(
    ("tensor", "dtype", "right"),
    [
        (COMPLEX.conj().imag, "float32", [-2, 4, -6, 8]),
        (COMPLEX.conj(), "complex64", [1 - 2j, 3 + 4j, 5 - 6j, 7 + 8j]),
        (torch._neg_view(COMPLEX.real), "float32", [-1, -3, -5, -7]),
        (COMPLEX.real.to(torch.bfloat16), "bfloat16", [1, 3, 5, 7]),
        (torch._neg_view(COMPLEX.real.to(torch.bfloat16)), "bfloat16", [-1, -3, -5, -7]),
        (torch.nn.Parameter(COMPLEX.real.clone(), requires_grad=False), "float32", [1, 3, 5, 7]),
    ],
)
def test_a_torch_tensor_of_a_python_model_is_what_torch_prints(
    tmp_path: Path, tensor: torch.Tensor, dtype: str, right: list[complex]
) -> None:
    one = f'{ALONE.partition("[[outputs]]")[0]}[[outputs]]\nname = "a"\ndtype = "{dtype}"\nshape = '
    want = np.array([right] * 3).astype(dtype_by_name(dtype).numpy).tobytes()
    alone = Outputs(python_spec(tmp_path, one + "[-1, 4]"))
    assert bytes(alone.alone([tensor], None).buffers[0]) == want
    batched = Outputs(python_spec(tmp_path, (one + "[-1, 4]").replace("max_batch = 0", "")))
    assert bytes(batched.batch([{"a": tensor}], 3, None)[1][0]) == want
    ragged = Outputs(python_spec(tmp_path, one + '[-1]\nkind = "ragged"'))
    rows = RaggedArray(torch.tensor([0, 4, 12]), tensor.flatten())
    assert bytes(ragged.alone([rows], None).buffers[-1]) == want
    assert bytes(ragged.alone([RaggedArray.from_rows([*tensor])], None).buffers[-1]) == want


def test_a_tensor_that_has_no_plain_numbers_is_refused_in_the_librarys_words(outputs: Outputs) -> None:
    with pytest.raises(OutputError, match=r"output 'a' is a Tensor, expected an array: .* use tensor.detach"):
        outputs.batch([(torch.ones(3, 4, requires_grad=True), B)], 3, None)
    with pytest.raises(OutputError, match=r"output 'a' is a Tensor, expected an array: .* torch.strided"):
        outputs.batch([(torch.ones(3, 4).to_sparse(), B)], 3, None)


def test_alone_memory_of_the_model_is_copied_and_ours_is_not(tmp_path: Path) -> None:
    outputs = Outputs(python_spec(tmp_path, ALONE))
    mine, b = np.ones((3, 4), np.float32), np.ones((3, 1000, 2), np.int64)
    encoded = outputs.alone([(mine, b)], None)
    mine[:] = b[:] = 7
    assert bytes(encoded.buffers[0]) == A.tobytes()
    assert (np.frombuffer(encoded.buffers[-1], np.int64) == 1).all()
    raw: list[Any] = [np.ones((3, 1000, 2), np.int64)]
    where = raw[0].ctypes.data
    raw[0] = (A, raw[0])
    assert np.frombuffer(outputs.alone(raw, None).buffers[-1], np.uint8).ctypes.data == where


def test_arrays_out_of_order_are_made_contiguous_once(outputs: Outputs) -> None:
    columns = np.asfortranarray(np.arange(6000, dtype=np.int64).reshape(3, 1000, 2))
    small = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    _, (a, b) = outputs.batch([(small, columns)], 3, None)
    assert np.frombuffer(a, np.float32).tolist() == list(range(12))
    assert np.frombuffer(b, np.int64).tolist() == list(range(6000))


def test_a_column_of_a_matrix_is_made_contiguous(tmp_path: Path) -> None:
    outputs = Outputs(python_spec(tmp_path, TOML.partition('[[outputs]]\nname = "b"')[0].replace("[-1, 4]", "[-1]")))
    signature, (a,) = outputs.batch([np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1]], 3, None)
    assert np.frombuffer(a, np.float32).tolist() == [1, 5, 9]
    assert signature == (("a", "float32", (), 4),)


def test_an_empty_output_has_no_bytes(outputs: Outputs) -> None:
    signature, (_, b) = outputs.batch([(A, np.zeros((3, 0, 2), np.int64))], 3, None)
    assert (signature[1], len(b)) == (("b", "int64", (0, 2), 0), 0)


def test_lists_of_numbers_are_taken_when_they_fit(outputs: Outputs) -> None:
    signature, _ = outputs.batch([(A, [[[1, 2]]] * 3)], 3, None)
    assert signature[1][2] == (1, 2)
