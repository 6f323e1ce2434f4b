"""The blocking client used again in the middle of a call, by the thread that makes it, and interrupted anywhere.

A trace function stands for a signal handler, a finalizer or a callback that Python runs there: at every line of the
client's own modules in turn, so that no place is left out (where they are compiled, at the lines that are left). Real
signals come at random moments, in a process of their own.
"""

from __future__ import annotations

import dis
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import tensorwire
from tensorwire.clients.blocking import Client
from tensorwire.clients.errors import ClientClosed, ClientInUse, TensorwireError
from tensorwire.clients.url import parse_url
from tensorwire.codec import Encoder, Health, HealthReport, State
from tensorwire.protocol import Message, pack_extension
from tests.support.peer import Peer, PeerConnection, echo

X = np.arange(16, dtype=np.float32).reshape(1, 16)
CLIENTS = str(Path(tensorwire.clients.__file__).parent)
LIMIT = 20.0
"""Seconds after which something hangs."""


class AtLine:
    """Runs ``action`` once, at the ``number``th line that this thread runs in the client's modules."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.left = number
        self.action = action
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _arg: object) -> AtLine | None:
        if not frame.f_code.co_filename.startswith(CLIENTS) or self.where:
            return None
        if event == "line" and not runs_nothing(frame.f_code, frame.f_lasti):
            self.left -= 1
            if self.left < 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.action()
        return self


@cache
def runs_nothing(code: CodeType, offset: int) -> bool:
    """Whether only a tracer stops there, and Python for nothing: at a ``try:``, and where a ``with`` is left, whose
    line is then run a second time.
    """
    instructions = [instruction.opname for instruction in dis.get_instructions(code) if instruction.offset >= offset]
    return instructions[0] == "NOP" or instructions[:3] == ["LOAD_CONST"] * 3


def at_every_line(work: Callable[[], object], action: Callable[[], object], check: Callable[[str], None]) -> int:
    """Run ``work`` again and again, with ``action`` at one line later each time; ``check`` what became of it."""
    number = 0
    while True:
        tracer = AtLine(number, action)

        def traced(tracer: AtLine = tracer) -> None:
            sys.settrace(tracer)
            try:
                work()
            finally:
                sys.settrace(None)

        thread = threading.Thread(target=traced, daemon=True)
        thread.start()
        thread.join(LIMIT)
        assert not thread.is_alive(), f"hangs where it was entered at line {number}, {tracer.where}"
        if not tracer.where:
            return number
        check(tracer.where)
        number += 1


class Workplace:
    """A server and a client of it that is made anew whenever it was closed."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.client = tensorwire.connect(peer.url)
        self.errors: list[BaseException] = []

    def infer(self) -> None:
        try:
            result = self.client.infer("m", {"x": X}, deadline=LIMIT)
        except TensorwireError as error:
            self.errors.append(error)
        else:
            np.testing.assert_array_equal(result["x"], X)

    def submit_two(self) -> None:
        try:
            calls = [self.client.submit("m", {"x": X}) for _ in range(2)]
            for call in calls:
                call.result()
        except TensorwireError as error:
            self.errors.append(error)

    def ping(self) -> None:
        try:
            self.client.ping(deadline=LIMIT)
        except TensorwireError as error:
            self.errors.append(error)

    def prepare(self, verb: str) -> None:
        """A client that can be used, which has no connection yet where it is to dial."""
        if self.client._driver._core.closed or verb == "dial_and_infer":
            self.client.close()
            self.client = Client(parse_url(self.peer.url))
            if verb != "dial_and_infer":
                self.client.ping()

    dial_and_infer = infer


@pytest.fixture
def place() -> Iterator[Workplace]:
    with Peer() as peer:
        made = Workplace(peer)
        yield made
        made.client.close()


VERBS = ["infer", "submit_two", "ping", "dial_and_infer"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_close_in_the_middle_of_a_call_closes_the_client(place: Workplace, verb: str) -> None:
    def check(where: str) -> None:
        client = place.client
        with pytest.raises(ClientClosed):
            client.infer("m", {"x": X})
        assert all(isinstance(error, ClientClosed) for error in place.errors), (where, place.errors)
        place.errors.clear()
        place.prepare(verb)

    place.prepare(verb)
    at_every_line(getattr(place, verb), lambda: place.client.close(), check)  # noqa: PLW0108 - whichever it is then
    place.client.close()
    assert all(connection.closed.wait(LIMIT) for connection in place.peer.connections)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("inner", ["infer", "submit", "ping"])
def test_a_call_in_the_middle_of_a_call_works_or_is_refused(place: Workplace, verb: str, inner: str) -> None:
    outcomes: list[str] = []

    def again() -> None:
        try:
            if inner == "infer":
                np.testing.assert_array_equal(place.client.infer("m", {"x": X + 1})["x"], X + 1)
            elif inner == "submit":
                place.client.submit("m", {"x": X + 1})
            else:
                place.client.ping()
        except (ClientInUse, ClientClosed) as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("works")

    def check(where: str) -> None:
        assert not place.errors, (where, place.errors)
        assert len(outcomes) == 1, where
        outcomes.clear()
        place.prepare(verb)

    place.prepare(verb)
    at_every_line(getattr(place, verb), again, check)


def test_a_stream_whose_generator_ends_in_the_middle_of_a_call_is_given_up() -> None:
    def report(connection: PeerConnection, message: Message) -> None:
        if b"$health" not in bytes(message.meta):
            echo(connection, message)
            return
        healthy = HealthReport((Health("m", "1", State.IDLE),)).pack()
        encoded = Encoder().encode("$health", "", {"payload": np.frombuffer(healthy, np.uint8)})
        ext = pack_extension(dims=encoded.dims)
        connection.send(message.stream_id, encoded.meta, ext, b"".join(encoded.buffers), flags=0)

    with Peer(report) as peer, tensorwire.connect(peer.url) as client:
        streams: list[Any] = []

        def check(where: str) -> None:
            client.ping(deadline=LIMIT)
            assert len(peer.connection().cancelled) == len(started), where
            streams.append(start())

        def start() -> Any:
            stream = client.watch_health()
            next(stream)
            started.append(1)
            return stream

        started: list[int] = []
        streams.append(start())
        at_every_line(lambda: client.infer("m", {"x": X}, deadline=LIMIT), streams.clear, check)


# A socket that nobody has got yet when the interrupt comes is closed by the collector.
@pytest.mark.filterwarnings("ignore:.*unclosed <socket|Exception ignored in. <socket")
@pytest.mark.parametrize("verb", VERBS)
def test_an_interrupt_anywhere_ends_every_call_and_the_client_goes_on(place: Workplace, verb: str) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupt

    def work() -> None:
        # Somebody else's calls, one waited for and one not yet, must end, too.
        calls = [] if verb == "dial_and_infer" else [submit_untraced(place.client) for _ in range(2)]
        bystanders = [threading.Thread(target=outcome, args=(call,), daemon=True) for call in calls[:1]]
        for bystander in bystanders:
            bystander.start()
        with suppress(Interrupt):
            getattr(place, verb)()
        for bystander in bystanders:
            bystander.join(LIMIT)
            assert not bystander.is_alive()
        for call in calls[1:]:
            outcome(call)

    def outcome(call: Any) -> None:
        with suppress(Interrupt, TensorwireError):
            call.result()

    def check(where: str) -> None:
        del where
        for _ in range(2):
            np.testing.assert_array_equal(place.client.infer("m", {"x": X}, deadline=LIMIT)["x"], X)
        place.errors.clear()
        place.prepare(verb)

    place.prepare(verb)
    at_every_line(work, interrupt, check)


def submit_untraced(client: Client) -> Any:
    """A call that is not interrupted while it is submitted."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return client.submit("m", {"x": X})
    finally:
        sys.settrace(tracer)


class Asking(Mapping[str, Any]):
    """Inputs that ask the client itself for what they hold."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __getitem__(self, name: str) -> Any:
        return self.client.infer("m", {"x": X})[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["x"])

    def __len__(self) -> int:
        return 1


def test_inputs_that_call_the_client_are_told_at_once() -> None:
    with Peer() as peer, tensorwire.connect(peer.url) as client:
        with pytest.raises(ClientInUse, match=r"the middle of another call .* connect another client"):
            client.infer("m", Asking(client))
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)
        assert len(peer.connections) == 1


SIGNALS = """
    import random, signal, sys
    import numpy as np
    import tensorwire
    from tensorwire.clients.errors import ClientClosed, ClientInUse

    X = np.ones((1, 16), np.float32)
    answers = closed = refused = 0

    def handler(*_):
        global fired, refused
        fired = True
        if deed == "close":
            client.close()
        elif deed == "infer":
            try:
                client.infer("m", {"x": X})
            except ClientInUse:
                refused += 1
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, handler)
    deed = sys.argv[2]
    client = tensorwire.connect(sys.argv[1])
    for round in range(int(sys.argv[3])):
        if deed == "close":
            client = tensorwire.connect(sys.argv[1])
        fired = False
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
            while not fired:  # not until the time is over: Python runs the handler a little later
                client.infer("m", {"x": X})
                answers += 1
        except (ClientClosed, KeyboardInterrupt):
            closed += 1
    print(answers, closed, refused)
"""


@pytest.mark.parametrize("deed", ["close", "infer", "interrupt"])
def test_real_signals_at_random_moments_never_stop_a_call(deed: str, tmp_path: Path) -> None:
    script = tmp_path / "signals.py"
    script.write_text(textwrap.dedent(SIGNALS))
    with Peer() as peer:
        command = [sys.executable, str(script), peer.url, deed, "300"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert int(done.stdout.split()[0]) > 0
