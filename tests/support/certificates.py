"""Certificates and a relay for tests of TLS: real files, real sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorwire.server.cert_commands import make_files
from tests.support.server import ServerProcess


@dataclass(frozen=True)
class Certificates:
    """One CA with what it issued, in a folder."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def server(self) -> tuple[Path, Path]:
        return self.folder / "server.pem", self.folder / "server.key"

    @property
    def client(self) -> tuple[Path, Path]:
        return self.folder / "client.pem", self.folder / "client.key"

    @property
    def flags(self) -> tuple[str, ...]:
        """What `serve` needs for TLS."""
        cert, key = self.server
        return "--tls-port", "0", "--tls-cert", str(cert), "--tls-key", str(key)


def make_certificates(folder: Path, client: str = "client") -> Certificates:
    """A new CA in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in make_files(client=client).items():
        (folder / name).write_bytes(content)
    return Certificates(folder)


def bundle(path: Path, *certificates: Certificates) -> Path:
    """A file that trusts several CAs."""
    path.write_bytes(b"".join(each.ca.read_bytes() for each in certificates))
    return path


def tls_port(server: ServerProcess) -> int:
    """The port that a server printed for TLS."""
    match = re.search(r"tws://127\.0\.0\.1:(\d+)", server.ready)
    assert match, server.ready
    return int(match[1])


@contextlib.contextmanager
def relay(port: int, shown: Certificates, trusted: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """A man in the middle: TLS with the certificate of `shown` towards clients, TLS of its own towards `port`; every
    byte between is handed on as it is. Gives the port to connect to.
    """
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.load_cert_chain(*shown.server)
    back = ssl.create_default_context(cafile=str(trusted))
    listening = socket.create_server((host, 0))
    ends: list[socket.socket] = [listening]
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):  # who does not like the certificate
                ends.append(accepted)
                client = front.wrap_socket(accepted, server_side=True)
                server = back.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
                ends.extend((client, server))
                # One call at a time travels in these tests: no end is read and written at the same moment.
                for pair in ((client, server), (server, client)):
                    threads.append(threading.Thread(target=pump, args=pair, daemon=True))
                    threads[-1].start()

    threads.append(threading.Thread(target=serve, daemon=True))
    threads[0].start()
    try:
        yield listening.getsockname()[1]
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in threads:
            thread.join(10)
