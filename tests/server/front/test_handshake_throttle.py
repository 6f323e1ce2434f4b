"""Who is refused at accept, for how long, and that the table of it is bounded and hits nobody else."""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest

from tensorwire.protocol import FrameType
from tensorwire.server.front.handshake_throttle import LONGEST, MAX_SOURCES, HandshakeThrottle
from tensorwire.server.settings import networks
from tests.attacks.peer import frame
from tests.server.front.harness import Client, Harness

HOST = "192.0.2.7"
OTHER = "192.0.2.8"


def throttle(failures: int = 3, *, exempt: str = "") -> HandshakeThrottle:
    return HandshakeThrottle(failures, 60.0, 10.0, networks(exempt))


def fail(table: HandshakeThrottle, address: str, now: float, times: int = 3) -> float:
    """So many failures at once; the penalty that the last one brings."""
    return [table.failed(address, now) for _ in range(times)][-1]


def test_failures_within_the_window_bring_a_penalty_and_one_fewer_does_not() -> None:
    table = throttle()
    assert fail(table, HOST, 100.0, 2) == 0.0
    assert not table.refused(HOST, 100.0)
    assert fail(table, HOST, 100.0, 1) == 10.0
    assert table.refused(HOST, 100.0)
    assert table.refused(HOST, 109.9)
    assert not table.refused(HOST, 110.0)
    assert table.imposed == 1


def test_failures_further_apart_than_the_window_bring_none() -> None:
    table = throttle()
    for now in (0.0, 30.0, 61.0, 91.0, 122.0, 152.0):
        assert table.failed(HOST, now) == 0.0


def test_each_penalty_takes_twice_as_long_up_to_five_minutes_and_a_long_peace_makes_it_short_again() -> None:
    table = throttle()
    now = 100.0
    seconds = []
    for _ in range(7):
        seconds.append(fail(table, HOST, now))
        now += seconds[-1]
    assert seconds == [10, 20, 40, 80, 160, 300, 300]
    assert fail(table, HOST, now + LONGEST - 1) == 300
    assert fail(table, HOST, now + LONGEST - 1 + 300 + LONGEST) == 10


def test_what_was_pending_when_the_penalty_began_does_not_lengthen_it() -> None:
    table = throttle()
    assert fail(table, HOST, 0.0) == 10
    assert fail(table, HOST, 5.0, 250) == 0.0
    assert not table.refused(HOST, 10.0)
    assert fail(table, HOST, 10.0, 2) == 0.0  # counted from nothing


def test_a_success_forgets_the_failures() -> None:
    table = throttle()
    fail(table, HOST, 0.0, 2)
    table.succeeded(HOST)
    assert fail(table, HOST, 0.0, 2) == 0.0
    assert len(table) == 1


def test_nobody_else_is_refused() -> None:
    table = throttle()
    fail(table, HOST, 0.0)
    fail(table, "2001:db8:0:1::1", 0.0)
    assert not table.refused(OTHER, 0.0)
    assert not table.refused("2001:db8:0:2::1", 0.0)


@pytest.mark.parametrize(
    "same",
    [
        ("192.0.2.7", "::ffff:192.0.2.7"),  # the same client, by a socket for both kinds of address
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"),  # one host has a whole /64
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_addresses_of_one_host_are_one_source(same: tuple[str, str]) -> None:
    table = throttle()
    fail(table, same[0], 0.0)
    assert table.refused(same[1], 0.0)


def test_two_ipv4_clients_of_a_socket_for_both_are_two_sources() -> None:
    table = throttle()
    fail(table, f"::ffff:{HOST}", 0.0)
    assert not table.refused(f"::ffff:{OTHER}", 0.0)


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.1.2.3"])
def test_unix_sockets_and_exempt_networks_are_never_refused(address: str) -> None:
    table = throttle(exempt="127.0.0.0/8, ::1, 10.1.0.0/16")
    assert fail(table, address, 0.0, 100) == 0.0
    assert not table.refused(address, 0.0)
    assert len(table) == 0


def test_zero_failures_switch_it_off() -> None:
    table = throttle(0)
    assert fail(table, HOST, 0.0, 100) == 0.0
    assert len(table) == 0


def test_the_table_is_bounded_and_forgets_who_failed_longest_ago() -> None:
    table = throttle()
    fail(table, HOST, 0.0)
    tracemalloc.start()
    for number in range(3 * MAX_SOURCES):
        table.failed(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", 1.0)
        if number == MAX_SOURCES // 2:
            table.failed(OTHER, 1.0)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(table) == MAX_SOURCES
    assert held < 2 << 20
    assert not table.refused(HOST, 1.0)


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=re.escape("10.0.0.0/33")):
        networks("127.0.0.0/8, 10.0.0.0/33")


# -- at the front ----------------------------------------------------------------------------------------------------

STRICT = (("penalty_failures", "3"), ("insecure", "true"))


def stranger(harness: Harness, address: str = HOST) -> Client:
    return Client(harness, peer=(address, 40000))


def test_a_refused_source_is_dropped_at_accept_and_nothing_of_it_is_parsed() -> None:
    harness = Harness(*STRICT)
    for _ in range(3):
        client = stranger(harness)
        client.feed(b"GET / HTTP/1.1\r\n\r\n")
        assert client.wire.written
    refused = stranger(harness)
    assert refused.wire.aborted
    refused.write()  # what is in flight already
    assert refused.wire.written == b""
    assert refused.protocol._session.connection.version == 0
    assert harness.front.metrics.connections_dropped["penalty"] == 1
    assert refused.protocol._session.info not in harness.front.connections.sessions
    assert stranger(harness, OTHER).connect().works()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x89TWP\r\n\x1a\n" + frame(FrameType.OPEN, stream_id=1),
        b"\x89TWP\r\n\x1a\n" + frame(FrameType.HELLO, meta=b"\x01\x00\xff\xff"),
        b"\x89TWP\r\n\x1a\n" + frame(FrameType.HELLO, length=5000, meta_len=5000),
    ],
    ids=["http", "frame", "entries", "length"],
)
def test_what_no_good_client_does_is_a_failure(data: bytes) -> None:
    harness = Harness(*STRICT)
    for _ in range(3):
        stranger(harness).feed(data)
    assert harness.front.throttle.refused(HOST, time.monotonic())


def test_a_silent_peer_fails_when_its_time_is_over() -> None:
    harness = Harness(*STRICT)
    for _ in range(3):
        stranger(harness)
    harness.loop.advance(harness.settings.handshake_timeout + 1)
    assert harness.front.metrics.authentications["timeout"] == 3
    assert harness.front.throttle.refused(HOST, time.monotonic())


def test_who_leaves_after_welcome_fails_and_a_port_that_is_merely_looked_at_does_not() -> None:
    harness = Harness(*STRICT)
    for _ in range(10):
        stranger(harness).protocol.connection_lost(None)
    assert not harness.front.throttle.refused(HOST, time.monotonic())
    for _ in range(3):
        client = stranger(harness)
        client.write()
        client.protocol.connection_lost(None)
    assert harness.front.throttle.refused(HOST, time.monotonic())


def test_a_flood_of_others_that_pushes_a_client_out_of_the_pending_ones_is_not_its_failure() -> None:
    harness = Harness(*STRICT, ("max_pending", "1"))
    for _ in range(10):
        stranger(harness)
        stranger(harness, OTHER)
    assert harness.front.metrics.connections_dropped["too_many_pending"] == 19
    assert len(harness.front.throttle) == 0


def test_a_version_that_the_server_does_not_speak_is_not_hostile() -> None:
    harness = Harness(*STRICT)
    hello = bytearray(b"".join(map(bytes, Client(harness).core.data_to_send())))
    hello[8 + 32 + 4 : 8 + 32 + 8] = b"\x02\x00\x03\x00"  # VERSIONS 2..3
    for _ in range(10):
        client = stranger(harness)
        client.feed(bytes(hello))
        assert client.wire.written
    assert harness.front.metrics.authentications["version"] == 10
    assert len(harness.front.throttle) == 0


def test_a_success_at_the_front_wipes_the_slate() -> None:
    harness = Harness(*STRICT)
    for _ in range(20):
        stranger(harness).feed(b"GET / HTTP/1.1\r\n\r\n")
        stranger(harness).feed(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger(harness).connect().works()
    assert harness.front.throttle.imposed == 0


def test_a_connection_that_is_there_is_not_touched_by_a_penalty() -> None:
    harness = Harness(*STRICT)
    client = stranger(harness).connect()
    for _ in range(3):
        stranger(harness).feed(b"GET / HTTP/1.1\r\n\r\n")
    assert stranger(harness).wire.aborted
    assert client.works()


def test_the_metrics_tell() -> None:
    harness = Harness(*STRICT)
    stranger(harness, OTHER).connect()
    for _ in range(4):
        stranger(harness).feed(b"GET / HTTP/1.1\r\n\r\n")
    text = harness.front.metrics.text().decode()
    assert 'tensorwire_authentications_total{outcome="accepted"} 1.0' in text
    assert 'tensorwire_authentications_total{outcome="not_tensorwire"} 3.0' in text
    assert 'tensorwire_connections_dropped_total{reason="penalty"} 1.0' in text
    assert "tensorwire_penalties_total 1.0" in text
    assert "tensorwire_penalty_sources 1.0" in text
