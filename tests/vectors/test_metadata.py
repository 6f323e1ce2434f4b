"""Vectors of kind `metadata` against tensorwire.codec: read, refused at the right place, cut and lengthened."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import (
    DTYPES,
    CodecError,
    Kind,
    RaggedArray,
    Resolved,
    check_body,
    decode_arrays,
    decode_metadata,
    encode_metadata,
    resolve,
)
from tests.support.together import by_section, each
from tests.vectors.player import load, unpack

Json = dict[str, Any]
ALL = list(load("metadata"))
GOOD = [(name, vector) for name, _, vector in ALL if vector["valid"]]
BAD = [(name, vector) for name, _, vector in ALL if not vector["valid"]]
WRITTEN = [(name, vector) for name, vector in GOOD if "body" in vector]


def cases(vectors: list[tuple[str, Json]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return each("vector", vectors, by_section)


def resolved_of(vector: Json) -> Resolved:
    return resolve(decode_metadata(unpack(vector["metadata"])), bytes.fromhex(vector["dims"]))


@cases(GOOD)
def test_metadata_and_dims_say_where_each_tensor_lies(vector: Json) -> None:
    metadata = decode_metadata(unpack(vector["metadata"]))
    resolved = resolved_of(vector)
    assert (resolved.model, resolved.version) == (vector["model"], vector["version"])
    assert str(resolved.body_length) == vector["body_length"]
    found = []
    for spec, placed in zip(metadata.tensors, resolved.tensors, strict=True):
        buffers = [(placed.offset, placed.nbytes)]
        if placed.kind is not Kind.DENSE:
            buffers.append((placed.data_offset, placed.data_nbytes))
        found.append(
            {
                "name": placed.name,
                "dtype": placed.dtype.name,
                "kind": placed.kind.name.lower(),
                "declared": [str(size) for size in spec.shape],
                "shape": [str(size) for size in placed.shape],
                "buffers": [{"offset": str(offset), "length": str(length)} for offset, length in buffers],
            }
        )
    places = ("name", "dtype", "kind", "declared", "shape", "buffers")
    assert found == [{key: tensor[key] for key in places} for tensor in vector["tensors"]]


def elements(array: np.ndarray[Any, Any]) -> list[str]:
    """Each element as the vectors write it."""
    name, width = array.dtype.name, array.dtype.itemsize
    raw = array.tobytes()
    if name.startswith("complex"):
        halves = [raw[at : at + width // 2][::-1].hex() for at in range(0, len(raw), width // 2)]
        return [f"{real} {imaginary}" for real, imaginary in zip(halves[::2], halves[1::2], strict=True)]
    if "float" in name:
        return [raw[at : at + width][::-1].hex() for at in range(0, len(raw), width)]
    return [str(int(item)) for item in array.ravel().tolist()]


@cases(WRITTEN)
def test_the_body_gives_every_element_to_the_bit(vector: Json) -> None:
    arrays = decode_arrays(resolved_of(vector), unpack(vector["body"]))
    for tensor in vector["tensors"]:
        value = arrays[tensor["name"]]
        if isinstance(value, RaggedArray):
            assert [elements(row) for row in value] == tensor["rows"]
        elif tensor["kind"] == "string":
            assert list(value.ravel()) == tensor["strings"]
        else:
            assert elements(value) == tensor["elements"]
        assert [str(size) for size in value.shape] == tensor["shape"]


@cases(BAD)
def test_what_is_wrong_is_refused_at_its_place_and_not_before(vector: Json) -> None:
    raw = unpack(vector["metadata"])
    if vector["refused"] == "metadata":
        with pytest.raises(CodecError):
            decode_metadata(raw)
        return
    metadata = decode_metadata(raw)
    dims = bytes.fromhex(vector["dims"])
    if vector["refused"] == "dims":
        with pytest.raises(CodecError):
            resolve(metadata, dims)
        return
    resolved = resolve(metadata, dims)
    with pytest.raises(CodecError):
        decode_arrays(resolved, unpack(vector["body"]))


@cases(GOOD)
def test_metadata_cut_at_any_byte_is_refused(vector: Json) -> None:
    raw = unpack(vector["metadata"])
    unreached = 9 if vector["name"] == "bytes that nothing points to" else 0
    for size in range(len(raw) - unreached):
        with pytest.raises(CodecError):
            decode_metadata(raw[:size])


@cases(GOOD)
def test_bytes_behind_the_metadata_change_nothing(vector: Json) -> None:
    raw = unpack(vector["metadata"])
    assert decode_metadata(raw + b"\0\xff") == decode_metadata(raw)


@cases(GOOD)
def test_dims_cut_or_lengthened_are_refused(vector: Json) -> None:
    metadata = decode_metadata(unpack(vector["metadata"]))
    dims = bytes.fromhex(vector["dims"])
    for other in (*(dims[:size] for size in range(len(dims))), dims + b"\0", dims + bytes(8)):
        with pytest.raises(CodecError):
            resolve(metadata, other)


@cases(WRITTEN)
def test_bodies_cut_or_lengthened_are_refused(vector: Json) -> None:
    resolved = resolved_of(vector)
    body = unpack(vector["body"])
    for other in (*(body[:size] for size in range(len(body))), body + b"\0", body + bytes(64)):
        with pytest.raises(CodecError):
            decode_arrays(resolved, other)


@cases(GOOD)
def test_our_own_metadata_says_the_same_in_its_own_bytes(vector: Json) -> None:
    metadata = decode_metadata(unpack(vector["metadata"]))
    assert decode_metadata(encode_metadata(metadata.model, metadata.version, metadata.tensors)) == metadata


def test_every_element_type_and_every_kind_is_shown() -> None:
    shown = {(tensor["dtype"], tensor["kind"]) for _, vector in GOOD for tensor in vector["tensors"]}
    assert {dtype for dtype, _ in shown} == {dtype.name for dtype in DTYPES}
    assert {kind for _, kind in shown} == {"dense", "string", "ragged"}


def test_check_body_alone_takes_every_good_body() -> None:
    for _, vector in WRITTEN:
        check_body(resolved_of(vector), memoryview(unpack(vector["body"])))


def test_the_schema_that_the_spec_shows_is_the_schema() -> None:
    """The page alone is enough to read metadata: its schema is tensor.fbs without comments, with bare type codes."""
    root = Path(__file__).resolve().parents[2]
    schema = re.sub(r"//.*", "", (root / "codec" / "tensor.fbs").read_text()).replace("code: TypeCode", "code: ubyte")
    names = ("enum Kind", "struct ElementType", "table Tensor", "table Metadata")
    wanted = [
        next(part for part in re.findall(r"(?:enum|struct|table) [^{}]*\{[^}]*\}", schema) if part.startswith(n))
        for n in names
    ]
    page = (root / "protocol" / "SPEC.md").read_text()
    shown = re.findall(r"^    ((?:enum|struct|table) .*)$", page, re.MULTILINE)
    assert [_packed(part) for part in shown] == [_packed(part) for part in wanted]
    assert 'file_identifier "TWM1"' in schema


def _packed(declaration: str) -> str:
    return re.sub(r"[\s,]+", "", declaration)
