"""Signed connections: proofs, records and tags between two cores; bytes in, events out."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest

from tensorwire.protocol import (
    Authenticated,
    Closed,
    Config,
    Connection,
    ErrorCode,
    Event,
    Limits,
    Message,
    MessageAborted,
    Ready,
    Role,
    pack_extension,
)
from tensorwire.protocol.signing import Aes256Gmac, HmacSha256, hkdf_expand, hkdf_extract, hmac_sha256

from .wiring import BOOT_ID, CLIENT_NONCE, CONNECTION_ID, READY, SERVER_NONCE, feed, wire_bytes

SECRET = bytes(range(100, 132))
DUMMY = bytes(32)
MACS = ["hmac-sha256", "aes-256-gmac", "none"]
SIGNED = MACS[:2]


def secret_of(key_id: bytes) -> tuple[bytes, bool]:
    return (SECRET, True) if key_id == b"alice" else (SECRET, False) if key_id == b"expired" else (DUMMY, False)


def client(mac: str = "hmac-sha256", key_id: bytes = b"alice", secret: bytes = SECRET, **options: Any) -> Connection:
    config = Config(Role.CLIENT, mac_algorithms=(mac,), key_id=key_id, secret=secret, limits=Limits(chunk=16384))
    return Connection(config, nonce=CLIENT_NONCE, now=0.0, **options)


def server(mac: str = "hmac-sha256", keyless: bool = False, **options: Any) -> Connection:
    config = Config(Role.SERVER, mac_algorithms=(mac,), keyless=keyless, limits=Limits(chunk=16384))
    options = {"secret_of": secret_of, **options}
    return Connection(
        config, nonce=SERVER_NONCE, now=0.0, connection_id=CONNECTION_ID, boot_id=BOOT_ID, **options
    )  # fmt: skip


def pair(mac: str = "hmac-sha256") -> tuple[Connection, Connection]:
    """A client and a server past their handshake."""
    one, other = client(mac), server(mac)
    seen = shake(one, other)
    assert [type(event) for event in seen] == [Ready]
    return one, other


def shake(one: Connection, other: Connection) -> list[Event]:
    """Run the handshake; what the client saw."""
    events = feed(other, wire_bytes(one))
    seen = feed(one, wire_bytes(other))
    events += feed(other, wire_bytes(one))
    for event in events:
        if isinstance(event, Authenticated):
            other.accept(READY)
    return seen + feed(one, wire_bytes(other))


def message(body: bytes, size: int | None = None) -> dict[str, Any]:
    return {"meta": b"m", "ext": b"", "body": [body], "body_length": len(body) if size is None else size}


def bodies(events: list[Event]) -> list[bytes]:
    return [bytes(event.body) for event in events if isinstance(event, Message)]


# ---- the handshake ----


@pytest.mark.parametrize("mac", MACS)
def test_both_sides_prove_that_they_have_the_secret(mac: str) -> None:
    one, other = client(mac), server(mac)
    seen = shake(one, other)
    assert seen == [Ready(READY)]
    assert (one.mac, other.mac) == (mac, mac)


@pytest.mark.parametrize("mac", MACS)
@pytest.mark.parametrize(("key_id", "secret"), [(b"alice", DUMMY), (b"nobody", SECRET), (b"expired", SECRET[::-1])])
def test_a_client_without_the_servers_secret_notices_it_first(mac: str, key_id: bytes, secret: bytes) -> None:
    one, other = client(mac, key_id, secret), server(mac)
    seen = shake(one, other)
    assert [type(event) for event in seen] == [Closed]
    assert isinstance(seen[0], Closed)
    assert (seen[0].code, seen[0].remote) == (ErrorCode.AUTHENTICATION, False)
    assert "the server's proof does not fit this key" in seen[0].detail


@pytest.mark.parametrize("mac", MACS)
def test_whoever_cannot_prove_it_gets_one_answer_for_all_reasons(mac: str) -> None:
    """Unknown key, wrong secret and expired key: as many bytes, and the same once their tag is taken off."""
    answers = []
    for key_id, secret in ((b"expired", SECRET), (b"nobody!", SECRET), (b"alice", DUMMY), (b"nobody!", DUMMY)):
        other = server(mac)
        feed(other, wire_bytes(client(mac, key_id, secret)))
        welcome = wire_bytes(other)
        auth = bytes.fromhex("24000000030000000000000000000000000000000000000024000000000000000d002000") + bytes(32)
        events = feed(other, auth)
        assert [type(event) for event in events] == [Closed]
        answer = wire_bytes(other)
        answers.append((len(welcome), answer if mac == "none" else answer[:-16]))
    assert len(set(answers)) == 1
    assert b"authentication: unknown key, wrong secret, or a key that is not valid now" in answers[0][1]


def test_a_key_that_is_not_valid_now_is_refused_although_its_secret_is_right() -> None:
    one, other = client(key_id=b"expired"), server()
    seen = shake(one, other)  # this test's server tells the secret all the same: the proofs fit
    assert isinstance(seen[0], Closed)
    assert (seen[0].code, seen[0].remote) == (ErrorCode.AUTHENTICATION, True)


def test_a_server_that_wants_keys_says_so_before_it_proves_anything() -> None:
    one = Connection(Config(Role.CLIENT), nonce=CLIENT_NONCE, now=0.0)
    seen = shake(one, server("none"))
    assert isinstance(seen[0], Closed)
    assert seen[0].code is ErrorCode.AUTHENTICATION
    assert "takes callers with a key only" in seen[0].detail


def test_a_server_without_keys_says_so() -> None:
    seen = shake(client("none"), server("none", keyless=True, secret_of=None))
    assert isinstance(seen[0], Closed)
    assert "call without a key" in seen[0].detail


def test_a_signed_mac_without_a_key_is_refused() -> None:
    one = Connection(Config(Role.CLIENT, mac_algorithms=("hmac-sha256",)), nonce=CLIENT_NONCE, now=0.0)
    seen = shake(one, server(keyless=True))
    assert isinstance(seen[0], Closed)
    assert (seen[0].code, seen[0].remote) == (ErrorCode.HANDSHAKE, True)


def test_a_client_with_a_key_takes_no_server_that_proves_nothing() -> None:
    one, other = client("none"), server("none", keyless=True)
    keyless = Connection(Config(Role.CLIENT), nonce=CLIENT_NONCE, now=0.0)
    feed(other, wire_bytes(keyless))
    seen = feed(one, wire_bytes(other))
    assert isinstance(seen[0], Closed)
    assert seen[0].code is ErrorCode.AUTHENTICATION


@pytest.mark.parametrize(("mine", "theirs"), [(b"", b"a"), (b"a", b""), (b"a", b"b")])
def test_another_certificate_breaks_the_proof(mine: bytes, theirs: bytes) -> None:
    bindings = [hashlib.sha256(name).digest() if name else b"" for name in (mine, theirs)]
    seen = shake(client(binding=bindings[0]), server(binding=bindings[1]))
    assert isinstance(seen[0], Closed)
    assert seen[0].code is ErrorCode.AUTHENTICATION
    assert shake(client(binding=bindings[0]), server(binding=bindings[0])) == [Ready(READY)]


@pytest.mark.parametrize("mac", MACS)
def test_every_flipped_bit_of_the_handshake_is_noticed(mac: str) -> None:
    one, other = client(mac), server(mac)
    hello = wire_bytes(one)
    feed(other, hello)
    welcome = wire_bytes(other)
    for at, bit in itertools.product(range(8, len(hello)), range(8)):
        changed = bytearray(hello)
        changed[at] ^= 1 << bit
        one, other = client(mac), server(mac)
        wire_bytes(one)
        feed(other, bytes(changed))
        events = feed(one, wire_bytes(other))
        auth = wire_bytes(one)
        events += feed(other, auth)
        assert not any(isinstance(event, Authenticated | Ready) for event in events), (at, bit)
    for at, bit in itertools.product(range(len(welcome)), range(8)):
        changed = bytearray(welcome)
        changed[at] ^= 1 << bit
        one = client(mac)
        wire_bytes(one)
        feed(one, bytes(changed))
        assert one.closed or not wire_bytes(one), (at, bit)


# ---- records ----


@pytest.mark.parametrize("mac", SIGNED)
@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 65537, 70000, 16384 * 5, 300_000])
@pytest.mark.parametrize("cut", [1 << 20, 7, 5000, 16384])
def test_messages_of_every_size_pass_in_pieces_of_every_size(mac: str, size: int, cut: int) -> None:
    one, other = pair(mac)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    stream = one.open(**message(body))
    one.open(**message(b"small"))
    events = feed(other, wire_bytes(one), itertools.repeat(cut))
    assert sorted(map(len, bodies(events))) == sorted([size, 5])
    assert body in bodies(events)
    other.send(stream, **message(body))
    other.send(stream + 1, **message(b"small"))
    events = feed(one, wire_bytes(other), itertools.repeat(cut))
    assert body in bodies(events)
    assert b"small" in bodies(events)
    one.close(ErrorCode.NO_ERROR)
    assert feed(other, wire_bytes(one)) == [Closed(ErrorCode.NO_ERROR, "", True)]


@pytest.mark.parametrize("mac", SIGNED)
def test_calls_may_follow_auth_in_the_same_bytes(mac: str) -> None:
    one, other = client(mac), server(mac)
    feed(other, wire_bytes(one))
    one.open(**message(b"early"))
    feed(one, wire_bytes(other))
    one.open(**message(b"y" * 100_000))
    events = feed(other, wire_bytes(one))
    assert isinstance(events[0], Authenticated)
    assert bodies(events) == [b"early", b"y" * 100_000]


@pytest.mark.parametrize("mac", SIGNED)
def test_a_body_of_several_buffers_has_one_tag_a_chunk(mac: str) -> None:
    one, other = pair(mac)
    parts = [bytes([n]) * 9999 for n in range(12)]
    one.open(b"m", b"", parts, sum(map(len, parts)))
    assert bodies(feed(other, wire_bytes(one))) == [b"".join(parts)]


@pytest.mark.parametrize("mac", SIGNED)
def test_a_batch_of_small_frames_is_one_record_of_at_most_64_kib(mac: str) -> None:
    one, other = pair(mac)
    for _ in range(1000):
        one.open(**message(b"z" * 100))
    sent = wire_bytes(one)
    sizes, at = [], 0
    while at < len(sent):
        sizes.append(int.from_bytes(sent[at : at + 4], "little"))
        at += 4 + sizes[-1] + 16
    assert at == len(sent)
    assert len(sizes) == 3
    assert max(sizes) <= 65536
    assert len(bodies(feed(other, sent))) == 1000


@pytest.mark.parametrize("mac", SIGNED)
def test_every_flipped_bit_of_a_record_is_refused_and_nothing_of_it_is_heard_of(mac: str) -> None:
    sent = []
    one, _ = pair(mac)
    one.open(**message(b"first"))
    sent.append(wire_bytes(one))
    one.open(**message(b"second"))
    sent.append(wire_bytes(one))
    for at, bit in itertools.product(range(len(sent[1])), range(8)):
        changed = bytearray(sent[1])
        changed[at] ^= 1 << bit
        _, other = pair(mac)
        events = feed(other, sent[0] + changed + bytes(64))
        assert bodies(events) == [b"first"]
        if at >= 4:  # a longer record waits for its end
            assert isinstance(events[-1], Closed), (at, bit)
            assert events[-1].code in {ErrorCode.AUTHENTICATION, ErrorCode.TOO_LARGE, ErrorCode.FRAME}


@pytest.mark.parametrize("mac", SIGNED)
@pytest.mark.parametrize("cut", [1 << 20, 16384 + 36, 4000, 17])
@pytest.mark.parametrize("where", [3, 30, 36, 40, 8000, 16384 + 36 + 3, -1, -20])
def test_a_chunk_with_a_wrong_bit_is_never_heard_of_and_its_memory_is_given_back(
    mac: str, cut: int, where: int
) -> None:
    one, other = pair(mac)
    one.open(**message(b"q" * 80_000))
    sent = wire_bytes(one)
    first = 4 + int.from_bytes(sent[:4], "little") + 16
    changed = bytearray(sent)
    changed[first + where if where >= 0 else where] ^= 0x40
    events = feed(other, bytes(changed), itertools.repeat(cut))
    assert not bodies(events)
    assert isinstance(events[-1], Closed)
    assert MessageAborted(1) in events


@pytest.mark.parametrize("mac", SIGNED)
def test_replay_reorder_loss_and_reflection_are_refused(mac: str) -> None:
    one, other = pair(mac)
    records = []
    for n in range(4):
        one.open(**message(b"%d" % n))
        records.append(wire_bytes(one))
    other.ping(b"reflect!")
    reflected = wire_bytes(other)
    for order in itertools.permutations(range(4)):
        _, fresh = pair(mac)
        events = feed(fresh, b"".join(records[n] for n in order))
        right = next((n for n in range(4) if order[n] != n), 4)
        assert bodies(events) == [b"%d" % n for n in range(right)]
        assert fresh.closed is (right < 4)
    for stream in ([0, 0], [1], [0, 2]):
        _, fresh = pair(mac)
        assert isinstance(feed(fresh, b"".join(records[n] for n in stream))[-1], Closed)
    _, fresh = pair(mac)
    events = feed(fresh, reflected)
    assert isinstance(events[-1], Closed)
    assert events[-1].code is ErrorCode.AUTHENTICATION


@pytest.mark.parametrize("mac", SIGNED)
def test_the_end_of_the_bytes_without_close_is_told_as_such_at_every_byte(mac: str) -> None:
    one, other = pair(mac)
    one.open(**message(b"request"))
    feed(other, wire_bytes(one))
    other.send(1, **message(b"a" * 100_000))
    sent = wire_bytes(other)
    for cut in [*range(200), *range(200, len(sent), 997), len(sent) - 1]:
        again, _ = pair(mac)
        again.open(**message(b"request"))
        wire_bytes(again)
        events = feed(again, sent[:cut])
        assert not bodies(events)
        last = again.receive_eof(0.0)[-1]
        assert isinstance(last, Closed)
        assert last.remote
        assert ("truncated" in last.detail) is (cut > 0)


@pytest.mark.parametrize("n", [0, 31, 1 << 21, 1 << 31, (1 << 32) - 1])
def test_a_record_of_an_impossible_length_is_refused_at_its_length(n: int) -> None:
    _, other = pair()
    events = feed(other, n.to_bytes(4, "little"))
    assert isinstance(events[-1], Closed)
    assert events[-1].code is (ErrorCode.FRAME if n < 32 else ErrorCode.TOO_LARGE)


@pytest.mark.parametrize("mac", SIGNED)
def test_chunks_of_a_cancelled_reply_are_checked_and_dropped(mac: str) -> None:
    one, other = pair(mac)
    one.open(**message(b"request"))
    one.open(**message(b"request"))
    feed(other, wire_bytes(one))
    other.send(1, **message(b"a" * 100_000))
    other.send(2, **message(b"b"))
    sent = wire_bytes(other)
    for cut in (100, 500, 20_000, 60_000):
        again, _ = pair(mac)
        again.open(**message(b"request"))
        again.open(**message(b"request"))
        wire_bytes(again)
        seen = feed(again, sent[:cut], itertools.repeat(3000))
        again.cancel(1)
        seen += feed(again, sent[cut:], itertools.repeat(3000))
        assert bodies(seen) == [b"b"]
        assert not again.closed
        changed = bytearray(sent)
        changed[70_000] ^= 1
        again, _ = pair(mac)
        again.open(**message(b"request"))
        again.open(**message(b"request"))
        seen = feed(again, bytes(changed[:cut]), itertools.repeat(3000))
        again.cancel(1)
        seen += feed(again, bytes(changed[cut:]), itertools.repeat(3000))
        assert isinstance(seen[-1], Closed)
        assert seen[-1].code is ErrorCode.AUTHENTICATION


@pytest.mark.parametrize("mac", SIGNED)
def test_what_a_closing_side_still_sends_is_in_records(mac: str) -> None:
    one, other = pair(mac)
    for _ in range(3000):
        one.open(**message(b"w" * 50))
    one.open(**message(b"v" * 100_000))
    one.close(ErrorCode.INTERNAL, "bye")
    events = feed(other, wire_bytes(one))
    assert len(bodies(events)) == 3000
    assert events[-1] == Closed(ErrorCode.INTERNAL, "bye", True)


def test_answers_to_a_flood_of_pings_are_in_records_of_at_most_64_kib() -> None:
    one, other = pair()
    for n in range(5000):
        one.ping(n.to_bytes(8, "little"))
    feed(other, wire_bytes(one))
    assert len(feed(one, wire_bytes(other))) == 5000


def test_several_frames_above_64_kib_in_one_record_are_refused() -> None:
    one, other = pair()
    one.open(**message(b"x" * 40_000))
    one.open(**message(b"y" * 40_000))
    frames = [part for batch, _ in one._writer.base.full for part in batch] + one._writer.base.small
    sealed = b"".join(one._writer.records.seal(frames, sum(map(len, frames))))
    events = feed(other, sealed)
    assert isinstance(events[-1], Closed)
    assert events[-1].code is ErrorCode.TOO_LARGE


def test_a_frame_that_crosses_its_record_is_refused() -> None:
    one, other = pair()
    one.open(**message(b"x" * 100))
    (frame, body) = one._writer.base.small
    sealed = b"".join(one._writer.records.seal([frame, body[:50]], len(frame) + 50))
    events = feed(other, sealed)
    assert isinstance(events[-1], Closed)
    assert events[-1].code is ErrorCode.FRAME


@pytest.mark.parametrize("mac", SIGNED)
def test_unverified_bytes_touch_only_the_memory_of_their_own_message(mac: str) -> None:
    given: dict[int, memoryview] = {}

    def reserve(stream_id: int, *rest: Any) -> memoryview:
        given[stream_id] = memoryview(bytearray(b"\xee" * rest[-1]))
        return given[stream_id]

    one, _ = pair(mac)
    one.open(**message(b"a" * 70_000))
    one.open(**message(b"b" * 70_000))
    sent = wire_bytes(one)
    other = server(mac, reserve=reserve)
    shake(client(mac), other)
    at = 4 + int.from_bytes(sent[:4], "little") + 16
    feed(other, sent[: at + 36 + 10_000], itertools.repeat(500))
    assert bytes(given[1]).count(b"a") == 10_000
    assert set(given[2]) == {0xEE}


def test_a_body_length_item_goes_through() -> None:
    one, other = pair()
    one.open(b"m", pack_extension(dims=b"\1" * 8), [b"r" * 66_000], 66_000)
    assert bodies(feed(other, wire_bytes(one))) == [b"r" * 66_000]


def test_the_secret_is_in_no_repr() -> None:
    config = Config(Role.CLIENT, key_id=b"alice", secret=SECRET)
    assert "secret" not in repr(config)
    assert repr(SECRET) not in repr(config)


@pytest.mark.parametrize(("key_id", "secret"), [(b"alice", b""), (b"", SECRET), (b"alice", SECRET[:31])])
def test_half_a_key_is_none(key_id: bytes, secret: bytes) -> None:
    with pytest.raises(ValueError, match="a key is a key_id and a secret of 32 bytes"):
        Config(Role.CLIENT, key_id=key_id, secret=secret)


# ---- the primitives ----


def test_hkdf_is_that_of_rfc_5869() -> None:
    """Test case 1 of its appendix A."""
    prk = hkdf_extract(bytes(range(13)), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    made = hkdf_expand(prk, bytes(range(0xF0, 0xFA)), 42)
    assert made.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_precomputed_pads_give_the_hmac_of_rfc_2104() -> None:
    mac = HmacSha256(SECRET)
    for counter in range(3):
        data = counter.to_bytes(8, "little") + b"text" + b"chunk"
        assert mac.tag(b"text", (b"chu", b"nk")) == hmac_sha256(SECRET, data)[:16]
    running = mac.begin(b"text")
    running.update(b"chunk")
    assert running.finish() == hmac_sha256(SECRET, (3).to_bytes(8, "little") + b"textchunk")[:16]


def test_gmac_is_the_same_in_one_piece_and_in_several() -> None:
    one, other = Aes256Gmac(SECRET), Aes256Gmac(SECRET)
    for _ in range(3):
        running = other.begin(b"text")
        running.update(b"chu")
        running.update(memoryview(b"nk"))
        assert one.tag(b"text", (b"chunk",)) == running.finish()
    assert one.tag(b"text", (b"chu", b"nk")) == other.tag(b"text", (b"chunk",))
