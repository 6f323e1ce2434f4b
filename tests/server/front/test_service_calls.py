"""What the server says about itself: three ordinary calls with msgpack in them, and a watch."""

from __future__ import annotations

import time
from random import Random

import numpy as np
import pytest

from tensorwire.codec import DescribeRequest, HealthRequest, RaggedArray, unpack_service
from tensorwire.protocol import Status
from tensorwire.server.engine.api import HealthState
from tensorwire.server.front.health_watch import WATCH_INTERVAL
from tests.server.front.harness import Client, Harness
from tests.support.timers import WORST, Unruly

EMPTY = b"\x80"  # msgpack of {}


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def client(harness: Harness) -> Client:
    return harness.client()


def test_models_lists_every_version(harness: Harness, client: Client) -> None:
    harness.serve("2")
    models = client.answer(client.service("$models", EMPTY))["models"]
    assert [(model["model"], model["version"], model["state"]) for model in models] == [
        ("m", "1", "idle"),
        ("m", "2", "idle"),
    ]


def test_describe_tells_of_one_model(client: Client) -> None:
    described = client.answer(client.service("$describe", DescribeRequest("m").pack()))
    assert (described["model"], described["version"], described["engine"]) == ("m", "1", "inline")


def test_describe_has_the_folders_labels_or_else_those_of_the_model_itself(harness: Harness, client: Client) -> None:
    def labels() -> list[str]:
        found: list[str] = client.answer(client.service("$describe", DescribeRequest("m").pack()))["labels"]
        return found

    assert labels() == []
    harness.engine.labels = ("cat", "dog")
    assert labels() == ["cat", "dog"]
    harness.engine.spec.labels = ("Katze", "Hund")
    assert labels() == ["Katze", "Hund"]


def test_health_of_all_and_of_one(client: Client) -> None:
    for name in ("", "m"):
        (model,) = client.answer(client.service("$health", HealthRequest(name).pack()))["models"]
        assert (model["model"], model["state"]) == ("m", "idle")


@pytest.mark.parametrize(
    ("service", "payload", "status", "words"),
    [
        ("$nothing", EMPTY, Status.NOT_FOUND, "$models, $describe, $health"),
        ("$describe", DescribeRequest("n").pack(), Status.NOT_FOUND, "'n' is not served"),
        ("$describe", b"\xc1", Status.INVALID_ARGUMENT, ""),
        ("$health", EMPTY[:0] + b"\x91\x01", Status.INVALID_ARGUMENT, ""),
        ("$models", b"\xc1", Status.INVALID_ARGUMENT, "0xc1"),
        ("$models", b"\xc0", Status.INVALID_ARGUMENT, "expected a map"),
    ],
)
def test_what_cannot_be_answered_says_why(
    client: Client, service: str, payload: bytes, status: Status, words: str
) -> None:
    ended = client.ended(client.service(service, payload))
    assert ended.status == status
    assert words in ended.detail


def test_the_payload_is_one_tensor_of_bytes(client: Client) -> None:
    ragged = RaggedArray([0, 3], np.zeros(3, np.uint8))
    for name, array in (("x", np.zeros(3, np.uint8)), ("payload", np.zeros(3, np.float32)), ("payload", ragged)):
        ended = client.ended(client.open("$models", array, name=name))
        assert "one tensor, 'payload' uint8[-1]" in ended.detail


def test_a_watch_tells_at_once_and_then_only_what_changed(harness: Harness, client: Client) -> None:
    stream = client.service("$health", HealthRequest("m", watch=True).pack())
    (first,) = client.replies(stream)
    assert not first.end_stream
    harness.loop.advance(WATCH_INTERVAL + 0.01)
    assert client.replies(stream) == []
    harness.engine.state = HealthState.STALLED
    harness.loop.advance(WATCH_INTERVAL + 0.01)
    (second,) = client.replies(stream)
    assert unpack_service(bytes(second.body))["models"][0]["state"] == "stalled"


def test_a_watch_of_a_model_that_is_replaced_tells_of_the_one_in_its_place(harness: Harness, client: Client) -> None:
    stream = client.service("$health", HealthRequest("m", watch=True).pack())
    client.read()
    before, after = harness.engine, harness.serve()
    before.state = HealthState.UNLOADED
    harness.loop.advance(WATCH_INTERVAL + 0.01)
    assert client.replies(stream) == [], "nothing has changed for a client"
    after.state = HealthState.STALLED
    harness.loop.advance(WATCH_INTERVAL + 0.01)
    (told,) = client.replies(stream)
    assert unpack_service(bytes(told.body))["models"][0]["state"] == "stalled"


def test_a_watch_ends_when_it_is_cancelled_or_its_connection_does(harness: Harness, client: Client) -> None:
    stream = client.service("$health", HealthRequest("", watch=True).pack())
    client.read()
    client.core.cancel(stream)
    client.write()
    assert client.protocol._session.watches.open == {}
    client.service("$health", HealthRequest("", watch=True).pack())
    client.protocol.connection_lost(None)
    harness.engine.state = HealthState.STALLED
    client.wire.written = b""
    harness.loop.advance(1.0)
    assert client.wire.written == b""


def test_a_watch_does_not_hold_a_drain_up(harness: Harness, client: Client) -> None:
    stream = client.service("$health", HealthRequest("", watch=True).pack())
    client.read()
    client.protocol._session.lifetime.drain()
    harness.loop.advance(1.0)
    assert client.ended(stream).status == Status.UNAVAILABLE
    assert client.wire.eof


@pytest.mark.parametrize("seed", range(5))
def test_a_watch_looks_again_in_time_whatever_its_timers_do(seed: int) -> None:
    """Early, late and twice: each change is told once, WATCH_INTERVAL later at most, and only one look is due."""
    loop = Unruly(Random(seed), time.monotonic())
    harness = Harness(loop=loop)
    client = harness.client()
    stream = client.service("$health", HealthRequest("m", watch=True).pack())
    assert len(client.replies(stream)) == 1
    for state in (HealthState.STALLED, HealthState.IDLE) * 5:
        due = len(harness.timers)
        harness.engine.state = state
        loop.now = max(loop.now, time.monotonic())  # connections take the time by the real clock
        loop.run(WATCH_INTERVAL + WORST)
        assert [unpack_service(bytes(reply.body))["models"][0]["state"] for reply in client.replies(stream)] == [
            state.name.lower()
        ]
        loop.run(2 * WATCH_INTERVAL)
        assert client.replies(stream) == []
        assert len(harness.timers) <= due


def test_a_watch_whose_look_fails_looks_again(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = client.service("$health", HealthRequest("m", watch=True).pack())
    client.read()

    def broken() -> None:
        monkeypatch.undo()
        raise RuntimeError

    monkeypatch.setattr(harness.engine, "health", broken)
    harness.loop.now = time.monotonic()
    with pytest.raises(RuntimeError):
        harness.loop.advance(WATCH_INTERVAL + 0.01)
    harness.engine.state = HealthState.STALLED
    harness.loop.advance(WATCH_INTERVAL + 0.01)
    assert len(client.replies(stream)) == 1
