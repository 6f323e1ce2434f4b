"""Vectors of WELCOME and AUTH whose proofs are not those of the handshake (SPEC 9.7, 11.3, 11.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.vectors.mac import hmac_sha256
from tests.vectors.sealed import (
    BINDING,
    DUMMY,
    GMAC,
    HMAC,
    NONE,
    OTHER_BINDING,
    Session,
    flipped,
    macs,
    u32,
)
from tests.vectors.signed_case import (
    Test,
    refused_auth,
    refused_welcome,
)
from tests.vectors.wire import (
    AUTH,
    AUTHENTICATION,
    END_STREAM,
    FEATURE,
    HANDSHAKE,
    MAC,
    OPEN,
    PREFACE,
    VERSION,
    WELCOME,
    WELCOME_ENTRIES,
    entry,
    frame,
    limits,
    region,
    u16s,
)

_OTHER_NONCE = bytes(range(0xC0, 0xE0))
_OTHER_SECRET = bytes(range(0xA0, 0xC0))


# ---- whose proofs are not those of this session ----


def _strangers(session: Session) -> Iterator[tuple[str, str, Session]]:
    """(what it is, flag, a session that is like this one but for one thing); its proofs do not fit this one."""
    yield "another secret", "Key", session.but(secret=_OTHER_SECRET)
    yield "another client nonce: an earlier session", "Replay", session.hello_but(t3=_OTHER_NONCE)
    yield "another server nonce: an earlier session", "Replay", session.welcome_but(t3=_OTHER_NONCE)
    if session.binding:
        yield "another certificate", "Binding", session.but(binding=OTHER_BINDING)
        yield "no TLS", "Binding", session.but(binding=b"")
    else:
        yield "a certificate", "Binding", session.but(binding=BINDING)
    yield "HELLO with versions 1..2", "Downgrade", session.hello_but(t1=u16s(1, 2))
    yield "HELLO with draft 2", "Downgrade", session.hello_but(t2=struct.pack("<I", 2))
    yield "HELLO with one feature more", "Downgrade", session.hello_but(t4=u16s(4, 0x0A0A))
    yield "HELLO with one MAC more", "Downgrade", session.hello_but(t6=b"\xfe" + macs(*session.offers))
    yield "HELLO with none behind its MACs", "Downgrade", session.hello_but(t6=macs(*session.offers, NONE))
    yield "HELLO with another key id", "Splice", session.but(key_id=b"someone")
    yield "HELLO with other limits", "Splice", session.hello_but(t8=limits(16384, 0, 1 << 30))
    yield "HELLO without its agent", "Splice", session.hello_but(t9=None)
    yield "WELCOME with version 2", "Downgrade", session.welcome_but(t1=u16s(2, 2))
    yield "WELCOME with another MAC", "Downgrade", session.welcome_but(t6=macs(NONE if session.mac != NONE else HMAC))
    yield "WELCOME with a feature", "Downgrade", session.welcome_but(t4=u16s(4))
    yield "WELCOME with another connection id", "Splice", session.welcome_but(t10=bytes(8))
    yield "WELCOME with another boot id", "Splice", session.welcome_but(t11=bytes(16))
    yield "another preface", "Splice", session.but(preface=flipped(PREFACE, 0))


def _proofs(right: bytes) -> Iterator[tuple[str, int, bytes | None]]:
    """(what it is, error code, proof): one that is missing, of a wrong length, or not the right one."""
    yield "no PROOF", AUTHENTICATION, None
    yield "a PROOF of no bytes", HANDSHAKE, b""
    yield "a PROOF of 16 bytes", HANDSHAKE, right[:16]
    yield "a PROOF of 31 bytes", HANDSHAKE, right[:31]
    yield "a PROOF of 33 bytes", HANDSHAKE, right + b"\0"
    yield "a PROOF of zeros", AUTHENTICATION, bytes(32)
    yield "a PROOF with its first bit flipped", AUTHENTICATION, flipped(right, 0, 7)
    yield "a PROOF with its last bit flipped", AUTHENTICATION, flipped(right, -1)
    yield "a PROOF of which the first half is right", AUTHENTICATION, right[:16] + bytes(16)
    yield "a PROOF of which the second half is right", AUTHENTICATION, bytes(16) + right[16:]


def _in_flight(session: Session) -> Iterator[tuple[str, bytes]]:
    """WELCOMEs with the right proof of what the server said, changed on their way."""
    original = session.server_proof
    changes: tuple[tuple[str, dict[str, bytes | None]], ...] = (
        ("more streams allowed", {"t8": limits(16384, 5, 1 << 20)}),
        ("a smaller message allowed", {"t8": limits(16384, 4, 65536)}),
        ("a larger chunk", {"t8": limits(32768, 4, 1 << 20)}),
        ("another agent", {"t9": b"vectors/2"}),
        ("the agent taken away", {"t9": None}),
        ("another connection id", {"t10": bytes(8)}),
        ("another boot id", {"t11": bytes(16)}),
        ("another nonce", {"t3": _OTHER_NONCE}),
        ("an unknown entry put in", {"t14": b"x"}),
    )
    for comment, changed in changes:
        yield comment, session.welcome_but(**changed).welcome_with(original)


# ---- at the client ----


def welcomes(session: Session) -> Iterator[Test]:
    """What a client refuses in place of WELCOME."""
    for comment, code, proof in _proofs(session.server_proof):
        yield refused_welcome(session, f"WELCOME with {comment}", "11.4", code, "Proof", session.welcome_with(proof))
    for comment, flag, other in _strangers(session):
        welcome = session.welcome_with(other.server_proof)
        yield refused_welcome(session, f"WELCOME proves {comment}", "11.4", AUTHENTICATION, flag, welcome)
    for comment, welcome in _in_flight(session):
        name = f"WELCOME changed in flight: {comment}"
        yield refused_welcome(session, name, "11.3", AUTHENTICATION, "Proof", welcome)
    reflected = session.welcome_with(hmac_sha256(session.key("client proof"), session.th))
    yield refused_welcome(
        session, "WELCOME's proof made with the client's key", "11.4", AUTHENTICATION, "Reflection", reflected
    )
    bare = session.welcome_with(hmac_sha256(session.secret, session.th))
    yield refused_welcome(session, "WELCOME's proof made with the secret itself", "11.4", AUTHENTICATION, "Proof", bare)
    yield from _bad_choices(session)
    raw = region(WELCOME_ENTRIES | {6: macs(session.mac)})
    for comment, mixed in (
        ("PROOF stands before the others", entry(13, session.server_proof) + raw),
        ("PROOF twice", raw + entry(13, session.server_proof) * 2),
        ("PROOF runs past the end", raw + b"\x0d\x00\x20\x00" + bytes(31)),
    ):
        found = frame(WELCOME, meta=mixed)
        yield refused_welcome(session, f"WELCOME: {comment}", "9.2", HANDSHAKE, "Entries", found)


def _bad_choices(session: Session) -> Iterator[Test]:
    """WELCOMEs that choose what was not offered, with the right proof over it: the server itself is wrong."""
    choices: tuple[tuple[str, int, dict[str, bytes | None]], ...] = (
        ("version 2", VERSION, {"t1": u16s(2, 2)}),
        ("draft 2", VERSION, {"t2": struct.pack("<I", 2)}),
        ("a feature", FEATURE, {"t4": u16s(4)}),
        ("the retired feature 1", FEATURE, {"t4": u16s(1)}),
        ("MAC 254", MAC, {"t6": b"\xfe"}),
        ("MAC none", MAC, {"t6": macs(NONE)}),
        ("MAC hmac-sha256", MAC, {"t6": macs(HMAC)}),
        ("MAC aes-256-gmac", MAC, {"t6": macs(GMAC)}),
    )
    for comment, code, changed in choices:
        if comment.removeprefix("MAC ") in session.offers:
            continue
        chosen = session.welcome_but(**changed).welcome
        name = f"WELCOME chooses {comment}, which was not offered"
        yield refused_welcome(session, name, "9.5", code, "Downgrade", chosen)
    if session.mac == GMAC:  # the client offered both
        stripped = session.but(mac=HMAC, offers=(HMAC,))
        name = "MAC stripped from HELLO's list in flight; the server answers what it read"
        yield refused_welcome(session, name, "11.3", AUTHENTICATION, "Downgrade", stripped.welcome)


# ---- at the server ----


def auths(session: Session) -> Iterator[Test]:
    """What a server refuses in place of AUTH."""
    call = session.client(0, frame(OPEN, stream=1, flags=END_STREAM, body=b"early"))
    for comment, _, proof in _proofs(session.client_proof):  # of whatever length: one answer (9.7)
        name = f"AUTH with {comment}"
        yield refused_auth(session, name, "9.7", AUTHENTICATION, "Proof", session.auth_with(proof))
    for comment, flag, other in _strangers(session):
        auth = session.auth_with(other.client_proof)
        yield refused_auth(session, f"AUTH proves {comment}", "11.4", AUTHENTICATION, flag, auth)
    wrong = session.auth_with(flipped(session.client_proof, 5))
    yield refused_auth(session, "what follows a wrong AUTH is thrown away", "9.1", AUTHENTICATION, "Proof", wrong, call)
    yield refused_auth(
        session,
        "the server's proof sent back",
        "11.4",
        AUTHENTICATION,
        "Reflection",
        session.auth_with(session.server_proof),
    )
    keyed = session.key("client proof")
    for comment, proof in (
        ("AUTH's proof over TH alone", hmac_sha256(keyed, session.th)),
        ("AUTH's proof without AUTH's length", hmac_sha256(keyed, session.th + session.auth_with(bytes(32)))),
        ("AUTH's proof over AUTH without PROOF", _over(keyed, session.th, session.auth_with(None))),
        ("AUTH's proof made with the server's key", _over(session.key("server proof"), session.th, _zeroed(session))),
        ("AUTH's proof made with the secret itself", _over(session.secret, session.th, _zeroed(session))),
    ):
        yield refused_auth(session, comment, "11.4", AUTHENTICATION, "Proof", session.auth_with(proof))
    more = session.auth_but(t4096=b"x").auth_with(session.client_proof)
    yield refused_auth(session, "AUTH changed in flight: an entry put in", "11.4", AUTHENTICATION, "Proof", more)
    less = session.auth_but(t4096=b"x").client_proof
    yield refused_auth(
        session, "AUTH changed in flight: an entry taken out", "11.4", AUTHENTICATION, "Proof", session.auth_with(less)
    )
    proof = entry(13, session.client_proof)
    for comment, raw in (
        ("out of order", entry(4096, b"x") + proof),
        ("PROOF twice", proof + proof),
        ("PROOF runs past the end", proof[:-1]),
        ("a byte behind PROOF", proof + b"x"),
    ):
        yield refused_auth(session, f"AUTH: {comment}", "9.2", HANDSHAKE, "Entries", frame(AUTH, meta=raw))
    yield from _changed_hellos(session)


def _over(key: bytes, transcript_hash: bytes, auth: bytes) -> bytes:
    return hmac_sha256(key, transcript_hash + u32(len(auth)) + auth)


def _zeroed(session: Session) -> bytes:
    return session.auth_with(bytes(32))


def _changed_hellos(session: Session) -> Iterator[Test]:
    """HELLO was changed in flight and the server answers what it read; the client's AUTH is for what it said."""
    changes: tuple[tuple[str, str, dict[str, bytes | None]], ...] = (
        ("a feature put in", "Downgrade", {"t4": u16s(4, 0x0A0A)}),
        ("the random feature taken out", "Downgrade", {"t4": b""}),
        ("versions 1..2", "Downgrade", {"t1": u16s(1, 2)}),
        ("none put behind the MACs", "Downgrade", {"t6": macs(*session.offers, NONE)}),
        ("other limits", "Splice", {"t8": limits(16384, 0, 1 << 30)}),
        ("the agent taken out", "Splice", {"t9": None}),
        ("an unknown entry put in", "Splice", {"t4096": b"x"}),
    )
    for comment, flag, changed in changes:
        read = session.hello_but(**changed)
        name = f"HELLO changed in flight: {comment}"
        auth = read.auth_with(session.client_proof)
        yield refused_auth(read, name, "11.3", AUTHENTICATION, flag, auth)
    unknown = session.but(key_id=b"nobody", secret=DUMMY)
    name = "HELLO changed in flight: another key id"
    yield refused_auth(unknown, name, "11.3", AUTHENTICATION, "Key", unknown.auth_with(session.client_proof))
    if session.mac == GMAC:
        read = session.but(mac=HMAC, offers=(HMAC,))
        name = "MAC stripped from HELLO's list in flight"
        yield refused_auth(read, name, "11.3", AUTHENTICATION, "Downgrade", read.auth_with(session.client_proof))
