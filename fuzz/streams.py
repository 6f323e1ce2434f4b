"""Byte streams as the fuzz targets write them: runs for big bodies, and mutations that keep frames whole.

What lives here: expanding a stream, cutting it into frames, and changing it so that a mutation gets past the header.
What must not: what a receiver makes of it.

A run stands for many equal bytes, so that an input of a hundred bytes can hold a chunked message: `RUN`, a count of 3
bytes, and the byte.
"""

from __future__ import annotations

import re
from random import Random
from struct import Struct

from .target import Havoc

HEADER = Struct("<IBBHQIIIHH")
PREFACE = b"\x89TWP\r\n\x1a\n"
RUN = b"\xfeRUN"
MAX_EXPANDED = 400_000  # bytes of one expanded stream: five chunks and more
_RUN = re.compile(re.escape(RUN) + rb"(...)(.)", re.DOTALL)


def run(byte: bytes, times: int) -> bytes:
    """A run of one byte."""
    return RUN + times.to_bytes(3, "little") + byte


def expand(stream: bytes) -> bytes:
    """The stream with its runs written out, cut to MAX_EXPANDED bytes."""
    out = bytearray()
    at = 0
    for found in _RUN.finditer(stream):
        out += stream[at : found.start()]
        at = found.end()
        times = min(int.from_bytes(found[1], "little"), MAX_EXPANDED - len(out))
        out += found[2] * max(times, 0)
    return bytes((out + stream[at:])[:MAX_EXPANDED])


def cut(stream: bytes) -> list[bytes]:
    """The frames of a stream, each with its header, as far as they go; runs stay runs."""
    frames = []
    at = 0
    if stream.startswith(PREFACE):
        frames.append(PREFACE)
        at = len(PREFACE)
    while at < len(stream):
        if len(stream) - at < HEADER.size:
            frames.append(stream[at:])
            break
        end = _skip(stream, at + HEADER.size, HEADER.unpack_from(stream, at)[0])
        frames.append(stream[at:end])
        at = end
    return frames


def records(stream: bytes) -> list[bytes]:
    """The records of a stream (SPEC 11.2), as far as they go; runs stay runs."""
    found = []
    at = 0
    while at < len(stream):
        end = _skip(stream, at, 4 + int.from_bytes(stream[at : at + 4], "little") + 16)
        found.append(stream[at:end])
        at = end
    return found


def _skip(stream: bytes, at: int, length: int) -> int:
    """Where `length` expanded bytes from `at` end."""
    while length > 0 and at < len(stream):
        found = _RUN.match(stream, at)
        if found is not None:
            length -= int.from_bytes(found[1], "little")
            at = found.end()
        else:
            following = stream.find(RUN, at + 1)
            plain = min(length, (following if following >= 0 else len(stream)) - at)
            length -= plain
            at += plain
    return at


def repaired(frame: bytes, random: Random) -> bytes:
    """The frame with a length that is true, and regions that fit into it."""
    if len(frame) < HEADER.size:
        return frame
    fields = list(HEADER.unpack_from(frame))
    fields[0] = len(expand(frame[HEADER.size :]))
    if fields[7] + fields[8] > fields[0]:
        fields[8] = random.randint(0, min(fields[0], 64))
        fields[7] = random.randint(0, fields[0] - fields[8])
    return HEADER.pack(*fields) + frame[HEADER.size :]


def mutated(stream: bytes, most: int, random: Random, havoc: Havoc, catalogue: tuple[bytes, ...]) -> bytes:
    """The stream with one to three of its frames changed, moved, repeated, left out or added."""
    frames = cut(stream) or [random.choice(catalogue)]
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(frames))
        match random.randrange(7):
            case 0:
                frames.insert(at, random.choice(catalogue))
            case 1:
                frames.append(random.choice(catalogue))
            case 2 if len(frames) > 1:
                del frames[at]
            case 3:
                frames.insert(at, random.choice(frames))
            case 4:
                other = random.randrange(len(frames))
                frames[at], frames[other] = frames[other], frames[at]
            case 5 if len(frames[at]) > HEADER.size:
                payload = havoc(frames[at][HEADER.size :], len(frames[at]) + 64)
                frames[at] = repaired(frames[at][: HEADER.size] + payload, random)
            case _:
                frames[at] = _other_field(frames[at], random)
    return b"".join(frames)[:most]


def _other_field(frame: bytes, random: Random) -> bytes:
    """The frame with another stream, seq, flag, aux or type, or regions of other sizes."""
    if len(frame) < HEADER.size:
        return frame
    fields = list(HEADER.unpack_from(frame))
    match random.randrange(6):
        case 0:
            fields[4] = random.choice((0, 1, 2, 3, 4, 5, 6, fields[4] + 1, 2**64 - 1)) & 2**64 - 1
        case 1:
            fields[5] = random.choice((0, 1, 2, 3, fields[5] + 1)) & 2**32 - 1
        case 2:
            fields[3] ^= 1 << random.randrange(7)
        case 3:
            fields[6] = random.choice((0, 1, 8, 16, 17, 2**32 - 1))
        case 4:
            fields[1] = random.randrange(18)
        case _:
            fields[8] = random.randint(0, min(fields[0], 1024))
            fields[7] = random.randint(0, min(fields[0] - fields[8], 65536))
    return HEADER.pack(*fields) + frame[HEADER.size :]
