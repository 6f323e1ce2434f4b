"""One engine process as the front holds it: how it is started, what is shared with it, how its end is made sure of.

What lives here: `Worker`, one instance of the process. What must not: requests, restarts, timing (process.py).

The process gets its memory and its ends of everything as inherited descriptors; nothing has a name that a third process
could open. It runs in a process group of its own, so that Ctrl-C on the terminal is the front's business alone, dies
with the front's thread (PR_SET_PDEATHSIG), and sees none of the server's own environment variables.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...gpu import SlabPool, shared_memory
from .control import Channel
from .printed import Printed
from .records import TO_ENGINE, TO_FRONT
from .ring import Ring
from .withdrawals import Withdrawals, shared_bytes

if TYPE_CHECKING:
    from .spec import ModelSpec

#: Bytes of the model's own output taken per wake-up: as many as a pipe holds.
OUTPUT_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process begins with: taken before any model's code runs here, which may change both."""

    environment: dict[str, str]
    folder: str | None

    @classmethod
    def now(cls) -> Surroundings:
        """Those of this process, less what is the server's."""
        try:
            folder = os.getcwd()  # noqa: PTH109 - the text is what is wanted
        except FileNotFoundError:  # removed since
            folder = None
        return cls(_environment(), folder)


class Worker:
    """A child process with `slots` request slots; `event` becomes readable when it has results.

    `marks[slot]` is 1 from just before the model may see that request. Raises OSError if it cannot be started.
    """

    def __init__(
        self, spec: ModelSpec, pool: SlabPool, event: int, slots: int, result_bytes: int, surroundings: Surroundings
    ) -> None:
        self.label = f"{spec.name}/{spec.version}"
        with contextlib.ExitStack() as undo:
            capacity = 1 << (2 * slots + 1024).bit_length()
            self.to_engine = Ring(TO_ENGINE, capacity)
            undo.callback(self.to_engine.close)
            self.to_front = Ring(TO_FRONT, capacity, event=event)
            undo.callback(self.to_front.close)
            self.results = SlabPool(result_bytes, "tensorwire-results", allocates=False)
            undo.callback(self.results.close)
            marks = shared_memory("tensorwire-marks", shared_bytes(slots))
            undo.callback(os.close, marks)
            self.withdrawals = Withdrawals(marks, slots)
            self.marks = self.withdrawals.marks
            self.output, output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(output, True)
            ours, theirs = socket.socketpair()
            self.channel = Channel(ours)
            undo.callback(self.channel.close)
            shared = {
                "pool": pool.fd,
                "results": self.results.fd,
                "marks": marks,
                "requests": self.to_engine.fd,
                "requests_event": self.to_engine.event,
                "replies": self.to_front.fd,
                "replies_event": self.to_front.event,
            }
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-P", "-m", f"{__package__}.process_main", str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(), *shared.values()),
                    process_group=0,
                    env=surroundings.environment,
                    cwd=surroundings.folder,
                )
            except BaseException:
                os.close(self.output)
                raise
            finally:
                os.close(output)
                theirs.close()
            self.pidfd = os.pidfd_open(self.process.pid)
            self.channel.send(
                "load",
                folder=str(spec.path),
                name=spec.name,
                version=spec.version,
                link_roots=[str(root) for root in spec.link_roots],
                descriptors=shared,
                pool_bytes=pool.nbytes,
                result_bytes=result_bytes,
                capacity=capacity,
                slots=slots,
            )
            undo.pop_all()
            os.close(marks)
        self.printed = Printed(self.label)

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """What to watch, results apart: control messages, the model's output, the end of the process."""
        return self.channel.fileno(), self.output, self.pidfd

    def kill(self) -> None:
        """End the process and whatever it started, now; harmless if it has ended."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # Until it is waited for, its number cannot belong to anybody else; a model on the loop may have waited.
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Wait for its end, which `reap` then tells; what it started can still be killed until then."""
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        ended.poll(seconds * 1000)

    def reap(self) -> str:
        """Wait for the end and say how it came, in words. After it nothing is written to shared memory any more."""
        code = self.process.wait()
        with contextlib.suppress(OSError):
            self.printed.end(os.read(self.output, OUTPUT_BYTES))
        if code >= 0:
            return f"exited with status {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def log_output(self) -> bool:
        """Pass on what the model wrote; False at the end of it."""
        try:
            piece = os.read(self.output, OUTPUT_BYTES)
        except BlockingIOError:
            return True
        if piece:
            self.printed.take(piece)
        return bool(piece)

    def close(self) -> None:
        """Give everything back. The process must have been reaped; views of results may still be out."""
        self.channel.close()
        self.to_engine.close()
        self.to_front.close()
        self.results.close()
        self.withdrawals.close()
        os.close(self.output)
        os.close(self.pidfd)


def _environment() -> dict[str, str]:
    """Ours without the server's settings (a model has no business with keys), and with the way to this package."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TENSORWIRE_")}
    package = sys.modules[(__package__ or "").partition(".")[0]].__file__ or ""
    paths = [str(Path(package).parent.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
