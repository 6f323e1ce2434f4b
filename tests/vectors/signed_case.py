"""How a signed vector is written down, and the groups that share keys (README: kind signed).

What lives here: the shape of groups and their tests. What must not: bytes (wire.py, sealed.py), and the cases.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.vectors.case import CONFIG, Step, closed, expect, receive, sends, vector
from tests.vectors.sealed import DUMMY, EXPIRED_ID, KEY_ID, LABELS, SECRET, Session, tag_of, u32
from tests.vectors.wire import PREFACE, parts

Test = dict[str, object]
Group = dict[str, object]
EXPIRED_SECRET = bytes(range(0x60, 0x80))

NOTES = {
    "Normal": "What two honest sides do.",
    "Proof": "A proof that is missing, cut, or not of this transcript.",
    "Downgrade": "Somebody between the two took away or changed what was offered.",
    "Replay": "Bytes that were right once, in this session or in an earlier one.",
    "Reflection": "Bytes that go back to the side that made them.",
    "Splice": "Bytes of another session under the same secret.",
    "Binding": "The proof belongs to another TLS connection, or to none.",
    "Key": "A key that is unknown, not valid now, or not given. All look alike after AUTH.",
    "Entries": "Entries out of order, of a wrong length, or that lack what the others need.",
    "Shape": "What a record may hold.",
    "Length": "The length field of a record.",
    "Tag": "A tag, or bytes under it, that were changed.",
    "Counter": "Records repeated, left out, or exchanged.",
    "Suite": "A tag made in another way than the suite says.",
    "Truncation": "The bytes end, and nothing says that they should: nothing that was cut may be taken for whole.",
    "Chunk": "A record that is one chunk frame: its body is AAD under aes-256-gmac.",
}


def signed_config(**changes: object) -> dict[str, object]:
    """As case.CONFIG, with what the server knows of keys."""
    keys = [
        {"id": KEY_ID.hex(), "secret": SECRET.hex(), "valid": True},
        {"id": EXPIRED_ID.hex(), "secret": EXPIRED_SECRET.hex(), "valid": False},
    ]
    return CONFIG | changes | {"keys": keys, "dummy_secret": DUMMY.hex()}


def case(comment: str, section: str, role: str, flag: str, *steps: Step, start: str = "connected") -> Test:
    """A test of a whole connection: valid unless the role under test must end it, or the bytes end too soon."""
    made = vector(comment, section, role, *steps, start=start)
    return {
        "comment": comment,
        "section": section,
        "flags": [flag],
        "result": "valid" if made["valid"] and flag != "Truncation" else "invalid",
        "role": role,
        "start": start,
        "steps": made["steps"],
    }


def refused_welcome(session: Session, comment: str, section: str, code: int, flag: str, *pieces: bytes) -> Test:
    """A client that has said HELLO reads this and closes."""
    return case(comment, section, "client", flag, *said_hello(session), receive(*pieces), expect(closed(code)))


def refused_auth(session: Session, comment: str, section: str, code: int, flag: str, *pieces: bytes) -> Test:
    """A server that has said WELCOME reads this and closes."""
    return case(comment, section, "server", flag, *said_welcome(session), receive(*pieces), expect(closed(code)))


def said_hello(session: Session) -> tuple[Step, ...]:
    """A client's first step."""
    return (sends(PREFACE, session.hello),)


def said_welcome(session: Session) -> tuple[Step, ...]:
    """A server's first steps."""
    return (receive(PREFACE, session.hello), sends(session.welcome))


def prelude(session: Session, ready_payload: bytes) -> dict[str, list[Step]]:
    """The handshake at either role."""
    payload = ready_payload.hex()
    return {
        "server": [
            *said_welcome(session),
            receive(session.auth),
            expect({"event": "authenticated"}),
            {"do": "accept", "ready": payload},
            sends(session.ready),
        ],
        "client": [
            *said_hello(session),
            receive(session.welcome),
            sends(session.auth),
            receive(session.ready),
            expect({"event": "ready", "payload": payload}),
        ],
    }


def derived(session: Session) -> dict[str, object]:
    """Every byte of the handshake and what it gives."""
    values = {
        "preface": PREFACE,
        "hello": session.hello,
        "welcome": session.welcome,
        "auth": session.auth,
        "ready": session.ready,
        "transcript_hash": session.th,
        "salt": session.salt,
        "prk": session.prk,
        "server_proof": session.server_proof,
        "client_proof": session.client_proof,
    }
    keys = {f"{label.replace(' ', '_')}_key": session.key(label) for label in LABELS}
    return {name: value.hex() for name, value in (values | keys).items()}


def group(
    comment: str,
    session: Session,
    tests: Iterable[Test],
    *,
    shown: dict[str, object] | None = None,
    allows: tuple[str, ...] | None = None,
    keyless: bool = True,
) -> Group:
    """Tests that share keys. shown: what the handshake gives. allows: what the server takes; default: all offered."""
    return {
        "comment": comment,
        "type": "session",
        "mac": session.mac,
        "offers": list(session.offers),
        "allows": list(session.offers if allows is None else allows),
        "keyless": keyless,
        "key_id": session.key_id.hex(),
        "secret": session.secret.hex() if session.key_id else "",
        "binding": session.binding.hex(),
        **(shown or {}),
        "tests": list(tests),
    }


# ---- single records ----


def tag_test(
    comment: str, flag: str, mac: str, key: bytes, counter: int, frames: bytes, *, tag: bytes | None = None
) -> Test:
    """One record by itself: valid if the tag is that of the suite, the key and the counter."""
    covered = u32(len(frames)) + frames
    right = tag_of(mac, key, counter, covered)
    if tag == right:
        raise ValueError(f"{comment}: this tag is right")
    return {
        "comment": comment,
        "section": "11.5" if mac == "hmac-sha256" else "11.6",
        "flags": [flag],
        "result": "valid" if tag is None else "invalid",
        "counter": str(counter),
        "record": parts(covered),
        "tag": (right if tag is None else tag).hex(),
    }


def numbered(groups: list[Group]) -> tuple[list[Group], int]:
    """The tests with their ids, which count through the file; and how many there are."""
    number = 0
    for one in groups:
        tests: list[Test] = one["tests"]  # type: ignore[assignment]
        one["tests"] = [{"id": number + n, **test} for n, test in enumerate(tests, 1)]
        number += len(tests)
    return groups, number
