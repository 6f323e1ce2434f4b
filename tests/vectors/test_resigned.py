"""Every vector of an open connection once more in records: signing changes nothing above it (SPEC 11.1).

What the vectors receive is cut into frames, which are sealed with the second description's tags, one to a record or as
many as fit; what is sent is opened with the same. Vectors with bytes that are no whole frame stay out: no record holds
such.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tensorwire.protocol.signing import available_macs
from tests.support.together import each
from tests.vectors import wire
from tests.vectors.player import Player, edges, load, unpack, whole
from tests.vectors.sealed import GMAC, HMAC, READY_PAYLOAD, Session, opened_records
from tests.vectors.signed_case import prelude, signed_config

Json = dict[str, Any]
SIGNED = {mac: Session(mac=mac, offers=(mac,)) for mac in (HMAC, GMAC)}
TOGETHER = 65536  # bytes of several frames in one record


def frames_of(data: bytes) -> list[bytes]:
    """The whole frames; ValueError if bytes are left, of which there is no record."""
    found = []
    while data:
        size = 32 + int.from_bytes(data[:4], "little")
        if len(data) < size or size > 1_048_608:
            raise ValueError("half a frame")
        found.append(data[:size])
        data = data[size:]
    return found


def batches(frames: list[bytes], together: bool) -> Iterator[bytes]:
    """One frame after the other, or several that fit in one record."""
    waiting = b""
    for frame in frames:
        if waiting and (not together or len(waiting) + len(frame) > TOGETHER):
            yield waiting
            waiting = b""
        waiting += frame
    if waiting:
        yield waiting


def whole_frames(vector: Json) -> bool:
    try:
        for step in vector["steps"]:
            frames_of(unpack(step.get("receive", [])))
    except ValueError:
        return False
    return bool(vector["start"] == "open")


CASES = [case for case in load("connection") if whole_frames(case[2])]


class Resigned(Player):
    """A player whose connection is signed; its vector knows nothing of it."""

    def __init__(self, session: Session, vector: Json, split: Any, together: bool) -> None:
        group = {
            "offers": session.offers,
            "allows": session.offers,
            "key_id": session.key_id.hex(),
            "secret": session.secret.hex(),
        }
        super().__init__({"config": signed_config() | group}, vector, split)
        self.session, self.together = session, together
        server = vector["role"] == "server"
        self.seal = session.client if server else session.server
        self.key = session.key("server record" if server else "client record")
        self.sealed, self.opened = (0, 1) if server else (1, 0)  # READY was the server's record 0

    def records(self, parts: list[Any]) -> list[str]:
        """The same bytes in records."""
        found = []
        for frames in batches(frames_of(unpack(parts)), self.together):
            found.append(self.seal(self.sealed, frames).hex())
            self.sealed += 1
        return found

    def _collect(self) -> None:
        before, self.sent = self.sent, b""
        super()._collect()
        opened = list(opened_records(self.session.mac, self.key, self.opened, self.sent))
        self.opened += len(opened)
        self.sent = before + b"".join(opened)

    def play_signed(self) -> None:
        """The handshake, then the vector's steps."""
        shaken = Player(
            {"config": self.config}, self.vector, whole
        )  # no records yet: what it sends is compared as it is
        shaken.play(prelude(self.session, READY_PAYLOAD)[self.vector["role"]])
        self.connection = shaken.connection
        steps = self.vector["steps"]
        self.play([step | {"receive": self.records(step["receive"])} if "receive" in step else step for step in steps])


@pytest.mark.parametrize("together", [False, True], ids=["one", "several"])
@pytest.mark.parametrize("split", [whole, edges])
@pytest.mark.parametrize("mac", [HMAC, GMAC])
@each("file vector", CASES)
def test_vector_holds_in_records(mac: str, file: Json, vector: Json, split: Any, together: bool) -> None:
    if mac not in available_macs():
        pytest.skip("needs the package cryptography")
    player = Resigned(SIGNED[mac], vector, split, together)
    player.play_signed()
    player.finish()
    if not vector["valid"]:
        assert player.closed
        last = frames_of(player.sent)[-1]
        code = vector["steps"][-1]["expect"][-1]["code"]
        assert (last[4], int.from_bytes(last[20:24], "little")) == (wire.CLOSE, code)


def test_most_vectors_of_open_connections_are_played_in_records() -> None:
    behind = [vector for _, _, vector in load("connection") if vector["start"] == "open"]
    assert len(CASES) >= len(behind) * 2 // 3 >= 100
