"""Withdrawn or begun: of one request both sides may say neither "the model has it" and "it will never have it"."""

from __future__ import annotations

import os
import random

import pytest

from tensorwire.gpu import shared_memory
from tensorwire.server.engine import withdrawals
from tensorwire.server.engine.api import Request
from tensorwire.server.engine.withdrawals import Withdrawals, shared_bytes

SLOTS = 8


@pytest.fixture
def descriptor() -> int:
    return shared_memory("test", shared_bytes(SLOTS))


def request(slot: int) -> Request:
    made = Request(slot, 1.0)
    made.slot = slot
    return made


def test_what_was_withdrawn_before_is_left_out_and_what_was_begun_before_is_not_certain(descriptor: int) -> None:
    front, process = Withdrawals(descriptor, SLOTS), Withdrawals(descriptor, SLOTS)
    front.certain = process.register()
    assert front.certain
    requests = [request(slot) for slot in range(4)]
    assert process.begin(requests[:1]) == []
    assert [front.withdraw(slot) for slot in (0, 1, 3)] == [False, True, True]
    assert process.begin(requests[1:]) == [requests[1], requests[3]]
    assert front.marks.tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    front.over([0, 1, 2, 3])
    front.marks[1] = 0
    assert process.begin(requests[1:2]) == []  # the slot is another request's now


def test_without_the_barrier_nothing_is_certain(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    front, process = Withdrawals(descriptor, SLOTS), Withdrawals(descriptor, SLOTS)
    assert not front.withdraw(0), "the process has not registered"
    front.certain = True
    monkeypatch.setattr(withdrawals, "_SYSCALL", {})
    assert not process.register()
    assert not front.withdraw(1)
    assert process.begin([request(1)]), "left out all the same"


def test_two_processes_at_once_never_both_have_it() -> None:
    """A round each: the process begins with a request while the front takes it back; the results are compared."""
    rounds = 20_000
    last = rounds  # which the process begins with only when it has been taken back
    shared = shared_memory("test", shared_bytes(rounds + 1))
    seen = shared_memory(
        "seen", shared_bytes(rounds + 1)
    )  # marks: what the process has run; the rest: which round it is
    child = os.fork()
    if child == 0:
        status = 1
        try:
            process, run = Withdrawals(shared, rounds + 1), Withdrawals(seen, rounds + 1)
            assert process.register()
            for number in range(rounds):
                run._withdrawn[number] = 1
                if not process.begin([request(number)]):
                    run.marks[number] = 1
            status = 0
        finally:
            os._exit(status)
    front, run = Withdrawals(shared, rounds + 1), Withdrawals(seen, rounds + 1)
    front.certain = True
    certain = set()
    drawn = random.Random(0)
    while not run._withdrawn[0]:
        pass
    for number in range(rounds):
        while number and not run._withdrawn[max(0, number - drawn.randrange(3))]:
            pass
        if front.withdraw(number):
            certain.add(number)
    if front.withdraw(last):
        certain.add(last)
    run._withdrawn[last] = 1
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    begun = {number for number in range(rounds + 1) if run.marks[number]}
    assert not certain & begun
    assert last in certain
