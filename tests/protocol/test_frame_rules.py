"""What may arrive is a value of the connection: items by place, flags, types; and what is remembered of good heads."""

from __future__ import annotations

from struct import Struct
from typing import Any

import pytest

from fuzz.strategies_frames import END_STREAM, frame
from tensorwire.protocol import Closed, Connection, ErrorCode, Flag, FrameType, Message, ProtocolError, pack_extension
from tensorwire.protocol.extension import CLIENT_DATA, DIMS, IDEMPOTENCY_KEY, SERVER_DATA, SERVER_LAST
from tensorwire.protocol.frame_rules import BASE_RULES, FrameRules, rules_for
from tensorwire.protocol.header import END, OPEN, OPEN_FLAGS
from tests.protocol.wiring import feed, open_pair


@pytest.mark.parametrize("place", BASE_RULES.items)
def test_each_place_takes_its_own_items_alone(place: int) -> None:
    timing = pack_extension(timing=(0,) * 7)
    trace = pack_extension(trace=bytes(25))
    retry = pack_extension(retry_after=1)
    dims = pack_extension(bytes(8))
    expected = {
        OPEN: {trace, dims},
        CLIENT_DATA: {dims},
        SERVER_DATA: {dims},
        SERVER_LAST: {timing, dims},
        END: {timing, retry},
    }
    for ext in (timing, trace, retry, dims):
        if ext in expected[place]:
            BASE_RULES.checked_extension(place, ext)
        else:
            with pytest.raises(ProtocolError, match="not allowed or not negotiated"):
                BASE_RULES.checked_extension(place, ext)


def test_the_memory_of_valid_heads_is_bounded() -> None:
    rules = FrameRules()
    for n in range(5_000):
        ext = pack_extension(Struct("<2Q").pack(n, n))
        rules.split_head(OPEN, ext + b"meta", len(ext))
        rules.split_head(OPEN, ext + bytes(512), len(ext))  # too long to be kept
        large = pack_extension(Struct("<2Q").pack(n, n), body_length=100_000 + n)
        assert rules.split_large_head(OPEN, large + b"meta", len(large)) == (large, b"meta", 100_000 + n)
        rules.split_large_head(OPEN, large + bytes(512), len(large))
    inner: Any = rules
    for heads in (rules.heads[OPEN], inner._large_heads[OPEN]):
        assert 0 < len(heads) <= 1024
        assert max(map(len, heads)) <= 512


def test_a_known_head_is_cut_where_its_frame_says() -> None:
    rules = FrameRules()
    ext = pack_extension(dims=bytes(8), body_length=100_000)
    assert rules.split_large_head(OPEN, ext + b"meta", len(ext)) == (ext, b"meta", 100_000)
    for cut in range(len(ext)):
        with pytest.raises(ProtocolError):
            rules.split_large_head(OPEN, ext + b"meta", cut)
    assert rules.split_large_head(OPEN, ext + b"meta", len(ext))[2] == 100_000


def call(stream_id: int, flags: int = END_STREAM, ext: bytes = b"") -> bytes:
    return frame(OPEN, stream_id, flags, ext=ext, meta=b"some metadata", body=b"x")


def server_with(rules: FrameRules) -> Connection:
    """A server past its handshake whose connection has these rules."""
    server = open_pair()[1]
    inner: Any = server
    inner._reader.follow(rules)
    return server


def test_connections_that_agree_on_nothing_more_share_one_value() -> None:
    one, other = open_pair()
    inner: list[Any] = [one, other]
    assert all(connection._reader.rules is BASE_RULES for connection in inner)
    assert rules_for(()) is rules_for((1, 2)) is BASE_RULES


KEYED = pack_extension(dims=bytes(8), idempotency_key=bytes(16))
IDEMPOTENT = END_STREAM | Flag.IDEMPOTENT


@pytest.mark.parametrize("data", [call(1, IDEMPOTENT), call(1, ext=KEYED)], ids=["flag", "item"])
@pytest.mark.parametrize("times", [1, 5])
def test_what_one_connection_may_send_is_refused_on_another(data: bytes, times: int) -> None:
    rules = FrameRules(
        open_flags=OPEN_FLAGS | Flag.IDEMPOTENT, items={**BASE_RULES.items, OPEN: frozenset((DIMS, IDEMPOTENCY_KEY))}
    )
    wide = server_with(rules)
    for n in range(times):  # by the second one it is known as bytes, too
        (taken,) = feed(wide, data[:8] + Struct("<Q").pack(n + 1) + data[16:])
        assert isinstance(taken, Message)
    (closed,) = feed(server_with(BASE_RULES), data)
    assert isinstance(closed, Closed)
    assert closed.code in {ErrorCode.FRAME, ErrorCode.EXTENSION}


def test_a_type_that_one_connection_may_send_is_unknown_on_another() -> None:
    few = {where: kinds - {FrameType.PING} for where, kinds in BASE_RULES.receives.items()}
    for rules, code in ((BASE_RULES, None), (FrameRules(receives=few), ErrorCode.FRAME)):
        server = server_with(rules)
        events = feed(server, frame(FrameType.PING, body=bytes(8)))
        assert [e.code for e in events if isinstance(e, Closed)] == ([] if code is None else [code])
