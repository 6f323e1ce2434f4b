"""The table of element types is DLPack's, closed, and the only way from the wire to numpy."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire import codec
from tensorwire.codec import DTYPES, CodecError, DType, dtype_by_name, dtype_by_numpy, dtype_by_triple, dtype_of

EVERY = {
    "bool": (6, 8),
    "int8": (0, 8),
    "int16": (0, 16),
    "int32": (0, 32),
    "int64": (0, 64),
    "uint8": (1, 8),
    "uint16": (1, 16),
    "uint32": (1, 32),
    "uint64": (1, 64),
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
    "complex64": (5, 64),
    "complex128": (5, 128),
    "float8_e3m4": (7, 8),
    "float8_e4m3": (8, 8),
    "float8_e4m3b11fnuz": (9, 8),
    "float8_e4m3fn": (10, 8),
    "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8),
    "float8_e5m2fnuz": (13, 8),
    "float8_e8m0fnu": (14, 8),
}


def test_the_table_is_dlpacks() -> None:
    assert {dtype.name: (dtype.code, dtype.bits) for dtype in DTYPES} == EVERY
    assert all(dtype.lanes == 1 and dtype.itemsize * 8 == dtype.bits for dtype in DTYPES)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_every_way_leads_to_the_same_object(dtype: DType) -> None:
    assert dtype_by_name(dtype.name) is dtype
    assert dtype_by_triple(*dtype.triple) is dtype
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert dtype.numpy is not None
    assert dtype_by_numpy(dtype.numpy) is dtype
    assert dtype_of(np.zeros(1, dtype.numpy)) is dtype
    assert dtype.storage.itemsize == dtype.numpy.itemsize == dtype.itemsize


def test_big_endian_arrays_have_an_element_type_but_big_endian_dtypes_are_not_in_the_table() -> None:
    assert dtype_of(np.zeros(2, ">f4")) is dtype_by_name("float32")
    with pytest.raises(CodecError, match="astype"):
        dtype_by_numpy(np.dtype(">f4"))


@pytest.mark.parametrize("name", ["int4", "float6_e2m3fn", "float4_e2m1fn"])
def test_kinds_narrower_than_a_byte_are_not_sent(name: str) -> None:
    with pytest.raises(CodecError, match="cannot be sent"):
        dtype_by_numpy(np.dtype(getattr(ml_dtypes, name)))


@given(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535)))
def test_a_triple_outside_the_table_does_not_exist(triple: tuple[int, int, int]) -> None:
    if triple not in {dtype.triple for dtype in DTYPES}:
        with pytest.raises(CodecError, match="code, bits, lanes"):
            dtype_by_triple(*triple)


@pytest.mark.parametrize(
    ("name", "says"), [("flaot32", "float32"), ("string", "one of"), ("O", "one of"), ("<f4", "one of")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        dtype_by_name(name)


def test_numpy_never_parses_a_text_of_the_peer() -> None:
    """np.dtype() is called on constants only, outside the table's own module."""
    for path in Path(codec.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "dtype":
                (argument,) = node.args
                fixed = isinstance(argument, ast.Constant) or ast.unparse(argument) == "np.uint8"
                assert fixed or path.name == "dtypes.py", f"{path.name}:{node.lineno}"
