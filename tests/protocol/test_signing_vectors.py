"""Primitives against the answers of others, and keys, proofs and tags against tests/vectors: two witnesses each.

The first witness is tensorwire.protocol.signing; the second is tests/vectors/mac.py, with which the vectors are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tensorwire.protocol import ErrorCode, signing
from tensorwire.protocol.header import HEADER, HEADER_SIZE
from tensorwire.protocol.records import SignedRecords
from tests.support.together import by_section, each
from tests.vectors import mac
from tests.vectors.known_answers import AES_256, AES_256_GCM, HKDF_SHA256, HMAC_SHA256
from tests.vectors.player import Player, edges, load, unpack, whole

Json = dict[str, Any]
DRAFT = Path(__file__).resolve().parents[1] / "vectors" / "draft"
HANDSHAKES = [
    group
    for name in ("signed_handshake", "records")
    for group in json.loads((DRAFT / f"{name}.json").read_text())["groups"]
    if "handshake" in group
]
RECORDS = [case for case in load("signed") if case[1]["config"]["type"] == "record"]
SESSIONS = {
    case[1]["config"]["mac"]: case[1]
    for case in load("signed")
    if case[0].startswith("records") and case[1]["config"]["type"] == "session"
}
fast = pytest.mark.skipif("aes-256-gmac" not in signing.available_macs(), reason="needs the package cryptography")


# ---- what others say ----


@pytest.mark.parametrize(("key", "data", "tag"), HMAC_SHA256, ids=[f"RFC 4231 case {n}" for n in range(1, 8)])
@pytest.mark.parametrize("hmac", [mac.hmac_sha256, signing.hmac_sha256], ids=["vectors", "signing"])
def test_hmac_sha256(hmac: Any, key: bytes, data: bytes, tag: str) -> None:
    assert hmac(key, data).hex()[: len(tag)] == tag


@pytest.mark.parametrize(("key", "data", "tag"), HMAC_SHA256[:5], ids=[f"RFC 4231 case {n}" for n in range(1, 6)])
def test_hmac_sha256_of_records(key: bytes, data: bytes, tag: str) -> None:
    """Eight bytes of the data as the counter, the rest as the record; the keys fit a block, as do those of records."""
    made: Any = signing.HmacSha256(key)
    made._counter = int.from_bytes(data[:8], "little")
    assert made.tag(data[8:], ()).hex() == tag[:32]


@pytest.mark.parametrize(("secret", "salt", "info", "prk", "made"), HKDF_SHA256, ids=["A.1", "A.2", "A.3"])
@pytest.mark.parametrize("hkdf", [mac, signing], ids=["vectors", "signing"])
def test_hkdf_sha256(hkdf: Any, secret: bytes, salt: bytes, info: bytes, prk: str, made: str) -> None:
    assert hkdf.hkdf_extract(salt, secret).hex() == prk
    assert hkdf.hkdf_expand(bytes.fromhex(prk), info, len(made) // 2).hex() == made


def test_aes_256_of_the_vectors() -> None:
    key, block, encrypted = AES_256
    assert mac.aes_256(key, block).hex() == encrypted


GCM = pytest.mark.parametrize(
    ("key", "nonce", "plaintext", "aad", "ciphertext", "tag"), AES_256_GCM.values(), ids=list(AES_256_GCM)
)


@GCM
def test_gcm_of_the_vectors(key: str, nonce: str, plaintext: str, aad: str, ciphertext: str, tag: str) -> None:
    sealed = mac.gcm_256(*map(bytes.fromhex, (key, nonce, plaintext, aad)))
    assert [part.hex() for part in sealed] == [ciphertext, tag]


@fast
@GCM
def test_gmac_of_the_core(key: str, nonce: str, plaintext: str, aad: str, ciphertext: str, tag: str) -> None:
    running = signing.GmacTag(*map(bytes.fromhex, (key, nonce, plaintext)))
    for at in range(0, len(aad), 14):
        running.update(bytes.fromhex(aad[at : at + 14]))
    assert running.finish().hex() == tag
    assert len(ciphertext) == len(plaintext)  # that it is thrown away changes nothing


@fast
def test_gmac_nonce_is_the_counter() -> None:
    """Cases 13 and 14 have the nonce of counter 0."""
    for name in ("McGrew-Viega 13, nothing", "McGrew-Viega 14, one block"):
        key, _, plaintext, _, _, tag = AES_256_GCM[name]
        assert signing.Aes256Gmac(bytes.fromhex(key)).tag(bytes.fromhex(plaintext), ()).hex() == tag


# ---- keys and proofs ----


@pytest.mark.parametrize("group", HANDSHAKES, ids=[group["comment"] for group in HANDSHAKES])
def test_transcript_keys_and_proofs(group: Json) -> None:
    shown = group["handshake"]
    values = {name: bytes.fromhex(value) for name, value in shown.items()}
    welcome = values["welcome"].replace(values["server_proof"], bytes(32))
    auth = values["auth"].replace(values["client_proof"], bytes(32))
    th = signing.transcript(values["hello"], welcome, bytes.fromhex(group["binding"]))
    schedule = signing.KeySchedule(bytes.fromhex(group["secret"]), values["salt"][:32], values["salt"][32:], th)
    assert {
        "transcript_hash": th,
        "prk": schedule._prk,
        "server_proof": schedule.server_proof(),
        "client_proof": schedule.client_proof(auth),
        "server_proof_key": schedule.key(signing.SERVER_PROOF),
        "client_proof_key": schedule.key(signing.CLIENT_PROOF),
        "server_record_key": schedule.key(signing.SERVER_RECORD),
        "client_record_key": schedule.key(signing.CLIENT_RECORD),
    } == {
        name: value
        for name, value in values.items()
        if name.endswith(("_key", "_proof")) or name in {"prk", "transcript_hash"}
    }


# ---- single records ----


def cases(*, valid: bool | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    found = [
        (name, file["config"], vector)
        for name, file, vector in RECORDS
        if file["config"]["mac"] in signing.available_macs() and (valid is None or vector["valid"] is valid)
    ]
    return each("config vector", found, by_section)


def mac_at(config: Json, vector: Json) -> Any:
    made: Any = signing.make_mac(config["mac"], bytes.fromhex(config["key"]))
    made._counter = int(vector["counter"])
    return made


@cases()
def test_tag_of_a_record(config: Json, vector: Json) -> None:
    """As it is received: all at once, and with its chunk in pieces."""
    covered = unpack(vector["record"])
    chunk = signing.holds_chunk(HEADER.unpack_from(covered, 4), len(covered) - 4)
    text, body = (covered[: 4 + HEADER_SIZE], covered[4 + HEADER_SIZE :]) if chunk else (covered, b"")
    right = vector["tag"] if vector["valid"] else None
    tag = mac_at(config, vector).tag(text, (body,) if chunk else ()).hex()
    assert (tag == vector["tag"]) is vector["valid"]
    running = mac_at(config, vector).begin(text)
    for at in range(0, len(body), 5000):
        running.update(body[at : at + 5000])
    assert running.finish().hex() == tag == (right or tag)


@cases(valid=True)
def test_sealed_record(config: Json, vector: Json) -> None:
    """As it is sent: however the frames lie in buffers, the header of the first in one of its own or not."""
    covered = unpack(vector["record"])
    frames = covered[4:]
    wanted = covered.hex() + vector["tag"]
    for pieces in (
        [frames[:HEADER_SIZE], frames[HEADER_SIZE:]],
        [frames[:HEADER_SIZE], frames[HEADER_SIZE : HEADER_SIZE + 9], frames[HEADER_SIZE + 9 :]],
    ):
        layer = SignedRecords(mac_at(config, vector))
        assert b"".join(layer.seal([memoryview(piece) for piece in pieces if piece], len(frames))).hex() == wanted


@pytest.mark.parametrize("split", [whole, edges])
@cases()
def test_verdict_of_a_connection(config: Json, vector: Json, split: Any) -> None:
    """A session that has come so far takes the record for the peer's if, and only if, it is."""
    file = SESSIONS[config["mac"]]
    role = "server" if config["key"] == file["config"]["handshake"]["client_record_key"] else "client"
    player = Player(file, vector | {"role": role, "start": "open"}, whole)
    player.play(file["prelude"][role])
    reader: Any = player.connection._input
    reader._mac._counter = int(vector["counter"])
    for data in split([*vector["record"], vector["tag"]]):
        player.receive(data)
    closed = [event["code"] for event in player.events if event["event"] == "closed"]
    assert (closed == [ErrorCode.AUTHENTICATION]) is not vector["valid"]
