"""Vectors of kind `message` against tensorwire.codec: read, refused, cut and lengthened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tensorwire.codec import (
    CodecError,
    DescribeRequest,
    Description,
    HealthReport,
    HealthRequest,
    ModelList,
    Ready,
    unpack_service,
)
from tensorwire.codec.strict_msgpack import Fields
from tests.support.together import by_section, each
from tests.vectors.pack import tagged
from tests.vectors.player import load, unpack

Json = dict[str, Any]
ALL = [(name, vector) for name, _, vector in load("message")]
GOOD = [(name, vector) for name, vector in ALL if vector["valid"]]
BAD = [(name, vector) for name, vector in ALL if not vector["valid"]]
READERS: dict[str, Callable[[bytes], Any]] = {
    "plain": unpack_service,
    "ready": Ready.unpack,
    "models_request": lambda raw: Fields(unpack_service(raw), "$models"),
    "models": ModelList.unpack,
    "describe_request": DescribeRequest.unpack,
    "describe": Description.unpack,
    "health_request": HealthRequest.unpack,
    "health": HealthReport.unpack,
}


def cases(vectors: list[tuple[str, Json]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return each("vector", vectors, by_section)


@cases(GOOD)
def test_a_good_message_is_read(vector: Json) -> None:
    raw = unpack(vector["bytes"])
    value = unpack_service(raw)
    if "value" in vector:
        assert tagged(value) == vector["value"]
    read = READERS[vector["as"]](raw)
    if vector.get("reads"):
        found = unpack_service(read.pack())  # in normal form: every key is there
        for key, expected in vector["reads"].items():
            assert holds(tagged(found[key]), expected), key


def holds(found: Any, expected: Any) -> bool:
    """Whether all that is expected is there; a map may say more."""
    if isinstance(expected, dict) and "map" in expected:
        return all(key in found["map"] and holds(found["map"][key], value) for key, value in expected["map"].items())
    if isinstance(expected, dict) and "list" in expected:
        return len(found["list"]) == len(expected["list"]) and all(map(holds, found["list"], expected["list"]))
    return bool(found == expected)


@cases(BAD)
def test_a_bad_message_is_refused(vector: Json) -> None:
    with pytest.raises(CodecError):
        READERS[vector["as"]](unpack(vector["bytes"]))


@cases([(name, vector) for name, vector in BAD if vector["as"] != "plain"])
def test_what_a_reader_refuses_is_well_formed_by_itself(vector: Json) -> None:
    raw = unpack(vector["bytes"])
    if raw:
        unpack_service(raw)


@cases(GOOD)
def test_a_message_cut_or_lengthened_is_refused(vector: Json) -> None:
    raw = unpack(vector["bytes"])
    edge = 300  # of a long one the middle is skipped
    for size in (n for n in range(len(raw)) if n < edge or n >= len(raw) - edge):
        with pytest.raises(CodecError):
            unpack_service(raw[:size])
    for behind in (b"\0", b"\xc0", b"\xc1", b"\x80" * 40):
        with pytest.raises(CodecError):
            unpack_service(raw + behind)
