"""HELLO, WELCOME and AUTH: their entries as bytes, and what both sides agree on (SPEC 9).

Here lives all that is parsed for a stranger, and the pure functions that pick version, features and algorithm. When
which frame may come is the connection's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from .errors import ErrorCode, ProtocolError
from .header import HEADER_SIZE
from .limits import INLINE_BODY, MAX_CHUNK, MAX_HANDSHAKE, MIN_CHUNK, Config, Limits, PeerLimits
from .signing import PROOF_SIZE

VERSIONS: Final = 1
DRAFT: Final = 2
NONCE: Final = 3
FEATURES: Final = 4
FEATURES_REQUIRED: Final = 5
MAC: Final = 6
KEY_ID: Final = 7
LIMITS: Final = 8
AGENT: Final = 9
CONNECTION_ID: Final = 10
BOOT_ID: Final = 11
PROOF: Final = 13

MAC_NUMBERS: Final[dict[str, int]] = {"none": 0, "hmac-sha256": 1, "aes-256-gmac": 2}
MAC_NAMES: Final[dict[int, str]] = {number: name for name, number in MAC_NUMBERS.items()}

KEY_REQUIRED: Final = (
    "authentication: this server takes callers with a key only; give the client one (key=, or TENSORWIRE_KEY)"
)

_ENTRY: Final = Struct("<HH")
_VERSIONS: Final = Struct("<HH")
_DRAFT: Final = Struct("<I")
_LIMITS: Final = Struct("<IIQ")


@dataclass(frozen=True, slots=True)
class Hello:
    """What the client says first. Feature and MAC numbers as on the wire; unknown ones are kept."""

    version_min: int
    version_max: int
    draft: int
    nonce: bytes
    features: tuple[int, ...]
    features_required: tuple[int, ...]
    macs: tuple[int, ...]
    key_id: bytes
    limits: PeerLimits
    agent: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's choice of each, and who it is."""

    version: int
    draft: int
    nonce: bytes
    features: tuple[int, ...]
    mac: int
    limits: PeerLimits
    agent: str
    connection_id: bytes
    boot_id: bytes
    proof: bytes  # 32 bytes, or none


# ---- entries ----


def pack_entries(entries: Sequence[tuple[int, bytes]]) -> bytes:
    """Pack entries, given in ascending order."""
    return b"".join(_ENTRY.pack(kind, len(value)) + value for kind, value in entries)


def parse_entries(raw: bytes) -> dict[int, bytes]:
    """Parse entries, by type; raises ProtocolError (HANDSHAKE) if they overrun, repeat or are out of order."""
    entries: dict[int, bytes] = {}
    at, last = 0, -1
    while at < len(raw):
        if at + 4 > len(raw):
            raise ProtocolError(ErrorCode.HANDSHAKE, f"handshake: {len(raw) - at} bytes are left after the last entry")
        kind, size = _ENTRY.unpack_from(raw, at)
        at += 4 + size
        if at > len(raw):
            raise ProtocolError(ErrorCode.HANDSHAKE, f"handshake: entry {kind} of {size} bytes runs past the end")
        if kind <= last:
            raise ProtocolError(
                ErrorCode.HANDSHAKE, f"handshake: entry {kind} follows {last}; ascending order, none twice"
            )
        last = kind
        entries[kind] = raw[at - size : at]
    return entries


def with_proof(frame: bytes, proof: bytes) -> bytes:
    """Put `proof` into the PROOF entry of a WELCOME or AUTH frame, which must be there: zeros for what is hashed."""
    at = HEADER_SIZE
    while at < len(frame):
        kind, size = _ENTRY.unpack_from(frame, at)
        at += 4 + size
        if kind == PROOF:
            return frame[: at - size] + proof + frame[at:]
    raise ValueError("the frame has no PROOF")


def _required(entries: dict[int, bytes], kind: int, name: str, sizes: range) -> bytes:
    value = entries.get(kind)
    if value is None:
        raise ProtocolError(ErrorCode.HANDSHAKE, f"handshake: entry {name} is missing")
    if len(value) not in sizes:
        raise ProtocolError(
            ErrorCode.HANDSHAKE, f"handshake: entry {name} is {len(value)} bytes; expected {_sizes_text(sizes)}"
        )
    return value


def _sizes_text(sizes: range) -> str:
    if len(sizes) == 1:
        return str(sizes[0])
    return f"{sizes[0]} to {sizes[-1]}" + (f" in steps of {sizes.step}" if sizes.step > 1 else "")


def _optional(entries: dict[int, bytes], kind: int, name: str, sizes: range) -> bytes:
    return _required(entries, kind, name, sizes) if kind in entries else b""


def _exactly(size: int) -> range:
    return range(size, size + 1)


def _features(raw: bytes) -> tuple[int, ...]:
    return Struct(f"<{len(raw) // 2}H").unpack(raw)


def _parse_limits(raw: bytes, server: bool) -> PeerLimits:
    chunk, max_streams, max_message = _LIMITS.unpack(raw)
    if not MIN_CHUNK <= chunk <= MAX_CHUNK:
        raise ProtocolError(ErrorCode.HANDSHAKE, f"handshake: chunk is {chunk} bytes; {MIN_CHUNK} to {MAX_CHUNK}")
    if max_message < INLINE_BODY or (max_streams < 1 if server else max_streams):
        raise ProtocolError(
            ErrorCode.HANDSHAKE,
            f"handshake: max_message {max_message} (at least {INLINE_BODY}) or max_streams {max_streams}"
            f" ({'at least 1' if server else '0 from a client'}) is out of range",
        )
    return PeerLimits(chunk, max_streams, max_message)


def _pack_limits(limits: Limits, server: bool) -> bytes:
    return _LIMITS.pack(limits.chunk, limits.max_streams if server else 0, limits.max_message)


# ---- HELLO ----


def grease_feature(nonce: bytes) -> int:
    """Choose the meaningless feature that a client offers, so that servers ignore what they do not know (SPEC 9.5)."""
    return 0x0A0A + (nonce[0] >> 4) * 0x1000


def is_grease(feature: int) -> bool:
    """Tell whether a feature number is one of the sixteen meaningless ones."""
    return feature & 0x0FFF == 0x0A0A


def pack_hello(config: Config, nonce: bytes) -> bytes:
    """Pack the entries of HELLO."""
    features = (*config.features_offered, grease_feature(nonce))
    required = config.features_required
    entries = [
        (VERSIONS, _VERSIONS.pack(config.version_min, config.version_max)),
        (DRAFT, _DRAFT.pack(config.draft)),
        (NONCE, nonce),
        (FEATURES, Struct(f"<{len(features)}H").pack(*features)),
        (MAC, bytes(MAC_NUMBERS[name] for name in config.mac_algorithms)),
        (LIMITS, _pack_limits(config.limits, server=False)),
    ]
    if required:
        entries.append((FEATURES_REQUIRED, Struct(f"<{len(required)}H").pack(*required)))
    if config.key_id:
        entries.append((KEY_ID, config.key_id))
    if config.agent:
        entries.append((AGENT, config.agent.encode()))
    return pack_entries(sorted(entries))


def parse_hello(raw: bytes) -> Hello:
    """Parse HELLO's entries and check their shape; raises ProtocolError (HANDSHAKE)."""
    entries = parse_entries(raw)
    version_min, version_max = _VERSIONS.unpack(_required(entries, VERSIONS, "VERSIONS", _exactly(4)))
    features = _features(_required(entries, FEATURES, "FEATURES", range(0, MAX_HANDSHAKE, 2)))
    required = _features(_optional(entries, FEATURES_REQUIRED, "FEATURES_REQUIRED", range(0, MAX_HANDSHAKE, 2)))
    missing = set(required) - set(features)
    if missing:
        raise ProtocolError(ErrorCode.HANDSHAKE, f"handshake: features {sorted(missing)} are required but not offered")
    return Hello(
        version_min=version_min,
        version_max=version_max,
        draft=_DRAFT.unpack(_required(entries, DRAFT, "DRAFT", _exactly(4)))[0],
        nonce=_required(entries, NONCE, "NONCE", _exactly(32)),
        features=features,
        features_required=required,
        macs=tuple(_required(entries, MAC, "MAC", range(1, 256))),
        key_id=_optional(entries, KEY_ID, "KEY_ID", range(1, 65)),
        limits=_parse_limits(_required(entries, LIMITS, "LIMITS", _exactly(16)), server=False),
        agent=_optional(entries, AGENT, "AGENT", range(1, 129)).decode("utf-8", "replace"),
    )


# ---- WELCOME ----


def choose(config: Config, hello: Hello) -> tuple[int, tuple[int, ...], int]:
    """Pick version, features and MAC (server); raises ProtocolError (VERSION, FEATURE, MAC, AUTHENTICATION)."""
    low, high = max(hello.version_min, config.version_min), min(hello.version_max, config.version_max)
    if low > high or hello.version_min > hello.version_max or hello.draft != config.draft:
        raise ProtocolError(
            ErrorCode.VERSION,
            f"version: client speaks {hello.version_min}..{hello.version_max} draft {hello.draft},"
            f" server speaks {config.version_min}..{config.version_max} draft {config.draft}; install a match",
        )
    offered = {feature for feature in hello.features if not is_grease(feature)}
    chosen = tuple(feature for feature in config.features_offered if feature in offered)
    if set(hello.features_required) - set(chosen) or set(config.features_required) - set(chosen):
        raise ProtocolError(
            ErrorCode.FEATURE,
            f"feature: client offers {sorted(offered)} and requires {sorted(hello.features_required)},"
            f" server has {sorted(config.features_offered)} and requires {sorted(config.features_required)}",
        )
    allowed = [MAC_NUMBERS[name] for name in config.mac_algorithms]
    for mac in hello.macs:
        if mac in allowed:
            if mac and not hello.key_id:  # guard: mac-without-key
                raise ProtocolError(ErrorCode.HANDSHAKE, f"handshake: MAC {MAC_NAMES[mac]} without a KEY_ID")
            return high, chosen, mac
    if not hello.key_id and not config.keyless:
        raise ProtocolError(ErrorCode.AUTHENTICATION, KEY_REQUIRED)
    names = [MAC_NAMES.get(mac, str(mac)) for mac in hello.macs]
    raise ProtocolError(
        ErrorCode.MAC, f"mac: client offers {', '.join(names)}, server allows {', '.join(config.mac_algorithms)}"
    )


def pack_welcome(
    config: Config,
    nonce: bytes,
    connection_id: bytes,
    boot_id: bytes,
    choice: tuple[int, tuple[int, ...], int],
    *,
    proof: bytes = b"",
) -> bytes:
    """Pack the entries of WELCOME."""
    version, features, mac = choice
    entries = [
        (VERSIONS, _VERSIONS.pack(version, version)),
        (DRAFT, _DRAFT.pack(config.draft)),
        (NONCE, nonce),
        (FEATURES, Struct(f"<{len(features)}H").pack(*features)),
        (MAC, bytes((mac,))),
        (LIMITS, _pack_limits(config.limits, server=True)),
        *([(AGENT, config.agent.encode())] if config.agent else []),
        (CONNECTION_ID, connection_id),
        (BOOT_ID, boot_id),
        *([(PROOF, proof)] if proof else []),
    ]
    return pack_entries(entries)


def parse_welcome(raw: bytes) -> Welcome:
    """Parse WELCOME's entries and check their shape; raises ProtocolError (HANDSHAKE)."""
    entries = parse_entries(raw)
    version, version_max = _VERSIONS.unpack(_required(entries, VERSIONS, "VERSIONS", _exactly(4)))
    if version != version_max:
        raise ProtocolError(ErrorCode.HANDSHAKE, f"handshake: WELCOME names versions {version}..{version_max}, not one")
    return Welcome(
        version=version,
        draft=_DRAFT.unpack(_required(entries, DRAFT, "DRAFT", _exactly(4)))[0],
        nonce=_required(entries, NONCE, "NONCE", _exactly(32)),
        features=_features(_required(entries, FEATURES, "FEATURES", range(0, MAX_HANDSHAKE, 2))),
        mac=_required(entries, MAC, "MAC", _exactly(1))[0],
        limits=_parse_limits(_required(entries, LIMITS, "LIMITS", _exactly(16)), server=True),
        agent=_optional(entries, AGENT, "AGENT", range(1, 129)).decode("utf-8", "replace"),
        connection_id=_required(entries, CONNECTION_ID, "CONNECTION_ID", _exactly(8)),
        boot_id=_required(entries, BOOT_ID, "BOOT_ID", _exactly(16)),
        proof=_optional(entries, PROOF, "PROOF", _exactly(PROOF_SIZE)),
    )


def check_welcome(config: Config, welcome: Welcome) -> None:
    """Refuse a choice that was not offered; raises ProtocolError (VERSION, FEATURE, MAC)."""
    # guard: version-not-offered
    if not config.version_min <= welcome.version <= config.version_max or welcome.draft != config.draft:
        raise ProtocolError(
            ErrorCode.VERSION,
            f"version: client speaks {config.version_min}..{config.version_max} draft {config.draft},"
            f" server chose {welcome.version} draft {welcome.draft}",
        )
    chosen = set(welcome.features)
    if chosen - set(config.features_offered) or set(config.features_required) - chosen:
        raise ProtocolError(
            ErrorCode.FEATURE,
            f"feature: client offers {sorted(config.features_offered)} and requires {sorted(config.features_required)},"
            f" server chose {sorted(chosen)}",
        )
    if MAC_NAMES.get(welcome.mac) not in config.mac_algorithms:  # guard: mac-not-offered
        raise ProtocolError(
            ErrorCode.MAC, f"mac: client offers {', '.join(config.mac_algorithms)}, server chose number {welcome.mac}"
        )
