"""The model is of this code: its terms, computed with real hashes, are the bytes that a real pair of connections sends.

A change of transcript, labels, proofs, tags, entries or of the server's choice in protocol/ fails here until the model
is changed too, and so is explored anew.
"""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest

from tensorwire.protocol import Config, Connection, Limits, ProtocolError, Role, handshake
from tensorwire.protocol.limits import PeerLimits
from tests.protocol.wiring import BOOT_ID, CONNECTION_ID, feed, wire_bytes

from . import negotiation
from .concrete import MACS, evaluate
from .machine import CERTIFICATE, Client, Model, Scenario, Side
from .rules import INGREDIENTS, Hello, Rules, Welcome

CLIENT_NONCE = bytes(range(32))  # begins with 0x0: so the client offers the feature 0x0A0A, as the model's does
SERVER_NONCE = bytes(range(32, 64))
SECRET = bytes(range(64, 96))
BINDING = bytes(range(96, 128))
LIMITS = Limits(chunk=16384, max_streams=4, max_message=1 << 20)

# What the model knows by name only. Everything else is computed from the model's own values.
ATOMS: dict[Any, bytes] = {
    "client 0": CLIENT_NONCE,
    "server 0": SERVER_NONCE,
    "A": SECRET,
    ("binding", CERTIFICATE): BINDING,
    ("limits", "client's"): struct.pack("<IIQ", 16384, 0, 1 << 20),
    ("limits", "server's"): struct.pack("<IIQ", 16384, 4, 1 << 20),
    ("connection_id", "connection 0"): CONNECTION_ID,
    ("boot_id", "boot"): BOOT_ID,
}
SERVER_CONFIG = Config(
    Role.SERVER,
    version_min=negotiation.VERSIONS[0],
    version_max=negotiation.VERSIONS[1],
    draft=negotiation.DRAFT,
    features_offered=negotiation.FEATURES,
    mac_algorithms=negotiation.MACS,
    agent="server",
    limits=LIMITS,
)


def frames_of(raw: bytes) -> list[bytes]:
    """Plain bytes, cut into frames."""
    found = []
    while raw:
        size = 32 + int.from_bytes(raw[:4], "little")
        found.append(raw[:size])
        raw = raw[size:]
    return found


def records_of(raw: bytes) -> list[tuple[bytes, bytes]]:
    """Signed bytes, cut into (frames, tag)."""
    found = []
    while raw:
        size = 4 + int.from_bytes(raw[:4], "little")
        found.append((raw[4:size], raw[size : size + 16]))
        raw = raw[size + 16 :]
    return found


def real_session(mac: str) -> tuple[dict[str, bytes], list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """The frames of the handshake by name; two records of the client; two of the server."""
    config = Config(
        Role.CLIENT,
        version_min=negotiation.VERSIONS[0],
        version_max=negotiation.VERSIONS[1],
        draft=negotiation.DRAFT,
        features_offered=(2, 3),
        features_required=(2,),
        mac_algorithms=(mac,),
        key_id=b"A",
        secret=SECRET,
        agent="client",
        limits=LIMITS,
    )
    client = Connection(config, nonce=CLIENT_NONCE, now=0.0, binding=BINDING)
    server = Connection(
        SERVER_CONFIG,
        nonce=SERVER_NONCE,
        now=0.0,
        connection_id=CONNECTION_ID,
        boot_id=BOOT_ID,
        secret_of=lambda _: (SECRET, True),
        binding=BINDING,
    )
    said = wire_bytes(client)
    preface, hello = said[:8], said[8:]
    feed(server, said)
    feed(client, welcome := wire_bytes(server))
    feed(server, auth := wire_bytes(client))
    server.accept(b"\x80")
    feed(client, down := wire_bytes(server))
    up = b""
    for payload in (b"12345678", b"87654321"):
        client.ping(payload)
        up += wire_bytes(client)
    feed(server, up)
    server.ping(b"12345678")
    down += wire_bytes(server)
    frames = {"preface": preface, "HELLO": hello, "WELCOME": welcome, "AUTH": auth}
    assert [len(frames_of(frames[name])) for name in ("HELLO", "WELCOME", "AUTH")] == [1, 1, 1]
    assert not server.closed
    return frames, records_of(up), records_of(down)


def honest_run(model: Model) -> tuple[Side, Side]:
    """The client and server of the model, open, when the attacker only passes on what is sent."""
    state = model.start
    while any(side.phase != "open" for side in state):
        onward = [reached for index, reached in model.steps(state) if reached[index].phase in {"welcomed", "open"}]
        state = onward[0]
    client, server = state
    return client, server


def model_bytes(rules: Rules, mac: str, up: list[bytes], down: list[bytes]) -> dict[str, list[bytes]]:
    """What the model's client and server send, as bytes, with these contents of records."""
    client, server = honest_run(Model(Scenario((Client(mac=(mac,)),), servers=1, replay=False), rules))
    assert client.view is not None
    assert client.view == server.view
    hello, welcome, binding = client.view
    th = rules.th(hello, welcome, binding)
    proofs = [rules.server_proof(client.keys, th), rules.client_proof(client.keys, th, "")]
    sent = {
        "HELLO": [rules.hello(hello)],
        "WELCOME": [rules.welcome(welcome, proofs[0])],
        "AUTH": [rules.auth("", proofs[1])],
        "up": [rules.tag(mac, client.keys["client record"], at, what) for at, what in enumerate(client.sent)],
        "down": [rules.tag(mac, server.keys["server record"], at, what) for at, what in enumerate(server.sent)],
    }
    # What is compared is what the explored sides really emit.
    assert client.emitted >= {*sent["HELLO"], *sent["AUTH"], *sent["up"]}
    assert server.emitted >= {*sent["WELCOME"], *sent["down"]}
    contents = {("frames", what): frames for what, frames in zip(client.sent + server.sent, up + down, strict=True)}
    return {name: [evaluate(one, {**ATOMS, **contents}) for one in terms] for name, terms in sent.items()}


@pytest.mark.parametrize("mac", ["hmac-sha256", "aes-256-gmac"])
def test_the_terms_are_the_bytes_on_the_wire(mac: str) -> None:
    frames, up, down = real_session(mac)
    made = model_bytes(Rules(), mac, [record for record, _ in up], [record for record, _ in down])
    assert made["HELLO"] == [frames["HELLO"]]
    assert made["WELCOME"] == [frames["WELCOME"]]
    assert made["AUTH"] == [frames["AUTH"]]
    assert made["up"] == [tag for _, tag in up]
    assert made["down"] == [tag for _, tag in down]


# One key and one honest run cannot show these two.
@pytest.mark.parametrize("left_out", sorted({*INGREDIENTS} - {"a secret for each key", "proof zeroing"}))
def test_without_any_one_ingredient_they_are_not(left_out: str) -> None:
    _, up, down = real_session("hmac-sha256")
    records = [record for record, _ in up], [record for record, _ in down]
    whole = model_bytes(Rules(), "hmac-sha256", *records)
    assert model_bytes(Rules([left_out]), "hmac-sha256", *records) != whole


def test_the_model_has_every_entry_of_the_wire() -> None:
    frames, _, _ = real_session("hmac-sha256")
    assert list(handshake.parse_entries(frames["HELLO"][32:])) == list(range(1, len(Hello._fields) + 1))
    welcome = list(handshake.parse_entries(frames["WELCOME"][32:]))
    assert len(welcome) == len(Welcome._fields) + 1
    assert welcome[-1] == handshake.PROOF


def real_hello(hello: Hello) -> handshake.Hello:
    return handshake.Hello(
        version_min=hello.versions[0],
        version_max=hello.versions[1],
        draft=hello.draft,
        nonce=CLIENT_NONCE,
        features=hello.features,
        features_required=hello.features_required,
        macs=tuple(MACS[mac] for mac in hello.mac),
        key_id=hello.key_id.encode(),
        limits=PeerLimits(16384, 0, 1 << 20),
        agent=hello.agent,
    )


def test_the_server_chooses_as_the_model_does() -> None:
    chosen = 0
    for values in itertools.product(*negotiation.HELLO_VALUES.values()):
        hello = Hello(nonce="", **dict(zip(negotiation.HELLO_VALUES, values, strict=True)))
        ours = negotiation.choose(hello)
        try:
            version, features, mac = handshake.choose(SERVER_CONFIG, real_hello(hello))
        except ProtocolError:
            assert ours is None
        else:
            assert ours == (version, features, handshake.MAC_NAMES[mac])
            chosen += 1
    assert chosen > 500


def test_the_client_accepts_what_the_model_accepts() -> None:
    accepted = 0
    for mac in negotiation.HELLO_VALUES["mac"]:
        hello = Hello(negotiation.VERSIONS, 1, "", (2, 3, negotiation.GREASE), (2,), mac, "A", "client's", "client")
        config = Config(
            Role.CLIENT,
            version_min=hello.versions[0],
            version_max=hello.versions[1],
            draft=hello.draft,
            features_offered=(2, 3),
            features_required=(2,),
            mac_algorithms=mac,
        )
        for values in itertools.product(*negotiation.WELCOME_VALUES.values()):
            welcome = Welcome(nonce="", **dict(zip(negotiation.WELCOME_VALUES, values, strict=True)))
            real = handshake.Welcome(
                version=welcome.versions,
                draft=welcome.draft,
                nonce=SERVER_NONCE,
                features=welcome.features,
                mac=MACS[welcome.mac],
                limits=PeerLimits(16384, 4, 1 << 20),
                agent=welcome.agent,
                connection_id=CONNECTION_ID,
                boot_id=BOOT_ID,
                proof=b"",
            )
            try:
                handshake.check_welcome(config, real)
            except ProtocolError:
                assert not negotiation.acceptable(hello, welcome)
            else:
                assert negotiation.acceptable(hello, welcome)
                accepted += 1
    assert accepted > 50
