"""Who is connected and what they see: keys proven, scopes kept apart, and what becomes of those whose key is gone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import DescribeRequest, HealthRequest, Ready, unpack_service
from tensorwire.protocol import Closed, Ended, ErrorCode, GoAway, Message, Status
from tensorwire.protocol import Ready as ReadyEvent
from tensorwire.server.front.key_watch import KEYS_INTERVAL, KeyWatch
from tensorwire.server.front.listener_policy import ListenerPolicy
from tensorwire.server.front.principals import Principals
from tensorwire.server.key_edits import block
from tensorwire.server.key_file import Key
from tensorwire.server.keys import EVERYTHING, KeyStore, Scope
from tensorwire.server.settings import load_settings
from tests.server.front.harness import ROW, Client, Harness

ALL = Key("all", b"A" * 32, "everybody")
ONE = Key("one", b"B" * 32, "bidder", ("m",), rate=7.0)
NEXT = Key("next", b"C" * 32, "bidder", ("m",), rate=7.0)
NONE = Key("none", b"D" * 32, "blind", ("x*",))
BIG = np.zeros((1, 1 << 18), np.float32)
EMPTY = b"\x80"  # msgpack of {}


class Keyed(Harness):
    """Models "m" and "secret"; a key file that is written, and a wall clock that is told."""

    def __init__(self, path: Path, *flags: tuple[str, str], keys: tuple[Key, ...] = (ALL, ONE, NONE)) -> None:
        self.path = path / "keys.toml"
        self.wall = 1_800_000_000.0
        self.write(*keys)
        store = KeyStore(self.path, lambda: self.wall)
        super().__init__(("insecure", "false"), *flags, keys=store)
        self.m = self.engine
        m, self.secret = self.model, self.serve(name="secret")
        self.model = m
        self.watch = KeyWatch(self.front.context, self.front.connections, store, self.loop.now)

    def write(self, *keys: Key) -> None:
        other = self.path.with_suffix(".new")
        other.touch(0o600)
        other.write_text("\n".join(map(block, keys)))
        other.replace(self.path)

    def look(self) -> None:
        """The operator says that the file has changed."""
        self.watch.look(self.loop.now, again=True)

    def pass_time(self, seconds: float) -> None:
        """Both clocks go on."""
        for _ in range(round(seconds / KEYS_INTERVAL)):
            self.wall += KEYS_INTERVAL
            self.loop.advance(KEYS_INTERVAL)


@pytest.fixture
def harness(tmp_path: Path) -> Keyed:
    return Keyed(tmp_path)


def close_of(client: Client) -> Closed:
    """How the connection ended."""
    client.read()
    (closed,) = [event for event in client.events if isinstance(event, Closed)]
    return closed


def greeting(harness: Harness, key: Key | None, policy: ListenerPolicy | None = None) -> Ready:
    """What a client learns in READY."""
    client = Client(harness, key=key, policy=policy)
    for _ in range(3):
        client.write()
        client.read()
    (ready,) = [event for event in client.events if isinstance(event, ReadyEvent)]
    return Ready.unpack(ready.payload)


# ---- who is let in ----


def test_a_key_makes_its_principal_and_ready_says_so(harness: Keyed) -> None:
    ready = greeting(harness, ONE)
    assert (ready.principal, ready.models, ready.rate) == ("bidder", ("m",), 7.0)
    assert greeting(harness, ALL).rate is None


def test_the_wrong_secret_the_unknown_and_the_ended_key_look_alike(harness: Keyed) -> None:
    harness.write(ALL, replace(ONE, not_after=harness.wall - 1))
    harness.look()
    shapes = set()
    for key in (replace(ALL, secret=b"x" * 32), replace(ALL, id="abc"), ONE):
        client = Client(harness, key=key)
        client.write()
        welcome = len(client.wire.written)
        client.read()
        shapes.add((welcome, *((event.code, event.detail) for event in client.events if isinstance(event, Closed))))
    assert len(shapes) == 1
    assert harness.front.principals.all() == [harness.front.principals.anonymous]


def test_without_a_key_nobody_is_let_in_and_is_told_so(harness: Keyed) -> None:
    client = Client(harness)
    client.write()
    client.read()
    closed = close_of(client)
    assert (closed.code, closed.remote) == (ErrorCode.AUTHENTICATION, True)
    assert "with a key only" in closed.detail


def test_where_keys_are_asked_for_no_frame_goes_without_a_tag(harness: Keyed) -> None:
    assert harness.policy("tcp").config.mac_algorithms[0] == "hmac-sha256"
    assert "none" not in harness.policy("unix").config.mac_algorithms
    assert "none" not in harness.policy("tls").config.mac_algorithms


def test_the_operator_may_take_both(tmp_path: Path) -> None:
    harness = Keyed(tmp_path, ("insecure", "true"))
    assert greeting(harness, None).principal == "anonymous"
    assert greeting(harness, ONE).principal == "bidder"


def test_a_big_call_that_comes_with_auth_is_its_principals(harness: Keyed) -> None:
    for key, status in ((ONE, None), (NONE, Status.NOT_FOUND)):
        client = Client(harness, key=key)
        client.write()
        client.read()  # WELCOME: AUTH waits to be sent
        client.open("m", BIG)
        client.read()
        ended = [event.status for event in client.events if isinstance(event, Ended)]
        assert ended == ([] if status is None else [status])
    assert [call.principal for call in harness.m.taken] == [1]


def test_a_key_that_goes_during_the_handshake_is_refused_at_its_end(harness: Keyed) -> None:
    client = Client(harness, key=ONE)
    client.write()
    client.read()
    harness.write(ALL)
    harness.look()
    client.write()
    closed = close_of(client)
    assert (closed.code, closed.remote) == (ErrorCode.AUTHENTICATION, True)


# ---- what they see ----


def test_a_model_out_of_scope_is_the_same_as_none(harness: Keyed) -> None:
    client = harness.client(ONE)
    for body in (ROW, BIG):
        hidden, missing = client.ended(client.open("secret", body)), client.ended(client.open("absent", body))
        assert (hidden.status, hidden.not_started, hidden.ext) == (missing.status, missing.not_started, missing.ext)
        assert hidden.status == Status.NOT_FOUND
        assert shape(hidden, "secret") == shape(missing, "absent")
        assert "served: m [" in hidden.detail
    for service, request in (("$describe", DescribeRequest), ("$health", HealthRequest)):
        hidden, missing = (client.ended(client.service(service, request(name).pack())) for name in ("secret", "absent"))
        assert shape(hidden, "secret") == shape(missing, "absent")
    assert harness.secret.taken == []


def shape(ended: Ended, name: str) -> str:
    """The text of an error without what must differ."""
    return ended.detail.replace(name, "NAME").partition(" [request")[0]


def test_nor_does_asking_for_a_version_tell(harness: Keyed) -> None:
    client = harness.client(ONE)
    hidden, missing = (
        client.ended(client.service("$describe", DescribeRequest(name, "9").pack())) for name in ("secret", "absent")
    )
    assert shape(hidden, "secret") == shape(missing, "absent")


def test_models_and_health_tell_only_of_what_is_seen(harness: Keyed) -> None:
    seen = {}
    for key in (ALL, ONE, NONE):
        client = harness.client(key)
        models = client.answer(client.service("$models", EMPTY))["models"]
        health = client.answer(client.service("$health", HealthRequest("").pack()))["models"]
        assert [model["model"] for model in health] == [model["model"] for model in models]
        seen[key.id] = [model["model"] for model in models]
    assert seen == {"all": ["m", "secret"], "one": ["m"], "none": []}


def test_a_watch_tells_only_of_what_is_seen(harness: Keyed) -> None:
    client = harness.client(ONE)
    stream = client.service("$health", HealthRequest("", watch=True).pack())
    (first,) = client.replies(stream)
    assert [model["model"] for model in unpack_service(bytes(first.body))["models"]] == ["m"]


def test_routes_that_one_principal_found_are_no_others(harness: Keyed) -> None:
    everybody, blind = harness.client(ALL), harness.client(NONE)
    everybody.open("m")
    assert len(harness.m.taken) == 1
    assert blind.ended(blind.open("m")).status == Status.NOT_FOUND
    assert blind.ended(blind.open("m")).status == Status.NOT_FOUND
    assert len(harness.m.taken) == 1


def test_when_a_scope_shrinks_what_was_known_is_forgotten(harness: Keyed) -> None:
    client = harness.client(ONE)
    watch = client.service("$health", HealthRequest("m", watch=True).pack())
    client.open("m")
    assert len(harness.m.taken) == 1
    client.read()
    harness.write(ALL, replace(ONE, models=("other",)))
    harness.look()
    assert client.ended(watch).status == Status.UNAVAILABLE
    assert client.ended(client.open("m")).status == Status.NOT_FOUND
    assert len(harness.m.taken) == 1
    harness.write(ALL, ONE)
    harness.look()
    client.open("m")
    assert len(harness.m.taken) == 2


def test_calls_of_two_principals_are_told_apart_and_those_of_one_are_not(harness: Keyed) -> None:
    harness.write(ALL, ONE, NEXT)
    harness.look()
    for key in (ALL, ONE, NEXT):
        harness.client(key).open("m")
    first, second, third = (call.principal for call in harness.m.taken)
    assert 0 not in {first, second}
    assert first != second
    assert second == third


# ---- keys that go ----


def test_a_revoked_key_ends_its_calls_and_then_its_connections_within_a_second(harness: Keyed) -> None:
    client, other = harness.client(ONE), harness.client(ALL)
    calls = [client.open("m"), client.open("m", BIG), client.service("$health", HealthRequest("", watch=True).pack())]
    other.open("m")
    client.read()
    client.events.clear()
    harness.write(ALL)
    harness.pass_time(1.0)
    closed = close_of(client)
    ended = {event.stream_id: event.status for event in client.events if isinstance(event, Ended)}
    assert ended == dict.fromkeys(calls, Status.UNAUTHENTICATED)
    assert (closed.code, closed.remote) == (ErrorCode.AUTHENTICATION, True)
    assert "revoked" in closed.detail
    assert len(harness.m.cancelled) == 2
    assert not other.wire.eof
    assert harness.front.metrics.connections_dropped == {"revoked": 1}


def test_a_body_that_is_on_its_way_gives_its_memory_back(harness: Keyed) -> None:
    client = harness.client(ONE)
    _, data = client.begin("m", BIG)
    client.feed(data[: len(data) // 2])
    assert harness.pool.in_use
    harness.write(ALL)
    harness.pass_time(1.0)
    client.read()
    client.protocol.connection_lost(None)
    assert not harness.pool.in_use
    assert [event.status for event in client.events if isinstance(event, Ended)] == [Status.UNAUTHENTICATED]


@pytest.mark.parametrize(
    "changed",
    [replace(ONE, secret=b"x" * 32), replace(ONE, principal="other"), replace(ONE, not_after=1_800_000_000.5)],
)
def test_a_key_that_is_replaced_or_ends_is_gone_too(harness: Keyed, changed: Key) -> None:
    client = harness.client(ONE)
    harness.write(ALL, changed)
    harness.pass_time(1.5)
    assert close_of(client).code is ErrorCode.AUTHENTICATION


def test_a_key_that_ends_by_the_clock_closes_its_connections(tmp_path: Path) -> None:
    harness = Keyed(tmp_path, keys=(replace(ONE, not_after=1_800_000_010.0),))
    client = harness.client(ONE)
    stream = client.open("m")
    harness.pass_time(9.5)
    assert [type(event) for event in client.read()] == [GoAway, GoAway]
    harness.pass_time(1.0)
    assert close_of(client).code is ErrorCode.AUTHENTICATION
    assert [event.stream_id for event in client.events if isinstance(event, Ended)] == [stream]


def test_who_comes_back_with_a_key_that_ends_at_once_is_not_drained_again(tmp_path: Path) -> None:
    harness = Keyed(tmp_path, keys=(replace(ONE, not_after=1_800_000_001.0),))
    client = harness.client(ONE)
    harness.pass_time(0.5)
    assert client.read() == []
    harness.pass_time(1.0)
    assert close_of(client).code is ErrorCode.AUTHENTICATION


def test_a_second_key_takes_over_without_a_connection_lost(harness: Keyed) -> None:
    old = harness.client(ONE)
    harness.write(replace(ONE, not_after=harness.wall + 60), NEXT)
    harness.pass_time(1.0)
    new = harness.client(NEXT)
    assert len(harness.front.principals.all()) == 2
    for client in (old, new):
        stream = client.open("m")
        harness.finish(harness.m.taken[-1])
        assert [type(event) for event in client.read() if getattr(event, "stream_id", 0) == stream] == [Message]
    harness.pass_time(29.0)
    assert not old.read()
    harness.pass_time(0.5)
    goaway, *_, closed = old.read()
    assert isinstance(goaway, GoAway)
    assert "connect again" in goaway.detail
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.NO_ERROR, "drained, long before its key ends"
    assert new.read() == []
    assert not new.wire.eof


def test_a_file_that_cannot_be_used_revokes_nobody(harness: Keyed, capsys: pytest.CaptureFixture[str]) -> None:
    client = harness.client(ONE)
    harness.path.write_text("[[keys]]\nid = 1\n")
    harness.pass_time(1.0)
    client.read()
    assert client.events == []
    assert not client.wire.eof
    harness.client(ALL).open("m")
    assert len(harness.m.taken) == 1


def test_a_look_that_fails_is_not_the_last_one(harness: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    client = harness.client(ONE)
    refresh = harness.watch._keys.refresh

    def broken(*, look: bool = False) -> bool:
        monkeypatch.undo()
        raise RuntimeError(look)

    monkeypatch.setattr(harness.watch._keys, "refresh", broken)
    with pytest.raises(RuntimeError):
        harness.loop.advance(KEYS_INTERVAL)
    assert harness.watch._keys.refresh == refresh
    harness.write(ALL)
    harness.pass_time(1.0)
    assert close_of(client).code is ErrorCode.AUTHENTICATION


def test_a_connection_with_a_key_is_drained_when_it_is_old(tmp_path: Path) -> None:
    harness = Keyed(tmp_path, ("session_seconds", "60"), ("insecure", "true"))
    client, keyless = harness.client(ONE), harness.client()
    stream = client.open("m")
    harness.loop.advance(59.0)
    client.read()
    assert client.events == []
    harness.loop.advance(2.0)
    for _ in range(3):
        client.read()
        client.write()
        harness.loop.advance(0.3)
    goaways = [event for event in client.events if isinstance(event, GoAway)]
    assert [event.last_stream_id for event in goaways] == [(1 << 64) - 1, stream]
    assert "as old as one may be" in goaways[0].detail
    assert not client.wire.eof, "its call is not over"
    harness.finish(harness.m.taken[0])
    assert [event.stream_id for event in client.read() if isinstance(event, Message)] == [stream]
    assert client.wire.eof
    keyless.read()
    assert keyless.events == []


# ---- certificates ----


def test_a_certificate_stands_for_a_principal_with_a_key_file_that_knows_it(harness: Keyed) -> None:
    policy = harness.policy("tls", principals={"bidder.example": "bidder", "other.example": "other"})
    assert (policy.config.keyless, "none" in policy.config.mac_algorithms) == (True, True)
    client = Client(harness, key=None, policy=policy)
    client.protocol.secured({"subject": ((("commonName", "bidder.example"),),)})
    client.connect()
    assert client.ended(client.open("secret")).status == Status.NOT_FOUND
    client.open("m")
    assert len(harness.m.taken) == 1
    stranger = Client(harness, key=None, policy=policy)
    stranger.protocol.secured({"subject": ((("commonName", "other.example"),),)})
    stranger.write()
    stranger.read()
    stranger.write()
    assert close_of(stranger).code is ErrorCode.AUTHENTICATION


def test_a_certificate_and_a_key_must_stand_for_the_same(harness: Keyed) -> None:
    policy = harness.policy("tls", principals={"bidder.example": "bidder"})
    outcomes = []
    for key in (ONE, ALL):
        client = Client(harness, key=key, policy=policy)
        client.protocol.secured({"subject": ((("commonName", "bidder.example"),),)})
        client.connect()
        outcomes.append(client.wire.eof)
    assert outcomes == [False, True]


@pytest.mark.parametrize(
    "subject",
    [(), ((("commonName", "x"),),), ((("commonName", "a"),), (("commonName", "b"),)), ((("organizationName", "a"),),)],
)
def test_a_certificate_that_names_nobody_or_two_is_nobodys(harness: Keyed, subject: Any) -> None:
    policy = harness.policy("tls", principals={"a": "bidder", "b": "everybody"})
    assert policy.certified({"subject": subject}) == ""
    assert policy.certified(None) == ""
    assert policy.certified({"subject": ((("commonName", "a"),),)}) == "bidder"


# ---- principals ----


def test_connections_of_one_name_share_a_principal_and_the_last_takes_it_along() -> None:
    principals = Principals(load_settings())
    one, same, other = (principals.enter(name, EVERYTHING) for name in ("a", "a", "b"))
    assert one is same
    assert one.number != other.number
    principals.leave(one, b"1")
    assert one in principals.all()
    principals.leave(one, b"2")
    assert principals.all() == [principals.anonymous, other]
    again = principals.enter("a", EVERYTHING)
    assert again is not one
    assert again.number == one.number


def test_a_principal_that_comes_with_another_scope_has_it_from_then_on() -> None:
    principals = Principals(load_settings())
    principal = principals.enter("a", EVERYTHING)
    assert principals.enter("a", Scope(("m",))) is principal
    assert (principal.sees("m"), principal.sees("n")) == (True, False)


def test_the_binding_is_asked_for_at_each_connection(harness: Keyed) -> None:
    asked = []

    def binding() -> bytes:
        asked.append(1)
        return os.urandom(32)

    policy = harness.policy("tls", binding)
    client = Client(harness, key=ONE, policy=policy).connect()  # which knows of no binding: it is refused
    assert client.core.closed
    assert len(asked) == 1
