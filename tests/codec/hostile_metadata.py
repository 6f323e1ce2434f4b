"""Metadata buffers, right ones and bent ones, the same ones for the same seed.

What lives here: making bytes. What must not: any opinion on whether they are right.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

from tensorwire.codec import DTYPES, Kind, TensorSpec, dtype_by_name, encode_metadata
from tests.vectors.flat import DTYPES as FLAT_DTYPES
from tests.vectors.flat import KINDS, Laid, Tensor

NAMES = ("m", "x", "classifier", "é" * 9, "名前", "\U0001f9ea", "a" * 256, "n" * 31)
SIZES = (-1, 0, 1, 3, 224, 1 << 32, 1 << 48)


def ours(rng: random.Random) -> bytes:
    """What our encoder makes of some call."""
    specs = []
    for number in range(rng.choice([0, 1, 1, 2, 3, 9])):
        kind = rng.choice(list(Kind))
        dtype = dtype_by_name("uint8") if kind is Kind.STRING else rng.choice(DTYPES)
        shape = tuple(rng.choice(SIZES) for _ in range(rng.randint(int(kind is Kind.RAGGED), 8)))
        specs.append(TensorSpec(f"{number}{rng.choice(NAMES)}"[:63], dtype, shape, kind))
    return encode_metadata(rng.choice(NAMES), rng.choice(["", "1", *NAMES]), specs)


def theirs(rng: random.Random) -> Laid:
    """What the vectors' own writer makes of some call: other places for the same things."""
    tensors = []
    for number in range(rng.choice([0, 1, 1, 2, 3])):
        kind = rng.randrange(len(KINDS))
        shape = tuple(rng.choice(SIZES) for _ in range(rng.randint(1, 8))) if kind or rng.random() < 0.8 else None
        dtype = "uint8" if kind == 1 else rng.choice(list(FLAT_DTYPES))
        tensors.append(Tensor(f"{number}{rng.choice(NAMES)}"[:63], dtype, shape, kind))
    version = rng.choice([None, "1", *NAMES])
    return Laid(*tensors, model=rng.choice(NAMES), version=version, vtable_first=rng.random() < 0.5)


def _bits(rng: random.Random, raw: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(raw))
        raw[at] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, raw: bytearray) -> None:
    raw[rng.randrange(len(raw))] = rng.choice([0, 1, 2, 4, 0x7F, 0x80, 0xC0, 0xED, 0xFF, rng.randrange(256)])


def _word(rng: random.Random, raw: bytearray) -> None:
    size = len(raw)
    hostile = [0, 1, 3, 4, 5, size, size - 4, size + 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF]
    struct.pack_into("<I", raw, rng.randrange(size // 4) * 4, rng.choice([*hostile, rng.randrange(2 * size)]))


def _short(rng: random.Random, raw: bytearray) -> None:
    hostile = [0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 0x7FFF, 0xFFFC, 0xFFFF, rng.randrange(64)]
    struct.pack_into("<H", raw, rng.randrange(len(raw) // 2) * 2, rng.choice(hostile))


def _cut(rng: random.Random, raw: bytearray) -> None:
    del raw[rng.randrange(len(raw)) :]


def _grow(rng: random.Random, raw: bytearray) -> None:
    at = rng.choice([len(raw), rng.randrange(len(raw))])
    raw[at:at] = rng.randbytes(rng.choice([1, 2, 4, 8, 64]))


BENDS: tuple[Callable[[random.Random, bytearray], None], ...] = (_bits, _byte, _word, _short, _cut, _grow)


def _pointed(rng: random.Random, laid: Laid) -> bytes:
    """An offset that leads elsewhere: to itself, backwards, into another thing, a little beside one."""
    fields = [name for name in laid.at if f">{name}" in laid.at or name.startswith("[") or name == "root"]
    return laid.pointed(rng.choice(fields), rng.choice(list(laid.at)), rng.choice([0, 0, 0, -4, 4, 1, 2, 8]))


def buffers(count: int, seed: int = 7) -> Iterator[bytes]:
    """`count` buffers: one in 50 as its writer made it, the others bent once, some twice, some two in one."""
    rng = random.Random(seed)
    for number in range(count):
        laid = theirs(rng) if rng.random() < 0.5 else None
        raw = bytearray(laid.whole if laid else ours(rng))
        if number % 50 == 0:
            yield bytes(raw)
            continue
        what = rng.random()
        if laid and what < 0.4:
            raw = bytearray(_pointed(rng, laid))
        elif what < 0.5:
            other = ours(rng)
            at = rng.randrange(min(len(raw), len(other)) // 4) * 4
            raw[at:] = other[at:]
        else:
            rng.choice(BENDS)(rng, raw)
        if len(raw) >= 4 and rng.random() < 0.15:
            rng.choice(BENDS)(rng, raw)
        yield bytes(raw)
