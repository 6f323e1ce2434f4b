"""What a C++ caller holds goes in any order with calls in flight: clients, calls, replies, tensor memory; sanitized."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorwire.protocol import Config, Message, Role
from tests.integration.models import ECHO, flat
from tests.support import c_programs
from tests.support.peer import Peer, PeerConnection
from tests.support.server import running_server, write_model

pytestmark = pytest.mark.timeout(180)

SECRET = bytes(range(32))
SUITE = "hmac-sha256"
CASES = ["queued", "sent", "done", "reply-goes", "call-goes", "moves", "memory", "in-use", "threads"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("c_order") / "models"
    write_model(models, "echo", ECHO, flat(4))
    with running_server(models) as server:
        yield "tw://{}:{}".format(*server.address)


def run(program: Path, url: str, case: str, key: str = "") -> str:
    done = c_programs.run(program, url, case, timeout=120, key=key)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize("case", CASES)
def test_what_a_caller_holds_may_go_in_any_order_while_calls_are_in_flight(programs: Path, url: str, case: str) -> None:
    assert run(programs / "order-sanitized", url, case) == "ok\n"


def test_an_exception_while_calls_are_in_flight_unwinds_as_the_header_shows_it(programs: Path, url: str) -> None:
    assert run(programs / "order-sanitized", url, "throws") == "thrown with calls in flight\nok\n"


@pytest.mark.parametrize("signed", [False, True])
def test_tensor_memory_that_goes_within_a_frame_is_not_read(programs: Path, signed: bool) -> None:
    """The peer reads nothing after its first message: frames are cut, and half of one is written."""
    key = f"robot:{base64.urlsafe_b64encode(SECRET).decode().rstrip('=')}" if signed else ""
    config = Config(role=Role.SERVER, mac_algorithms=(SUITE,), keyless=False) if signed else None
    over = threading.Event()

    def hold(_peer: PeerConnection, _message: Message) -> None:
        over.wait(120)

    with Peer(hold, config=config, secret_of=lambda _key_id: (SECRET, True)) as peer:
        try:
            assert run(programs / "order-sanitized", peer.url, "half-sent", key) == "ok\n"
        finally:
            over.set()


@pytest.mark.parametrize("case", ["threads", "moves"])
def test_one_client_a_thread_shares_nothing(programs: Path, url: str, case: str) -> None:
    assert run(programs / "order-threads", url, case) == "ok\n"
