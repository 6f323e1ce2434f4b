"""The handshake of a captured connection: what its two directions say, and with the key what follows from it.

Here lives which MAC was chosen, whether the proofs are right, and the keys of the tags. It takes no part in a
connection and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from .capture_splitter import Piece
from .errors import ProtocolError
from .handshake import MAC_NAMES, PROOF, parse_entries, parse_hello, parse_welcome, with_proof
from .header import FrameType
from .signing import (
    CLIENT_RECORD,
    NO_PROOF,
    PROOF_SIZE,
    SERVER_RECORD,
    KeySchedule,
    Mac,
    available_macs,
    make_mac,
    transcript,
)

# The 32 bytes of a key by its id; None for one that the reader of the capture does not have.
SecretFor = Callable[[bytes], bytes | None]

NOT_CHECKED: Final = "not checked"
NOT_CAPTURED: Final = "not checked: the handshake was not captured"
GOOD: Final = "good"
BAD: Final = "bad"
BAD_OR_TLS: Final = "bad, or made over TLS: the certificate in it is not captured"


class Handshake:
    """What both directions of a connection have said so far, shared by their splitters.

    epoch: how many prefaces were seen; each begins anew. mac: what WELCOME chose, "" before it and for none. plain: it
    chose none. maybe_tls: the bytes may have been read inside TLS, whose certificate is in the proofs (SPEC 11.3).
    """

    __slots__ = ("_client_nonce", "_hello", "_key_id", "_keys", "_maybe_tls", "_secret_for", "epoch", "mac", "plain")

    def __init__(self, secret_for: SecretFor | None = None, *, maybe_tls: bool = False) -> None:
        self._secret_for = secret_for
        self._maybe_tls = maybe_tls
        self.epoch = 0
        self.begin()

    def begin(self) -> None:
        """Begin anew, at a preface."""
        self.epoch += 1
        self.mac = ""
        self.plain = False
        self._hello = self._client_nonce = self._key_id = b""
        self._keys: KeySchedule | None = None

    def see(self, piece: Piece, frame: bytes) -> tuple[str, bytes]:
        """Take a frame; returns whether its proof is right, "" without one, and the label of the records behind it."""
        kind = frame[4]
        label = CLIENT_RECORD if kind == FrameType.AUTH and self.mac else b""
        if piece.problem:
            return "", label
        try:
            if kind == FrameType.HELLO:
                hello = parse_hello(piece.meta)
                self._hello, self._client_nonce, self._key_id = frame, hello.nonce, hello.key_id
            elif kind == FrameType.WELCOME:
                return self._see_welcome(piece, frame)
            elif kind == FrameType.AUTH:
                proof = parse_entries(piece.meta).get(PROOF, b"")
                return self._check_auth(frame, proof), label
        except ProtocolError:
            pass  # fields.py says what is wrong with it
        return "", label

    def _see_welcome(self, piece: Piece, frame: bytes) -> tuple[str, bytes]:
        welcome = parse_welcome(piece.meta)
        name = MAC_NAMES.get(welcome.mac, "none")
        self.mac = "" if name == "none" else name
        self.plain = not self.mac
        label = SERVER_RECORD if self.mac else b""
        if not welcome.proof:
            return "", label
        secret = self._secret_for(self._key_id) if self._secret_for is not None and self._key_id else None
        if secret is None:
            return NOT_CHECKED, label
        th = transcript(self._hello, with_proof(frame, NO_PROOF), b"")
        keys = KeySchedule(secret, self._client_nonce, welcome.nonce, th)
        if not compare_digest(keys.server_proof(), welcome.proof):
            return BAD_OR_TLS if self._maybe_tls else BAD, label
        self._keys = keys
        return GOOD, label

    def _check_auth(self, frame: bytes, proof: bytes) -> str:
        if len(proof) != PROOF_SIZE:
            return ""
        if self._keys is None:
            return NOT_CHECKED
        return GOOD if compare_digest(self._keys.client_proof(with_proof(frame, NO_PROOF)), proof) else BAD

    def mac_of(self, label: bytes) -> Mac | None:
        """Return the tags of a direction; None where they cannot be checked."""
        if self._keys is None or self.mac not in available_macs():
            return None
        return make_mac(self.mac, self._keys.key(label))


__all__ = ["BAD", "BAD_OR_TLS", "GOOD", "NOT_CAPTURED", "NOT_CHECKED", "Handshake", "SecretFor"]
