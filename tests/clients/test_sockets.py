"""Sockets of the blocking client: partial writes, waiting, the kernel's clock."""

from __future__ import annotations

import errno
import socket
import time

import pytest

from tensorwire.clients.sockets import IOV_MAX, explain, send_now, set_receive_timeout, wait_for
from tensorwire.clients.url import Address

ADDRESS = Address(host="h", port=1)


def read_all(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += sock.recv(1 << 20)
    return data


def test_a_write_that_is_taken_in_parts_goes_on_where_it_stopped() -> None:
    left, right = socket.socketpair()
    with left, right:
        payload = [bytes([n]) * 100_000 for n in range(20)]
        rest = send_now(left, list[bytes | memoryview](payload))
        assert rest
        assert len(rest) < 20
        received = b""
        while rest:
            received += right.recv(1 << 20)
            rest = send_now(left, rest)
        received += read_all(right, 2_000_000 - len(received))
        assert received == b"".join(payload)


def test_a_full_socket_takes_nothing_and_loses_nothing() -> None:
    left, right = socket.socketpair()
    with left, right:
        while not send_now(left, [bytes(100_000)]):
            pass
        buffers: list[bytes | memoryview] = [b"a", b"b"]
        assert send_now(left, buffers) == [b"a", b"b"]


def test_more_buffers_than_the_kernel_takes_at_once_are_all_sent() -> None:
    left, right = socket.socketpair()
    with left, right:
        rest = send_now(left, [bytes([n % 256]) for n in range(3 * IOV_MAX)])
        while rest:
            rest = send_now(left, rest)
        assert read_all(right, 3 * IOV_MAX) == bytes(n % 256 for n in range(3 * IOV_MAX))


def test_waiting_says_what_is_possible() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert wait_for(left, read=True, write=True, timeout=5.0) == (False, True)
        assert wait_for(left, read=True, write=False, timeout=0.0) == (False, False)
        right.send(b"x")
        assert wait_for(left, read=True, write=False, timeout=5.0) == (True, False)
        right.close()
        assert wait_for(left, read=True, write=True, timeout=float("inf")) == (True, True)


def test_a_read_gives_up_after_its_timeout() -> None:
    left, right = socket.socketpair()
    with left, right:
        set_receive_timeout(left, 0.01)
        before = time.monotonic()
        with pytest.raises(BlockingIOError):
            left.recv(1)
        assert time.monotonic() - before < 2.0
        set_receive_timeout(left, 0.0)
        right.send(b"x")
        assert left.recv(1) == b"x"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "is the server running"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "is the server running"),
        (TimeoutError("timed out"), "no answer in time"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
    ],
)
def test_a_failed_connection_says_what_to_look_at(error: OSError, hint: str) -> None:
    assert hint in explain(error, ADDRESS)
