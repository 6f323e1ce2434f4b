"""Audit lines on their way to a disk that is full, slow or gone: nobody waits, nothing is lost silently."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tensorwire.server.front.audit_file import MAX_WAITING, AuditFile
from tensorwire.server.logs import configure_logs

LINE = b'{"event":"call"}\n'
FULL = Path("/dev/full")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logs("json", "info", stream)
    yield stream
    configure_logs()


def until(condition: Callable[[], object]) -> None:
    """The thread needs a moment."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_lines_are_appended_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(2):
        file = AuditFile(path)
        file.write(2 * LINE, 2)
        file.close()
        assert (file.written, file.lost) == (2, 0)
    assert path.read_bytes() == 4 * LINE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_mode_of_a_file_that_is_there_is_its_owners_business(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.touch()
    path.chmod(0o640)
    AuditFile(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AuditFile(tmp_path / "none" / "audit")


def test_reopened_it_goes_on_in_the_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    file = AuditFile(path)
    file.write(LINE, 1)
    path.rename(old)
    file.write(LINE, 1)  # still the old one's
    file.reopen()
    file.write(LINE, 1)
    file.close()
    assert old.read_bytes() == 2 * LINE
    assert path.read_bytes() == LINE


def test_a_name_that_cannot_be_reopened_leaves_the_old_file_in_use(tmp_path: Path, log: io.StringIO) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = AuditFile(folder / "audit")
    moved = folder.rename(tmp_path / "moved")
    file.reopen()
    file.write(LINE, 1)
    file.close()
    assert (moved / "audit").read_bytes() == LINE
    assert "cannot be reopened" in log.getvalue()


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_counted_and_told_once_and_the_gap_is_told_in_the_file(tmp_path: Path, log: io.StringIO) -> None:
    path = tmp_path / "audit"
    path.symlink_to(FULL)
    file = AuditFile(path)
    for _ in range(5):
        file.write(2 * LINE, 2)
    until(lambda: file.lost == 10)
    path.unlink()
    file.reopen()
    file.write(LINE, 1)
    file.write(LINE, 1)
    file.close()
    assert events(path) == ["lost", "call", "call"]
    assert json.loads(path.read_text().splitlines()[0])["lines"] == 10
    assert (file.written, file.lost) == (2, 10)
    told = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["level"] for line in told] == ["error", "warning"]
    assert told[0]["error"] == "No space left on device"
    assert told[1]["lost"] == 10


def test_a_disk_that_does_not_keep_up_keeps_nobody_waiting_and_fills_no_memory(
    tmp_path: Path, log: io.StringIO
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    file = AuditFile(pipe)
    chunk = 1000 * LINE
    count = 3 * MAX_WAITING // len(chunk)
    began = time.monotonic()
    for _ in range(count):
        file.write(chunk, 1000)
    assert time.monotonic() - began < 5
    assert 0 < file.lost < 1000 * count
    assert file._given - file._taken <= MAX_WAITING
    lost = file.lost
    os.set_blocking(reading, True)
    data = bytearray()

    def read() -> None:
        while piece := os.read(reading, 1 << 20):
            data.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    file.write(LINE, 1)
    file.close()
    reader.join(20)
    os.close(reading)
    lines = [json.loads(line) for line in data.decode().splitlines()]
    assert sum(line["lines"] for line in lines if line["event"] == "lost") == lost
    assert sum(line["event"] == "call" for line in lines) == 1000 * count - lost + 1
    assert log.getvalue().count("cannot be written") == 1


TORN = """
import json, resource, signal, sys, time
from pathlib import Path
from tensorwire.server.front.audit_file import AuditFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
line = b'{"event":"call"}\\n'
file = AuditFile(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * len(line) + 5, resource.RLIM_INFINITY))
file.write(4 * line, 4)
while file.lost != 2:
    time.sleep(0.002)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.write(line, 1)
file.close()
assert file.written == 3
"""


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    done = subprocess.run(
        [sys.executable, "-c", TORN, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    whole, cut = LINE.decode().rstrip(), LINE.decode()[:5]
    lines = path.read_text().splitlines()
    assert lines[:3] == [whole, whole, cut]
    assert json.loads(lines[3])["lines"] == 2
    assert lines[4:] == [whole]
