"""Which connections are shown, and what becomes of bytes that a capture has twice, late or not at all."""

from __future__ import annotations

import io
import tracemalloc

import pytest

from fuzz.strategies_frames import DATA, END, OPEN, frame
from tensorwire.clients.cli.decoding import connections
from tensorwire.clients.cli.decoding.connections import CLIENT, SERVER, Row
from tensorwire.clients.cli.decoding.rows import Rows
from tensorwire.protocol.limits import PREFACE
from tests.support.packets import ACK, ETHERNET, RST, SYN, Conversation, Packet, pcap, pcapng
from tests.support.sessions import big_session, small_session
from tests.vectors.wire import metadata

HELLO = PREFACE + frame(1, meta=b"\x01\x00\x00\x00")
CALL = frame(OPEN, 1, 1, meta=metadata(), body=b"body")
ANSWER = frame(DATA, 1, 1, body=b"body")


def rows(packets: list[Packet], port: int | None = None, **options: int) -> tuple[list[Row], list[str]]:
    found = Rows(io.BytesIO(pcap(packets, **options)), port)  # type: ignore[arg-type]
    return list(found), found.remarks


def frames(found: list[Row]) -> list[tuple[str, int]]:
    return [(row.sender, row.piece.header[1]) for row in found if row.piece and row.piece.header]


def problems(found: list[Row]) -> list[str]:
    return [row.piece.problem for row in found if row.piece and row.piece.problem]


def notes(found: list[Row]) -> list[str]:
    return [row.note for row in found if row.note]


def written(
    session: list[tuple[bool, bytes]], mss: int = 1400, server: tuple[str, int] = ("127.0.0.1", 7411)
) -> Conversation:
    conversation = Conversation(mss=mss, server=server).handshake()
    for from_client, data in session:
        conversation.send(from_client, data)
    return conversation.close()


SMALL = small_session()
EXPECTED, _ = rows(written(SMALL).packets)


def test_a_session_gives_the_frames_of_both_sides_in_order() -> None:
    assert problems(EXPECTED) == []
    assert notes(EXPECTED) == ["client 127.0.0.1:50000, server 127.0.0.1:7411"]
    assert [kind for _, kind in frames(EXPECTED)] == [1, 2, 3, 4, 5, 6, 5, 6, 11, 12, 8, 5, 7, 7, 13, 15]
    assert [row.time_us for row in EXPECTED] == sorted(row.time_us for row in EXPECTED)
    assert EXPECTED[1].packet == 4  # after the handshake's three


@pytest.mark.parametrize("mss", [1, 7, 31, 33, 65000])
def test_the_size_of_segments_changes_nothing(mss: int) -> None:
    assert [row.piece for row in rows(written(SMALL, mss).packets)[0]] == [row.piece for row in EXPECTED]


def test_segments_that_come_late_or_twice_change_nothing() -> None:
    packets = written(SMALL, 20).packets
    shuffled = packets[:3]  # the handshake
    for n in range(3, len(packets), 5):
        part = packets[n : n + 5]
        shuffled += part[::-1] + part[:2]
    found, _ = rows(shuffled)
    by_sender = [[row.piece for row in found if row.sender == side] for side in (CLIENT, SERVER)]
    assert by_sender == [[row.piece for row in EXPECTED if row.sender == side] for side in (CLIENT, SERVER)]


def test_lost_segments_within_a_body_are_counted_and_every_frame_is_still_found() -> None:
    packets = written(big_session()).packets
    whole, _ = rows(packets)
    found, _ = rows([packet for n, packet in enumerate(packets) if n not in {100, 101, 300}])
    assert sorted(frames(found)) == sorted(frames(whole))
    assert sum(row.piece.missing for row in found if row.piece) == 3 * 1400


def test_a_lost_header_is_told_and_the_frames_after_it_are_found_again() -> None:
    conversation = Conversation().handshake()
    conversation.send(True, HELLO).send(True, CALL).send(True, CALL).send(False, ANSWER)
    del conversation.packets[4]
    found, _ = rows(conversation.packets)
    assert problems(found) == [
        f"{len(CALL)} bytes are missing in the capture; {len(CALL)} bytes could not be read as frames"
    ]
    assert frames(found) == [(CLIENT, 1), (SERVER, DATA), (CLIENT, OPEN)]


def test_a_snap_length_loses_bodies_but_not_frames() -> None:
    found, _ = rows(written(big_session()).packets, snap=200)
    assert len([pair for pair in frames(found) if pair[1] == DATA]) >= 2
    assert any(row.piece.missing for row in found if row.piece)


def test_several_connections_are_numbered_and_kept_apart() -> None:
    first, second = Conversation().handshake(), Conversation(client=("::1", 4000), server=("::2", 9)).handshake()
    first.send(True, HELLO)
    second.send(True, HELLO)
    first.send(True, CALL)
    second.send(True, CALL).send(False, ANSWER)
    mixed = sorted(first.packets + second.packets)
    found, _ = rows(mixed)
    assert {row.connection for row in found} == {1, 2}
    assert "client [::1]:4000, server [::2]:9" in notes(found)
    assert frames([row for row in found if row.connection == 1]) in (
        [(CLIENT, 1), (CLIENT, OPEN)], [(CLIENT, 1), (CLIENT, OPEN), (SERVER, DATA)],
    )  # fmt: skip


def test_the_same_ports_used_again_are_another_connection() -> None:
    conversation = Conversation().handshake().send(True, HELLO)
    conversation.client_seq = 77
    conversation.handshake().send(True, HELLO)
    found, _ = rows(conversation.packets)
    assert [row.connection for row in found] == [1, 1, 1, 2, 2, 2]


def test_other_connections_are_left_out_and_said_to_be() -> None:
    http = Conversation(server=("127.0.0.1", 80)).handshake()
    http.send(True, b"GET / HTTP/1.1\r\n\r\n").send(False, b"HTTP/1.1 200 OK\r\n\r\n")
    found, remarks = rows(http.packets)
    assert found == []
    assert remarks[0] == "no tensorwire connection in 5 packets"
    assert remarks[1].startswith("left out 1 TCP connections")


def test_on_our_port_foreign_bytes_are_shown_as_what_they_are() -> None:
    http = Conversation().handshake().send(True, b"GET / HTTP/1.1\r\n\r\n")
    found, _ = rows(http.packets)
    assert problems(found) == ["these bytes are no tensorwire; 18 bytes could not be read as frames"]
    assert found[1].piece is not None
    assert found[1].piece.body == b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("port", [7411, 9000])
def test_a_connection_without_its_start_is_read_from_the_first_frame_that_can_be_told(port: int) -> None:
    conversation = Conversation(server=("127.0.0.1", port))
    conversation.send(True, b"the rest of a body").send(False, ANSWER).send(True, CALL).send(False, ANSWER)
    found, remarks = rows(conversation.packets, None if port == 7411 else port)
    assert frames(found) == [(SERVER, DATA), (CLIENT, OPEN), (SERVER, DATA)]
    assert problems(found)[0].startswith("the start of the connection was not captured")
    assert remarks == []


def test_a_connection_without_its_start_on_another_port_is_left_out_with_a_hint() -> None:
    found, remarks = rows(Conversation(server=("127.0.0.1", 9000)).send(True, CALL).send(False, ANSWER).packets)
    assert found == []
    assert "--port PORT" in remarks[1]


def test_the_preface_is_found_without_a_syn_and_behind_the_servers_bytes() -> None:
    conversation = (
        Conversation(server=("127.0.0.1", 9000)).send(True, HELLO[:5], 2).send(True, HELLO[5:]).send(False, ANSWER)
    )
    found, _ = rows(conversation.packets[-1:] + conversation.packets[:-1])
    assert frames(found) == [(SERVER, DATA), (CLIENT, 1)]


def test_a_port_leaves_all_others_out() -> None:
    packets = written(SMALL).packets
    assert rows(packets, 1234)[0] == []
    assert rows(packets, 7411)[0] == EXPECTED


def test_a_reset_is_noted() -> None:
    conversation = Conversation().handshake().send(True, HELLO)
    conversation.segment(False, b"", RST | ACK)
    found, _ = rows(conversation.packets)
    assert found[-1].note == "the connection was reset"
    assert found[-1].sender == SERVER


def test_an_unfinished_frame_at_the_end_of_the_file_is_told() -> None:
    found, _ = rows(Conversation().handshake().send(True, HELLO + CALL[:33]).packets)
    assert problems(found)[-1] == f"cut off: 33 of {len(CALL)} bytes are in the capture"
    assert found[-1].packet == 4


def test_what_waits_behind_gaps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_WAITING_ALL", 4 << 20)
    packets: list[Packet] = []
    for n in range(20):
        conversation = Conversation(client=("127.0.0.1", 1000 + n)).handshake().send(True, HELLO)
        conversation.client_seq += 10  # lost for ever
        conversation.send(True, bytes(1 << 20))
        packets += conversation.packets
    raw = io.BytesIO(pcapng(packets, ETHERNET))
    tracemalloc.start()
    found = Rows(raw)
    assert sum(1 for row in found if row.piece and "missing" in row.piece.problem) == 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_connections_that_only_begin_take_bounded_memory() -> None:
    one = connections.Connections()
    for n in range(5000):
        conversation = Conversation(client=(f"10.0.{n >> 8}.{n & 255}", 5))
        conversation.segment(True, b"", SYN)
        from tensorwire.clients.cli.decoding.packets import Segment, parse_packet

        segment = parse_packet(ETHERNET, conversation.packets[0][1])
        assert isinstance(segment, Segment)
        one.add(segment, 0, n)
    assert len(one._table) == connections.MAX_CONNECTIONS


def test_end_of_a_stream_is_the_servers() -> None:
    conversation = Conversation().handshake().send(True, HELLO).send(False, frame(END, 1))
    assert frames(rows(conversation.packets)[0]) == [(CLIENT, 1), (SERVER, END)]
