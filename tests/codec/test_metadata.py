"""Metadata survives its bytes; what a receiver would refuse is not sent."""

from __future__ import annotations

import pytest
from hypothesis import given

from fuzz import strategies_tensors as strategies
from tensorwire.codec import (
    CodecError,
    Kind,
    Metadata,
    TensorSpec,
    decode_metadata,
    dtype_by_name,
    encode_metadata,
)

FLOAT32 = dtype_by_name("float32")


@given(strategies.metadata())
def test_metadata_survives_and_is_the_same_bytes_every_time(value: Metadata) -> None:
    raw = encode_metadata(value.model, value.version, value.tensors)
    assert decode_metadata(raw) == value
    assert encode_metadata(value.model, value.version, value.tensors) == raw
    assert raw[4:8] == b"TWM1"


def spec(
    name: str = "x", shape: tuple[int, ...] = (-1,), kind: Kind = Kind.DENSE, dtype: str = "float32"
) -> TensorSpec:
    return TensorSpec(name, dtype_by_name(dtype), shape, kind)


@pytest.mark.parametrize(
    ("model", "version", "tensors", "says"),
    [
        ("", "", [], "model"),
        ("m" * 257, "", [], "model"),
        ("é" * 129, "", [], "258 bytes"),
        ("\udc80", "", [], "surrogate"),
        ("m", "v" * 257, [], "version"),
        ("m", "", [spec(), spec()], "twice"),
        ("m", "", [spec("")], "tensor name"),
        ("m", "", [spec(shape=(1,) * 9)], "9 dimensions"),
        ("m", "", [spec(shape=(-2,))], "dimension -2"),
        ("m", "", [spec(shape=((1 << 48) + 1,))], "dimension"),
        ("m", "", [spec(kind=Kind.STRING)], "uint8"),
        ("m", "", [spec(kind=Kind.RAGGED, shape=())], "at least one"),
        ("m", "", [spec(str(index)) for index in range(1025)], "1025"),
        ("m", "", [spec("x" * 200 + str(index)) for index in range(1000)], "bytes for 1000 tensors"),
    ],
)
def test_what_a_receiver_would_refuse_is_not_sent(
    model: str, version: str, tensors: list[TensorSpec], says: str
) -> None:
    with pytest.raises(CodecError, match=says):
        encode_metadata(model, version, tensors)


def test_the_largest_of_everything_fits() -> None:
    tensors = tuple(spec(str(index), (-1,)) for index in range(1024))
    assert len(decode_metadata(encode_metadata("m" * 256, "v" * 256, tensors)).tensors) == 1024
    one = (spec("n" * 256, (1 << 48,) * 8),)
    assert decode_metadata(encode_metadata("m", "", one)).tensors == one


@pytest.mark.parametrize(
    ("kind", "shape", "says"),
    [(Kind.DENSE, (-1, 3), "float32[-1, 3]"), (Kind.RAGGED, (2,), "ragged float32[2]"), (Kind.DENSE, (), "float32[]")],
)
def test_a_tensor_reads_well(kind: Kind, shape: tuple[int, ...], says: str) -> None:
    assert str(TensorSpec("x", FLOAT32, shape, kind)) == says
    assert str(spec(dtype="uint8", kind=Kind.STRING)) == "string[-1]"
