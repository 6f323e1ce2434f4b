"""A signed session's bytes: transcript, keys, proofs, records, described a second time (SPEC 9.7 and 11).

What lives here: what two honest sides send, and the means to make it wrong. What must not: any import of tensorwire,
any check, and the cases themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256

from tests.vectors import wire
from tests.vectors.mac import gcm_256, hkdf_expand, hkdf_extract, hmac_sha256

NONE, HMAC, GMAC = "none", "hmac-sha256", "aes-256-gmac"
NUMBERS = {NONE: 0, HMAC: 1, GMAC: 2}
SECRET = bytes(range(0x40, 0x60))
DUMMY = bytes(range(0x80, 0xA0))  # what the server knows of keys that are unknown, or not valid
KEY_ID = b"vectors"
EXPIRED_ID = b"vectors-2025"
BINDING = sha256(b"the server's leaf certificate, DER").digest()
OTHER_BINDING = sha256(b"the certificate of somebody between").digest()
PROOF = 13  # number of the entry
LABELS = ("server proof", "client proof", "server record", "client record")
CHUNK_LEAST = 16384  # bytes of a DATA frame's body, from which on it is hashed as AAD (11.6)
READY_PAYLOAD = b"\x82\xa9principal\xa7vectors\xa6models\x91\xa1*"
READY_FRAME = wire.frame(wire.READY, meta=READY_PAYLOAD)

Changes = dict[str, bytes | None]


def macs(*names: str) -> bytes:
    """The value of the entry MAC."""
    return bytes(NUMBERS[name] for name in names)


def u32(value: int) -> bytes:
    """Little-endian u32."""
    return struct.pack("<I", value)


# ---- tags (11.5, 11.6) ----


def aad_length(frames: bytes) -> int:
    """Bytes at the end of the frames that are AAD: the body, if they are one chunk frame and nothing else."""
    if len(frames) < 32:
        return 0
    length, kind, _, _, _, _, _, meta_len, ext_len, _ = struct.unpack_from("<IBBHQIIIHH", frames)
    chunk = kind == wire.DATA and meta_len == ext_len == 0 and length >= CHUNK_LEAST and 32 + length == len(frames)
    return length if chunk else 0


def tag_of(mac: str, key: bytes, counter: int, covered: bytes) -> bytes:
    """The tag of `n || frames`."""
    count = struct.pack("<Q", counter)
    if mac == HMAC:
        return hmac_sha256(key, count + covered)[:16]
    aad = aad_length(covered[4:])
    return gmac(key, counter, covered[: len(covered) - aad], covered[len(covered) - aad :])


def gmac(key: bytes, counter: int, plaintext: bytes, aad: bytes) -> bytes:
    """GCM as a MAC, with the counter as nonce."""
    return gcm_256(key, struct.pack("<Q4x", counter), plaintext, aad)[1]


def record(mac: str, key: bytes, counter: int, frames: bytes) -> bytes:
    """A whole record; with MAC none the frames as they are."""
    if mac == NONE:
        return frames
    covered = u32(len(frames)) + frames
    return covered + tag_of(mac, key, counter, covered)


# ---- sessions ----


def transcript_hash(preface: bytes, hello: bytes, welcome: bytes, binding: bytes) -> bytes:
    """TH (11.3); WELCOME's proof is zero already."""
    return sha256(preface + b"".join(u32(len(part)) + part for part in (hello, welcome, binding))).digest()


def key_of(prk: bytes, label: str, th: bytes) -> bytes:
    """The key of a label (11.3)."""
    return hkdf_expand(prk, b"tensorwire 1 " + label.encode() + b"\0" + th, 32)


@dataclass(frozen=True)
class Session:
    """One handshake and what follows from it; `but` makes another that differs.

    hello, welcome, auth: changed entries, as for wire.region. preface: the eight bytes hashed first.
    """

    mac: str = HMAC
    offers: tuple[str, ...] = (HMAC,)
    binding: bytes = b""
    secret: bytes = SECRET
    key_id: bytes = KEY_ID
    preface: bytes = wire.PREFACE
    hello_changes: Changes = field(default_factory=dict)
    welcome_changes: Changes = field(default_factory=dict)
    auth_changes: Changes = field(default_factory=dict)

    def but(self, **changes: object) -> Session:
        """The same with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def hello_but(self, **changes: bytes | None) -> Session:
        """The same with entries of HELLO changed."""
        return self.but(hello_changes=self.hello_changes | changes)

    def welcome_but(self, **changes: bytes | None) -> Session:
        """The same with entries of WELCOME changed; the proof is made over them."""
        return self.but(welcome_changes=self.welcome_changes | changes)

    def auth_but(self, **changes: bytes | None) -> Session:
        """The same with entries of AUTH changed; the proof is made over them."""
        return self.but(auth_changes=self.auth_changes | changes)

    @cached_property
    def hello(self) -> bytes:
        """The frame."""
        return wire.hello(**({"t6": macs(*self.offers), "t7": self.key_id} | self.hello_changes))

    def welcome_with(self, proof: bytes | None) -> bytes:
        """The frame with this proof, or without one."""
        return wire.welcome(**({"t6": macs(self.mac)} | self.welcome_changes | {"t13": proof}))

    def auth_with(self, proof: bytes | None) -> bytes:
        """The frame with this proof, or without one."""
        return wire.frame(wire.AUTH, meta=wire.region({}, **(self.auth_changes | {"t13": proof})))

    @cached_property
    def th(self) -> bytes:
        """The transcript hash (11.3)."""
        return transcript_hash(self.preface, self.hello, self.welcome_with(bytes(32)), self.binding)

    @cached_property
    def salt(self) -> bytes:
        """Both nonces, the client's first."""
        client = self.hello_changes.get("t3") or wire.CLIENT_NONCE
        return client + (self.welcome_changes.get("t3") or wire.SERVER_NONCE)

    @cached_property
    def prk(self) -> bytes:
        """What HKDF-Extract makes."""
        return hkdf_extract(self.salt, self.secret)

    def key(self, label: str) -> bytes:
        """The key of a label (11.3)."""
        return key_of(self.prk, label, self.th)

    @cached_property
    def server_proof(self) -> bytes:
        """WELCOME's (11.4)."""
        return hmac_sha256(self.key("server proof"), self.th)

    @cached_property
    def client_proof(self) -> bytes:
        """AUTH's (11.4)."""
        raw = self.auth_with(bytes(32))
        return hmac_sha256(self.key("client proof"), self.th + u32(len(raw)) + raw)

    @cached_property
    def welcome(self) -> bytes:
        """The frame."""
        return self.welcome_with(self.server_proof)

    @cached_property
    def auth(self) -> bytes:
        """The frame."""
        return self.auth_with(self.client_proof)

    def client(self, counter: int, *frames: bytes) -> bytes:
        """The client's record with this counter."""
        return record(self.mac, self.key("client record"), counter, b"".join(frames))

    def server(self, counter: int, *frames: bytes) -> bytes:
        """The server's record with this counter."""
        return record(self.mac, self.key("server record"), counter, b"".join(frames))

    @cached_property
    def ready(self) -> bytes:
        """READY, the server's first record."""
        return self.server(0, READY_FRAME)


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """The bytes with one bit changed; `at` counts from the end if negative."""
    at %= len(data)
    return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


def opened_records(mac: str, key: bytes, counter: int, data: bytes) -> Iterator[bytes]:
    """The frames of each record; ValueError if one is cut or its tag is wrong."""
    while data:
        if mac == NONE:
            yield data
            return
        end = 4 + int.from_bytes(data[:4], "little")
        if tag_of(mac, key, counter, data[:end]) != data[end : end + 16]:
            raise ValueError(f"record {counter} has another tag")
        yield data[4:end]
        counter, data = counter + 1, data[end + 16 :]


def pattern(length: int, start: int = 1) -> bytes:
    """Bytes in which no two neighbouring blocks of a MAC are equal: 17 that count up, again and again."""
    return (bytes((start + n) % 256 for n in range(17)) * (length // 17 + 1))[:length]
