"""Which TCP connections speak tensorwire, and the frames of those: segments in, rows out.

What lives here: the table of connections, and how one is known (by its preface, or by its port where the preface was
not captured). What must not: packets below TCP, and what a frame says. Every cap is on what a file can make us hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ....protocol.capture_splitter import Piece
from ....protocol.captured_handshake import Handshake, SecretFor
from ....protocol.limits import DEFAULT_PORT, PREFACE
from ....protocol.signed_capture_splitter import SignedSplitter
from .packets import ACK, RST, SYN, Endpoint, Segment
from .tcp import SEGMENT_COST, Direction, Run

MAX_CONNECTIONS = 2048
"""Connections followed at once; the longest unused is finished first."""
MAX_UNDECIDED = 16 << 10
"""Bytes of one connection that wait for its preface, which may stand behind the server's first bytes in the file."""
MAX_WAITING = 1 << 20
"""Bytes of one direction that wait behind a gap: a retransmission comes within a few round trips."""
MAX_WAITING_ALL = 64 << 20
"""The same for all connections together."""

CLIENT, SERVER = "client", "server"
_TLS = {b"\x16\x03", b"\x17\x03"}  # a record of TLS: handshake, or data


class Row(NamedTuple):
    """A piece of a connection, or a note about it.

    time_us: when its last byte moved. packet: number in the file, 0 where it has none. connection: from 1. sender:
    CLIENT, SERVER or "" where that is not known. piece: None for a note.
    """

    time_us: int
    packet: int
    connection: int
    sender: str
    piece: Piece | None
    note: str = ""


class _Connection:
    """One TCP connection."""

    __slots__ = ("client", "directions", "last", "left_out", "number", "pending", "pending_bytes", "splitters", "syn")

    def __init__(self, ends: tuple[Endpoint, Endpoint]) -> None:
        self.number = 0  # of those that speak tensorwire
        self.client: Endpoint | None = None
        self.syn: int | None = None  # the client's first sequence number, where its SYN was seen
        self.directions = {end: Direction() for end in ends}
        self.last: dict[Endpoint, tuple[int, int]] = dict.fromkeys(ends, (0, 0))  # time and packet of the latest bytes
        self.splitters: dict[Endpoint, SignedSplitter] = {}  # empty until it is known to speak tensorwire
        self.left_out = False
        self.pending: list[tuple[Endpoint, Run]] = []
        self.pending_bytes = 0

    def sender(self, end: Endpoint) -> str:
        if self.client is None:
            return ""
        return CLIENT if end == self.client else SERVER

    def first_bytes(self, end: Endpoint) -> bytes:
        """Return what is known of the first 8 bytes from this end."""
        first = b""
        for source, run in self.pending:
            if source == end:
                if run.lost:
                    return first or bytes(len(PREFACE))
                first += run.data[: len(PREFACE) - len(first)]
                if len(first) == len(PREFACE):
                    break
        return first


class Connections:
    """Follows the connections of a file. With a `port`, only those of that port, preface or not.

    Proofs and tags of signed ones are checked where `secret_for` has their key.
    """

    def __init__(self, port: int | None = None, secret_for: SecretFor | None = None) -> None:
        self._port = port
        self._secret_for = secret_for
        self._table: dict[tuple[Endpoint, Endpoint], _Connection] = {}
        self._waiting = 0
        self.selected = 0
        self.left_out = 0
        self.tls = 0

    def add(self, segment: Segment, time_us: int, packet: int) -> list[Row]:
        """Return what this segment completes."""
        rows: list[Row] = []
        if self._port is not None and self._port not in {segment.source.port, segment.target.port}:
            return rows
        opens = segment.flags & (SYN | ACK) == SYN
        connection = self._look_up(segment, opens, rows)
        if connection is None:
            return rows
        direction = connection.directions[segment.source]
        if segment.flags & SYN:
            direction.start(segment.seq)
            connection.client = segment.source if opens else segment.target
            connection.syn = segment.seq if opens else connection.syn
        if segment.length and not connection.left_out:
            seq = segment.seq + 1 if segment.flags & SYN else segment.seq
            before = direction.waiting
            runs = direction.add(seq & 0xFFFFFFFF, segment.payload, segment.length, time_us, packet)
            room = min(MAX_WAITING, MAX_WAITING_ALL - self._waiting + before)
            while direction.waiting > max(room, 0):
                runs += direction.give_up()
            self._waiting += direction.waiting - before
            self._deliver(connection, segment.source, runs, rows)
        if segment.flags & RST and connection.splitters:
            sender = connection.sender(segment.source)
            rows.append(Row(time_us, packet, connection.number, sender, None, "the connection was reset"))
        return rows

    def finish(self) -> list[Row]:
        """Return what is unfinished at the end of the file."""
        rows: list[Row] = []
        for key in list(self._table):
            self._end(self._table.pop(key), rows)
        return rows

    # ---- the table ----

    def _look_up(self, segment: Segment, opens: bool, rows: list[Row]) -> _Connection | None:
        first, second = sorted((segment.source, segment.target))
        key = (first, second)
        connection = self._table.pop(key, None)
        if connection is not None and opens and connection.syn != segment.seq:
            self._end(connection, rows)  # the ports are used again
            connection = None
        if connection is None:
            if not segment.length and not segment.flags & SYN:
                return None
            connection = _Connection(key)
        self._table[key] = connection  # the last used stands last
        if len(self._table) > MAX_CONNECTIONS:
            self._end(self._table.pop(next(iter(self._table))), rows)
        return connection

    def _end(self, connection: _Connection, rows: list[Row]) -> None:
        """No more of this connection comes."""
        for end, direction in connection.directions.items():
            self._waiting -= direction.waiting
            runs: list[Run] = []
            while direction.waiting:
                runs += direction.give_up()
            self._deliver(connection, end, runs, rows)
        if connection.pending:
            self._decide(connection, rows, last=True)
        for end, splitter in connection.splitters.items():
            rows += self._rows(connection, end, splitter.finish(), *connection.last[end])

    # ---- one connection ----

    def _deliver(self, connection: _Connection, end: Endpoint, runs: Iterable[Run], rows: list[Row]) -> None:
        for run in runs:
            if connection.splitters:
                self._split(connection, end, run, rows)
            elif not connection.left_out:
                connection.pending.append((end, run))
                connection.pending_bytes += len(run.data) + SEGMENT_COST
                self._decide(connection, rows)

    def _split(self, connection: _Connection, end: Endpoint, run: Run, rows: list[Row]) -> None:
        splitter = connection.splitters[end]
        connection.last[end] = (run.time_us, run.packet)
        pieces = splitter.skip(run.lost) if run.lost else splitter.feed(run.data)
        rows += self._rows(connection, end, pieces, run.time_us, run.packet)

    @staticmethod
    def _rows(connection: _Connection, end: Endpoint, pieces: list[Piece], time_us: int, packet: int) -> list[Row]:
        return [Row(time_us, packet, connection.number, connection.sender(end), piece) for piece in pieces]

    def _decide(self, connection: _Connection, rows: list[Row], *, last: bool = False) -> None:
        """Whether the connection speaks tensorwire, as soon as its first bytes tell."""
        differ = 0
        for end, direction in connection.directions.items():
            first = connection.first_bytes(end)
            if first == PREFACE:
                connection.client = end
                self._select(connection, rows, dict.fromkeys(connection.directions, ""))
                return
            if not PREFACE.startswith(first):
                # The client's own first bytes decide alone; else the preface may still come from the other side.
                differ += 2 if direction.started and end == connection.client else 1
        if differ < 2 and not last and connection.pending_bytes <= MAX_UNDECIDED:
            return
        self.tls += any(connection.first_bytes(end)[:2] in _TLS for end in connection.directions)
        port = DEFAULT_PORT if self._port is None else self._port
        server = next((end for end in connection.directions if end.port == port), None)
        if server is None:
            self.left_out += 1
            connection.left_out = True
            connection.pending.clear()
            for direction in connection.directions.values():
                self._waiting -= direction.waiting
                direction.forget()
            return
        if connection.client is None:
            connection.client = next(end for end in connection.directions if end != server)
        reasons = {
            end: "these bytes are no tensorwire"
            if direction.started
            else "the start of the connection was not captured"
            for end, direction in connection.directions.items()
        }
        self._select(connection, rows, reasons)

    def _select(self, connection: _Connection, rows: list[Row], lost: dict[Endpoint, str]) -> None:
        self.selected += 1
        connection.number = self.selected
        handshake = Handshake(self._secret_for)
        connection.splitters = {end: SignedSplitter(handshake, lost[end]) for end in connection.directions}
        client, server = sorted(connection.directions, key=lambda end: end != connection.client)
        first = connection.pending[0][1]
        rows.append(Row(first.time_us, first.packet, connection.number, "", None, f"client {client}, server {server}"))
        pending, connection.pending = connection.pending, []
        for end, run in pending:
            self._split(connection, end, run, rows)


__all__ = ["CLIENT", "SERVER", "Connections", "Row"]
