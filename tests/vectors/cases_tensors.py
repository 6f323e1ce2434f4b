"""Vectors of tensors that are accepted: every type, shape and kind, and the same meaning in other bytes (SPEC 18)."""

from __future__ import annotations

import struct

from tests.vectors.case import Vector
from tests.vectors.filled import Filled, i64s, place, u64s
from tests.vectors.flat import DENSE, DTYPES, RAGGED, STRING, Laid, Tensor, itemsize
from tests.vectors.wire import parts


def good(name: str, section: str, *filled: Filled, version: str | None = None, laid: bytes | None = None) -> Vector:
    """A vector that is accepted."""
    places, body, length = place(filled)
    made = Laid(*(one.tensor for one in filled), version=version).whole if laid is None else laid
    found: Vector = {
        "name": name,
        "section": section,
        "valid": True,
        "metadata": parts(made),
        "dims": u64s(*(size for one in filled for size in one.dims)),
        "model": "m",
        "version": version or "",
        "tensors": [one.told(at) for one, at in zip(filled, places, strict=True)],
        "body_length": str(length),
    }
    if len(body) == length:
        found["body"] = parts(body)
    return found


def tensors() -> list[Vector]:
    """What a receiver takes."""
    return [*_types(), *_shapes(), *_strings(), *_layouts()]


def _floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


_EDGES = {1: "00 01 7f 80 ff", 2: "0000 0100 ff7f 0080 ffff", 4: "00000000 01000000 ffffff7f 00000080 ffffffff"}


def _types() -> list[Vector]:
    """Each element type once, with its least, greatest and strangest bits: signalling NaN, subnormals, -0, infinity."""
    found = []
    for dtype in DTYPES:
        width = itemsize(dtype)
        if dtype == "bool":
            raw = b"\x00\x01\x01\x00\x01"
        elif width <= 4:
            raw = bytes.fromhex(_EDGES[width])
        else:
            words = (b"\0" * 8, b"\1" + b"\0" * 7, b"\xff" * 7 + b"\x7f", b"\0" * 7 + b"\x80", b"\xff" * 8)
            raw = b"".join(words) * (width // 8)
        if dtype in {"float32", "complex64"}:  # two NaNs that differ in their payload, and -infinity
            raw += bytes.fromhex("0100a07f 0000c0ff 000080ff 00000080")
        count = len(raw) // width
        found.append(good(f"every kind of bits: {dtype}", "18.3", Filled(Tensor("x", dtype), (count,), raw)))
    return found


def _shapes() -> list[Vector]:
    one = _floats(1.0)
    deep = (1, 2, 3, 4, 1, 1, 2, 1)
    ramp = struct.pack("<48H", *range(48))
    empty = Tensor("e", "float64", (-1, 4))
    return [
        good("no tensors at all", "18.6"),
        good("a scalar: the shape is left out", "18.1", Filled(Tensor("x", shape=None), (), one)),
        good("a scalar: the shape is empty", "18.1", Filled(Tensor("x", shape=()), (), one)),
        good("eight dims, all free", "18.1", Filled(Tensor("x", "uint16", (-1,) * 8), deep, ramp)),
        good("eight dims, all fixed", "18.1", Filled(Tensor("x", "uint16", deep), deep, ramp)),
        good("free and fixed dims mixed", "18.4", Filled(Tensor("x", "uint16", (-1, 3, -1)), (4, 3, 4), ramp)),
        good("a free dim of 0", "18.6", Filled(empty, (0, 4), b"")),
        good("a fixed dim of 0", "18.6", Filled(Tensor("x", shape=(0,)), (0,), b"")),
        good(
            "tensors of no bytes take no place, wherever they stand",
            "18.6",
            Filled(Tensor("a", shape=(0,)), (0,), b""),
            Filled(Tensor("b", "uint8"), (3,), b"abc"),
            Filled(empty, (0, 4), b""),
            Filled(Tensor("c", "uint8"), (2,), b"de"),
            Filled(Tensor("d", shape=(0, 7)), (0, 7), b""),
        ),
        good(
            "a buffer that ends at a multiple of 64 is followed by the next at once",
            "18.6",
            Filled(Tensor("a", "uint8"), (64,), bytes(range(64))),
            Filled(Tensor("b", "uint8"), (1,), b"z"),
        ),
        good(
            "a buffer of 65 bytes is followed by 63 of padding",
            "18.6",
            Filled(Tensor("a", "uint8"), (65,), bytes(range(65))),
            Filled(Tensor("b", "uint8"), (1,), b"z"),
        ),
        good(
            "the example of the page",
            "18.8",
            Filled(Tensor("image", shape=(-1, -1)), (1, 3), _floats(0.5, 1.5, 2.5)),
            Filled(Tensor("words", "uint8", (-1,), STRING), (3,), i64s(0, 2, 2, 5), b"hiyou", items=5),
            Filled(Tensor("empty", shape=(-1, -1)), (0, 4), b""),
        ),
        good(
            "sizes of 2^48 and a body of 2^56 bytes, not written here",
            "18.7",
            Filled(Tensor("x", "uint8", (-1, 256)), (1 << 48, 256), lengths=(1 << 56,)),
        ),
        good(
            "an offset above 2^32",
            "18.7",
            Filled(Tensor("a", "uint8"), ((1 << 32) + 1,), lengths=((1 << 32) + 1,)),
            Filled(Tensor("b", "complex128"), ((1 << 31),), lengths=(1 << 35,)),
            Filled(Tensor("c", "uint8"), (1,), lengths=(1,)),
        ),
    ]


def _strings() -> list[Vector]:
    words = Tensor("s", "uint8", (-1,), STRING)
    rows = Tensor("r", "int32", (-1,), RAGGED)
    ints = struct.pack("<5i", -1, 2, -3, 4, -5)
    text = "hä€𝄞".encode()
    return [
        good("strings of every UTF-8 length", "18.5", Filled(words, (4,), i64s(0, 1, 3, 6, 10), text, items=10)),
        good("no strings: one offset and no blob", "18.5", Filled(words, (0,), i64s(0), b"", items=0)),
        good("three empty strings", "18.5", Filled(words, (3,), i64s(0, 0, 0, 0), b"", items=0)),
        good("a string with a zero byte inside", "18.5", Filled(words, (1,), i64s(0, 3), b"a\0b", items=3)),
        good(
            "one string without a shape",
            "18.5",
            Filled(Tensor("s", "uint8", None, STRING), (), i64s(0, 2), b"hi", items=2),
        ),
        good(
            "strings in two dims, the second fixed",
            "18.5",
            Filled(Tensor("s", "uint8", (-1, 2), STRING), (2, 2), i64s(0, 1, 1, 2, 3), b"abc", items=3),
        ),
        good("ragged rows, one of them empty", "18.5", Filled(rows, (3,), i64s(0, 2, 2, 5), ints, items=5)),
        good("no rows", "18.5", Filled(rows, (0,), i64s(0), b"", items=0)),
        good("rows without items", "18.5", Filled(rows, (2,), i64s(0, 0, 0), b"", items=0)),
        good(
            "ragged rows of items with two dims",
            "18.5",
            Filled(Tensor("r", "uint8", (-1, -1, 2), RAGGED), (2, 3, 2), i64s(0, 1, 2), bytes(range(1, 13)), items=2),
        ),
        good(
            "ragged rows of bools",
            "18.5",
            Filled(Tensor("r", "bool", (2,), RAGGED), (2,), i64s(0, 1, 3), b"\1\0\1", items=3),
        ),
        good(
            "ragged items of no bytes",
            "18.5",
            Filled(Tensor("r", "float32", (-1, 0), RAGGED), (2, 0), i64s(0, 1, 3), b"", items=3),
        ),
        good(
            "dense, strings and ragged in one message",
            "18.4",
            Filled(Tensor("d", "uint8", (-1, -1)), (1, 2), b"\1\2"),
            Filled(words, (1,), i64s(0, 1), b"w", items=1),
            Filled(rows, (2,), i64s(0, 1, 2), ints[:8], items=2),
        ),
    ]


def _layouts() -> list[Vector]:
    """The same meaning in other bytes: what a builder may do."""
    x = Filled(Tensor("x", "uint8"), (2,), b"ab")
    plain = Laid(x.tensor)
    pair = (Filled(Tensor("a", "uint8"), (1,), b"a"), Filled(Tensor("b", "uint8"), (1,), b"b"))
    both = Laid(*(one.tensor for one in pair))
    shared = both.bent("1.table", "i", both.at["1.table"] - both.at["0.vtable"])
    short = bytearray(Laid(Tensor("x", "uint8", None)).whole)
    short[plain.at["0.vtable"]] = 8  # kind and shape are absent, so a builder cuts them off
    return [
        good("vtables behind their tables", "18.2", x, laid=Laid(x.tensor, vtable_first=False).whole),
        good("two tensors share a vtable", "18.2", *pair, laid=shared),
        good(
            "a vtable without its last fields", "18.2", Filled(Tensor("x", "uint8", None), (), b"a"), laid=bytes(short)
        ),
        good("bytes that nothing points to", "18.2", x, laid=plain.whole + b"\xff" * 9),
        good("a version", "18.1", x, version="7"),
        good("a version of no bytes is no version", "18.1", x, version=""),
        good("a kind that is written although it is the default", "18.2", x, laid=_written_kind()),
        good("names of 256 bytes", "18.1", Filled(Tensor("ü" * 128, "uint8"), (1,), b"a")),
        good("a name with a zero byte inside", "18.1", Filled(Tensor("a\0b", "uint8"), (1,), b"a")),
        good(
            "names that differ in a zero byte", "18.1", *(Filled(Tensor(n, "uint8"), (0,), b"") for n in ("a", "a\0"))
        ),
    ]


def _written_kind() -> bytes:
    laid = Laid(Tensor("x", "uint8", (-1,), RAGGED))
    laid.raw[laid.at["0.kind"]] = DENSE
    return laid.whole
