"""A server that was attacked drains like any other: exit code 0, no exception, what is in flight is answered."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tensorwire.protocol import FrameType
from tests.attacks.peer import CLOSE, LIMIT, Raw, big, call, chunk, frame
from tests.integration.models import ECHO, flat
from tests.support.server import running_server, write_model
from tests.support.wire import WireClient

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]


def test_a_server_full_of_bad_peers_drains(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "echo", ECHO, flat())
    log = tmp_path / "server.log"
    flags = ("--drain-timeout", "2", "--log-format", "json")
    with running_server(tmp_path / "models", *flags, log=log) as server, contextlib.ExitStack() as stack:
        silent = stack.enter_context(Raw(server.address, hands=False))
        half = stack.enter_context(Raw(server.address))
        half.send(big(1, 65536, model="echo") + chunk(1, bytes(262144))[:1000])
        pong = stack.enter_context(Raw(server.address))
        pong.send(frame(FrameType.PONG, body=b"draining"))
        assert pong.works(1)
        mute = stack.enter_context(Raw(server.address, receive_buffer=4096))
        mute.send(b"".join(map(call, range(1, 500))))
        honest = stack.enter_context(WireClient(server.address))
        honest.ping()
        assert server.terminate(20) == 0
        assert silent.rest()[-1].kind == CLOSE
        assert FrameType.GOAWAY in [answer.kind for answer in pong.rest()]
        while honest.receive():
            pass
        assert honest.closed is not None
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert '"stopped"' in text
