"""How often we copy tensor bytes, counted: one copy more is so many instructions more for a body twice as long.

Under callgrind, the kernel left out; both ends in one process (``moves``). Needs valgrind (``make debian``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tensorwire
from bench.micro.callgrind import Section, count
from tests.copies import moves

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("callgrind")]  # counted once, in one process

Copies = Callable[[str, int], float]
READ = 1
"""Small frames are read into the receive buffer by the kernel; here that is a copy, and it is counted."""


@pytest.fixture(scope="module")
def sections() -> dict[str, Section]:
    where = Path(tensorwire.__file__).parents[1]  # what this run of the tests imports: the source, or the compiled copy
    return {section.name: section for section in count(Path(moves.__file__), where)}


@pytest.fixture
def copies(sections: dict[str, Section]) -> Copies:
    """By how much more a section moves for a body twice as long, in copies of the difference."""

    def growth(name: str, size: int) -> int:
        return sections[name.format(2 * size)].copying() - sections[name.format(size)].copying()

    return lambda name, size: growth(name, size) / growth("copy {}", size)


@pytest.mark.parametrize("size", [moves.IMAGE, moves.HUGE])
@pytest.mark.parametrize(
    "part", ["client: submit {} echo", "server: {} echo", "client: reply to {} echo", "server: {} fresh"]
)
def test_large_bodies_are_never_copied(copies: Copies, part: str, size: int) -> None:
    assert abs(copies(part, size)) < 0.05  # headers of chunks are moved, too


@pytest.mark.parametrize(
    ("part", "least", "most"),
    [
        ("client: submit {} sum", 0, 0),
        ("server: {} sum", READ + 1, READ + 1),  # from the receive buffer into the batch
        ("client: reply to {} echo", READ + 1, READ + 1),  # from the receive buffer into memory of its own
        # And out: from the batch, whose rows are used again, with all rows of a small output, cut out of that (a slice
        # of all is the same bytes to the interpreter, a copy to compiled code), and into one write.
        ("server: {} echo", READ + 3.8, READ + 4.9),
    ],
)
def test_small_bodies_are_copied_once_on_receive(copies: Copies, part: str, least: float, most: float) -> None:
    assert least - 0.2 <= copies(part, moves.SMALL) <= most + 0.2


def test_an_answer_that_the_model_keeps_is_copied_once(copies: Copies) -> None:
    assert abs(copies("server: {} kept", moves.IMAGE) - 1) < 0.05
