"""Service bytes: plain values only, capped in bytes, depth and items, in linear time."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.codec import CodecError, pack_service, unpack_service
from tensorwire.codec.strict_msgpack import Fields, read_float, read_int, read_str

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=7,
)


@given(plain)
def test_plain_values_survive(value: Any) -> None:
    raw = pack_service(value)
    assert unpack_service(raw) == value
    assert type(unpack_service(raw)) is type(value)


BOMBS = {
    "16k nested arrays": b"\x91" * 16_384 + b"\xc0",
    "64k nested arrays": b"\x91" * 65_535 + b"\xc0",
    "16k nested maps": b"\x81\xa1a" * 16_384 + b"\xc0",
    "nine levels": b"\x91" * 9 + b"\xc0",
    "arrays that each promise 65,000": b"\xdc\xfd\xe8" * 21_845,
    "maps that each promise 32,000": b"\xde\x7d\x00\xa0" * 16_384,
    "an array of 2^32-1": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32-1": b"\xdf\xff\xff\xff\xff",
    "a str of 2^32-1": b"\xdb\xff\xff\xff\xff",
    "a bin of 2^32-1": b"\xc6\xff\xff\xff\xff",
    "an ext of 2^32-1": b"\xc9\xff\xff\xff\xff\x01",
    "60k nils": b"\xdd" + (60_000).to_bytes(4, "big") + b"\xc0" * 60_000,
    "60k empty arrays": b"\xdd" + (60_000).to_bytes(4, "big") + b"\x90" * 60_000,
    "an extension of 1 byte": b"\xd4\x05\x00",
    "an extension of 2 bytes": b"\xd5\x05\x00\x00",
    "an extension of 4 bytes, a timestamp": b"\xd6\xff\x00\x00\x00\x01",
    "an extension of 8 bytes, a timestamp": b"\xd7\xff" + bytes(8),
    "an extension of 16 bytes": b"\xd8\x05" + bytes(16),
    "an extension of 8-bit length, a timestamp": b"\xc7\x0c\xff" + bytes(12),
    "an extension of 16-bit length": b"\xc8\x00\x01\x05\x00",
    "an extension of 32-bit length": b"\xc9\x00\x00\x00\x01\x05\x00",
    "an extension as a key": b"\x81\xd4\x05\x00\x01",
    "an extension inside": b"\x81\xa1a\x91\xd4\x05\x00",
    "duplicate keys": b"\x82\xa1a\x01\xa1a\x02",
    "duplicate keys written differently": b"\x82\xa1a\x01\xd9\x01a\x02",
    "duplicate keys inside": b"\x81\xa1x\x91\x82\xa1a\x01\xa1a\x01",
    "16k duplicate keys": b"\xde\x20\x00" + b"\xa1a\x01" * 8192,
    "an int key": b"\x81\x01\x02",
    "an int key inside": b"\x81\xa1x\x81\x01\x02",
    "a negative key": b"\x81\xff\x02",
    "a bool key": b"\x81\xc3\x02",
    "a float key": b"\x81\xca\x00\x00\x00\x00\x02",
    "a bytes key": b"\x81\xc4\x01a\x02",
    "a nil key": b"\x81\xc0\x01",
    "an array key": b"\x81\x90\x01",
    "a map key": b"\x81\x80\x01",
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "a surrogate": b"\xa3\xed\xa0\x80",
    "the unused byte": b"\xc1",
    "nothing": b"",
    "one byte after": b"\xc0\xc0",
    "cut": b"\x92\xc0",
    "over the cap": b"\xc5\xff\xff" + bytes(65_535),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_quickly_and_in_little_memory(name: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(CodecError):
        unpack_service(BOMBS[name])
    spent = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 0.1  # measured under tracemalloc: 0.01 s at most
    assert peak < 1 << 20


@given(st.binary(max_size=300))
def test_only_codec_error_leaves_on_random_bytes(raw: bytes) -> None:
    with suppress(CodecError):
        unpack_service(raw)


@given(plain, st.data())
def test_only_codec_error_leaves_on_mutated_bytes(value: Any, data: st.DataObject) -> None:
    raw = bytearray(msgpack.packb(value))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CodecError):
        unpack_service(bytes(raw))


def test_the_caps_are_exact() -> None:
    assert unpack_service(b"\x91" * 8 + b"\xc0") == [[[[[[[[None]]]]]]]]
    raw = pack_service("x" * 100)
    assert unpack_service(raw, max_bytes=len(raw)) == "x" * 100
    with pytest.raises(CodecError, match="at most"):
        unpack_service(raw, max_bytes=len(raw) - 1)
    assert unpack_service(pack_service([1, 2, 3]), max_items=4) == [1, 2, 3]
    with pytest.raises(CodecError, match="values"):
        unpack_service(pack_service([1, 2, 3]), max_items=3)
    with pytest.raises(CodecError, match="at most"):
        pack_service(b"x" * 65_536)


@pytest.mark.parametrize(
    "value",
    [
        {1: 2}, (1, 2), {1, 2}, object(), 1 << 64, "\ud800", {"a": (1,)}, [bytearray(b"x")], [None] * 16_384,
        [[[[[[[[[None]]]]]]]]], msgpack.ExtType(5, b"x"), msgpack.Timestamp(1),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_would_be_refused_is_not_packed(value: Any) -> None:
    with pytest.raises(CodecError):
        pack_service(value)


def test_a_field_is_exactly_of_its_type() -> None:
    fields = Fields({"n": 1, "b": True, "f": 1.5, "s": "x", "inf": float("inf"), "huge": 1 << 63, "nil": None}, "READY")
    assert (fields.get("n", int), fields.get("b", bool), fields.get("f", float)) == (1, True, 1.5)
    assert type(fields.get("n", float)) is float
    assert (fields.get("nil", str, "d"), fields.get("none", int, 3), fields.optional("nil", str)) == ("d", 3, None)
    for key, kind in (("b", int), ("n", bool), ("f", int), ("s", int), ("b", float), ("inf", float), ("nil", int)):
        with pytest.raises(CodecError, match=rf"READY\.{key}: "):
            fields.get(key, kind)
    with pytest.raises(CodecError, match=r"READY\.missing: nothing, expected str"):
        fields.get("missing", str)
    with pytest.raises(CodecError, match="list, expected a map"):
        Fields([], "READY")


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1], b"1"])
def test_an_item_that_is_no_int_is_refused(value: Any) -> None:
    with pytest.raises(CodecError, match=r"shape\[0\]: \w+, expected int"):
        Fields({"shape": [value]}, "READY").items("shape", read_int)
    if value is not None:
        with pytest.raises(CodecError, match=r"limits\.a: \w+, expected int"):
            Fields({"limits": {"a": value}}, "READY").numbers("limits")


def test_an_item_is_exactly_of_its_type() -> None:
    assert (read_int(3, "n"), read_float(3, "n"), read_str("3", "n")) == (3, 3.0, "3")
    with pytest.raises(CodecError, match="bool, expected float"):
        read_float(True, "n")
    with pytest.raises(CodecError, match="bytes, expected str"):
        read_str(b"3", "n")


def test_time_is_linear_in_the_size() -> None:
    def spent(count: int) -> float:
        raw = b"\xdd" + count.to_bytes(4, "big") + b"\x81\xa1a\x91\x01" * (count // 4) + b"\xc0" * (count - count // 4)
        best = 9.0
        for _ in range(5):
            began = time.process_time()
            unpack_service(raw)
            best = min(best, time.process_time() - began)
        return best

    assert spent(9_000) < 20 * spent(900)  # ten times as much; a cost that is not linear would be a hundred times


def test_a_key_of_the_peer_is_escaped_and_capped_in_a_message() -> None:
    with pytest.raises(CodecError) as caught:
        Fields({"limits": {"\x1b[2J" + "k" * 9999: "x"}}, "READY").numbers("limits")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200
