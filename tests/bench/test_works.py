"""What the works are, and that a wrong reply is seen."""

from __future__ import annotations

import numpy as np
import pytest

from bench import works
from bench.works import WORKS, WrongReplyError


def test_works_are_chosen_by_letter_or_key_in_the_order_of_the_tables() -> None:
    assert [work.key for work in works.chosen("D,B.native")] == ["B.native.1", "B.native.8", "D"]
    assert [work.key for work in works.chosen("A")] == ["A.python", "A.native"]


@pytest.mark.parametrize("names", ["X", "A.nat", "B.native.80", "A,,Z"])
def test_a_name_that_means_no_work_is_refused_with_those_that_do(names: str) -> None:
    with pytest.raises(ValueError, match=r"no work .*expected letters"):
        works.chosen(names)


@pytest.mark.parametrize("key", ["A.python", "C.python", "D", "E.8x8"])
def test_the_right_reply_is_taken_and_one_wrong_value_is_seen(key: str) -> None:
    work = WORKS[key]
    right = works.expected(work)
    works.check(work, right)
    works.check(work, right.tobytes())
    wrong = right.copy()
    wrong.reshape(-1)[-1] += 1
    for reply in (wrong, wrong.tobytes(), right.reshape(-1)[:-1]):
        with pytest.raises(WrongReplyError, match=key):
            works.check(work, reply)


def test_requests_are_as_large_as_the_works_say() -> None:
    for work in WORKS.values():
        if work.request_bytes <= 16 << 20:
            assert works.request(work).nbytes == work.request_bytes
    assert WORKS["C.python"].request_bytes == 602_112
    assert WORKS["D"].request_bytes == 16 << 20
    assert {WORKS["S.64"].request_bytes, WORKS[f"S.{64 << 20}"].request_bytes} == {64, 64 << 20}


def test_neighbouring_values_of_a_request_differ() -> None:
    assert np.all(np.diff(works.request(WORKS["C.python"]).reshape(-1)) != 0)
