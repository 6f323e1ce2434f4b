"""Which addresses are listened on, and which are refused."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from tensorwire.server.front.listener import Listener, ListenError, check_address, tcp_socket, unix_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback_addresses_are_taken(host: str) -> None:
    check_address(host, guarded=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "10.0.0.1", "example.com", "", "127.0.0.1\n"])
def test_any_other_address_needs_keys_or_tls_and_the_error_says_how_to_make_one(host: str) -> None:
    with pytest.raises(ListenError, match=r"tensorwire keys new.*127.0.0.1.*--unix.*--tls-port"):
        tcp_socket(host, 0, 1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_where_keys_are_asked_for_any_address_is_taken(host: str) -> None:
    with tcp_socket(host, 0, 1, guarded=True) as listening:
        assert listening.getsockname()[0] == host


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1.*--host"):
        tcp_socket("192.0.2.1", 0, 1, guarded=True)


def test_accepted_sockets_keep_as_little_unsent_as_they_were_told() -> None:
    with tcp_socket("127.0.0.1", 0, 1, 8192) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 8192


def test_a_port_in_use_is_explained() -> None:
    first = tcp_socket("127.0.0.1", 0, 1)
    with first, pytest.raises(ListenError, match="--port"):
        tcp_socket("127.0.0.1", first.getsockname()[1], 1)


def test_a_unix_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with unix_socket(path, 1):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    unix_socket(path, 1).close()
    assert path.exists()
    unix_socket(path, 1).close()


def test_a_socket_somebody_answers_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with unix_socket(path, 1), pytest.raises(ListenError, match="another server"):
        unix_socket(path, 1)


def test_a_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("data")
    with pytest.raises(ListenError, match="not a socket"):
        unix_socket(path, 1)
    assert path.read_text() == "data"


def test_port_zero_is_told_and_the_socket_file_goes_with_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"

    async def run() -> None:
        listener = Listener(asyncio.BufferedProtocol)
        await listener.listen_tcp("127.0.0.1", 0, 16)
        await listener.listen_unix(path, 16)
        tcp, unix = listener.addresses
        assert unix == f"tw+unix://{path}"
        host, _, port = tcp.removeprefix("tw://").rpartition(":")
        assert int(port) > 0
        listener.close()
        with pytest.raises(OSError), socket.create_connection((host, int(port)), timeout=1):
            pass

    asyncio.run(run())
    assert not path.exists()
