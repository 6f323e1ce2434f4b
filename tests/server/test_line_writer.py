"""Lines for a file that is full, and what a process does with them that was forked off by a model."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tensorwire.server.line_writer import LineWriter
from tensorwire.server.logs import LogFile, configure_logs, get_logger, lost_lines

FULL = Path("/dev/full")


def until_lost(file: LogFile, lines: int) -> None:
    end = time.monotonic() + 10
    while file.lines.lost < lines:
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("form", ["json", "console"])
def test_lines_that_a_full_disk_took_are_counted_and_told_by_one_line_when_there_is_room(
    tmp_path: Path, form: str
) -> None:
    path = tmp_path / "log"
    descriptor = os.open(FULL, os.O_WRONLY)
    file = LogFile(descriptor, "test")
    configure_logs(form, "info", file)
    try:
        for number in range(3):
            get_logger("test").info("lost", number=number)
        until_lost(file, 3)
        assert lost_lines() == 3
        target = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(target, descriptor)
        os.close(target)
        get_logger("test").info("kept")
        get_logger("test").info("kept, too")
        file.lines.close()
    finally:
        configure_logs()
    told, *kept = path.read_text().splitlines()
    assert ["kept" in line for line in kept] == [True, True]
    assert "3" in told
    assert "log lines were lost" in told
    if form == "json":
        event = json.loads(told)
        assert (event["lines"], event["level"], event["part"]) == (3, "warning", "logs")


def test_what_does_not_fit_any_more_is_refused_at_once_and_told_at_the_end() -> None:
    reading, writing = os.pipe()
    while True:  # until the pipe is full
        os.set_blocking(writing, False)
        try:
            os.write(writing, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    lines = LineWriter(writing, "test", 100, lambda lost: f"{lost} lost\n")
    for _ in range(10):
        lines.write(b"x" * 39 + b"\n", 1)
    assert lines.lost == 8
    with os.fdopen(reading, "rb") as pipe:
        pipe.read(65536)
        lines.close()
        rest = pipe.read().replace(b"\0", b"")
    assert rest.count(b"x" * 39) == 2
    assert rest.count(b"8 lost\n") == 1


def test_a_child_that_a_model_forks_writes_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = LineWriter(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "test", 100, str)
    child = os.fork()
    if child == 0:
        lines.write(b"child\n", 1)
        os._exit(0)
    os.waitpid(child, 0)
    lines.write(b"parent\n", 1)
    lines.close()
    assert path.read_bytes() == b"child\nparent\n"
