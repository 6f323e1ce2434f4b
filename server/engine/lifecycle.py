"""The life of an engine process: started, loading, serving, hung, dead, started again.

What lives here: everything about the process itself, and what becomes of the calls in flight when it ends. What must
not: taking calls (process.py), batching and running (process_main.py), asyncio: the front watches `descriptors()` and
calls `on_readable`.

Times of life
- Crash: everything in flight fails UNAVAILABLE, memory returns, the process starts again after 0.1 s, doubling up to
  10 s, and back to 0.1 s once it has served for 10 s.
- Hang: with requests in flight and none finished for `stall_timeout` the health is STALLED; after `kill_after` without
  progress the process is killed, which is a crash as above.
- A model that fails to load says why (`health().detail`) and is not tried again unless it has loaded before.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ...protocol import Status
from .api import BatchResult, Engine, Failure, Health, HealthState, Sink
from .batch_memory import BatchMemory
from .control import ChannelError
from .inflight import InFlight
from .log import log
from .printed import printable
from .process_instance import ProcessInstance
from .result_reader import PROTOCOL_VIOLATIONS
from .timer import TimerDescriptor
from .worker import Surroundings, Worker

if TYPE_CHECKING:
    from ...gpu import SlabPool
    from .spec import ModelSpec

__all__ = ["Lifecycle"]

#: Seconds before the first restart, at most, and of serving after which the next crash starts over at the first.
BACK_OFF_FIRST: Final = 0.1
BACK_OFF_MOST: Final = 10.0
BACK_OFF_RESET: Final = 10.0
#: Seconds an idle process gets to leave by itself at stop(); it takes a few milliseconds.
STOP_GRACE: Final = 2.0
_LEVELS: Final = ("info", "warning", "error")


class Lifecycle(Engine):
    """Keeps `spec`'s model running in a process of its own. All methods on one thread; times in seconds.

    `wake(engine)` is called once when there is something to hand over; answer it by calling `step()` soon (in the next
    turn of the loop), which costs one system call for everything submitted by then.
    `on_change(engine)`, if given, is called when the state of health may have changed. `surroundings` are what the
    process begins with, each time; by default those of now.
    """

    def __init__(
        self,
        spec: ModelSpec,
        pool: SlabPool,
        wake: Callable[[Any], object],
        *,
        stall_timeout: float = 30.0,
        kill_after: float = 120.0,
        load_timeout: float = 300.0,
        result_bytes: int = 256 << 20,
        surroundings: Surroundings | None = None,
        on_change: Callable[[Any], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.sink: Sink = _no_sink
        self.effective_max_batch = 0
        self.warm_up: dict[int, float] = {}
        self.batch_with = ""
        self.remarks: tuple[str, ...] = ()
        self.labels: tuple[str, ...] = ()
        self.habits: list[str] = []  # what speaks against running it in a process with others (habits.py)
        self.restarts = 0
        self._pool = pool
        self._wake = wake
        self._clock = clock
        self._on_change = on_change
        self._stall_timeout = stall_timeout
        self._kill_after = max(kill_after, stall_timeout)
        self._load_timeout = load_timeout
        self._result_bytes = result_bytes
        self._surroundings = surroundings or Surroundings.now()
        self._memory = BatchMemory(pool, max(1, spec.max_batch))
        self._in_flight = InFlight(spec.max_queue + 2 * max(1, spec.max_batch), self._memory)
        self._instance: ProcessInstance | None = None
        self._state = HealthState.UNLOADED
        self._detail = "not started"
        self._stopped = False
        self._ever_ready = False
        self._back_off = BACK_OFF_FIRST
        self._since = 0.0  # when the present state began
        self._progress = 0.0  # when a request last finished, or the first of a busy period came
        self._finished = 0.0  # when a batch last finished, or it was loaded
        self._due = 0.0  # when the timer that was set for once may act
        self._woken = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._timer = TimerDescriptor()
        self._cold = select.epoll()
        self._cold.register(self._timer.fileno(), select.EPOLLIN)

    def start(self) -> None:
        """Start the process and return; `health()` says when it is ready, or why it is not."""
        if self._instance is None and not self._stopped:
            if self.spec.device != "cpu":
                self._pool.hold_pages()  # it will be pinned over there
            self._spawn()

    def stop(self) -> None:
        """End the process: at once with requests in flight (they fail), else within STOP_GRACE. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        instance = self._instance
        if instance is not None:
            if self._state is HealthState.SERVING and not self._in_flight.count:
                instance.worker.channel.send("stop")
                instance.worker.wait(STOP_GRACE)
            instance.worker.kill()
            self._reap(instance, "the model is being unloaded")
        self._become(HealthState.UNLOADED, "stopped")
        self._memory.trim()
        self._cold.close()
        self._timer.close()
        os.close(self._event)

    def health(self) -> Health:
        """Report the state: SERVING turns into IDLE with nothing in flight and into STALLED without progress."""
        state, detail = self._state, self._detail
        if state is HealthState.SERVING:
            quiet = self._clock() - self._progress
            if not self._in_flight.count:
                state = HealthState.IDLE
            elif quiet > self._stall_timeout:
                state, detail = HealthState.STALLED, f"no request finished for {quiet:.1f} s"
        return Health(state, self._finished, self.queue_depth, detail)

    def step(self) -> None:
        """Hand over what was submitted since the last time, with one system call."""
        self._woken = False
        if self._instance is not None:
            self._instance.hand_over()

    def descriptors(self) -> tuple[int, ...]:
        """Return the same two until stop(): one for results, one for everything that is rare."""
        return () if self._stopped else (self._event, self._cold.fileno())

    def on_readable(self, descriptor: int) -> None:
        """Results arrived, or (the other descriptor) a message, output, the timer or the end of the process."""
        if self._stopped:
            return
        if descriptor == self._event:
            self._collect()
            return
        for ready, _ in self._cold.poll(0):
            self._on_cold(ready)

    def wake_once(self) -> None:
        """Ask for a `step()`, unless that was done already."""
        if not self._woken and not self._stopped:
            self._woken = True
            self._wake(self)

    def _collect(self) -> None:
        instance = self._instance
        if instance is None or instance.failure_reason:
            return
        outcome: list[BatchResult | Failure] = []
        try:
            if instance.results.read(outcome):
                self._progress = self._finished = self._clock()
        except PROTOCOL_VIOLATIONS as error:
            self._distrust(instance, error)
        if outcome:
            self.sink(outcome)

    def _spawn(self) -> None:
        try:
            worker = Worker(
                self.spec, self._pool, self._event, self._in_flight.capacity, self._result_bytes, self._surroundings
            )
        except OSError as error:
            self._become(HealthState.FAILED, f"its process cannot be started: {error.strerror}")
            self._retry_later()
            return
        self._in_flight.withdrawals = worker.withdrawals
        self._instance = ProcessInstance(worker, self._pool, self._in_flight, self.wake_once)
        for descriptor in worker.descriptors:
            self._cold.register(descriptor, select.EPOLLIN)
        self._ring_after(self._load_timeout)
        self._become(HealthState.LOADING, "loading")

    def _on_cold(self, descriptor: int) -> None:
        if descriptor == self._timer.fileno():
            if self._timer.clear():
                self._on_timer()
            return
        instance = self._instance
        if instance is None or self._stopped:
            return
        channel, output, pidfd = instance.worker.descriptors
        if descriptor == channel:
            self._on_messages(instance)
        elif descriptor == output:
            if not instance.worker.log_output():
                self._cold.unregister(output)
        elif descriptor == pidfd:
            self._on_death(instance)

    def _ring_after(self, seconds: float) -> None:
        self._due = self._clock() + seconds
        self._timer.once(seconds)

    def _on_timer(self) -> None:
        left = self._due - self._clock()
        if left > 0.0:  # it is only a wake-up: whether it is time, the clock says
            self._timer.once(left)
            return
        instance = self._instance
        if instance is None:
            self.restarts += 1
            self._spawn()
            return
        instance.worker.printed.tell()
        if instance.failure_reason:
            return
        if self._state is HealthState.LOADING:
            self._fail_instance(instance, f"not loaded after {self._load_timeout:g} s", retry=False)
        elif self._in_flight.count and self._clock() - self._progress > self._kill_after:
            why = f"its process hung for {self._kill_after:g} s and was killed"
            self._fail_instance(instance, f"{why}; run_limit_s in model.toml, or --run-limit, allows more")

    def _on_messages(self, instance: ProcessInstance) -> None:
        try:
            for message in instance.worker.channel.receive():
                self._on_message(instance, message)
        except (ChannelError, *PROTOCOL_VIOLATIONS) as error:
            self._distrust(instance, error)
        if instance.worker.channel.ended:
            self._cold.unregister(instance.worker.channel.fileno())
            instance.worker.kill()  # its end is on the way, and what comes of it is decided when it is there

    def _on_message(self, instance: ProcessInstance, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "failure":
            status, text, started = Status(message["status"]), printable(message["message"]), bool(message["started"])
            keeper = instance.worker if message["kept"] else None
            slots = [abs(int(slot)) for slot in message["slots"]]
            requests = self._in_flight.finish(instance.worker.marks, slots, keeper)
            self._progress = self._finished = self._clock()
            self.sink([Failure(requests, status, text, started)])
        elif kind == "ready":
            self.effective_max_batch = int(message["effective_max_batch"])
            self.warm_up = {int(rows): float(seconds) for rows, seconds in message["seconds"].items()}
            self.batch_with = printable(message["batch_with"])
            self.remarks = tuple(printable(remark) for remark in message["remarks"])
            self.labels = tuple(map(str, message["labels"]))
            self.habits = [printable(habit) for habit in message["habits"]]
            self._ever_ready = True
            self._due = 0.0
            self._finished = self._clock()
            instance.worker.withdrawals.certain = message["registered"] is True
            self._timer.every(min(1.0, self._stall_timeout / 4))
            self._become(HealthState.SERVING, "")
        elif kind == "failed":
            self._fail_instance(instance, printable(message["message"]), retry=self._ever_ready)
        elif kind == "log" and message["level"] in _LEVELS:
            where = "\n".join(printable(line) for line in str(message["traceback"]).split("\n"))
            log.write(message["level"], printable(message["line"]), where)
        else:
            raise ChannelError(f"a message of kind {printable(kind)}")

    def _distrust(self, instance: ProcessInstance, error: Exception) -> None:
        self._fail_instance(instance, f"its process says what makes no sense ({printable(str(error))}) and was killed")

    def _fail_instance(self, instance: ProcessInstance, why: str, *, retry: bool = True) -> None:
        """Kill the process; its calls fail when it is gone, which can take a while with a device to let go of."""
        if not instance.failure_reason:
            instance.failure_reason = why
            instance.retry = retry
            self._note_service()
            self._become(HealthState.FAILED, why)
            log.error(f"{instance.worker.label}: {why}")
        instance.worker.kill()

    def _on_death(self, instance: ProcessInstance) -> None:
        if not instance.failure_reason:
            self._note_service()
        how = self._reap(instance, instance.failure_reason)
        self._become(HealthState.FAILED, instance.failure_reason or f"its process {how}")
        if instance.retry:
            self._retry_later()

    def _note_service(self) -> None:
        if self._state is HealthState.SERVING and self._clock() - self._since >= BACK_OFF_RESET:
            self._back_off = BACK_OFF_FIRST

    def _retry_later(self) -> None:
        log.warning(f"{self.spec.name}/{self.spec.version}: {self._detail}; next start in {self._back_off:g} s")
        self._ring_after(self._back_off)
        self._back_off = min(2 * self._back_off, BACK_OFF_MOST)

    def _reap(self, instance: ProcessInstance, why: str) -> str:
        """Take what the ended process has finished, fail the rest, give all memory back."""
        worker = instance.worker
        worker.kill()  # whatever it has started itself, too
        how = worker.reap()
        outcome: list[BatchResult | Failure] = []
        if not instance.failure_reason:
            with suppress(*PROTOCOL_VIOLATIONS):
                instance.results.read(outcome)
        started, waiting = self._in_flight.finish_all(worker.marks)
        why = why or f"the model's process {how}"
        if started:
            outcome.append(Failure(started, Status.UNAVAILABLE, f"{why} while it ran this call", True))
        if waiting:
            text = f"{why} before it began this call; try again"
            outcome.append(Failure(waiting, Status.UNAVAILABLE, text, False))
        for descriptor in worker.descriptors:
            with suppress(OSError):
                self._cold.unregister(descriptor)
        self._timer.off()
        self._instance = None
        self._in_flight.withdrawals = None
        instance.close()
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        if outcome:
            self.sink(outcome)
        return how

    def _become(self, state: HealthState, detail: str) -> None:
        self._state = state
        self._detail = detail
        self._since = self._clock()
        if self._on_change is not None:
            self._on_change(self)


def _no_sink(outcome: list[BatchResult | Failure]) -> None:
    """Before the front has set one there are no requests either."""
    del outcome
