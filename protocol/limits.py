"""Limits and configuration of a connection: every number with its unit and its reason (SPEC 19.4).

Constants are fixed by the wire and the same on both sides; `Limits` is one side's choice, of which `chunk`,
`max_streams` and `max_message` are told to the peer in HELLO or WELCOME.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

PREFACE: Final = (
    b"\x89TWP\r\n\x1a\n"  # high bit, CR LF and ^Z: text tools and text-mode transfers break it at once (PNG)
)
VERSION: Final = 1
DRAFT: Final = 1  # different drafts refuse each other until 1.0
INLINE_BODY: Final = 65536  # bytes; a larger body goes in chunks, so that a small call waits for 64 KiB at most
MIN_CHUNK: Final = 16384  # bytes; the smallest chunk but the last: header cost stays under 0.2%, dribbling is refused
MAX_CHUNK: Final = 1 << 20  # bytes; the longest time one frame holds the socket
MAX_METADATA: Final = 65536  # bytes in one frame after authentication; a thousand tensors of ordinary names
MAX_EXTENSION: Final = 1024  # bytes; 124 free dims beside BODY_LENGTH, or 122 beside BODY_LENGTH and TRACE
RECEIVE_BUFFER: Final = (
    128 + MAX_EXTENSION + MAX_METADATA + INLINE_BODY
)  # bytes: the largest frame, its record, and what stands before the frame after it
MAX_HANDSHAKE: Final = 4096  # bytes of HELLO, WELCOME, AUTH entries: all that is parsed for a stranger
MAX_DETAIL: Final = 1024  # bytes of UTF-8 text in END, CLOSE, GOAWAY
RECORD_BATCH: Final = 65536  # bytes; several frames in one record are this much together at most (SPEC 11.2)
NO_NEW_STREAMS: Final = (1 << 64) - 1  # GOAWAY stream id of the draining notice
DEFAULT_PORT: Final = 7411  # TCP, of tw:// without a port
DEFAULT_TLS_PORT: Final = 7413  # TCP, of tws:// without a port


class Role(IntEnum):
    """Which side of the connection this is: only the client opens streams."""

    CLIENT = 0
    SERVER = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What this side accepts and how long it waits. Bytes and seconds throughout.

    chunk: bytes of body in one chunk this side accepts, 16 KiB to 1 MiB; sending uses the smaller of both sides'.
    max_message: bytes of one body; above it a message is refused, not the connection. The pool is the real limit.
    max_streams: streams open at once (server, whose settings say 1024); OPENs above it are refused as not started.
    handshake_timeout: seconds from accept (or connect) to AUTH (server) or READY (client).
    ping_interval: seconds of silence, while a stream is open, before a PING is sent; 0 = never (TCP keepalive).
    ping_timeout: seconds of further silence before the connection is given up.
    max_control: bytes of control answers (PONG, refusals) waiting for a peer that does not read, before it is closed.
    max_abuse: late and refused frames within 10 seconds; more is a flood, not a race.
    """

    chunk: int = 262144
    max_message: int = 1 << 40
    max_streams: int = 4096
    handshake_timeout: float = 2.0
    ping_interval: float = 0.0
    ping_timeout: float = 10.0
    max_control: int = 1 << 20
    max_abuse: int = 10_000

    def __post_init__(self) -> None:
        if not MIN_CHUNK <= self.chunk <= MAX_CHUNK:
            raise ValueError(f"chunk is {self.chunk} bytes; choose between {MIN_CHUNK} and {MAX_CHUNK}")
        if self.max_streams < 1 or self.max_message < INLINE_BODY:
            raise ValueError(f"max_streams must be at least 1 and max_message at least {INLINE_BODY} bytes")


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """The limits the peer told in HELLO or WELCOME (entry LIMITS); until then the smallest that are allowed."""

    chunk: int = MIN_CHUNK
    max_streams: int = 0
    max_message: int = 0


UNKNOWN_LIMITS: Final = PeerLimits()


@dataclass(frozen=True, slots=True)
class Config:
    """One side's configuration; shared by all its connections.

    version_min, version_max: protocol versions spoken. draft: draft number, equal on both sides.
    features_offered, features_required: feature numbers (u16); each required one is offered too.
    mac_algorithms: names, a client's by preference: "hmac-sha256", "aes-256-gmac", "none".
    key_id, secret: a client's key: 1 to 64 bytes that name it, and its 32 bytes; both empty without one.
    keyless: whether a server takes clients without a key.
    agent: software name shown in the peer's logs, up to 128 bytes.
    """

    role: Role
    version_min: int = VERSION
    version_max: int = VERSION
    draft: int = DRAFT
    features_offered: tuple[int, ...] = ()
    features_required: tuple[int, ...] = ()
    mac_algorithms: tuple[str, ...] = ("none",)
    key_id: bytes = b""
    secret: bytes = field(default=b"", repr=False)  # guard: secret-in-config-repr
    keyless: bool = True
    agent: str = "tensorwire"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 < self.version_min <= self.version_max <= 65535:
            raise ValueError(f"versions {self.version_min}..{self.version_max} are no range between 1 and 65535")
        if not set(self.features_required) <= set(self.features_offered):
            raise ValueError("each required feature must be offered too")
        if len(self.key_id) > 64 or len(self.agent.encode()) > 128:
            raise ValueError("key_id is at most 64 bytes and agent at most 128 bytes of UTF-8")
        if not self.mac_algorithms:
            raise ValueError('mac_algorithms is empty; ("none",) is the least')
        if (self.key_id or self.secret) and not (self.key_id and len(self.secret) == 32):
            raise ValueError(f"a key is a key_id and a secret of 32 bytes; this one has {len(self.secret)}")
