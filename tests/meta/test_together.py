"""Cases that are run together fail together: none is lost, each is named."""

from __future__ import annotations

import pytest

from tests.support.together import each

CASES = [("odd: 1", 1), ("odd: 3", 3), ("even: 2", 2), ("odd: 5", 5)]


@each("number", CASES)
@pytest.mark.parametrize("factor", [1, 2])
def test_cases_of_a_group_come_one_by_one(number: int, factor: int) -> None:
    assert (("", number) in [("", value) for _, value in CASES]) is (factor > 0)


def check(number: int) -> None:
    if number == 5:
        pytest.fail("no such thing")
    assert number < 3


def test_every_case_that_fails_is_told_by_its_name() -> None:
    run = each("number", CASES)(check)
    with pytest.raises(BaseExceptionGroup, match="2 of 3 cases failed") as caught:
        run(group=[case for case in CASES if case[0].startswith("odd")])
    assert [one.__notes__ for one in caught.value.exceptions] == [
        ["in the case 'odd: 3'"],
        ["in the case 'odd: 5'"],
    ]
    run(group=[("even: 2", 2)])


def test_the_groups_of_a_check_are_its_tests() -> None:
    (mark,) = each("number", CASES)(check).pytestmark  # type: ignore[attr-defined]
    assert mark.kwargs["ids"] == ["odd", "even"]
    assert [len(group) for group in mark.args[1]] == [3, 1]
