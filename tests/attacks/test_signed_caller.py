"""What the caller is told when a signed session is cut short or changed: the outcome is unknown, and never a result.

The clients' core without sockets, so that it can be done at every byte; test_signed_network.py has both clients and a
real server.
"""

from __future__ import annotations

import base64
from functools import cache

import numpy as np
import pytest

from tensorwire.clients.calls import Call
from tensorwire.clients.core import ClientCore
from tensorwire.clients.errors import BadReply, ConnectFailed, ConnectionLost
from tensorwire.clients.keys import Credentials
from tensorwire.clients.link import Link
from tensorwire.clients.url import Address
from tensorwire.protocol import Message, Status, pack_extension, parse_extension
from tensorwire.protocol.header import HEADER_SIZE
from tests.attacks.peer import LIMIT
from tests.attacks.signed import KEY_ID, SECRET, SUITES, End, flipped, records_of, server

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.parametrize("suite", SUITES)]

KEY = f"{KEY_ID.decode()}:{base64.urlsafe_b64encode(SECRET).rstrip(b'=').decode()}"
SMALL = np.arange(4, dtype=np.float32)
LARGE = np.arange(25_000, dtype=np.float32)


class Caller:
    """A client with a small and a large call, and a nonce that is always the same."""

    def __init__(self, suite: str) -> None:
        credentials = Credentials(Address(host="localhost"), KEY, suite)
        self.core = ClientCore(lambda call: None, credentials=credentials, entropy=bytes)
        self.calls: list[Call] = []
        for array in (SMALL, LARGE):
            call = self.core.infer("m", {"x": array}, "", None, False, 0, 0.0)
            self.calls.append(call)
        self.link: Link = self.core.dialled(0.0)

    def said(self) -> bytes:
        return b"".join(bytes(buffer) for buffer in iter_buffers(self.link))

    def hear(self, data: bytes, suite: str) -> None:
        """READY in a read of its own: calls are opened by it, so that no reply can come with it."""
        ready = sum(map(len, replies(suite)[:2]))
        self.feed(data[:ready])
        self.feed(data[ready:])

    def feed(self, data: bytes, *, quiet: bool = False) -> None:
        """`quiet`: what it says to that is left for later."""
        view = memoryview(data)
        while view and not self.link.finished:
            room = self.link.next_buffer()
            n = min(len(room), len(view))
            room[:n] = view[:n]
            view = view[n:]
            self.link.received(n, 0.0)
            if not quiet:
                self.said()


def iter_buffers(link: Link) -> list[bytes | memoryview]:
    buffers: list[bytes | memoryview] = []
    while some := link.data_to_send(0.0):
        buffers += some
    return buffers


@cache
def replies(suite: str) -> tuple[bytes, ...]:
    """What the server says to these calls, in pieces: WELCOME, READY, then the replies' records."""
    caller, end = Caller(suite), server(suite)
    pieces: list[bytes] = []
    answered: set[int] = set()
    while up := caller.said():
        end.feed(up)
        answer(end, answered)
        down = end.said()
        if not pieces:
            size = HEADER_SIZE + int.from_bytes(down[:4], "little")
            pieces.append(down[:size])
            pieces += records_of(down[size:])
        else:
            pieces += records_of(down)
        caller.feed(down, quiet=True)
    assert all(call.outcome is not None for call in caller.calls)
    return tuple(pieces)


def answer(end: End, answered: set[int]) -> None:
    """Send each input back as the output, once."""
    for event in end.events:
        if isinstance(event, Message) and event.stream_id not in answered:
            answered.add(event.stream_id)
            ext = pack_extension(dims=parse_extension(event.ext).dims)
            body = bytes(event.body)
            end.connection.send(event.stream_id, event.meta, ext, [body], len(body))


def complete(suite: str) -> list[int]:
    """At which byte READY is whole, and each call's reply."""
    caller = Caller(suite)
    caller.said()
    at, ends = 0, [0, 0, 0]
    for piece in replies(suite):
        caller.feed(piece)
        at += len(piece)
        for number, done in enumerate((caller.link.ready, *(call.outcome is not None for call in caller.calls))):
            if done and not ends[number]:
                ends[number] = at
    assert all(ends)
    return ends


def check(caller: Caller, have: int, ends: list[int], kinds: tuple[type[Exception], ...]) -> None:
    """Each call has a result if its reply was whole, and else an error that says what is known."""
    for number, (call, array) in enumerate(zip(caller.calls, (SMALL, LARGE), strict=True), 1):
        assert call.finished, have
        if have >= ends[number]:
            assert call.outcome is not None
            np.testing.assert_array_equal(call.outcome["x"], array)
            continue
        assert call.outcome is None, have
        assert isinstance(call.error, kinds if have >= ends[0] else ConnectFailed), have
        assert call.error.status is not Status.OK
        if isinstance(call.error, ConnectionLost):
            assert call.error.status is Status.UNKNOWN
            assert not call.error.not_started


def test_a_session_that_ends_at_any_byte_has_no_outcome_but_unknown(suite: str) -> None:
    whole, ends = b"".join(replies(suite)), complete(suite)
    at, cuts = 0, set(range(0, len(whole), 97))
    for piece in replies(suite):
        cuts |= set(range(at, at + min(len(piece), 60))) | set(range(at + max(len(piece) - 40, 0), at + len(piece)))
        at += len(piece)
    for cut in sorted(cuts):
        caller = Caller(suite)
        caller.said()
        caller.hear(whole[:cut], suite)
        caller.link.eof(0.0)
        check(caller, cut, ends, (ConnectionLost,))


def test_a_reply_that_was_changed_is_no_result(suite: str) -> None:
    pieces, ends = replies(suite), complete(suite)
    at = len(pieces[0])
    for number, piece in enumerate(pieces[1:], 1):
        for bit in {*range(0, 8 * len(piece), 1013), 8 * len(piece) - 1}:
            caller = Caller(suite)
            caller.said()
            caller.hear(b"".join((*pieces[:number], flipped(piece, bit), *pieces[number + 1 :])), suite)
            if not caller.link.finished:  # n is longer now than what comes
                caller.link.eof(0.0)
            check(caller, at, ends, (ConnectionLost, BadReply))
        at += len(piece)
