"""Keys, proofs and tags of a signed connection (SPEC 11): HKDF-SHA256, HMAC-SHA256-128, AES-256-GMAC.

Pure functions of bytes and two counters. What is signed when is records.py's and control.py's; who has which secret is
the owner's.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from struct import Struct
from typing import Any, Final

from .header import DATA, HEADER_SIZE, Buffer, Header
from .limits import MIN_CHUNK, PREFACE

# What the owner of a server knows of a key id: the 32 bytes to prove with, and whether the key is valid now. For an id
# that it does not know: a secret that nobody knows, and False, so that the peer cannot tell (SPEC 11.4).
SecretOf = Callable[[bytes], tuple[bytes, bool]]

SECRET_SIZE: Final = 32
PROOF_SIZE: Final = 32
NO_PROOF: Final = bytes(PROOF_SIZE)  # what stands in the place of a proof while it is computed (SPEC 11.4)
TAG_SIZE: Final = 16
SERVER_PROOF: Final = b"server proof"
CLIENT_PROOF: Final = b"client proof"
SERVER_RECORD: Final = b"server record"  # guard: reflection
CLIENT_RECORD: Final = b"client record"

_SIZE: Final = Struct("<I")
_COUNTER: Final = Struct("<Q")
_LABEL: Final = b"tensorwire 1 "
_join = b"".join
_JOINED: Final = 8192  # bytes below which copying the text behind the counter costs less than a second call of the hash


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """Compute HMAC-SHA256 (RFC 2104), 32 bytes."""
    return hmac.digest(key, data, "sha256")


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    """Compute HKDF-Extract with SHA-256 (RFC 5869, 2.2)."""
    return hmac_sha256(salt or bytes(32), secret)


def hkdf_expand(key: bytes, info: bytes, size: int = 32) -> bytes:
    """Compute HKDF-Expand with SHA-256 (RFC 5869, 2.3): `size` bytes, at most 255 x 32."""
    made, block = b"", b""
    while len(made) < size:
        block = hmac_sha256(key, block + info + bytes((len(made) // 32 + 1,)))
        made += block
    return made[:size]


def transcript(hello: bytes, welcome: bytes, binding: bytes) -> bytes:
    """Compute TH: what both sides have seen, as 32 bytes. Raw frames, PROOF of WELCOME zero (SPEC 11.3)."""
    parts = [PREFACE]
    for part in (hello, welcome, binding):  # guard: transcript
        parts += (_SIZE.pack(len(part)), part)
    return hashlib.sha256(b"".join(parts)).digest()


class KeySchedule:
    """The keys of one connection, one per label (SPEC 11.3). Holds PRK and TH: forget it once the handshake is over."""

    __slots__ = ("_prk", "_th")

    def __init__(self, secret: bytes, client_nonce: bytes, server_nonce: bytes, th: bytes) -> None:
        self._prk = hkdf_extract(client_nonce + server_nonce, secret)  # guard: keys-of-nonces
        self._th = th

    def key(self, label: bytes) -> bytes:
        """Derive 32 bytes for this label alone."""
        return hkdf_expand(self._prk, _LABEL + label + b"\0" + self._th)  # guard: keys-of-transcript

    def server_proof(self) -> bytes:
        """Compute PROOF of WELCOME (SPEC 11.4)."""
        return hmac_sha256(self.key(SERVER_PROOF), self._th)

    def client_proof(self, auth: bytes) -> bytes:
        """Compute PROOF of this AUTH frame, given with its own PROOF zero (SPEC 11.4)."""
        return hmac_sha256(self.key(CLIENT_PROOF), self._th + _SIZE.pack(len(auth)) + auth)  # guard: auth-in-proof


# ---- tags ----


def holds_chunk(header: Header, nbytes: int) -> bool:
    """Tell whether a record of `nbytes` bytes of frames, the first with this header, is one chunk.

    That is DATA without extension and metadata, of MIN_CHUNK bytes or more (SPEC 11.6).
    """
    length, kind, _, _, _, _, _, meta_len, ext_len, _ = header
    return kind == DATA and length == nbytes - HEADER_SIZE and length >= MIN_CHUNK and not (meta_len or ext_len)


class RunningTag(ABC):
    """The tag of a chunk that arrives in pieces which nobody keeps."""

    @abstractmethod
    def update(self, piece: Buffer) -> None:
        """Take the next bytes of the chunk."""

    @abstractmethod
    def finish(self) -> bytes:
        """Return the tag."""


class Mac(ABC):
    """The tags of one direction of a connection, one after the other: a key, and the number of records before."""

    @abstractmethod
    def tag(self, text: Buffer, chunk: Sequence[Buffer]) -> bytes:
        """Tag the next record: `text` is n and the frames, less the body of its chunk, which is in `chunk`."""

    @abstractmethod
    def begin(self, text: Buffer) -> RunningTag:
        """Begin the tag of the next record, whose chunk comes in pieces."""


class HmacTag(RunningTag):
    """HMAC-SHA256 under way."""

    def __init__(self, inner: Any, outer: Any) -> None:
        self._inner = inner
        self._outer = outer

    def update(self, piece: Buffer) -> None:
        """Take the next bytes of the chunk."""
        self._inner.update(piece)

    def finish(self) -> bytes:
        """Return the tag."""
        self._outer.update(self._inner.digest())
        tag: bytes = self._outer.digest()
        return tag[:TAG_SIZE]


class HmacSha256(Mac):
    """HMAC-SHA256, its first 16 bytes; both pads are hashed once per connection (SPEC 11.5)."""

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        self._inner: Any = hashlib.sha256(bytes(byte ^ 0x36 for byte in block)).copy
        self._outer: Any = hashlib.sha256(bytes(byte ^ 0x5C for byte in block)).copy
        self._counter = 0

    def tag(self, text: Buffer, chunk: Sequence[Buffer]) -> bytes:
        """Tag the next record."""
        inner = self._inner()
        if len(text) < _JOINED:
            inner.update(_join((_COUNTER.pack(self._counter), text)))
        else:
            inner.update(_COUNTER.pack(self._counter))
            inner.update(text)
        self._counter += 1  # guard: replay-hmac
        for piece in chunk:
            inner.update(piece)
        outer = self._outer()
        outer.update(inner.digest())
        tag: bytes = outer.digest()
        return tag[:TAG_SIZE]

    def begin(self, text: Buffer) -> RunningTag:
        """Begin the tag of the next record, whose chunk comes in pieces."""
        inner = self._inner()
        inner.update(_join((_COUNTER.pack(self._counter), text)))
        self._counter += 1
        return HmacTag(inner, self._outer())


class GmacTag(RunningTag):
    """AES-256-GCM under way: the chunk is AAD and comes first, then the text."""

    def __init__(self, key: bytes, nonce: bytes, text: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        self._cipher: Any = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
        self._text = text

    def update(self, piece: Buffer) -> None:
        """Take the next bytes of the chunk."""
        self._cipher.authenticate_additional_data(piece)

    def finish(self) -> bytes:
        """Return the tag."""
        self._cipher.update(self._text)
        self._cipher.finalize()
        tag: bytes = self._cipher.tag
        return tag


class Aes256Gmac(Mac):
    """AES-256-GCM as a MAC: AAD is the chunk, plaintext all else, the ciphertext is thrown away (SPEC 11.6).

    Needs the package `cryptography`. The nonce is the counter: a key tags one direction of one connection, so none
    repeats.
    """

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._key = key
        self._encrypt: Any = AESGCM(key).encrypt
        self._counter = 0

    def tag(self, text: Buffer, chunk: Sequence[Buffer]) -> bytes:
        """Tag the next record."""
        if len(chunk) > 1:
            running = self.begin(text)
            for piece in chunk:
                running.update(piece)
            return running.finish()
        nonce = self._nonce()
        sealed: bytes = self._encrypt(nonce, text, chunk[0] if chunk else None)  # guard: signed-chunk
        return sealed[-TAG_SIZE:]

    def begin(self, text: Buffer) -> RunningTag:
        """Begin the tag of the next record, whose chunk comes in pieces."""
        return GmacTag(self._key, self._nonce(), bytes(text))

    def _nonce(self) -> bytes:
        nonce = _COUNTER.pack(self._counter) + b"\0\0\0\0"
        self._counter += 1  # guard: replay-gmac
        return nonce


def make_mac(name: str, key: bytes) -> Mac:
    """Make the MAC of this name with the key of one direction."""
    return HmacSha256(key) if name == "hmac-sha256" else Aes256Gmac(key)


def available_macs() -> tuple[str, ...]:
    """Name the MACs that can be used here; aes-256-gmac needs the package `cryptography` (extra `fast`)."""
    if find_spec("cryptography") is None:
        return ("none", "hmac-sha256")
    return ("none", "hmac-sha256", "aes-256-gmac")
