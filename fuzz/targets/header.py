"""Frame header and extension.

May be refused with: ProtocolError, at a connection as CLOSE with a code of SPEC 19.2; never with another exception.

Invariants:
- what fits its static rule has regions that add up, uses no field that its type does not use, and fits the buffer;
- a header whose declared length is too large is refused by its 32 bytes alone (SPEC 3.2), and the reader's own short
  checks of OPEN and DATA let nothing through that the written-out ones refuse;
- an extension that is accepted is the only encoding of its items: packed again it gives the same bytes.

Input: 1 byte (which role, which place), 32 bytes of header, the rest extension.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from fuzz import vectors
from fuzz.peers import Start, started
from fuzz.streams import HEADER
from fuzz.target import Havoc, Target
from tensorwire.protocol import Closed, ErrorCode, Message, ProtocolError
from tensorwire.protocol.extension import (
    insert_body_length,
    pack_extension,
    parse_extension,
)
from tensorwire.protocol.frame_rules import BASE_RULES
from tensorwire.protocol.header import CONTROL_RULES, DATA_FLAGS, OPEN, OPEN_FLAGS, check_control, check_message
from tensorwire.protocol.limits import MAX_EXTENSION, RECEIVE_BUFFER

PLACES = tuple(BASE_RULES.items)


def check(data: bytes) -> None:
    if len(data) < 1 + HEADER.size:
        return
    header, ext = data[1 : 1 + HEADER.size], data[1 + HEADER.size :][:MAX_EXTENSION]
    _static(header)
    _extension(PLACES[data[0] % len(PLACES)], ext)
    _received(data[0] & 0x80 != 0, header, ext)


def _static(raw: bytes) -> None:
    header = HEADER.unpack(raw)
    length, kind, priority, flags, _, seq, aux, meta_len, ext_len, reserved = header
    rule = CONTROL_RULES.get(kind)
    try:
        if rule is not None:
            check_control(rule, header)
        else:
            check_message(header, OPEN_FLAGS if kind == OPEN else DATA_FLAGS)
    except ProtocolError:
        return
    assert HEADER.size + length <= RECEIVE_BUFFER
    assert ext_len + meta_len <= length
    assert not reserved
    if rule is not None:
        assert length == ext_len + meta_len + rule.body
        unused = (priority, seq, flags & ~rule.flags, 0 if rule.aux else aux)
        assert unused == (0, 0, 0, 0)


def _extension(place: int, ext: bytes) -> None:
    try:
        items = parse_extension(ext)
    except ProtocolError as error:
        assert error.code is ErrorCode.EXTENSION
        return
    packed = pack_extension(
        items.dims, items.body_length, items.idempotency_key, items.session, items.trace, items.timing,
        items.retry_after, items.queue_estimate,
    )  # fmt: skip
    assert packed == ext, "two encodings of the same items"
    if items.body_length is None:
        assert parse_extension(insert_body_length(ext, 70_000)).body_length == 70_000
    for refuse in (BASE_RULES.checked_extension, BASE_RULES.check_extension):
        try:
            refuse(place, ext)
        except ProtocolError as error:
            assert error.code is ErrorCode.EXTENSION


def _received(client: bool, raw: bytes, ext: bytes) -> None:
    """The header alone, then as much as it announces: the extension, and zeros for the rest."""
    length, kind = HEADER.unpack(raw)[:2]
    peer = started(client, Start.CALLING)
    peer.feed(raw)
    if peer.connection.closed:
        peer.finish()
        return
    assert length <= RECEIVE_BUFFER, f"{length} bytes are awaited"
    assert kind in (*CONTROL_RULES, 5, 6)
    for event in peer.feed(ext[:length].ljust(length, b"\0")):
        if isinstance(event, Closed) and not event.remote:
            assert event.code is not ErrorCode.TOO_LARGE, "a length was refused after its bytes had been awaited"
        elif isinstance(event, Message):
            check_message(HEADER.unpack(raw), OPEN_FLAGS if kind == OPEN else DATA_FLAGS)
    peer.finish()


def seeds() -> Iterator[bytes]:
    plain = HEADER.pack(0, 11, 0, 0, 0, 0, 0, 0, 0, 0)
    for ext in vectors.extensions():
        for place in range(len(PLACES)):
            yield bytes((place,)) + HEADER.pack(len(ext), OPEN, 0, 1, 1, 0, 0, 0, len(ext), 0) + ext
    for client, is_open, stream in vectors.sessions():
        if is_open and len(stream) >= HEADER.size:
            yield bytes((client << 7,)) + stream[:1024]
    yield b"\0" + plain


def mutate(data: bytes, most: int, random: Random, havoc: Havoc) -> bytes:
    """Half of the time the length is made to agree with the regions and a small body."""
    data = havoc(data, most)
    if random.random() < 0.5 or len(data) < 1 + HEADER.size:
        return data
    fields = list(HEADER.unpack_from(data, 1))
    fields[8] = min(fields[8], len(data) - 1 - HEADER.size) if random.random() < 0.5 else len(data) - 1 - HEADER.size
    fields[0] = min(fields[7] + fields[8] + random.choice((0, 0, 8, 12, 65536)), 2**32 - 1)
    return data[:1] + HEADER.pack(*fields) + data[1 + HEADER.size :]


TARGET = Target(
    name="header",
    check=check,
    seeds=seeds,
    dictionary=(
        b"\x01\x08", b"\x01\xf8", b"\x02\x08", b"\x03\x10", b"\x04\x18", b"\x05\x19", b"\x06\x1c", b"\x07\x04",
        b"\x08\x04", b"\x00\x00\x01\x00", b"\x01\x00\x01\x00", b"\x00\x04", b"\x01\x04", b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80",
    ),
    max_bytes=1600,
    base_bytes=1 << 20,
    bytes_per_byte=64,
    mutate=mutate,
)  # fmt: skip
