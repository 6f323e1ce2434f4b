"""The raw echo's server as most would write it first: blocking sockets, one thread a connection."""

from __future__ import annotations

import socket
import threading

from bench.harness import announce

from .raw_client import PREFACE, RAW_CANNOT, RAW_WORKS, caller, callers, check, native, pattern

__all__ = ["CANNOT", "WORKS", "caller", "callers", "check", "native", "serve"]

WORKS, CANNOT = RAW_WORKS, RAW_CANNOT


def receive(sock: socket.socket, view: memoryview) -> bool:
    """Fill the view; False when the peer has closed."""
    got = 0
    while got < len(view):
        if not (n := sock.recv_into(view[got:])):
            return False
        got += n
    return True


def handle(sock: socket.socket) -> None:
    """Answer one connection until it closes."""
    with sock:
        preface = memoryview(bytearray(PREFACE.size))
        if not receive(sock, preface):
            return
        request, size, is_echo = PREFACE.unpack(preface)
        if is_echo:
            view = memoryview(bytearray(request))
            while receive(sock, view):
                sock.sendall(view)
            return
        reply, got, buffer = pattern(size), 0, memoryview(bytearray(1 << 18))
        while n := sock.recv_into(buffer):
            calls, got = divmod(got + n, request)
            if calls:
                sock.sendall(reply * calls)


def serve() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        announce(f"127.0.0.1:{listener.getsockname()[1]}")
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=handle, args=(sock,), daemon=True).start()
