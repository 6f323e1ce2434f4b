"""Forged metadata, sizes that overflow, hostile names and msgpack: a typed refusal that names the field, no more."""

from __future__ import annotations

import random
import struct
import time

import msgpack
import pytest

from tensorwire.codec import FREE, Kind, TensorSpec, dtype_by_name, encode_metadata
from tensorwire.protocol import Status, pack_extension
from tests.attacks.conftest import Target
from tests.attacks.peer import DATA, ECHO, ECHO_BODY, END, FLOAT, LIMIT, Frame, Raw, call, dims, metadata, service

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

NEVER_SHOWN = ("/", "\x1b", "\n", "\r", "\x00", "Traceback", "site-packages")


def refusals(target: Target, calls: list[bytes]) -> list[Frame]:
    """The END of each call, all on one connection, which survives them."""
    with Raw(target.address) as peer:
        for data in calls:
            peer.send(data)
        frames = [peer.receive() for _ in calls]
        assert peer.works(len(calls) + 1)
    for answer in frames:
        assert answer.kind == END
        assert len(answer.meta) <= 1024
        assert answer.text.isprintable()
        assert not any(word in answer.text for word in NEVER_SHOWN), answer.text
    return frames


SIZES: dict[str, tuple[int, ...]] = {
    "product-over-2^63": (2**32, 2**32),
    "product-over-2^64": (2**40, 2**40),
    "wraps-to-16-bytes": (2**62 + 4, 1),
    "2^63": (2**63, 1),
    "2^64-1": (1, 2**64 - 1),
    "zero-times-huge": (0, 2**48),
    "zero-rows": (0, 4),
    "too-many": (1, 2, 2),
    "too-few": (4,),
    "31-and-one": (1,) * 32,
}


def test_sizes_that_overflow_or_do_not_fit(target: Target) -> None:
    calls = [call(i, ext=pack_extension(dims=dims(*sizes))) for i, sizes in enumerate(SIZES.values(), 1)]
    for name, answer in zip(SIZES, refusals(target, calls), strict=True):
        assert answer.aux == Status.INVALID_ARGUMENT, name
        assert "expected" in answer.text or "at most" in answer.text or "larger" in answer.text, answer.text


def test_nine_dimensions(target: Target) -> None:
    shape = ECHO.index(struct.pack("<Iqq", 2, FREE, FREE))
    calls = [
        call(i, meta=ECHO[:shape] + struct.pack("<I", count) + ECHO[shape + 4 :])
        for i, count in enumerate((9, 2**31, 2**32 - 1), 1)
    ]
    for answer in refusals(target, calls):
        assert answer.aux == Status.INVALID_ARGUMENT
        assert "shape" in answer.text


def test_forged_flatbuffers(target: Target) -> None:
    """Every byte of the metadata at 0, 255 and with its top bit turned, and 300 random pieces."""
    forged = []
    for at in range(len(ECHO)):
        for value in {0, 255, ECHO[at] ^ 0x80} - {ECHO[at]}:
            forged.append(ECHO[:at] + bytes((value,)) + ECHO[at + 1 :])
    source = random.Random(7)
    for _ in range(300):
        piece = bytearray(ECHO)
        for _ in range(source.randrange(1, 6)):
            at = source.randrange(0, len(piece) - 4) & ~3
            piece[at : at + 4] = source.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", source.randbytes(4)))
        forged.append(bytes(piece))
    with Raw(target.address) as peer:
        for stream_id, meta in enumerate(forged, 1):
            peer.send(call(stream_id, meta=meta))
            answer = peer.receive()
            if answer.kind == END:  # a bit that only padding or an unused default holds leaves a good call
                assert answer.aux in (Status.INVALID_ARGUMENT, Status.NOT_FOUND), answer.text
                assert answer.text.isprintable()
        assert peer.works(len(forged) + 1)


NAMES = [
    "../echo",
    "/etc/passwd",
    "echo/../echo",
    "echo\x00",
    "\x00",
    "\x1b[31mecho",
    "echo\r\nX: y",
    "ёcho",
    "e" * 256,
    "$nope",
    "$",
    " echo",
]


def test_names_are_keys_and_never_paths(target: Target) -> None:
    calls = [call(stream_id, meta=metadata(name)) for stream_id, name in enumerate(NAMES, 1)]
    with Raw(target.address) as peer:
        peer.send(b"".join(calls))
        for _ in calls:
            answer = peer.receive()
            assert (answer.kind, answer.aux) == (END, Status.NOT_FOUND)
            assert answer.text.isascii()
            assert answer.text.isprintable()
            assert len(answer.text) < 400


def test_a_name_of_64_kib_and_tensor_names_with_controls(target: Target) -> None:
    long = bytearray(ECHO)
    at = long.index(b"\x04\x00\x00\x00echo")
    long[at : at + 4] = struct.pack("<I", 65000)
    calls = [
        call(1, meta=bytes(long) + b"e" * 65000),
        call(2, meta=metadata("echo", "\x1b]0;x\x07")),
        call(3, meta=metadata("echo", "x" * 200)),
    ]
    for answer in refusals(target, calls):
        assert answer.aux == Status.INVALID_ARGUMENT
        assert len(answer.text) < 400


def test_padding_and_bools_that_are_not_what_they_must_be(target: Target) -> None:
    a, b = TensorSpec("a", FLOAT, (FREE, FREE)), TensorSpec("b", FLOAT, (FREE, FREE))
    body = bytes(4) + b"\x01" + bytes(59) + bytes(12)
    data = call(1, meta=encode_metadata("two", "", [a, b]), ext=pack_extension(dims=dims(1, 1, 1, 3)), body=body)
    strings = encode_metadata("echo", "", [TensorSpec("x", dtype_by_name("uint8"), (FREE,), Kind.STRING)])
    lies = call(2, meta=strings, ext=pack_extension(dims=dims(1, 2)), body=struct.pack("<2q", 0, 2**40) + bytes(50))
    padding, _ = refusals(target, [data, lies])
    assert "padding at 4 to 64" in padding.text


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "nil": b"\xc0",
    "trailing": msgpack.packb({}) + b"\xc0",
    "nested-arrays": b"\x91" * 16000 + b"\xc0",
    "nested-maps": b"\x81\xa1a" * 16000 + b"\xc0",
    "array-of-2^32": b"\xdd\xff\xff\xff\xff",
    "map-of-2^32": b"\xdf\xff\xff\xff\xff",
    "string-of-2^32": b"\xdb\xff\xff\xff\xff",
    "extension": msgpack.packb({"model": msgpack.ExtType(1, b"x")}),
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "same-key-twice": b"\x82\xa5model\xa0\xa5model\xa0",
    "key-of-int": msgpack.packb({1: 2}),
    "bool-for-str": msgpack.packb({"model": True}),
    "int-for-bool": msgpack.packb({"watch": 1}),
    "bad-utf8": b"\x81\xa5model\xa1\xff",
    "surrogate": b"\x81\xa5model\xa3\xed\xa0\x80",
    "wide": msgpack.packb([0] * 60000),
    "many-keys": msgpack.packb({str(i): i for i in range(8000)}),
}


@pytest.mark.parametrize("name", ["$health", "$describe"])
def test_hostile_msgpack(target: Target, name: str) -> None:
    for what, payload in HOSTILE.items():
        with Raw(target.address) as peer:
            began = time.perf_counter()
            peer.send(service(1, name, payload))
            answer = peer.receive()
            assert time.perf_counter() - began < 1.0, what
            if (name, what) == ("$health", "many-keys"):  # unknown keys are for newer clients
                assert answer.kind == DATA
                continue
            assert (answer.kind, answer.aux) == (END, Status.INVALID_ARGUMENT), (what, answer.text)
            assert peer.works(2)


def test_services_asked_for_models_that_are_none(target: Target) -> None:
    names = ["../../etc/passwd", "\x1b[31m", "x" * 60000, "$health", "echo\x00"]
    calls = [service(i, "$describe", msgpack.packb({"model": name})) for i, name in enumerate(names, 1)]
    with Raw(target.address) as peer:
        for data in calls:
            peer.send(data)
            answer = peer.receive()
            assert (answer.kind, answer.aux) == (END, Status.NOT_FOUND)
            assert answer.text.isprintable()
            assert len(answer.text) < 400


def test_a_service_call_with_other_tensors(target: Target) -> None:
    answers = refusals(target, [call(1, meta=metadata("$models")), call(2, meta=metadata("$health", "payload"))])
    assert all(answer.aux == Status.INVALID_ARGUMENT and "payload" in answer.text for answer in answers)


def test_deadlines_of_0_and_1_microsecond_and_the_most(target: Target) -> None:
    with Raw(target.address) as peer:
        for stream_id, aux in enumerate((0, 1, 2, 2**32 - 1), 1):
            peer.send(call(stream_id, aux=aux))
            answer = peer.receive()
            assert answer.kind == DATA or (aux in (1, 2) and answer.aux == Status.DEADLINE_EXCEEDED)
            assert answer.kind == DATA or "deadline" in answer.text
        assert ECHO_BODY
