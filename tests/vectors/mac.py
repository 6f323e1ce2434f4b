"""HMAC, HKDF and GMAC by their definitions, over hashlib.sha256 alone, for the vectors of signing (SPEC 11).

What lives here: RFC 2104, RFC 5869, FIPS 197 and SP 800-38D, as far as the vectors need them; slow, and not constant in
time. What must not: what tensorwire puts into them (sealed.py), and any library that has them ready.
"""

from __future__ import annotations

import struct
from functools import cache
from hashlib import sha256

_BLOCK = 64  # bytes of a block of SHA-256
_REDUCE = 0xE1 << 120  # x^128 = x^7 + x^2 + x + 1, bits reflected (SP 800-38D 6.3)


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """RFC 2104."""
    padded = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in padded) + data).digest()
    return sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    """RFC 5869, 2.2; an empty salt is 32 zero bytes."""
    return hmac_sha256(salt or bytes(32), secret)


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, 2.3."""
    made, block = b"", b""
    for counter in range(1, (length + 31) // 32 + 1):
        block = hmac_sha256(prk, block + info + bytes((counter,)))
        made += block
    return made[:length]


# ---- AES-256 (FIPS 197) ----


def _twice(byte: int) -> int:
    return byte << 1 ^ (0x11B if byte & 0x80 else 0)


def _substitutes() -> bytes:
    """The S-box: the inverse in GF(2^8), then the affine step."""
    logs, powers, value = [0] * 256, [0] * 255, 1
    for n in range(255):
        powers[n], logs[value] = value, n
        value ^= _twice(value)  # times 3, which generates the field
    box = bytearray()
    for byte in range(256):
        inverse = powers[-logs[byte] % 255] if byte else 0
        wide = inverse ^ inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4
        box.append((wide ^ wide >> 8) & 0xFF ^ 0x63)
    return bytes(box)


def _rotated(word: int, bits: int) -> int:
    """A word of 32 bits, rotated right."""
    return (word >> bits | word << 32 - bits) & 0xFFFFFFFF


_BOX = _substitutes()
# What SubBytes and MixColumns make of a byte of row 0, 1, 2, 3: a column, as a word with row 0 on top.
_ROW_0 = [_twice(s) << 24 | s << 16 | s << 8 | _twice(s) ^ s for s in _BOX]
_ROW_1 = [_rotated(word, 8) for word in _ROW_0]
_ROW_2 = [_rotated(word, 16) for word in _ROW_0]
_ROW_3 = [_rotated(word, 24) for word in _ROW_0]


def _substituted(word: int) -> int:
    return int.from_bytes(word.to_bytes(4, "big").translate(_BOX), "big")


@cache
def _round_keys(key: bytes) -> tuple[int, ...]:
    """The 60 words of the expanded 32-byte key."""
    words = list(struct.unpack(">8I", key))
    power = 1
    for n in range(8, 60):
        word = words[-1]
        if n % 8 == 0:
            word = _substituted(_rotated(word, 24)) ^ power << 24
            power = _twice(power)
        elif n % 8 == 4:
            word = _substituted(word)
        words.append(words[-8] ^ word)
    return tuple(words)


def aes_256(key: bytes, block: bytes) -> bytes:
    """One block of 16 bytes, encrypted."""
    keys = _round_keys(key)
    a, b, c, d = (word ^ keys[n] for n, word in enumerate(struct.unpack(">4I", block)))
    for n in range(4, 56, 4):
        a, b, c, d = (
            _ROW_0[a >> 24] ^ _ROW_1[b >> 16 & 255] ^ _ROW_2[c >> 8 & 255] ^ _ROW_3[d & 255] ^ keys[n],
            _ROW_0[b >> 24] ^ _ROW_1[c >> 16 & 255] ^ _ROW_2[d >> 8 & 255] ^ _ROW_3[a & 255] ^ keys[n + 1],
            _ROW_0[c >> 24] ^ _ROW_1[d >> 16 & 255] ^ _ROW_2[a >> 8 & 255] ^ _ROW_3[b & 255] ^ keys[n + 2],
            _ROW_0[d >> 24] ^ _ROW_1[a >> 16 & 255] ^ _ROW_2[b >> 8 & 255] ^ _ROW_3[c & 255] ^ keys[n + 3],
        )
    state = struct.pack(">4I", a, b, c, d).translate(_BOX)
    shifted = bytes(state[(at * 5) % 16] for at in range(16))  # ShiftRows: row r of column c comes from column c + r
    return (int.from_bytes(shifted, "big") ^ int.from_bytes(struct.pack(">4I", *keys[56:]), "big")).to_bytes(16, "big")


# ---- GCM (SP 800-38D) ----


@cache
def _products(subkey: bytes) -> tuple[tuple[int, ...], ...]:
    """Of each byte, at each of the 16 places of a block, its product with the hash subkey in GF(2^128)."""
    shifted, value = [], int.from_bytes(subkey, "big")
    for _ in range(128):
        shifted.append(value)
        value = value >> 1 ^ (_REDUCE if value & 1 else 0)
    places = []
    for place in range(16):
        table = [0] * 256
        for bit in range(8):
            for byte in range(256):
                if byte & 0x80 >> bit:
                    table[byte] ^= shifted[place * 8 + bit]
        places.append(tuple(table))
    return tuple(places)


def ghash(subkey: bytes, data: bytes) -> bytes:
    """GHASH of whole blocks."""
    tables, state = _products(subkey), 0
    for at in range(0, len(data), 16):
        block = (state ^ int.from_bytes(data[at : at + 16], "big")).to_bytes(16, "big")
        state = 0
        for table, byte in zip(tables, block, strict=True):
            state ^= table[byte]
    return state.to_bytes(16, "big")


def gcm_256(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and tag of AES-256-GCM with a nonce of 12 bytes."""
    blocks = (len(plaintext) + 15) // 16
    stream = b"".join(aes_256(key, nonce + (n + 2).to_bytes(4, "big")) for n in range(blocks))
    ciphertext = bytes(text ^ mask for text, mask in zip(plaintext, stream, strict=False))
    hashed = _whole_blocks(aad) + _whole_blocks(ciphertext) + struct.pack(">QQ", len(aad) * 8, len(ciphertext) * 8)
    mask = aes_256(key, nonce + bytes((0, 0, 0, 1)))
    return ciphertext, bytes(a ^ b for a, b in zip(ghash(aes_256(key, bytes(16)), hashed), mask, strict=True))


def _whole_blocks(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)
