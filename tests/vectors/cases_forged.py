"""Vectors of tensors that are refused: forged metadata, dims that do not fit, wrong bodies (SPEC 18)."""

from __future__ import annotations

import struct

from tests.vectors.case import Vector
from tests.vectors.filled import Filled, i64s, place, u64s
from tests.vectors.flat import RAGGED, STRING, Laid, Tensor
from tests.vectors.wire import parts


def bad_metadata(name: str, section: str, raw: bytes) -> Vector:
    """A vector whose metadata is refused, whatever stands beside it."""
    return {"name": name, "section": section, "valid": False, "refused": "metadata", "metadata": parts(raw)}


def bad_dims(name: str, section: str, dims: tuple[int, ...], *tensors: Tensor) -> Vector:
    """A vector whose metadata is fine and whose sizes are refused."""
    return bad_metadata(name, section, Laid(*tensors).whole) | {"refused": "dims", "dims": u64s(*dims)}


def bad_body(name: str, section: str, body: bytes, *filled: Filled) -> Vector:
    """A vector whose body is refused."""
    dims = tuple(size for one in filled for size in one.dims)
    return bad_dims(name, section, dims, *(one.tensor for one in filled)) | {"refused": "body", "body": parts(body)}


def forged() -> list[Vector]:
    """What a receiver refuses."""
    return [*_forged(), *_names(), *_sizes(), *_bodies()]


def _forged() -> list[Vector]:
    """Offsets, vtables, vectors and strings that lead astray."""
    laid = Laid(Tensor("x", "float32", (-1, 3), RAGGED), Tensor("y", "uint8", (-1,), STRING), version="7")
    size = len(laid.raw)
    at = laid.at
    bent, pointed = laid.bent, laid.pointed
    cases: list[tuple[str, bytes]] = [
        ("no bytes", b""),
        ("seven bytes", laid.whole[:7]),
        ("eight bytes", laid.whole[:8]),
        ("another file identifier", bent("root", "4s", b"TWM2", by=4)),
        ("no file identifier", bent("root", "I", 0, by=4)),
        ("size-prefixed", struct.pack("<I", size) + laid.whole),
        ("the root is behind the end", bent("root", "I", (size + 3) // 4 * 4)),
        ("the root is the last byte", bent("root", "I", size - 1)),
        ("the root's offset is 0", bent("root", "I", 0)),
        ("the root's offset is 2^32 - 4", bent("root", "I", 2**32 - 4)),
        ("the root's offset is 2^31", bent("root", "I", 2**31)),
        ("the root is not aligned", pointed("root", "table", 2)),
        ("a vtable before the buffer", bent("table", "i", at["table"] + 2)),
        ("a vtable behind the buffer", bent("table", "i", at["table"] - size)),
        ("a vtable 2^31 before its table", bent("table", "i", -(2**31))),
        ("a vtable 2^31 - 2 behind its table", bent("table", "i", 2**31 - 2)),
        ("a vtable at an odd place", bent("table", "i", at["table"] - at["vtable"] - 1)),
        ("a table that is its own vtable", bent("table", "i", 0)),
        ("a vtable of 0 bytes", bent("vtable", "H", 0)),
        ("a vtable of 2 bytes", bent("vtable", "H", 2)),
        ("a vtable of 9 bytes", bent("vtable", "H", 9)),
        ("a vtable of 65,534 bytes", bent("vtable", "H", 65534)),
        ("a vtable with a field that the schema lacks", bent("vtable", "H", 12)),
        ("a table of 0 bytes", bent("vtable", "H", 0, by=2)),
        ("a table of 65,535 bytes", bent("vtable", "H", 65535, by=2)),
        ("a field in the table's first four bytes", bent("vtable", "H", 2, by=4)),
        ("a field behind its table", bent("vtable", "H", 16, by=4)),
        ("a field that ends behind its table", bent("vtable", "H", 14, by=2)),
        ("a field at 65,532", bent("vtable", "H", 65532, by=4)),
        ("a field at an odd place", bent("vtable", "H", 5, by=4)),
        ("a string offset of 0", bent("model", "I", 0)),
        ("a string offset of 2^32 - 4", bent("model", "I", 2**32 - 4)),
        ("a string behind the end", bent("model", "I", (size - at["model"] + 3) // 4 * 4)),
        ("a string that is not aligned", pointed("model", ">model", -2)),
        ("a string of 2^32 - 1 bytes", bent(">model", "I", 2**32 - 1)),
        ("a string of 2^31 bytes", bent(">model", "I", 2**31)),
        ("a string one byte longer than the buffer", bent(">model", "I", 2)),
        ("a string without closing zero", bent(">model", "B", 1, by=5)),
        ("a vector of 2^32 - 1 tensors", bent(">tensors", "I", 2**32 - 1)),
        ("a vector of 2^30 tensors", bent(">tensors", "I", 2**30)),
        ("a vector of 1024 tensors in a buffer that is too small", bent(">tensors", "I", 1024)),
        ("a vector that runs into the first table", bent(">tensors", "I", 3)),
        ("a vector that is not aligned", pointed("tensors", ">tensors", 2)),
        ("a tensor that is its own offset", bent("[0]", "I", 0)),
        ("a tensor that is the root", pointed("[0]", "table")),
        ("a tensor whose offset is 2^32 - 1", bent("[1]", "I", 2**32 - 1)),
        ("two tensors are one table", pointed("[1]", "0.table")),
        ("a shape of 9 dims", bent(">0.shape", "I", 9)),
        ("a shape of 2^29 dims: the size wraps", bent(">0.shape", "I", 2**29)),
        ("a shape of 2^32 - 1 dims", bent(">0.shape", "I", 2**32 - 1)),
        ("a shape whose numbers are not aligned to 8", _unaligned_shape()),
        ("a shape that is the root's table", pointed("0.shape", "table")),
        ("a type that ends behind its table", Laid(Tensor("x", shape=None)).bent("0.vtable", "H", 11, by=2)),
    ]
    for field, slot in (("model", 4), ("tensors", 8)):
        cases.append((f"no {field}", bent("vtable", "H", 0, by=slot)))
    for field, slot in (("name", 4), ("dtype", 6)):
        cases.append((f"a tensor without {field}", bent("0.vtable", "H", 0, by=slot)))
    return [bad_metadata(name, "18.2", raw) for name, raw in cases] + [_shared()]


def _unaligned_shape() -> bytes:
    laid = Laid(Tensor("x", "uint8", (3,)))
    raw = bytearray(laid.whole)
    raw += bytes(-len(raw) % 8)  # the count lies at a multiple of 8, so the number behind it does not
    struct.pack_into("<I", raw, laid.at["0.shape"], len(raw) - laid.at["0.shape"])
    return bytes(raw) + struct.pack("<Iq4x", 1, 3)


def _shared() -> Vector:
    """1024 offsets to one table: small to send, long to visit."""
    laid = Laid(*(Tensor("x", "uint8", (-1,)) for _ in range(1024)))
    first = laid.at["0.table"]
    keep = laid.at["1.vtable"]
    raw = bytearray(laid.whole[:keep])
    raw += bytes(-len(raw) % 4)
    for n in range(1024):
        struct.pack_into("<I", raw, laid.at[f"[{n}]"], first - laid.at[f"[{n}]"])
    struct.pack_into("<I", raw, laid.at["model"], len(raw) - laid.at["model"])
    return bad_metadata("1024 tensors are one table", "18.2", bytes(raw) + struct.pack("<I2s", 1, b"m"))


def _names() -> list[Vector]:
    """Structure is right, what it says is not."""
    laid = Laid(Tensor("abcd", "uint8", (-1, 3), STRING), model="abcd", version="abcd")
    found = []
    for field in ("model", "version", "0.name"):
        what = field.rpartition(".")[2]
        for name, raw in (
            ("a lone continuation byte", b"a\x80cd"),
            ("an overlong slash", b"\xc0\xafcd"),
            ("a surrogate", b"\xed\xa0\x80d"),
            ("a code point above U+10FFFF", b"\xf4\x90\x80\x80"),
            ("a character cut at the end", b"abc\xc3"),
            ("a byte 0xff", b"ab\xffd"),
        ):
            found.append(bad_metadata(f"{what} with {name}", "18.2", laid.bent(f">{field}", "4s", raw, by=4)))
    for code in (3, 15, 255):
        found.append(bad_metadata(f"type code {code}", "18.3", laid.bent("0.dtype", "B", code)))
    plain = Laid(Tensor("x", "float32"))
    for code, bits, lanes in ((2, 0, 1), (2, 31, 1), (2, 8, 1), (2, 128, 1), (2, 32, 0), (2, 32, 2), (6, 1, 1),
                              (4, 32, 1), (5, 32, 1), (10, 16, 1), (0, 128, 1), (2, 32, 65535)):  # fmt: skip
        name = f"type ({code}, {bits}, {lanes}) is in no table"
        found.append(bad_metadata(name, "18.3", plain.bent("0.dtype", "BBH", code, bits, lanes)))
    for kind in (3, 255):
        found.append(bad_metadata(f"kind {kind}", "18.2", laid.bent("0.kind", "B", kind)))
    for dim in (-2, -(2**63), 2**48 + 1, 2**63 - 1):
        found.append(bad_metadata(f"a fixed dim of {dim}", "18.1", Laid(Tensor("x", shape=(dim,))).whole))
    words = Tensor("x", "int8", (-1,), STRING)
    return [
        *found,
        bad_metadata("nine dims", "18.1", Laid(Tensor("x", shape=(1,) * 9)).whole),
        bad_metadata("a model of no bytes", "18.1", Laid(model="").whole),
        bad_metadata("a model of 257 bytes", "18.1", Laid(model="m" * 257).whole),
        bad_metadata("a version of 257 bytes", "18.1", Laid(version="v" * 257).whole),
        bad_metadata("a tensor name of no bytes", "18.1", Laid(Tensor("")).whole),
        bad_metadata("a tensor name of 257 bytes", "18.1", Laid(Tensor("n" * 257)).whole),
        bad_metadata("two tensors of one name", "18.1", Laid(Tensor("x"), Tensor("y"), Tensor("x")).whole),
        bad_metadata("strings whose type is int8", "18.5", Laid(words).whole),
        bad_metadata("ragged without a dim", "18.5", Laid(Tensor("x", "int8", (), RAGGED)).whole),
        bad_metadata("ragged without a shape", "18.5", Laid(Tensor("x", "int8", None, RAGGED)).whole),
        bad_metadata("65,537 bytes", "19.4", Laid(Tensor("x")).whole.ljust(65537, b"\0")),
    ]


def _sizes() -> list[Vector]:
    """DIMS that do not fit the metadata, and products that pass 64 bits."""
    byte, wide, row = Tensor("x", "uint8"), Tensor("x", "uint8", (-1, -1)), Tensor("x", "uint8", (256, -1))
    words, rows = Tensor("x", "uint8", (-1,), STRING), Tensor("x", "uint8", (-1, -1), RAGGED)
    table = Tensor("x", "uint8", (-1, -1), STRING)
    return [
        bad_dims("no dims where one is free", "18.4", (), byte),
        bad_dims("one dim too few", "18.4", (1,), wide),
        bad_dims("one dim too many", "18.4", (1, 1), byte),
        bad_dims("a dim where none is free", "18.4", (1,), Tensor("x", shape=(1,))),
        bad_dims("a dim where there is no tensor", "18.4", (0,)),
        bad_dims("strings without the length of the blob", "18.4", (1,), words),
        bad_dims("ragged without the number of items", "18.4", (1, 1), rows),
        *(bad_dims(f"a dim of {size}", "18.4", (size,), byte) for size in (2**48 + 1, 2**63, 2**64 - 1)),
        bad_dims("2^32 x 2^32 bytes: 0 in 64 bits", "18.7", (2**32, 2**32), wide),
        bad_dims("2^48 x 2^16: 0 in 64 bits", "18.7", (2**48, 2**16), wide),
        bad_dims("2^48 x 2^13 of 8 bytes: 0 in 64 bits", "18.7", (2**48, 2**13), Tensor("x", "int64", (-1, -1))),
        bad_dims("2^48 x (2^16 + 1): small in 64 bits", "18.7", (2**48, 2**16 + 1), wide),
        bad_dims("eight dims of 2^48", "18.7", (2**48,) * 8, Tensor("x", "uint8", (-1,) * 8)),
        bad_dims("fixed dims of 2^48 each", "18.7", (), Tensor("x", "uint8", (2**48,) * 4)),
        bad_dims("2^48 x 2^48 x 0: what is left is too large", "18.7", (2**48, 0), Tensor("x", shape=(2**48, -1, -1))),
        bad_dims("one byte more than 2^56", "18.7", (1 << 48,), row, Tensor("y", "uint8", (1,))),
        bad_dims("two tensors of 2^56 bytes", "18.7", (2**48, 2**48), row, Tensor("y", "uint8", (256, -1))),
        bad_dims("2^61 strings: the offsets are 0 in 64 bits", "18.7", (2**48, 2**13, 0), table),
        bad_dims("a blob of 2^48 + 1 bytes", "18.4", (0, 2**48 + 1), words),
        bad_dims("ragged items of 2^48 x 2^48", "18.7", (1, 2**48, 2**48), rows),
        bad_dims("ragged items of 2^48 x 2^16: 0 in 64 bits", "18.7", (1, 2**16, 2**48), rows),
    ]  # fmt: skip


def _bodies() -> list[Vector]:
    """Bodies of a wrong length, and bytes with rules of their own."""
    one = Filled(Tensor("x", "uint8"), (3,), b"abc")
    two = (Filled(Tensor("x", "uint8"), (3,), b"abc"), Filled(Tensor("y", "uint8"), (2,), b"de"))
    _, whole, _ = place(two)
    none = Filled(Tensor("x", "uint8"), (0,), b"")
    bools = Filled(Tensor("x", "bool"), (3,), b"\0\1\0")
    words = Filled(Tensor("s", "uint8", (-1,), STRING), (2,), i64s(0, 1, 3), b"abc", items=3)
    rows = Filled(Tensor("r", "int16", (-1,), RAGGED), (2,), i64s(0, 1, 2), b"abcd", items=2)
    found = [
        bad_body("no body", "18.6", b"", one),
        bad_body("a body one byte short", "18.6", b"ab", one),
        bad_body("a body one byte long", "18.6", b"abcd", one),
        bad_body("a body where there are no bytes", "18.6", b"\0", none),
        bad_body("a body where there is no tensor", "18.6", b"\0"),
        bad_body("the padding is left out", "18.6", b"abcde", *two),
        bad_body("two buffers, one byte short", "18.6", whole[:-1], *two),
        bad_body("two buffers, padded at the end", "18.6", whole.ljust(128, b"\0"), *two),
        bad_body("the first byte of the padding is 1", "18.6", whole[:3] + b"\1" + whole[4:], *two),
        bad_body("the last byte of the padding is 1", "18.6", whole[:63] + b"\1" + whole[64:], *two),
        bad_body("a bool of 2", "18.3", b"\0\2\0", bools),
        bad_body("a bool of 255", "18.3", b"\1\1\xff", bools),
        bad_body(
            "a bool of 2 in a ragged row",
            "18.3",
            place((Filled(Tensor("r", "bool", (1,), RAGGED), (1,), i64s(0, 1), b"\2", items=1),))[1],
            Filled(Tensor("r", "bool", (1,), RAGGED), (1,), i64s(0, 1), b"\2", items=1),
        ),
    ]
    for what, filled in (("strings", words), ("rows", rows)):
        _, body, _ = place((filled,))
        last = filled.items or 0
        for name, bounds in (
            ("the first offset is 1", (1, 1, last)),
            ("the first offset is negative", (-1, 1, last)),
            ("offsets fall", (0, last + 1, last)),
            ("the last offset is too small", (0, 1, last - 1)),
            ("the last offset is too large", (0, 1, last + 1)),
            ("an offset is 2^63 - 1", (0, 2**63 - 1, last)),
            ("an offset is -2^63", (0, -(2**63), last)),
        ):
            found.append(bad_body(f"{what}: {name}", "18.5", i64s(*bounds) + body[24:], filled))
    for name, blob in (
        ("a character is cut by an offset", "€".encode()),
        ("a byte is 0xff", b"a\xffb"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("an overlong form", b"a\xc0\xaf"),
    ):
        cut = (0, 1, 3) if "offset" in name else (0, 3)
        bad = Filled(words.tensor, (len(cut) - 1,), i64s(*cut), blob, items=3)
        found.append(bad_body(f"strings: {name}", "18.5", place((bad,))[1], bad))
    return found
