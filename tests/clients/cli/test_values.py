"""What the command line prints and sends equals the value, for every dtype and every form, or is refused."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tensorwire.clients.cli import outputs
from tensorwire.clients.cli.failures import Failure
from tensorwire.clients.cli.inputs import build_inputs, parse_argument
from tensorwire.clients.results import Result
from tensorwire.codec import (
    DTYPES,
    DType,
    Encoder,
    Kind,
    RaggedArray,
    TensorSpec,
    decode_arrays,
    decode_metadata,
    resolve,
)

STRING = TensorSpec("x", next(dtype for dtype in DTYPES if dtype.name == "uint8"), (-1, -1), Kind.STRING)


@st.composite
def tensors(draw: Any) -> tuple[DType, Any]:
    """Any bits of any dtype, in up to two dimensions."""
    dtype = draw(st.sampled_from([dtype for dtype in DTYPES if dtype.numpy is not None]))
    shape = draw(st.lists(st.integers(0, 3), max_size=2))
    count = int(np.prod(shape)) * dtype.itemsize
    bits = draw(st.binary(min_size=count, max_size=count))
    if dtype.name == "bool":
        bits = bytes(bit & 1 for bit in bits)
    return dtype, np.frombuffer(bits, dtype.numpy).reshape(shape)


def through_the_wire(array: Any) -> Any:
    message = Encoder().encode("m", "", {"x": array})
    return decode_arrays(resolve(decode_metadata(message.meta), message.dims), memoryview(b"".join(message.buffers)))[
        "x"
    ]


def reply(array: Any) -> Result:
    result = Result({"x": through_the_wire(array)})
    result.model, result.model_version = "m", "1"
    result.connection_id, result.stream_id, result.timing = bytes(8), 7, None
    return result


def printed(array: Any) -> Any:
    """The values in what --output json prints."""
    return json.loads(json.dumps(outputs.reply_as_json(reply(array), (), 0), allow_nan=False))["outputs"]["x"]["data"]


def sent(text: str, spec: TensorSpec, stdin: bytes = b"") -> Any:
    arrays = build_inputs([parse_argument(text)], (spec,), batched=False, stdin=io.BytesIO(stdin))
    return through_the_wire(arrays["x"])


def same(left: Any, right: Any) -> bool:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        pair = [
            np.asarray(side).astype(np.complex128 if side.dtype.kind == "c" else np.float64) for side in (left, right)
        ]
    exact = left.dtype.kind not in "iu" or np.array_equal(left, right)
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and exact
        and np.array_equal(pair[0], pair[1], equal_nan=True)
    )


@example((next(d for d in DTYPES if d.name == "bfloat16"), np.frombuffer(b"\x81\x7f", ml_dtypes.bfloat16)))
@given(tensors())
def test_hypothesis_printed_json_sent_again_is_the_same_tensor(tensor: tuple[DType, Any]) -> None:
    dtype, array = tensor
    shown = printed(array)
    with np.errstate(invalid="ignore"):
        finite = bool(np.isfinite(array).all())
    assert ("null" in json.dumps(shown)) == (not finite)
    if dtype.numpy is not None and dtype.numpy.kind == "c":
        pairs = np.array(shown, np.float64).reshape(*array.shape, 2)
        assert not finite or same(np.asarray(pairs[..., 0] + 1j * pairs[..., 1]).astype(dtype.numpy), array)
    elif finite and 0 not in array.shape[:1]:
        spec = TensorSpec("x", dtype, (-1,) * array.ndim, Kind.DENSE)
        assert same(sent(f"x={json.dumps(shown)}", spec), array)


@example((next(d for d in DTYPES if d.name == "bfloat16"), np.frombuffer(b"\x81\x7f", ml_dtypes.bfloat16)))
@given(tensors())
def test_hypothesis_an_npy_holds_the_same_tensor_or_is_refused(tensor: tuple[DType, Any]) -> None:
    dtype, array = tensor
    stdout = io.TextIOWrapper(io.BytesIO())
    try:
        with contextlib.redirect_stdout(stdout):
            outputs.write_npy(reply(array), None)
    except Failure:
        assert not issubclass(array.dtype.type, np.number | np.bool_)
        return
    file = stdout.buffer.getvalue()
    assert same(np.load(io.BytesIO(file)), array)
    assert same(sent("x=-", TensorSpec("x", dtype, (-1,) * array.ndim, Kind.DENSE), file), array)


@example((next(d for d in DTYPES if d.name == "bfloat16"), np.frombuffer(b"\x81\x7f", ml_dtypes.bfloat16)))
@given(tensors())
def test_hypothesis_the_table_shows_the_first_values(tensor: tuple[DType, Any]) -> None:
    _, array = tensor
    shown = outputs._preview(array).split(", ") if array.size else []
    for text, value in zip(shown, array.reshape(-1)[:6], strict=False):
        with np.errstate(invalid="ignore"):
            expected = complex(value) if array.dtype.kind == "c" else float(value)
        number = float(text == "True") if text in {"True", "False"} else complex(text)
        assert np.allclose(number, expected, rtol=1e-4, atol=0, equal_nan=True) or not np.isfinite(expected)


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2), min_size=1, max_size=3
    )
)
def test_hypothesis_strings_keep_their_shape_and_every_character(texts: list[list[str]]) -> None:
    array = np.array(texts, dtype=object)
    assert printed(array) == texts
    assert sent(f"x={json.dumps(texts)}", STRING).tolist() == texts


@given(st.lists(st.lists(st.integers(-128, 127), max_size=3), max_size=3))
def test_hypothesis_ragged_rows_are_the_same_after_a_round(rows: list[list[int]]) -> None:
    int8 = next(dtype for dtype in DTYPES if dtype.name == "int8")
    assert printed(RaggedArray.from_rows(rows, np.int8)) == rows
    assert sent(f"x={json.dumps(rows)}", TensorSpec("x", int8, (-1,), Kind.RAGGED)).tolist() == rows
