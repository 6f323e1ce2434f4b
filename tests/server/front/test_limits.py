"""What a connection may cost is a setting, and does what it says: time to authenticate, frames of no use, answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tensorwire.protocol import Closed, ErrorCode, FrameType
from tensorwire.protocol.header import CANCEL
from tensorwire.server.settings import Settings
from tests.attacks.peer import frame
from tests.server.front.harness import Client, Harness


def closed(client: Client) -> ErrorCode | None:
    """Why the server has closed, if it has."""
    ends = [event for event in client.read() if isinstance(event, Closed)]
    return ends[0].code if ends else None


@pytest.mark.parametrize("allowed", [3, 10])
def test_control_frames(allowed: int) -> None:
    harness = Harness(("control_frames", str(allowed)))
    client = harness.client()
    assert client.works()
    late = frame(CANCEL, stream_id=1)
    client.feed(late * allowed)
    assert closed(client) is None
    client.feed(late)
    assert closed(client) is ErrorCode.CALM
    assert harness.front.metrics.connections_dropped["calm"] == 1


def test_control_bytes() -> None:
    harness = Harness(("control_bytes", "4KiB"))
    client = harness.client()
    client.protocol.pause_writing()  # it does not read
    ping = frame(FrameType.PING, body=bytes(8))
    client.feed(ping * 102)  # answers of 40 bytes each
    assert not harness.front.metrics.connections_dropped
    client.feed(ping)
    assert harness.front.metrics.connections_dropped["calm"] == 1


def test_handshake_timeout() -> None:
    harness = Harness(("handshake_timeout", "5"))
    Client(harness)
    harness.loop.advance(4.5)
    assert not harness.front.metrics.connections_dropped
    harness.loop.advance(1.0)
    assert harness.front.metrics.connections_dropped["timeout"] == 1


def test_write_timeout() -> None:
    harness = Harness(("write_timeout", "5"))
    client = harness.client()
    client.protocol.pause_writing()
    harness.loop.advance(4.5)
    assert not client.wire.aborted
    harness.loop.advance(1.0)
    assert client.wire.aborted
    assert harness.front.metrics.connections_dropped["write_timeout"] == 1


def test_max_pending() -> None:
    harness = Harness(("max_pending", "3"))
    clients = [Client(harness) for _ in range(5)]
    assert [client.wire.aborted for client in clients] == [True, True, False, False, False]  # the oldest give way
    clients[2].connect()
    assert Client(harness).connect().works()
    assert not clients[3].wire.aborted


def test_the_page_of_limits_names_settings_that_exist_and_their_defaults() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("|")][2:]
    named = {name: row[2] for row in rows for name in re.findall(r"`(\w+)`", row[3])}
    assert len(named) == 9
    for name, limit in named.items():
        default = Settings.model_fields[name].default
        written = "1 MiB" if default == 1 << 20 else f"{default:g}"
        assert written in limit.replace(",", ""), name
