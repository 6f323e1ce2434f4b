"""What becomes of a request: every path gives its memory back, fails only who is guilty, and says what happened."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.protocol.status import Status
from tensorwire.server.engine.api import BatchResult, Failure
from tensorwire.server.engine.backends import LoadError
from tests.server.engine.conftest import Said
from tests.server.engine.helpers import ECHO_TOML, Harness, failure_of, outputs_of, python_spec

POISON = """
calls = []
def build():
    def model(inputs):
        x = inputs["x"]
        calls.append(len(x))
        if (x == 13).any():
            raise ValueError("unlucky \\x1b[31m\\n number")
        return {"y": x + 1}
    model.calls = calls
    return model
"""


def row(value: float, rows: int = 1) -> dict[str, Any]:
    return {"x": np.full((rows, 16), value, np.float32)}


def calls(harness: Harness) -> list[int]:
    found: list[int] = harness.engine._core._executor._backend._model.calls  # type: ignore[union-attr]
    return found


@pytest.fixture
def poison(tmp_path: Path) -> Harness:
    harness = Harness(python_spec(tmp_path, ECHO_TOML, POISON))
    calls(harness).clear()
    return harness


def test_one_bad_input_fails_alone(poison: Harness) -> None:
    requests = [poison.submit(row(value, rows=2)) for value in (1, 2, 13, 4)]
    results = poison.run()
    for n in (0, 1, 3):
        assert (outputs_of(results, requests[n])["y"] == [2, 3, 14, 5][n]).all()
    failure = failure_of(results, requests[2])
    assert failure.status is Status.INTERNAL
    assert failure.started
    assert failure.message == r"model raised ValueError: 'unlucky \x1b[31m\n number'"
    assert calls(poison) == [8, 2, 2, 2, 2], "each row group once more, alone, and no further"
    poison.assert_all_memory_returned()


def test_a_lone_request_is_not_tried_twice(poison: Harness) -> None:
    request = poison.submit(row(13))
    assert failure_of(poison.run(), request).started
    assert calls(poison) == [1]
    poison.assert_all_memory_returned()


def test_the_engine_lives_on_after_a_failure(poison: Harness) -> None:
    poison.submit(row(13))
    poison.run()
    assert (poison.infer(row(1))["y"] == 2).all()
    assert poison.engine.health().ready


def test_the_log_says_where_the_model_raised_but_not_once_per_call(poison: Harness, said: list[Said]) -> None:
    for _ in range(20):
        poison.submit(row(13))
        poison.run()
    (record,) = said
    assert record.level == "error"
    assert "model.py" in record.traceback
    assert "\x1b" not in record.line + record.traceback


def test_an_answer_of_the_wrong_form_is_logged_for_the_models_owner(tmp_path: Path, said: list[Said]) -> None:
    source = "def build():\n    return lambda inputs: {'y': inputs['x'][:, :2]}"
    harness = Harness(python_spec(tmp_path, ECHO_TOML.replace("max_batch", "warmup = false\nmax_batch"), source))
    request = harness.submit(row(1))
    message = failure_of(harness.run(), request).message
    assert said == [("error", f"m/1: {message}", "")]


def test_what_was_left_out_is_told_when_the_engine_is_looked_at(poison: Harness, said: list[Said]) -> None:
    now = [0.0]
    faults = poison.engine._core.faults
    poison.engine._core.faults = type(faults)("m/1", lambda: now[0])
    for _ in range(3):
        poison.submit(row(13))
        poison.run()
    now[0] = 2.0
    poison.engine.trim()
    assert said[-1] == ("error", "m/1: 2 more like it left out", "")


def test_a_long_error_text_is_capped(tmp_path: Path) -> None:
    source = """
    def build():
        def model(inputs):
            if inputs["x"].any():
                raise RuntimeError("x" * 1_000_000)
            return {"y": inputs["x"]}
        return model
    """
    harness = Harness(python_spec(tmp_path, ECHO_TOML, source))
    request = harness.submit(row(1))
    assert len(failure_of(harness.run(), request).message) < 400


@pytest.mark.parametrize("raised", ["SystemExit(3)", "MemoryError()", "AssertionError", "RecursionError('deep')"])
def test_whatever_a_model_raises_is_an_error_of_the_call(tmp_path: Path, raised: str) -> None:
    source = f"""
    def build():
        def model(inputs):
            if inputs["x"].any():
                raise {raised}
            return {{"y": inputs["x"]}}
        return model
    """
    harness = Harness(python_spec(tmp_path, ECHO_TOML, source))
    request = harness.submit(row(1))
    assert re.match(r"model raised \w+: ", failure_of(harness.run(), request).message)
    harness.assert_all_memory_returned()


REFUSES = """
import tensorwire

class OutOfRange(tensorwire.BadInput):
    pass

def build():
    def model(inputs):
        x = inputs["x"]
        if (x > 9).any():
            raise OutOfRange(f"x is {x.max():g} in /srv/models/m/1/table.bin, \x1b[31m expected 0 to 9 \u2013 or less")
        return {"y": x + 1}
    return model
"""


@pytest.mark.parametrize("max_batch", [0, 32])
def test_a_model_may_say_that_its_caller_is_wrong(tmp_path: Path, max_batch: int, said: list[Said]) -> None:
    toml = ECHO_TOML.replace("max_batch = 32", f"max_batch = {max_batch}")
    harness = Harness(python_spec(tmp_path, toml, REFUSES))
    requests = [harness.submit(row(value)) for value in (1, 10, 2)]
    results = harness.run()
    failure = failure_of(results, requests[1])
    assert (failure.status, failure.started) == (Status.INVALID_ARGUMENT, True)
    assert failure.message == r"x is 10 in table.bin, \x1b[31m expected 0 to 9 \u2013 or less".replace(
        r"\u2013", "\u2013"
    )
    assert (outputs_of(results, requests[0])["y"] == 2).all()
    assert (outputs_of(results, requests[2])["y"] == 3).all()
    assert said == []
    harness.assert_all_memory_returned()


def test_what_a_model_does_wrong_with_our_own_types_is_its_own_fault(tmp_path: Path) -> None:
    source = """
    import tensorwire
    def build():
        return lambda inputs: tensorwire.RaggedArray([0, 9], inputs["x"]) if inputs["x"].any() else inputs["x"]
    """
    harness = Harness(python_spec(tmp_path, ECHO_TOML, source))
    request = harness.submit(row(1))
    failure = failure_of(harness.run(), request)
    assert failure.status is Status.INTERNAL
    assert failure.message.startswith("model raised CodecError: ")


def test_a_string_that_is_not_utf8_is_its_senders_fault(tmp_path: Path) -> None:
    tensors = ECHO_TOML.replace("max_batch = 32", "max_batch = 0").replace("float32", "uint8")
    harness = Harness(python_spec(tmp_path, tensors.replace("[-1, 16]", '[-1]\nkind = "string"')))
    prepared, body = harness.prepare({"x": ["ab"]})
    request = harness.request()
    assert harness.engine.submit(prepared, memoryview(bytes(body).replace(b"ab", b"\xff\xfe")), None, request) is None
    failure = failure_of(harness.run(), request)
    assert (failure.status, failure.started) == (Status.INVALID_ARGUMENT, False)
    assert "not UTF-8" in failure.message


ANYTHING = """
import asyncio

class Own(BaseException):
    pass

class Wordless(Exception):
    def __str__(self):
        raise Own("not even a text")

class Text(str):
    def __getitem__(self, index):
        raise Own("a text that cannot be cut")

class Wordy(Exception):
    __traceback__ = property(lambda self: 1 / 0)
    def __str__(self):
        return Text("words")

class NotText(Exception):
    def __str__(self):
        return 7

class Classless(BaseException):
    __class__ = property(lambda self: 1 / 0)

class Silent(BaseException):
    def __getattribute__(self, name):
        raise Own("nothing can be had of it")

class Meta(type):
    __name__ = property(lambda cls: 1 / 0)

class Nameless(BaseException, metaclass=Meta):
    pass

Odd = type("Odd\\n\\x1b name", (Exception,), {})

def fail(inputs):
    raise %s

def build():
    def model(inputs):
        if (inputs["x"] == 13).any():
            fail(inputs)
        return {"y": inputs["x"] + 1}
    return model
"""
RAISED = [
    ("asyncio.CancelledError()", "model raised CancelledError: ''"),
    ("GeneratorExit", "model raised GeneratorExit: ''"),
    ("KeyboardInterrupt", "model raised KeyboardInterrupt: ''"),
    ("SystemExit(3)", "model raised SystemExit: '3'"),
    ("Own('mine')", "model raised Own: 'mine'"),
    ("Wordless", "model raised Wordless: '(no text)'"),
    ("Wordy", "model raised Wordy: 'words'"),
    ("NotText", "model raised NotText: '(no text)'"),
    ("Classless('x')", "model raised Classless: 'x'"),
    ("Silent('x')", "model raised Silent: 'x'"),
    ("Nameless('x')", "model raised Nameless: 'x'"),
    ("Odd('x')", r"model raised 'Odd\n\x1b name': 'x'"),
]


@pytest.fixture
def as_in_the_server() -> Iterator[None]:
    """There SIGINT raises nothing, so a KeyboardInterrupt is a model's."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_the_server")
@pytest.mark.parametrize(("expression", "message"), RAISED)
def test_anything_raised_fails_one_call_and_its_neighbours_are_repeated(
    tmp_path: Path, expression: str, message: str
) -> None:
    harness = Harness(python_spec(tmp_path, ECHO_TOML, ANYTHING % expression))
    requests = [harness.submit(row(value)) for value in (1, 13, 3)]
    results = harness.run()
    assert (outputs_of(results, requests[0])["y"] == 2).all()
    assert (outputs_of(results, requests[2])["y"] == 4).all()
    failure = failure_of(results, requests[1])
    assert (failure.status, failure.message) == (Status.INTERNAL, message)
    harness.assert_all_memory_returned()


@pytest.mark.usefixtures("as_in_the_server")
@pytest.mark.parametrize(("expression", "message"), RAISED)
@pytest.mark.parametrize("when", ["def build():", "    def model(inputs):"])
def test_anything_raised_while_it_loads_says_why_it_did_not(
    tmp_path: Path, expression: str, message: str, when: str
) -> None:
    source = (ANYTHING % expression).replace(when, f"{when}\n{' ' * (len(when) - len(when.lstrip()))}    fail(0)")
    with pytest.raises(LoadError) as caught:
        Harness(python_spec(tmp_path, ECHO_TOML, source))
    assert message.split(": ", maxsplit=1)[0].removeprefix("model raised ") in str(caught.value)


@pytest.mark.usefixtures("as_in_the_server")
@pytest.mark.parametrize(("expression", "message"), RAISED)
def test_anything_raised_at_its_end_is_logged(tmp_path: Path, expression: str, message: str, said: list[Said]) -> None:
    source = (ANYTHING % expression).replace("return model", "model.close = lambda: fail(0)\n    return model")
    harness = Harness(python_spec(tmp_path, ECHO_TOML, source))
    harness.engine.stop()
    (record,) = said
    assert f"closing it raised {message.removeprefix('model raised ')}" in record.line


def test_a_ctrl_c_at_the_terminal_is_no_models_affair(tmp_path: Path) -> None:
    """Where Python's own handler is at work, as in a notebook, the interrupt goes to whoever pressed the keys."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    source = (ANYTHING % "signal.raise_signal(signal.SIGINT)").replace("import asyncio", "import signal")
    harness = Harness(python_spec(tmp_path, ECHO_TOML, source))
    harness.submit(row(13))
    try:
        with pytest.raises(KeyboardInterrupt):
            harness.run()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ('{"y": x[:, :3]}', r"output 'y' is float32\[2, 3\], expected float32\[2, 16\]"),
        ('{"y": x[:1]}', r"output 'y' is float32\[1, 16\], expected float32\[2, 16\]"),
        ('{"y": x.astype("float64")}', r"output 'y' is float64\[2, 16\]"),
        ('{"z": x}', "outputs are named 'z', expected 'y'"),
        ("None", "output 'y' is object"),
        ("(x, x)", "gave 2 outputs"),
    ],
)
def test_wrong_outputs_fail_the_batch_and_name_the_output(tmp_path: Path, expression: str, words: str) -> None:
    source = f"""
    def build():
        def model(inputs):
            x = inputs["x"]
            return {expression} if x.any() else {{"y": x}}
        return model
    """
    harness = Harness(python_spec(tmp_path, ECHO_TOML, source))
    requests = [harness.submit(row(1)), harness.submit(row(2))]
    results = harness.run()
    assert len(results) == 1
    failure = failure_of(results, requests[0])
    assert failure.requests == requests
    assert failure.status is Status.INTERNAL
    assert failure.started
    assert re.search(words, failure.message)
    assert (harness.infer(row(0))["y"] == 0).all()
    harness.assert_all_memory_returned()


def test_a_cancelled_request_leaves_the_queue_at_once(poison: Harness) -> None:
    kept, dropped = poison.submit(row(1)), poison.submit(row(2))
    poison.engine.cancel(dropped)
    poison.engine.cancel(dropped)
    assert dropped.done
    assert poison.engine.queue_depth == 1
    results = poison.run()
    assert calls(poison) == [1]
    assert (outputs_of(results, kept)["y"] == 2).all()
    poison.engine.cancel(kept)  # after its result: nothing happens
    poison.assert_all_memory_returned()


def test_cancelling_everything_returns_all_memory(poison: Harness) -> None:
    requests = [poison.submit(row(n), adopt=n % 2 == 0) for n in range(50)]
    for request in requests:
        poison.engine.cancel(request)
    assert poison.engine.queue_depth == 0
    assert poison.run() == []
    poison.assert_all_memory_returned()


def test_an_expired_request_fails_without_running(tmp_path: Path) -> None:
    now = [100.0]
    harness = Harness(python_spec(tmp_path, ECHO_TOML, POISON), clock=lambda: now[0])
    calls(harness).clear()
    late = harness.submit(row(1), arrived=100.0, deadline=101.0)
    fine = harness.submit(row(2), arrived=100.0, deadline=200.0)
    now[0] = 150.0
    results = harness.run()
    failure = failure_of(results, late)
    assert failure.status is Status.DEADLINE_EXCEEDED
    assert not failure.started
    assert not late.started
    assert (outputs_of(results, fine)["y"] == 3).all()
    assert calls(harness) == [1]
    harness.assert_all_memory_returned()


def test_a_timer_can_expire_what_is_queued(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, ECHO_TOML, POISON))
    late = harness.submit(row(1), deadline=101.0)
    other = harness.submit(row(2))
    assert harness.engine.expire(100.0) == []
    (failure,) = harness.engine.expire(101.0)
    assert failure.requests == [late]
    assert harness.engine.expire(101.0) == []
    assert (outputs_of(harness.run(), other)["y"] == 3).all()
    harness.assert_all_memory_returned()


def test_stopping_fails_what_waits_as_not_started(poison: Harness) -> None:
    requests = [poison.submit(row(n)) for n in range(3)]
    poison.engine.stop()
    poison.engine.stop()
    (failure,) = poison.results
    assert isinstance(failure, Failure)
    assert failure.requests == requests
    assert failure.status is Status.UNAVAILABLE
    assert not failure.started
    assert poison.pool.in_use == 0


def test_a_model_that_writes_into_its_input_harms_nobody(tmp_path: Path) -> None:
    source = """
    def build():
        def model(inputs):
            inputs["x"] *= 2
            return {"y": inputs["x"]}
        return model
    """
    harness = Harness(python_spec(tmp_path, ECHO_TOML, source))
    assert (harness.infer(row(3))["y"] == 6).all()
    assert (harness.infer(row(3))["y"] == 6).all()


def test_reply_views_survive_the_next_batches(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))  # echo: outputs alias the forming block
    kept: list[tuple[float, BatchResult]] = []
    for n in range(20):
        harness.submit(row(n))
        (result,) = harness.run()
        assert isinstance(result, BatchResult)
        kept.append((n, result))
    for value, result in kept:
        assert (np.frombuffer(result.outputs[0], np.float32) == value).all()
