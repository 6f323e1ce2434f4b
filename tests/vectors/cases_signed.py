"""Vectors of the signed handshake: what is right, and the first record of each side (SPEC 9.5, 11.1 to 11.5)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.case import Event, closed, do, expect, message, receive, sends
from tests.vectors.cases_keys import keys, without_key
from tests.vectors.cases_proofs import auths, welcomes
from tests.vectors.cases_sessions import CALL, REPLY
from tests.vectors.sealed import (
    BINDING,
    GMAC,
    HMAC,
    NONE,
    READY_FRAME,
    READY_PAYLOAD,
    Session,
    flipped,
    record,
)
from tests.vectors.signed_case import (
    Group,
    Test,
    case,
    derived,
    group,
    prelude,
    said_hello,
    said_welcome,
)
from tests.vectors.wire import (
    AUTHENTICATION,
    CLOSE,
    END_STREAM,
    FRAME,
    PING,
    PONG,
    WANT_TIMING,
    dims,
    frame,
    metadata,
    parts,
)

SERVER, CLIENT = "server", "client"
_READY: Event = {"event": "ready", "payload": READY_PAYLOAD.hex()}
_AUTHENTICATED: Event = {"event": "authenticated"}
_OTHER_NONCE = bytes(range(0xC0, 0xE0))
_OTHER_SECRET = bytes(range(0xA0, 0xC0))
_CALLED = message(1, want_timing=True, aux=250_000, ext=dims(1, 3), meta=metadata(), body=CALL[-12:])
_REPLIED = message(1, ext=REPLY[32:80], meta=metadata("1"), body=REPLY[-12:])


def handshakes() -> list[Group]:
    """One group for each suite with and without TLS, and what has no key."""
    found = []
    for mac, offers in ((HMAC, (HMAC,)), (GMAC, (GMAC, HMAC)), (NONE, (NONE,))):
        for binding in (b"", BINDING):
            session = Session(mac=mac, offers=offers, binding=binding)
            where = " under TLS" if binding else ""
            tests = [
                *_honest(session),
                *welcomes(session),
                *auths(session),
                *keys(session),
                *_first_records(session),
            ]
            shown = {
                "handshake": derived(session),
                "first_client": {"frames": parts(CALL), "record": parts(session.client(0, CALL))},
                "first_server": {"frames": parts(REPLY), "record": parts(session.server(1, REPLY))},
                "prelude": prelude(session, READY_PAYLOAD),
            }
            found.append(group(mac + where, session, tests, shown=shown))
    return [*found, *without_key()]


# ---- what is right ----


def _honest(session: Session) -> Iterator[Test]:
    opens = do(
        "open",
        metadata=metadata().hex(),
        extension=dims(1, 3).hex(),
        body=parts(CALL[-12:]),
        flags=END_STREAM | WANT_TIMING,
        deadline_us=250_000,
    )
    reply = do(
        "send",
        stream=1,
        metadata=metadata("1").hex(),
        extension=REPLY[32:80].hex(),
        body=parts(REPLY[-12:]),
        flags=END_STREAM,
    )
    bye = frame(CLOSE)
    yield case(
        "a whole session at the client",
        "11.3",
        CLIENT,
        "Normal",
        *(opens, sends(session.client(0, CALL)), receive(session.server(1, REPLY)), expect(_REPLIED)),
        *(do("close", code=0, detail=""), sends(session.client(1, bye))),
        start="open",
    )
    yield case(
        "a whole session at the server",
        "11.3",
        SERVER,
        "Normal",
        *(receive(session.client(0, CALL)), expect(_CALLED), reply, sends(session.server(1, REPLY))),
        *(receive(session.client(1, bye)), expect(closed(0, remote=True))),
        start="open",
    )
    more = session.welcome_but(t14=b"x", t4096=bytes(9))
    yield case(
        "unknown entries of WELCOME are ignored, and hashed",
        "9.2",
        CLIENT,
        "Normal",
        *(*said_hello(more), receive(more.welcome), sends(more.auth), receive(more.ready), expect(_READY)),
    )
    more = session.hello_but(t14=b"x", t4096=bytes(9))
    yield case(
        "unknown entries of HELLO are ignored, and hashed",
        "9.2",
        SERVER,
        "Normal",
        *(*said_welcome(more), receive(more.auth), expect(_AUTHENTICATED)),
        *(do("accept", ready=READY_PAYLOAD.hex()), sends(more.ready)),
    )
    more = session.auth_but(t12=b"x", t4096=bytes(9))
    yield case(
        "unknown entries of AUTH are ignored, and hashed",
        "9.2",
        SERVER,
        "Normal",
        *(*said_welcome(more), receive(more.auth), expect(_AUTHENTICATED)),
    )
    yield case(
        "the server refuses before WELCOME, in plain",
        "9.9",
        CLIENT,
        "Normal",
        *(*said_hello(session), receive(frame(CLOSE, aux=AUTHENTICATION, meta=b"no"))),
        expect(closed(AUTHENTICATION, remote=True)),
    )
    yield case(
        "the server refuses after AUTH, in a record",
        "11.4",
        CLIENT,
        "Normal",
        *(*said_hello(session), receive(session.welcome), sends(session.auth)),
        receive(session.server(0, frame(CLOSE, aux=AUTHENTICATION, meta=b"no"))),
        expect(closed(AUTHENTICATION, remote=True)),
    )
    yield case(
        "the client leaves before AUTH, in plain",
        "9.1",
        SERVER,
        "Normal",
        *(*said_welcome(session), receive(frame(CLOSE, aux=AUTHENTICATION, meta=b"no"))),
        expect(closed(AUTHENTICATION, remote=True)),
    )
    yield from _choices(session)
    ping = frame(PING, body=b"01234567")
    yield case(
        "READY and a PING in one record",
        "11.2",
        CLIENT,
        "Normal",
        *(*said_hello(session), receive(session.welcome), sends(session.auth)),
        *(receive(session.server(0, READY_FRAME, ping)), expect(_READY)),
        sends(session.client(0, frame(PONG, body=b"01234567"))),
    )


def _choices(session: Session) -> Iterator[Test]:
    """The server picks the first of the client's list that it allows."""
    offers, picked = {
        HMAC: ((GMAC, HMAC), HMAC),  # this group's server allows hmac-sha256 alone
        GMAC: ((HMAC, GMAC), HMAC),
        NONE: ((GMAC, HMAC, NONE), NONE),
    }[session.mac]
    chosen = session.but(mac=picked, offers=offers)
    yield case(
        f"{picked} is picked of {', '.join(offers)}",
        "9.5",
        SERVER,
        "Normal",
        *(*said_welcome(chosen), receive(chosen.auth), expect(_AUTHENTICATED)),
        *(do("accept", ready=READY_PAYLOAD.hex()), sends(chosen.ready)),
    )
    if session.mac == GMAC:
        second = session.but(mac=HMAC)
        yield case(
            "the server has only the second MAC of the list",
            "9.5",
            CLIENT,
            "Normal",
            *(*said_hello(second), receive(second.welcome), sends(second.auth), receive(second.ready), expect(_READY)),
        )


# ---- the first record of each side ----


def _first_records(session: Session) -> Iterator[Test]:
    """READY and the client's first record as they must not be. Without records there is nothing to check."""
    if session.mac == NONE:
        return
    key = session.key("server record")
    other = session.welcome_but(t3=_OTHER_NONCE)
    greeted = (*said_hello(session), receive(session.welcome), sends(session.auth))
    for comment, flag, code, data in (
        ("READY without a record", "Tag", FRAME, READY_FRAME + bytes(64)),
        ("READY with counter 1", "Counter", AUTHENTICATION, session.server(1, READY_FRAME)),
        ("READY under the client's key", "Reflection", AUTHENTICATION, session.client(0, READY_FRAME)),
        ("READY of another session", "Splice", AUTHENTICATION, other.ready),
        ("READY with its last bit flipped", "Tag", AUTHENTICATION, flipped(session.ready, -1)),
        ("READY with its principal changed", "Tag", AUTHENTICATION, flipped(session.ready, 4 + 32 + 12)),
        (
            "READY with a tag of the other suite",
            "Suite",
            AUTHENTICATION,
            record(HMAC if session.mac == GMAC else GMAC, key, 0, READY_FRAME),
        ),
        (
            "READY under a key that is not for records",
            "Suite",
            AUTHENTICATION,
            record(session.mac, session.key("server proof"), 0, READY_FRAME),
        ),
        ("a CLOSE without a record", "Tag", AUTHENTICATION, frame(CLOSE, meta=b"bye." * 10)),
    ):
        yield case(comment, "11.5", CLIENT, flag, *greeted, receive(data), expect(closed(code)))
    authenticated = (*said_welcome(session), receive(session.auth), expect(_AUTHENTICATED))
    accepted = (*authenticated, do("accept", ready=READY_PAYLOAD.hex()), sends(session.ready))
    yield case(
        "AUTH in a record",
        "9.1",
        SERVER,
        "Shape",
        *(*said_welcome(session), receive(session.client(0, session.auth)), expect(closed(FRAME))),
    )
    for comment, flag, data in (
        ("READY sent back", "Reflection", session.ready),
        ("a call under the server's key", "Reflection", session.server(0, CALL)),
        ("a call of another session", "Splice", other.client(0, CALL)),
        ("a call with counter 1", "Counter", session.client(1, CALL)),
    ):
        yield case(
            f"the first record is {comment}",
            "11.5",
            SERVER,
            flag,
            *(*accepted, receive(data), expect(closed(AUTHENTICATION))),
        )


__all__ = ["handshakes"]
