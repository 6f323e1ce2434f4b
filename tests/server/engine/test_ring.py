"""A ring passes every record once and in order, says when it is full, and believes no impossible announcement."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.server.engine.ring import Ring, RingError

RECORD = struct.Struct("=QQ")


@pytest.fixture
def pair() -> Iterator[tuple[Ring, Ring]]:
    writer = Ring(RECORD, 8)
    reader = Ring(RECORD, 8, fd=writer.fd, event=writer.event)
    yield writer, reader
    writer.close()
    reader.close()


def test_records_are_read_once_and_in_order(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    for number in range(5):
        assert writer.push(number, number * number)
    writer.publish()
    assert reader.read() == [(number, number * number) for number in range(5)]
    assert reader.read() == []


def test_what_is_not_published_is_not_seen(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    writer.push(1, 1)
    assert reader.read() == []
    writer.publish()
    writer.push(2, 2)
    assert reader.read() == [(1, 1)]


def test_several_announcements_are_read_together(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    for number in range(3):
        writer.push(number, 0)
        writer.publish()
    assert [first for first, _ in reader.read()] == [0, 1, 2]


def test_a_full_ring_refuses_until_the_reader_has_taken_something(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    assert all(writer.push(number, 0) for number in range(8))
    assert not writer.push(8, 0)
    writer.publish()
    assert not writer.push(8, 0)
    assert len(reader.read()) == 8
    assert writer.push(8, 0)
    writer.publish()
    assert reader.read() == [(8, 0)]


def test_records_wrap_around_the_end(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    seen = []
    for number in range(0, 60, 5):
        for each in range(number, number + 5):
            assert writer.push(each, 0)
        writer.publish()
        seen += [first for first, _ in reader.read()]
    assert seen == list(range(60))


def test_publish_makes_the_event_readable_and_read_clears_it(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    poll = select.poll()
    poll.register(reader.event, select.POLLIN)
    writer.publish()
    assert poll.poll(0) == []
    writer.push(1, 1)
    writer.publish()
    assert poll.poll(0)
    reader.read()
    assert poll.poll(0) == []


def test_more_than_the_ring_can_hold_is_refused(pair: tuple[Ring, Ring]) -> None:
    writer, reader = pair
    os.eventfd_write(writer.event, 9)
    with pytest.raises(RingError, match="9 records announced in a ring of 8"):
        reader.read()


def test_memory_of_another_size_is_refused(pair: tuple[Ring, Ring]) -> None:
    writer, _ = pair
    with pytest.raises(RingError, match="expected"):
        Ring(RECORD, 16, fd=writer.fd, event=writer.event)


@pytest.mark.parametrize("capacity", [0, -1, 3, 12])
def test_the_capacity_is_a_power_of_two(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Ring(RECORD, capacity)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=60))
def test_property_nothing_is_lost_or_repeated(turns: list[tuple[int, bool, bool]]) -> None:
    writer = Ring(RECORD, 8)
    reader = Ring(RECORD, 8, fd=writer.fd, event=writer.event)
    sent, seen = 0, []
    for pushes, publish, read in turns:
        for _ in range(pushes):
            sent += writer.push(sent, 0)
        if publish:
            writer.publish()
        if read:
            seen += [first for first, _ in reader.read()]
    writer.publish()
    seen += [first for first, _ in reader.read()]
    assert seen == list(range(sent))
    writer.close()
    reader.close()


ECHO = """
import select, struct, sys
from tensorwire.server.engine.ring import Ring
fds = list(map(int, sys.argv[1:]))
record = struct.Struct("=QQ")
reader, writer = Ring(record, 8, fds[0], fds[1]), Ring(record, 8, fds[2], fds[3])
poll = select.poll()
poll.register(reader.event, select.POLLIN)
left = 2000
while left:
    poll.poll()
    for first, second in reader.read():
        while not writer.push(first, second + 1):
            writer.publish()
        left -= 1
    writer.publish()
"""


def test_between_two_processes_everything_arrives() -> None:
    there, back = Ring(RECORD, 8), Ring(RECORD, 8)
    descriptors = (there.fd, there.event, back.fd, back.event)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", ECHO, *map(str, descriptors)], pass_fds=descriptors, env=environment
    )
    poll = select.poll()
    poll.register(back.event, select.POLLIN)
    sent = 0
    seen: list[tuple[int, int]] = []
    while len(seen) < 2000:
        while sent < 2000 and there.push(sent, sent):
            sent += 1
        there.publish()
        if poll.poll(10_000):
            seen += back.read()
        else:
            break
    child.kill()
    child.wait()
    assert seen == [(number, number + 1) for number in range(2000)]
    there.close()
    back.close()
