"""The works: what is sent, what comes back, how many calls are in flight over how many connections. Each peer does the
same ones. `O` (offered load) and `S` (sizes) are sweeps; `F` is memory; `I` needs a server with an engine of its own.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kind = Literal["closed", "open", "memory", "isolation"]
#: (unit of the compared figure -> its name in tables, whether less is better)
UNITS = {
    "us": ("p50, us", True),
    "calls/s": ("calls/s", False),
    "rows/s": ("rows/s", False),
    "MB/s": ("MB/s, one way", False),
    "KiB": ("KiB per idle connection", True),
    "p99 us": ("p99 of the model's time, us", True),
}


@dataclass(frozen=True, slots=True)
class Work:
    """One work: a float32 tensor of ``shape`` to ``model``, one of ``reply_shape`` back."""

    key: str
    title: str
    model: str
    shape: tuple[int, ...]
    reply_shape: tuple[int, ...]
    #: the unit of the figure that is compared, a key of UNITS
    unit: str
    #: calls in flight in all, over so many connections
    in_flight: int = 1
    connections: int = 1
    #: whether a load generator in C is the client, instead of the peer's own Python client
    native: bool = False
    kind: Kind = "closed"
    #: calls per second that an open loop offers
    rate: float = 0.0
    #: the peer whose figure is 1
    reference: str = "raw_echo"
    #: one round a start of the servers, however many others have
    sparse: bool = False

    @property
    def group(self) -> str:
        """The letter."""
        return self.key.split(".")[0]

    @property
    def less_is_better(self) -> bool:
        """Which way the figure is good."""
        return UNITS[self.unit][1]

    @property
    def request_bytes(self) -> int:
        """Tensor bytes of one request."""
        return 4 * math.prod(self.shape)

    @property
    def reply_bytes(self) -> int:
        """Tensor bytes of one reply."""
        return 4 * math.prod(self.reply_shape)

    def rounds_a_start(self, rounds: int) -> int:
        """Return how many rounds it gets where most works get so many."""
        return 1 if self.sparse else rounds

    def within(self, names: tuple[str, ...]) -> bool:
        """Whether one of ``names`` (``B``, ``B.native``, ``B.native.8``) means this work."""
        return any(self.key == name or self.key.startswith(name + ".") for name in names)


SMALL, IMAGE, SCORES, ROW, DIGITS = (1, 16), (1, 3, 224, 224), (1, 1000), (1, 784), (1, 10)
#: rows of one batch in E and of the model whose time is measured in I
BATCH = 32
SIZES = (*(64 * 8**step for step in range(7)), 64 << 20)
RATES = (1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000)


def size_text(nbytes: int) -> str:
    """Return 64 B, 4 KiB, 16 MiB."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes // unit} {name}"
    return f"{nbytes} B"


def blob(nbytes: int) -> tuple[int, int]:
    """Return the shape of a float32 tensor of so many bytes."""
    return (1, nbytes // 4)


def all_works() -> list[Work]:
    """Return every work in the order of the tables."""
    a, c = "float32 (1,16) echoed", "float32 (1,3,224,224) in, (1,1000) out"
    e = "MLP 784-512-512-10, batches of up to 32"
    echo, image = ("echo", SMALL, SMALL), ("image", IMAGE, SCORES)
    mlp = ("mlp", ROW, DIGITS, "rows/s")
    return [
        Work("A.python", f"{a}, one in flight, Python clients", *echo, "us"),
        Work("A.native", f"{a}, one in flight, native clients", *echo, "us", native=True),
        Work("B.python", f"{a}, 64 in flight, 1 connection, own Python clients", *echo, "calls/s", 64),
        Work("B.native.1", f"{a}, 64 in flight, 1 connection, native load", *echo, "calls/s", 64, 1, native=True),
        Work("B.native.8", f"{a}, 64 in flight, 8 connections, native load", *echo, "calls/s", 64, 8, native=True),
        Work("C.python", f"{c}, one in flight, Python clients", *image, "us"),
        Work("C.native", f"{c}, one in flight, native clients", *image, "us", native=True),
        Work("C.rate", f"{c}, 8 in flight, 1 connection, own Python clients", *image, "calls/s", 8),
        Work("C.native.1", f"{c}, 8 in flight, 1 connection, native load", *image, "calls/s", 8, 1, native=True),
        Work("C.native.8", f"{c}, 8 in flight, 8 connections, native load", *image, "calls/s", 8, 8, native=True),
        Work("D", "16 MiB echoed, one in flight", "bytes", blob(16 << 20), blob(16 << 20), "MB/s"),
        Work("E.8x8", f"{e}, 64 in flight, 8 connections", *mlp, 64, 8, reference="in_process"),
        Work("E.64x1", f"{e}, 64 in flight, 1 connection", *mlp, 64, 1, reference="in_process"),
        Work("F", "server memory per idle connection", *echo, "KiB", 1, 1000, kind="memory", sparse=True),
        *(
            Work(f"I.{how}", f"a batch of 32 in a process engine, {title}", *mlp[:3], "p99 us", kind="isolation")
            for how, title in (("alone", "alone"), ("flood", "under a flood on another model"))
        ),
        *(
            Work(f"O.{rate}", f"{rate:,} calls/s offered", *echo, "us", 1000, 1, kind="open", rate=rate, sparse=True)
            for rate in RATES
        ),
        *(
            Work(f"S.{size}", f"{size_text(size)} echoed", "bytes", blob(size), blob(size), "MB/s", sparse=True)
            for size in SIZES
        ),
    ]


WORKS = {work.key: work for work in all_works()}
#: letter -> what its works are, for headings and help
GROUPS = {
    "A": "latency of a small call",
    "B": "rate of small calls",
    "C": "an image in, scores out",
    "D": "a big tensor",
    "E": "batched inference",
    "F": "memory of idle connections",
    "I": "isolation of a model",
    "O": "throughput and latency versus offered load",
    "S": "bytes per second versus tensor size",
}


def chosen(names: str) -> list[Work]:
    """Return the works meant by ``A,B.native``; raises ValueError for a name that means none."""
    wanted = tuple(name for name in names.split(",") if name)
    for name in wanted:
        if not any(work.within((name,)) for work in WORKS.values()):
            raise ValueError(
                f"no work {name!r}: expected letters of {''.join(GROUPS)} or keys such as {', '.join(WORKS)}"
            )
    return [work for work in WORKS.values() if work.within(wanted)]


def request(work: Work) -> Array:
    """Return the tensor that is sent: every value differs from its neighbours."""
    return (np.arange(math.prod(work.shape), dtype=np.float32) % 251).reshape(work.shape)


@functools.cache
def scores() -> Array:
    """Return what the model `image` answers for one row."""
    return np.arange(math.prod(SCORES), dtype=np.float32).reshape(SCORES)


@functools.lru_cache(maxsize=1)
def expected(work: Work) -> Array:
    """Return the right reply to ``request(work)``."""
    if work.model == "mlp":
        from .network import answer

        return answer(request(work))
    return scores() if work.model == "image" else request(work)


class WrongReplyError(Exception):
    """A peer answered something else than was asked for: its figures mean nothing."""


def check(work: Work, reply: Any) -> None:
    """Compare the first reply of a connection with what is right. Raises WrongReplyError."""
    right = expected(work)
    array = reply if isinstance(reply, np.ndarray) else np.frombuffer(reply, np.float32)
    if array.size != right.size or not np.allclose(array.reshape(right.shape), right, rtol=1e-4, atol=1e-5):
        raise WrongReplyError(
            f"work {work.key}: the reply ({array.size} values) is not what the model gives ({right.size} values)"
        )
