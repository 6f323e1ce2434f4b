"""Vectors of the signed handshake: keys, proofs, and what has none (SPEC 9.7, 11.3, 11.4)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.case import Event, Step, closed, do, expect, message, receive, sends
from tests.vectors.cases_proofs import auths, welcomes
from tests.vectors.cases_sessions import CALL, REPLY
from tests.vectors.sealed import (
    BINDING,
    DUMMY,
    EXPIRED_ID,
    GMAC,
    HMAC,
    NONE,
    READY_FRAME,
    READY_PAYLOAD,
    Session,
    flipped,
    macs,
    record,
)
from tests.vectors.signed_case import (
    EXPIRED_SECRET,
    Group,
    Test,
    case,
    derived,
    group,
    prelude,
    refused_welcome,
    said_hello,
    said_welcome,
)
from tests.vectors.wire import (
    AUTHENTICATION,
    CLOSE,
    END_STREAM,
    FRAME,
    HANDSHAKE,
    MAC,
    PING,
    PONG,
    PREFACE,
    WANT_TIMING,
    dims,
    frame,
    hello,
    metadata,
    parts,
    welcome,
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
                *_keys(session),
                *_first_records(session),
            ]
            shown = {
                "handshake": derived(session),
                "first_client": {"frames": parts(CALL), "record": parts(session.client(0, CALL))},
                "first_server": {"frames": parts(REPLY), "record": parts(session.server(1, REPLY))},
                "prelude": prelude(session, READY_PAYLOAD),
            }
            found.append(group(mac + where, session, tests, shown=shown))
    return [*found, *_without_key()]


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


def _keys(session: Session) -> Iterator[Test]:
    """Keys that the server does not take: WELCOME comes with a proof, the refusal after AUTH."""
    for comment, key_id, own in (
        ("a key id that the server does not know", b"nobody", _OTHER_SECRET),
        ("a key that has expired, with its own secret", EXPIRED_ID, EXPIRED_SECRET),
    ):
        real = session.but(key_id=key_id, secret=own)
        dummy = session.but(key_id=key_id, secret=DUMMY)
        steps = (receive(PREFACE, real.hello), sends(dummy.welcome))
        yield case(comment, "11.4", SERVER, "Key", *steps, receive(real.auth), expect(closed(AUTHENTICATION)))
        yield case(
            f"{comment.split(',')[0]}; AUTH proves the dummy secret",
            *("11.4", SERVER, "Key"),
            *(*steps, receive(dummy.auth), expect(closed(AUTHENTICATION))),
        )
        yield refused_welcome(
            session, f"WELCOME as for {comment}", "11.4", AUTHENTICATION, "Key", session.but(secret=DUMMY).welcome
        )
    for size in (0, 65):
        name = f"a key id of {size} bytes"
        raw = session.hello_but(t7=b"k" * size).hello
        yield case(name, "9.3", SERVER, "Entries", receive(PREFACE, raw), expect(closed(HANDSHAKE)))


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


# ---- no key ----


def _without_key() -> list[Group]:
    """Clients that give no key, and servers that want one."""
    plain = Session(mac=NONE, offers=(NONE,), key_id=b"")
    keyless = receive(PREFACE, hello())
    keyed = said_welcome(Session())
    only_none = receive(PREFACE, hello(t6=macs(NONE), t7=b"vectors"))

    def refusal(comment: str, section: str, flag: str, step: Step, code: int) -> Test:
        return case(comment, section, SERVER, flag, step, expect(closed(code)))

    wanted = [
        case("a key where keys are wanted", "9.7", SERVER, "Normal", *keyed),
        refusal("no key where keys are wanted", "9.7", "Key", keyless, AUTHENTICATION),
        refusal("a key, and none the only MAC offered", "9.5", "Downgrade", only_none, MAC),
    ]
    for number in (0xFE, 0xFF):
        step = receive(PREFACE, hello(t6=bytes((number,)), t7=b"vectors"))
        wanted.append(refusal(f"a key, and {number} the only MAC offered", "9.5", "Downgrade", step, MAC))
    both = [
        case("a key where it may be left out", "9.7", SERVER, "Normal", *keyed),
        case("no key where it may be left out", "9.7", SERVER, "Normal", keyless, sends(welcome())),
        *(
            refusal(
                f"{' and '.join(offers)} without a key",
                "9.5",
                "Entries",
                receive(PREFACE, hello(t6=macs(*offers))),
                HANDSHAKE,
            )
            for offers in ((HMAC,), (GMAC,), (GMAC, HMAC), (HMAC, NONE))
        ),
    ]
    return [
        group("a server that wants keys", plain, wanted, allows=(HMAC, GMAC), keyless=False),
        group("a server that wants keys, on loopback", plain, wanted[1:2], allows=(HMAC, GMAC, NONE), keyless=False),
        group("a server that takes clients without a key", plain, both, allows=(HMAC, GMAC, NONE)),
    ]


__all__ = ["handshakes"]
