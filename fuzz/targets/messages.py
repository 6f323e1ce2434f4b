"""Control and service messages: strict msgpack with its typed forms, and the entries of HELLO, WELCOME and AUTH.

May be refused with: CodecError (msgpack), ProtocolError with HANDSHAKE, VERSION, FEATURE or MAC (entries).

Invariants:
- an accepted msgpack value is plain, within the caps on depth and values, what the msgpack library reads too, and is
  the same after packing and unpacking it;
- a typed form that was read can be written, and reads as the same;
- accepted entries are the only encoding of themselves; a HELLO that was accepted gets a WELCOME its client accepts.

Input: 1 byte (which message), the rest its bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import msgpack

from fuzz import streams, vectors
from fuzz.target import Target
from tensorwire.codec import (
    CodecError,
    DescribeRequest,
    Description,
    Health,
    HealthReport,
    HealthRequest,
    ImageHints,
    Kind,
    ModelEntry,
    ModelList,
    Ready,
    State,
    TensorSpec,
    dtype_by_name,
    pack_service,
    unpack_service,
)
from tensorwire.codec.limits import MAX_SERVICE_BYTES, MAX_SERVICE_DEPTH, MAX_SERVICE_ITEMS
from tensorwire.protocol import Config, ErrorCode, ProtocolError, Role
from tensorwire.protocol.handshake import (
    check_welcome,
    choose,
    pack_entries,
    pack_welcome,
    parse_entries,
    parse_hello,
    parse_welcome,
)

CLIENT, SERVER = Config(Role.CLIENT), Config(Role.SERVER, features_offered=(7,))
REFUSALS = (ErrorCode.HANDSHAKE, ErrorCode.VERSION, ErrorCode.FEATURE, ErrorCode.MAC)


class Form(Protocol):
    """A typed service message."""

    def pack(self) -> bytes:
        """Its msgpack."""
        ...


FORMS: tuple[Callable[[bytes], Form], ...] = (
    Ready.unpack, ModelList.unpack, DescribeRequest.unpack, Description.unpack, HealthRequest.unpack,
    HealthReport.unpack,
)  # fmt: skip


def check(data: bytes) -> None:
    if not data:
        return
    which, raw = data[0] % 12, data[1:]
    if which < len(FORMS):
        _form(FORMS[which], raw)
    elif which < 9:
        _value(raw)
    else:
        _entries(raw)


def _form(unpack: Callable[[bytes], Form], raw: bytes) -> None:
    try:
        form = unpack(raw)
    except CodecError:
        return
    try:
        again = form.pack()
    except CodecError as error:
        # Defaults and unknown keys: what is written may be longer than what was read.
        assert "at most" in str(error) or "more than" in str(error), f"what was read cannot be written: {error}"
        return
    assert unpack(again) == form


def _value(raw: bytes) -> None:
    try:
        value = unpack_service(raw)
    except CodecError:
        return
    values, depth = _measure(value)
    assert len(raw) <= MAX_SERVICE_BYTES
    assert values <= MAX_SERVICE_ITEMS
    assert depth <= MAX_SERVICE_DEPTH
    assert _same(value, msgpack.unpackb(raw, raw=False, object_pairs_hook=_distinct))
    packed = pack_service(value)
    assert pack_service(unpack_service(packed)) == packed


def _distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    assert len(dict(pairs)) == len(pairs), "a key that came twice was accepted"
    return dict(pairs)


def _measure(value: Any) -> tuple[int, int]:
    """Values (keys too) and levels of nesting, counted anew; AssertionError if one is not plain."""
    if type(value) is dict:
        assert all(type(key) is str for key in value)
        below = [_measure(item) for item in value.values()]
        values = len(value) + 1 + sum(count for count, _ in below)
    elif type(value) is list:
        below = [_measure(item) for item in value]
        values = 1 + sum(count for count, _ in below)
    else:
        assert value is None or type(value) in {bool, int, float, str, bytes}, f"{type(value).__name__} is not plain"
        return 1, 0
    return values, 1 + max((depth for _, depth in below), default=-1)


def _same(left: Any, right: Any) -> bool:
    if type(left) is float and math.isnan(left):
        return type(right) is float and math.isnan(right)
    if type(left) is list:
        return type(right) is list and len(left) == len(right) and all(map(_same, left, right))
    if type(left) is dict:
        return type(right) is dict and list(left) == list(right) and all(map(_same, left.values(), right.values()))
    return type(left) is type(right) and bool(left == right)


def _entries(raw: bytes) -> None:
    try:
        entries = parse_entries(raw)
    except ProtocolError as error:
        assert error.code is ErrorCode.HANDSHAKE
    else:
        assert pack_entries(list(entries.items())) == raw, "two encodings of the same entries"
    with suppress(ProtocolError):
        check_welcome(CLIENT, parse_welcome(raw))
    try:
        hello = parse_hello(raw)
        choice = choose(SERVER, hello)
    except ProtocolError as error:
        assert error.code in REFUSALS, f"{error.code} is not a refusal of the handshake"
        return
    welcome = parse_welcome(pack_welcome(SERVER, bytes(32), bytes(8), bytes(16), choice))
    offered = Config(
        Role.CLIENT,
        version_min=max(hello.version_min, 1),  # a range from 0 on is legal and says no more: there is no version 0
        version_max=hello.version_max,
        features_offered=hello.features,
        features_required=hello.features_required,
    )
    check_welcome(offered, welcome)


def forms() -> tuple[Form, ...]:
    """One filled message of each form, in the order of FORMS."""
    spec = TensorSpec("x", dtype_by_name("float32"), (-1, 3), Kind.DENSE)
    words = TensorSpec("words", dtype_by_name("uint8"), (-1,), Kind.STRING)
    hints = ImageHints((224, 224), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "NHWC", 256)
    return (
        Ready("anonymous", ("*",), "tensorwire", "0", 10.5, {"max_message": 1 << 40}),
        ModelList((ModelEntry("classifier", "7", State.IDLE), ModelEntry("other", "1", State.LOADING))),
        DescribeRequest("classifier", "7"),
        Description("m", "7", "torch", "process", "cpu", 32, (spec, words), (spec,), {"x": hints}, ("cat", "dog")),
        HealthRequest("classifier", watch=True),
        HealthReport((Health("m", "7", State.STALLED, 3, 0.5, 8, 1, "waits"),)),
    )


def seeds() -> Iterator[bytes]:
    for which, form in enumerate(forms()):
        yield bytes((which,)) + form.pack()
        yield bytes((6,)) + form.pack()
    values: tuple[Any, ...] = (None, True, 1 << 63, -(1 << 63), 0.5, "text", b"bytes", [[[[]]]], {"a": {"b": [1, 2.5]}})
    for value in values:
        yield bytes((6,)) + pack_service(value)
    for raw in (
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x91" * 8 + b"\xc0",
        b"\x91" * 9 + b"\xc0",
        b"\x81\x01\x02",
        b"\xd4\x05\x00",
    ):
        yield bytes((6,)) + raw
    # Headers that promise thousands of items, each inside the one before: memory is taken before an item is there.
    yield bytes((6,)) + b"\xdc\x0f\xff" * 200
    yield bytes((6,)) + b"\xde\x07\xff\xa0" * 200
    for _, _, stream in vectors.sessions():
        for frame in streams.cut(stream):
            if len(frame) > streams.HEADER.size and frame[4] in {1, 2, 3}:
                yield bytes((9,)) + frame[streams.HEADER.size :][:4096]


WORDS = (
    "principal", "models", "server", "name", "version", "rate", "limits", "model", "state", "backend", "engine",
    "device", "max_batch", "inputs", "outputs", "images", "labels", "size", "mean", "std", "layout", "resize", "dtype",
    "shape", "kind", "watch", "queue_depth", "last_progress", "effective_max_batch", "restarts", "detail", "idle",
    "float32", "ragged", "string", "NCHW",
)  # fmt: skip

TARGET = Target(
    name="messages",
    check=check,
    seeds=seeds,
    dictionary=(
        *(pack_service(word) for word in WORDS),
        *(bytes((code,)) for code in (0x80, 0x90, 0xC0, 0xC1, 0xC2, 0xC4, 0xC7, 0xCA, 0xCB, 0xCF, 0xD3, 0xD4, 0xFF)),
        *(struct.pack(">BI", code, size) for code in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF) for size in (1, 0xFFFF, 2**32 - 1)),
        *(struct.pack("<HH", kind, size) for kind in range(1, 12) for size in (1, 4, 8, 16, 32)),
    ),
    max_bytes=8192,
    base_bytes=1 << 20,
    bytes_per_byte=256,
)
