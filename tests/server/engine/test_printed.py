"""What a model prints becomes log lines; a flood of it becomes a hundred a second and a number."""

from __future__ import annotations

from tensorwire.server.engine.printed import LINE_LENGTH, LINES_PER_SECOND, Printed, printable
from tests.server.engine.conftest import Said


def lines(said: list[Said]) -> list[str]:
    return [record.line for record in said]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_for_the_log_have_no_control_characters_and_a_bounded_length() -> None:
    assert printable("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"
    assert printable("x" * (LINE_LENGTH + 1)) == "x" * LINE_LENGTH + " ..."


def test_a_line_is_one_record_however_it_came(said: list[Said]) -> None:
    printed = Printed("m/1", Clock())
    for piece in (b"a", b"b\nc\xff\n\n", b"rest"):
        printed.take(piece)
    printed.end()
    assert lines(said) == ["m/1: ab", "m/1: c\\xff", "m/1: ", "m/1: rest"]


def test_a_line_without_an_end_is_cut(said: list[Said]) -> None:
    printed = Printed("m/1", Clock())
    printed.take(b"x" * (LINE_LENGTH + 1))
    assert lines(said) == ["m/1: " + "x" * LINE_LENGTH + " ..."]


def test_above_the_limit_lines_are_counted_and_the_count_is_told_in_the_next_second(
    said: list[Said],
) -> None:
    clock = Clock()
    printed = Printed("m/1", clock)
    for number in range(LINES_PER_SECOND):
        printed.take(b"%d\n" % number)
    printed.take(b"x\n" * 999 + b"y")
    printed.take(b"z" * 5000)
    printed.tell()
    assert len(lines(said)) == LINES_PER_SECOND
    clock.now += 1.0
    printed.tell()
    printed.tell()
    assert lines(said)[LINES_PER_SECOND:] == ["m/1: 1000 more lines that it printed are left out here"]
    printed.take(b"again\n")
    assert lines(said)[-1] == "m/1: again"


def test_the_last_lines_of_a_flood_are_told_for_they_may_say_why_it_ended(said: list[Said]) -> None:
    printed = Printed("m/1", Clock())
    printed.take(b"x\n" * 5000)
    printed.end(b"x\n" * 5000 + b"Fatal Python error: Segmentation fault\n")
    assert lines(said)[-1] == "m/1: Fatal Python error: Segmentation fault"
    assert sum("left out" in message for message in lines(said)) == 1
    assert len(lines(said)) == 2 * LINES_PER_SECOND + 1
