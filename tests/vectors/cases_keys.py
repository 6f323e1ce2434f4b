"""Vectors of keys that a server does not take, and of clients that give none (SPEC 9.5, 9.7, 11.4)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.case import Step, closed, expect, receive, sends
from tests.vectors.sealed import DUMMY, EXPIRED_ID, GMAC, HMAC, NONE, Session, macs
from tests.vectors.signed_case import EXPIRED_SECRET, Group, Test, case, group, refused_welcome, said_welcome
from tests.vectors.wire import AUTHENTICATION, HANDSHAKE, MAC, PREFACE, hello, welcome

SERVER = "server"
_OTHER_SECRET = bytes(range(0xA0, 0xC0))


def keys(session: Session) -> Iterator[Test]:
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


def without_key() -> list[Group]:
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
