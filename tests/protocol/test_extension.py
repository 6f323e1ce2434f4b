"""Extension items: packing, parsing, order, places, and the memory of valid ones."""

from __future__ import annotations

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.protocol import ProtocolError, pack_extension, parse_extension
from tensorwire.protocol.errors import ErrorCode
from tensorwire.protocol.extension import (
    insert_body_length,
)


def optional(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


U32 = st.integers(0, 2**32 - 1)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "dims": st.integers(0, 70).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n)),
        "body_length": st.integers(0, 2**64 - 1),
        "idempotency_key": st.binary(min_size=16, max_size=16),
        "session": st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1)),
        "trace": st.binary(min_size=25, max_size=25),
        "timing": st.tuples(*[U32] * 7),
        "retry_after": U32,
        "queue_estimate": U32,
    },
)


@given(ITEMS)
def test_items_come_back_as_they_were(items: dict[str, object]) -> None:
    parsed = parse_extension(pack_extension(**items))  # type: ignore[arg-type]
    for name in (
        "dims",
        "body_length",
        "idempotency_key",
        "session",
        "trace",
        "timing",
        "retry_after",
        "queue_estimate",
    ):
        absent = b"" if name in {"dims", "idempotency_key", "trace"} else None
        assert getattr(parsed, name) == items.get(name, absent)


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_or_refused_as_an_extension(raw: bytes) -> None:
    try:
        parsed = parse_extension(raw)
    except ProtocolError as error:
        assert error.code is ErrorCode.EXTENSION  # noqa: PT017 - both outcomes are right
    else:
        assert len(parsed.types) <= 8


@given(ITEMS, st.integers(0, 2**64 - 1))
def test_body_length_goes_to_its_place(items: dict[str, object], total: int) -> None:
    items.pop("body_length", None)
    whole = pack_extension(**items, body_length=total)  # type: ignore[arg-type]
    assert insert_body_length(pack_extension(**items), total) == whole  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x01",
        b"\x01\x00",
        b"\x01\x07" + bytes(7),
        b"\x01\x08" + bytes(7),
        b"\x02\x04" + bytes(4),
        b"\x00\x00",
        b"\x09\x00",
        b"\x07\x04" + bytes(4) + b"\x07\x04" + bytes(4),
        b"\x08\x04" + bytes(4) + b"\x07\x04" + bytes(4),
        b"\x01\x08" + bytes(8) + b"\x01\x08" + bytes(8),  # a short DIMS is not continued
    ],
)
def test_what_is_malformed_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_extension(raw)


def test_more_than_31_dims_take_several_items() -> None:
    dims = Struct("<64Q").pack(*range(64))
    ext = pack_extension(dims)
    assert len(ext) == 3 * 2 + 64 * 8
    assert parse_extension(ext).dims == dims


@pytest.mark.parametrize("arguments", [{"dims": b"1234"}, {"trace": b"x"}, {"idempotency_key": b"short"}])
def test_packing_refuses_wrong_sizes(arguments: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="bytes"):
        pack_extension(**arguments)  # type: ignore[arg-type]
