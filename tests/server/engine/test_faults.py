"""What a model raises is one record with the whole traceback; more within a second is counted, and the count told."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from tensorwire.server.engine.faults import CHAIN, TRACEBACK_LENGTH, Faults, traceback_of
from tests.server.engine.conftest import Said


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def caught(code: str) -> BaseException:
    scope: dict[str, Any] = {}
    try:
        exec(code, scope)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_first_of_a_second_is_logged_whole_and_the_others_are_counted(said: list[Said]) -> None:
    clock = Clock()
    faults = Faults("m/1", clock)
    assert faults.tell_at == inf
    for _ in range(20):
        faults.note("model raised ValueError: 'no'", caught("raise ValueError('no')"))
    (record,) = said
    assert record[:2] == ("error", "m/1: model raised ValueError: 'no'")
    assert record.traceback.startswith("Traceback (most recent call last):\n")
    assert record.traceback.endswith("ValueError: 'no'\n")
    faults.tell()
    assert len(said) == 1
    clock.now = faults.tell_at
    faults.tell()
    faults.tell()
    assert said[1:] == [("error", "m/1: 19 more like it left out", "")]
    faults.note("again")
    assert said[2:] == [("error", "m/1: again", "")]


def test_a_count_that_nobody_asked_for_is_told_before_the_next_record(said: list[Said]) -> None:
    clock = Clock()
    faults = Faults("m/1", clock)
    faults.note("a")
    faults.note("a")
    clock.now += 5.0
    faults.note("b")
    assert [record.line for record in said] == ["m/1: a", "m/1: 1 more like it left out", "m/1: b"]


def test_every_frame_is_there() -> None:
    frames = "".join(f"def f{n}():\n    f{n + 1}()\n" for n in range(30)) + "def f30():\n    1 / 0\nf0()\n"
    text = traceback_of(caught(frames))
    assert all(f"in f{n}\n" in text for n in range(31))


CHAINS = [
    ("try:\n    1 / 0\nexcept Exception as e:\n    raise ValueError('x') from e", "direct cause"),
    ("try:\n    1 / 0\nexcept Exception:\n    raise ValueError('x')", "another exception occurred"),
]


@pytest.mark.parametrize(("code", "words"), CHAINS)
def test_what_it_came_from_is_told_first(code: str, words: str) -> None:
    text = traceback_of(caught(code))
    assert text.index("ZeroDivisionError") < text.index(words) < text.index("ValueError: 'x'")


def test_what_was_hidden_stays_so() -> None:
    text = traceback_of(caught("try:\n    1 / 0\nexcept Exception:\n    raise ValueError('x') from None"))
    assert "ZeroDivisionError" not in text


def test_a_text_is_one_line_of_what_is_printable() -> None:
    text = traceback_of(caught("raise ValueError('a\\n\\x1b[2Jb' + 'x' * 100_000)"))
    assert "ValueError: 'a\\n\\x1b[2Jb" in text
    assert len(text) < 2000


def test_a_traceback_without_end_has_one() -> None:
    text = traceback_of(caught("def f():\n    g()\ndef g():\n    f()\nf()"))
    assert len(text) < TRACEBACK_LENGTH + 100
    assert text.startswith("Traceback")
    assert "RecursionError" in text[-200:]


def test_a_chain_without_end_has_one() -> None:
    code = "for n in range(99):\n    cause, error = error, ValueError(n)\n    error.__cause__ = cause\nraise error"
    error = caught("error = None\n" + code)
    assert traceback_of(error).count("ValueError") == CHAIN


def test_a_chain_in_a_circle_is_gone_round_once() -> None:
    error = caught("a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a")
    assert traceback_of(error).count("ValueError") == 2


EVIL = """
class Evil(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(name)
    def __eq__(self, other):
        raise RuntimeError("==")
    def __str__(self):
        raise RuntimeError("str")
try:
    raise Evil
except Evil:
    raise Evil
"""


def test_a_class_whose_every_attribute_raises_is_told_of() -> None:
    assert traceback_of(caught(EVIL)).count("Evil: '(no text)'") == 2
