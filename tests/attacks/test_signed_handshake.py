"""The handshake of two honest ends with an attacker between them: changed, stripped, downgraded, spliced, replayed.

Both ends are also tried as permissive as they can be made (each would take `none`, the server a client without a key),
so that what stops an attack is the proof and not a setting. Sans-IO; tests/attacks/test_signed_network.py has a real
server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations

import pytest

from tensorwire.protocol import Authenticated, Closed, ErrorCode, FrameType, Message, Ready
from tensorwire.protocol.handshake import KEY_ID as KEY_ID_ENTRY
from tensorwire.protocol.handshake import parse_hello, parse_welcome
from tensorwire.protocol.header import HEADER_SIZE
from tensorwire.protocol.limits import PREFACE
from tests.attacks.signed import (
    DUMMY,
    KEY_ID,
    MAC,
    MALLORY,
    MALLORYS,
    PROOF,
    SECRET,
    SUITES,
    End,
    Insider,
    client,
    entries_of,
    flipped,
    plain,
    server,
    with_entries,
)
from tests.protocol.wiring import READY

pytestmark = pytest.mark.parametrize("suite", SUITES)

FLIGHTS = ("hello", "welcome", "auth", "ready")
NUMBERS = {"none": 0, "hmac-sha256": 1, "aes-256-gmac": 2}
Change = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    return data


def start_of(data: bytes, size: int) -> bytes:
    return data[:size]


def instead(_data: bytes, said: bytes) -> bytes:
    return said


class Shake:
    """A handshake through a proxy that changes flights; the client has a call waiting, which goes right behind AUTH."""

    def __init__(self, ends: tuple[End, End], changes: Mapping[str, Change] | None = None) -> None:
        ours, theirs = ends
        self.client, self.server = ours, theirs
        ours.connection.open(b"m", b"", [b"early"], 5)
        self.sent: dict[str, bytes] = {}
        for name in FLIGHTS:
            up = name in ("hello", "auth")
            sender, receiver = (ours, theirs) if up else (theirs, ours)
            self.sent[name] = sender.said()
            receiver.feed((changes or {}).get(name, same)(self.sent[name]))
        ours.feed(theirs.said())

    def wait(self) -> Shake:
        """Until nobody waits any more."""
        self.client.too_late()
        self.server.too_late()
        return self

    def check_up(self) -> None:
        """Both ends have a session, and believe the same of it."""
        assert self.client.has(Ready)
        assert self.server.has(Authenticated)
        assert self.server.has(Message)
        ours, theirs = self.client.connection, self.server.connection
        assert ours.mac == theirs.mac
        for name in ("version", "features", "connection_id", "boot_id", "state"):
            assert getattr(ours, name) == getattr(theirs, name), name
        hello = next(event for event in self.server.events if isinstance(event, Authenticated)).hello
        assert hello.key_id == ours.config.key_id
        assert theirs.peer_limits.max_message == ours.config.limits.max_message
        assert ours.peer_limits.max_streams == theirs.config.limits.max_streams

    def check_down(self, flight: str = "auth") -> None:
        """Nobody has a session; where only READY was changed, the server rightly believed AUTH and what followed."""
        self.wait()
        assert not self.client.has(Ready)
        assert self.client.connection.closed
        assert self.server.has(Authenticated) is (flight == "ready")
        assert self.server.has(Message) is (flight == "ready")
        assert self.server.connection.closed or flight == "ready"
        assert len([event for event in self.client.events if isinstance(event, Closed)]) == 1


def strict(suite: str) -> tuple[End, End]:
    return client(suite), server(suite)


def permissive(suite: str) -> tuple[End, End]:
    others = tuple(mac for mac in (*SUITES, "none") if mac != suite)
    return client(suite, *others), server(suite, *others, keyless=True)


ENDS = {"strict": strict, "permissive": permissive}
both = pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS.keys())
Ends = Callable[[str], tuple[End, End]]


def change_entries(change: Callable[[dict[int, bytes]], dict[int, bytes]]) -> Change:
    """A change of the entries of the one frame in a flight, lengths mended."""

    def changed(data: bytes) -> bytes:
        start = len(PREFACE) if data.startswith(PREFACE) else 0
        size = start + HEADER_SIZE + int.from_bytes(data[start : start + 4], "little")
        frame = data[start:size]
        return data[:start] + with_entries(frame, change(entries_of(frame))) + data[size:]

    return changed


def without(kind: int) -> Change:
    return change_entries(lambda entries: {k: v for k, v in entries.items() if k != kind})


def put(kind: int, value: bytes) -> Change:
    return change_entries(lambda entries: entries | {kind: value})


# ---- what is honest comes up ----


@both
def test_two_honest_ends_come_up_and_believe_the_same(suite: str, ends: Ends) -> None:
    shake = Shake(ends(suite))
    shake.check_up()
    assert shake.client.connection.mac == suite


def test_the_page_alone_is_enough_to_compute_what_both_ends_say(suite: str) -> None:
    """So that what is refused below is refused for the change, and not for a mistake of the attacker's."""
    shake = Shake(strict(suite))
    hello, welcome = shake.sent["hello"][len(PREFACE) :], shake.sent["welcome"]
    insider = Insider(hello, welcome)
    assert entries_of(welcome)[PROOF] == insider.server_proof()
    auth = insider.auth()
    record = insider.sealer(suite, "client").seal(plain(FrameType.OPEN, b"m", b"early", stream_id=1, flags=1))
    assert shake.sent["auth"] == auth + record
    assert shake.sent["ready"] == insider.sealer(suite, "server").seal(plain(FrameType.READY, READY))


# ---- every bit ----


@both
@pytest.mark.parametrize("flight", FLIGHTS)
def test_no_bit_of_the_handshake_can_be_changed(suite: str, ends: Ends, flight: str) -> None:
    size = len(Shake(ends(suite)).sent[flight])
    if flight == "auth":  # what follows AUTH are records: test_signed_session.py
        size = HEADER_SIZE + 4 + 32
    for bit in range(8 * size):
        Shake(ends(suite), {flight: partial(flipped, bit=bit)}).check_down(flight)


@both
@pytest.mark.parametrize("flight", FLIGHTS)
def test_a_handshake_that_is_cut_short_never_comes_up(suite: str, ends: Ends, flight: str) -> None:
    size = len(Shake(ends(suite)).sent[flight])
    if flight == "auth":
        size = HEADER_SIZE + 4 + 32
    for cut in range(size):
        Shake(ends(suite), {flight: partial(start_of, size=cut)}).check_down(flight)


# ---- entries ----


def hello_edits(suite: str) -> dict[str, Change]:
    others = bytes(number for name, number in NUMBERS.items() if name != suite)
    return {
        **{f"without {kind}": without(kind) for kind in (1, 2, 3, 4, 6, 7, 8, 9)},
        "mac none": put(MAC, b"\0"),
        "mac none first": change_entries(lambda entries: entries | {MAC: b"\0" + entries[MAC]}),
        "mac another": put(MAC, others),
        "mac reversed": change_entries(lambda entries: entries | {MAC: entries[MAC][::-1] + b"\x63"}),
        "mac one more": change_entries(lambda entries: entries | {MAC: entries[MAC] + b"\x63"}),
        "version range": put(1, b"\x01\0\x02\0"),
        "draft": put(2, b"\x02\0\0\0"),
        "nonce": put(3, bytes(32)),
        "features": put(4, b"\x02\0\x0a\x0a"),
        "features required": put(5, b""),
        "key of another": put(KEY_ID_ENTRY, MALLORY),
        "key of nobody": put(KEY_ID_ENTRY, b"nobody"),
        "limits": put(8, b"\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0"),
        "agent": put(9, b"other"),
        "a proof": put(PROOF, bytes(32)),
        "unknown": put(0x7A7A, b"?"),
    }


def welcome_edits(suite: str) -> dict[str, Change]:
    other = next(number for name, number in NUMBERS.items() if name not in (suite, "none"))
    return {
        **{f"without {kind}": without(kind) for kind in (1, 2, 3, 4, 6, 8, 9, 10, 11, 13)},
        "mac none": put(MAC, b"\0"),
        "mac none without proof": change_entries(
            lambda entries: {k: v for k, v in (entries | {MAC: b"\0"}).items() if k != PROOF}
        ),
        "mac another": put(MAC, bytes((other,))),
        "mac unknown": put(MAC, b"\x63"),
        "nonce": put(3, bytes(32)),
        "features": put(4, b"\x02\0"),
        "limits": put(8, b"\0\0\x10\0\x01\0\0\0\0\0\x01\0\0\0\0\0"),
        "agent": put(9, b"other"),
        "connection": put(10, bytes(8)),
        "boot": put(11, bytes(16)),
        "proof of zeros": put(PROOF, bytes(32)),
        "proof cut": change_entries(lambda entries: entries | {PROOF: entries[PROOF][:31]}),
        "unknown": put(0x7A7A, b"?"),
    }


def auth_edits() -> dict[str, Change]:
    return {
        "without proof": without(PROOF),
        "proof of zeros": put(PROOF, bytes(32)),
        "proof cut": change_entries(lambda entries: entries | {PROOF: entries[PROOF][:31]}),
        "proof twice as long": change_entries(lambda entries: entries | {PROOF: entries[PROOF] * 2}),
        "unknown": put(0x7A7A, b"?"),
        "key": put(KEY_ID_ENTRY, MALLORY),
        "twice": lambda data: data[: HEADER_SIZE + 36] * 2 + data[HEADER_SIZE + 36 :],
        "left out": lambda data: data[HEADER_SIZE + 36 :],
    }


@both
def test_no_entry_can_be_changed_stripped_or_added(suite: str, ends: Ends) -> None:
    for flight, edits in (("hello", hello_edits(suite)), ("welcome", welcome_edits(suite)), ("auth", auth_edits())):
        for name, edit in edits.items():
            shake = Shake(ends(suite), {flight: edit})
            assert name == "twice" or edit(shake.sent[flight]) != shake.sent[flight], name
            if name == "twice":  # AUTH itself was right: what follows is no record
                assert not shake.wait().server.has(Message)
            else:
                shake.check_down()


@both
def test_two_changes_that_fit_each_other_do_not_help(suite: str, ends: Ends) -> None:
    """A downgrade that hides itself: what is changed in HELLO is undone in WELCOME, or answered as it asked."""
    answers = [
        put(MAC, bytes((NUMBERS[suite],))),
        *(welcome_edits(suite)[name] for name in ("mac none", "mac another")),
    ]
    answers.append(welcome_edits(suite)["mac none without proof"])
    for hello in hello_edits(suite).values():
        for answer in answers:

            def unless_refused(data: bytes, answer: Change = answer) -> bytes:
                return answer(data) if data[4:5] == bytes((FrameType.WELCOME,)) else data

            Shake(ends(suite), {"hello": hello, "welcome": unless_refused}).check_down()


def test_a_client_with_a_key_takes_no_server_that_does_not_prove_itself(suite: str) -> None:
    """Keyless substitution: the key is stripped, a server that takes anybody answers, and the client is told so."""

    def stripped(entries: dict[int, bytes]) -> dict[int, bytes]:
        return {k: v for k, v in entries.items() if k != KEY_ID_ENTRY} | {MAC: b"\0"}

    for proof in (None, bytes(32), os.urandom(32)):
        back = same if proof is None else put(PROOF, proof)
        shake = Shake(permissive(suite), {"hello": change_entries(stripped), "welcome": back})
        assert shake.sent["welcome"][4] == FrameType.WELCOME, "the server would have had it"
        shake.check_down()
        closed = shake.client.events[-1]
        assert isinstance(closed, Closed)
        assert closed.code is ErrorCode.AUTHENTICATION


def test_a_client_without_a_key_is_not_given_one_on_its_way(suite: str) -> None:
    shake = Shake((client(), server(suite, "none", keyless=True)), {"hello": put(KEY_ID_ENTRY, KEY_ID)})
    shake.wait()
    assert not shake.server.has(Authenticated)
    assert not shake.server.has(Message)
    assert not shake.client.has(Ready)


def test_a_client_without_a_key_is_told_that_it_needs_one_before_anything_else(suite: str) -> None:
    shake = Shake((client(), server(suite, "none")))
    closed = shake.client.events[-1]
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.AUTHENTICATION
    assert closed.remote
    assert "key" in closed.detail
    assert not shake.server.has(Authenticated)


def test_a_signed_mac_without_a_key_is_no_handshake(suite: str) -> None:
    ours, theirs = permissive(suite)
    shake = Shake((ours, theirs), {"hello": without(KEY_ID_ENTRY)})
    closed = theirs.events[-1]
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.HANDSHAKE
    shake.check_down()


# ---- keys ----


@both
def test_whoever_lacks_the_secret_does_not_come_up(suite: str, ends: Ends) -> None:
    _, theirs = ends(suite)
    Shake((client(suite, secret=DUMMY[::-1]), theirs)).check_down()
    _, theirs = ends(suite)
    Shake((client(suite, key_id=b"nobody"), theirs)).check_down()


def test_an_unknown_id_is_not_known_by_the_dummy(suite: str) -> None:
    """Even somebody who came by the dummy secret is nobody: that the key is valid is asked too."""
    ours, theirs = client(suite, key_id=b"nobody", secret=DUMMY), server(suite)
    shake = Shake((ours, theirs))
    shake.wait()
    assert not theirs.has(Authenticated)
    assert not theirs.has(Message)
    assert not ours.has(Ready)
    closed = ours.events[-1]
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.AUTHENTICATION
    assert closed.detail.startswith("authentication: unknown key, wrong secret, or a key that is not valid now")


def test_somebody_with_a_key_of_his_own_cannot_stand_for_another(suite: str) -> None:
    """Mallory has a valid key: he neither becomes alice at the server nor the server at alice."""
    hello = client(suite, key_id=KEY_ID, secret=MALLORYS).said()
    theirs = server(suite)
    theirs.feed(hello)
    theirs.feed(Insider(hello[len(PREFACE) :], theirs.said(), MALLORYS).auth())
    assert not theirs.has(Authenticated)

    def forged(welcome: bytes) -> bytes:
        return put(PROOF, Insider(hello[len(PREFACE) :], welcome, MALLORYS).server_proof())(welcome)

    Shake(strict(suite), {"welcome": forged}).check_down()


def test_two_certificates_make_two_sessions(suite: str) -> None:
    """A relay that speaks TLS to both with certificates of its own has another binding on each side."""
    for bindings in ((bytes(32), bytes(31) + b"\1"), (b"", bytes(32)), (bytes(32), b"")):
        Shake((client(suite, binding=bindings[0]), server(suite, binding=bindings[1]))).check_down()
    Shake((client(suite, binding=bytes(32)), server(suite, binding=bytes(32)))).check_up()


# ---- splice, reflect, replay ----


def test_no_flight_of_one_handshake_fits_into_another(suite: str) -> None:
    """Splice: any of the flights are those of another handshake of the same key."""
    other = Shake((client(suite, nonce=bytes(32)), server(suite, nonce=b"\xff" * 32))).sent
    for count in range(1, 5):
        for flights in combinations(FLIGHTS, count):
            changes = {flight: partial(instead, said=other[flight]) for flight in flights}
            Shake(strict(suite), changes).check_down("ready" if flights == ("ready",) else "auth")


def test_a_proof_is_no_proof_of_the_other_side(suite: str) -> None:
    """Reflection: who knows only the key's id asks the server for its proof and hands that back, and the reverse."""
    hello = client(suite, secret=bytes(32)).said()
    theirs = server(suite)
    theirs.feed(hello)
    proof = entries_of(theirs.said())[PROOF]
    theirs.feed(with_entries(plain(FrameType.AUTH), {PROOF: proof}))
    assert not theirs.has(Authenticated)
    auth = Shake(strict(suite)).sent["auth"][: HEADER_SIZE + 36]
    Shake(strict(suite), {"welcome": put(PROOF, entries_of(auth)[PROOF])}).check_down()


def test_flights_that_come_back_to_whom_they_came_from(suite: str) -> None:
    honest = Shake(strict(suite)).sent
    for flight in FLIGHTS:
        for other in FLIGHTS:
            if other != flight:
                shake = Shake(strict(suite), {flight: partial(instead, said=honest[other])})
                shake.check_down(flight)


def test_a_handshake_that_was_heard_is_good_for_nothing(suite: str) -> None:
    """Replay: all that a client said, and all that a server said, against fresh nonces of the other side."""
    honest = Shake(strict(suite)).sent
    theirs = server(suite, nonce=os.urandom(32))
    theirs.feed(honest["hello"])
    theirs.feed(honest["auth"])
    assert not theirs.has(Authenticated)
    assert not theirs.has(Message)
    closed = theirs.events[-1]
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.AUTHENTICATION
    ours = client(suite, nonce=os.urandom(32))
    ours.feed(honest["welcome"])
    ours.feed(honest["ready"])
    assert not ours.has(Ready)
    closed = ours.events[-1]
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.AUTHENTICATION


def test_what_follows_a_refused_auth_is_not_looked_at(suite: str) -> None:
    """Frames behind AUTH are discarded with it: no event, and no other answer than the one refusal."""
    hello = client(suite, secret=bytes(32)).said()
    answers = set()
    for behind in (b"", b"\xff" * 100, plain(FrameType.OPEN, b"m", stream_id=1, flags=1), bytes(70_000)):
        theirs = server(suite)
        theirs.feed(hello)
        welcome = theirs.said()
        theirs.feed(with_entries(plain(FrameType.AUTH), {PROOF: bytes(32)}) + behind)
        assert [type(event) for event in theirs.events] == [Closed]
        assert entries_of(welcome)
        answers.add(theirs.said())
    assert len(answers) == 1


# ---- grease ----


def test_what_is_not_known_in_hello_and_welcome_is_ignored_and_hashed(suite: str) -> None:
    grease = {0x0A0A: b"", 0x7A7A: os.urandom(20), 0xFFFF: b"\0"}
    hello = plain(FrameType.HELLO, client(suite).said()[len(PREFACE) + HEADER_SIZE :])
    hello = with_entries(hello, entries_of(hello) | grease)
    assert parse_hello(hello[HEADER_SIZE:]).key_id == KEY_ID
    theirs = server(suite)
    theirs.feed(PREFACE + hello)
    insider = Insider(hello, theirs.said(), SECRET)
    theirs.feed(insider.auth(grease))
    assert theirs.has(Authenticated)

    ours = client(suite)
    hello = ours.said()[len(PREFACE) :]
    welcome = Shake(strict(suite)).sent["welcome"]
    welcome = with_entries(welcome, entries_of(welcome) | grease)
    assert parse_welcome(welcome[HEADER_SIZE:])
    insider = Insider(hello, welcome)
    ours.feed(with_entries(welcome, entries_of(welcome) | {PROOF: insider.server_proof()}))
    ours.feed(insider.sealer(suite, "server").seal(plain(FrameType.READY, READY)))
    assert ours.has(Ready)


def test_a_server_with_the_key_cannot_choose_what_was_not_offered(suite: str) -> None:
    """Its proof is right: what refuses it is that the client looks at the choice."""
    other = next(number for name, number in NUMBERS.items() if name not in (suite, "none"))
    for kind, value, code in (
        (MAC, b"\0", ErrorCode.MAC),
        (MAC, bytes((other,)), ErrorCode.MAC),
        (MAC, b"\x63", ErrorCode.MAC),
        (1, b"\x02\0\x02\0", ErrorCode.VERSION),
        (2, b"\x02\0\0\0", ErrorCode.VERSION),
        (4, b"\x02\0", ErrorCode.FEATURE),
    ):
        ours = client(suite)
        hello = ours.said()[len(PREFACE) :]
        welcome = Shake(strict(suite)).sent["welcome"]
        welcome = with_entries(welcome, entries_of(welcome) | {kind: value})
        ours.feed(put(PROOF, Insider(hello, welcome).server_proof())(welcome))
        (closed,) = ours.events
        assert isinstance(closed, Closed)
        assert closed.code is code
        assert not closed.remote


# ---- MAC none: no records, but the proofs are there ----


def test_without_tags_the_proofs_still_hold_the_handshake_together(suite: str) -> None:
    """A key over TLS or loopback with MAC `none`: READY and what follows is the transport's to protect, no more."""

    def ends() -> tuple[End, End]:
        return client("none"), server(suite, "none")

    honest = Shake(ends())
    honest.check_up()
    for flight in ("hello", "welcome", "auth"):
        size = HEADER_SIZE + 36 if flight == "auth" else len(honest.sent[flight])
        for bit in range(8 * size):
            Shake(ends(), {flight: partial(flipped, bit=bit)}).check_down()


def test_without_tags_a_server_without_the_secret_is_no_server(suite: str) -> None:
    """Whoever answers HELLO without the secret could go on to READY, since it needs no tag: the proof stops it."""
    welcome = Shake((client("none"), server(suite, "none"))).sent["welcome"]
    for proof in (bytes(32), os.urandom(32)):
        ours = client("none", nonce=os.urandom(32))
        ours.feed(put(PROOF, proof)(welcome) + plain(FrameType.READY, READY))
        (closed,) = ours.events
        assert isinstance(closed, Closed)
        assert closed.code is ErrorCode.AUTHENTICATION
