"""Both clients against a real server process, over TCP and a Unix socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorwire
from tensorwire.clients import aio
from tensorwire.clients.blocking import Client
from tensorwire.clients.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from tensorwire.clients.results import Result
from tensorwire.codec import RaggedArray, State
from tests.integration.models import DIES, ECHO, MEAN, RAISES, ROW, SLEEPS, TWO, TWO_DESCRIPTION, flat
from tests.support.pages import code_blocks
from tests.support.server import ServerProcess, running_server, write_model

pytestmark = pytest.mark.timeout(120)

X = np.arange(8, dtype=np.float32).reshape(2, 4)

RAGGED_HEADING = "Text, and rows of different lengths"
ANY = """
def build():
    return lambda inputs: {"out_" + name: value for name, value in inputs.items()}
"""
ANY_FIELD = """
[[{side}]]
name = "{prefix}{name}"
dtype = "{dtype}"
shape = {shape}
kind = "{kind}"
"""
ANY_TENSORS: tuple[tuple[str, str, list[int], str], ...] = (
    ("text", "uint8", [-1], "string"),
    ("ragged", "int64", [-1], "ragged"),
    ("scalar", "float64", [], "dense"),
    ("empty", "int32", [-1, 3], "dense"),
)


def any_description() -> str:
    fields = [
        ANY_FIELD.format(side=side, prefix=prefix, name=name, dtype=dtype, shape=shape, kind=kind)
        for side, prefix in (("inputs", ""), ("outputs", "out_"))
        for name, dtype, shape, kind in ANY_TENSORS
    ]
    return 'backend = "python"\nengine = "inline"\nmax_batch = 0\nwarmup = false\n' + "".join(fields)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    folder = tmp_path_factory.mktemp("models")
    socket_path = tmp_path_factory.mktemp("s") / "tw.sock"
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "echo", ECHO, flat(), version="2")
    write_model(folder, "mean", MEAN, flat(ROW, 1, max_batch=4))
    write_model(folder, "blob", ECHO, flat(ROW, max_batch=4))
    write_model(folder, "raises", RAISES, flat(warmup=False))
    write_model(folder, "two", TWO, TWO_DESCRIPTION)
    write_model(folder, "any", ANY, any_description())
    written = code_blocks("models.md", RAGGED_HEADING)
    write_model(folder, "words", written["python"], 'engine = "process"\n' + written["toml"])
    write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    write_model(folder, "dies", DIES, flat(1, engine="process", max_batch=1, warmup=False))
    with running_server(folder, "--unix", str(socket_path)) as running:
        yield running, socket_path


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, server: tuple[ServerProcess, Path]) -> str:
    host, port = server[0].address
    return f"tw://{host}:{port}" if request.param == "tcp" else f"tw+unix://{server[1]}"


class Both:
    """One interface over the two clients, so that every rule below is checked with each."""

    def __init__(self, url: str, kind: str) -> None:
        self.runner = asyncio.Runner() if kind == "aio" else None
        self.aio = self.runner.run(aio.connect(url)) if self.runner else None
        self.blocking: Client | None = None if self.runner else tensorwire.connect(url)

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        if self.runner is None:
            return getattr(self.blocking, verb)(*arguments, **options)
        return self.runner.run(getattr(self.aio, verb)(*arguments, **options))

    def infer(self, model: str, inputs: dict[str, Any], **options: Any) -> Result:
        result = self.call("infer", model, inputs, **options)
        assert isinstance(result, Result)
        return result

    def close(self) -> None:
        self.call("close")
        if self.runner is not None:
            self.runner.close()


@pytest.fixture(params=["blocking", "aio"])
def both(request: pytest.FixtureRequest, url: str) -> Iterator[Both]:
    made = Both(url, request.param)
    yield made
    made.close()


def test_small_arrays_come_back(both: Both) -> None:
    result = both.infer("echo", {"x": X})
    np.testing.assert_array_equal(result["y"], X)
    assert result.model == "echo"
    assert result.model_version == "2"
    assert result.timing is None


def test_a_version_can_be_chosen(both: Both) -> None:
    assert both.infer("echo", {"x": X}, version="1").model_version == "1"
    with pytest.raises(NotFound, match="7"):
        both.infer("echo", {"x": X}, version="7")


@pytest.mark.parametrize("rows", [1, 4])
def test_big_bodies_go_both_ways(both: Both, rows: int) -> None:
    big = np.random.default_rng(0).random((rows, ROW), dtype=np.float32)
    np.testing.assert_array_equal(both.infer("blob", {"x": big}, deadline=30.0)["y"], big)
    mean = both.infer("mean", {"x": big}, deadline=30.0)["y"]
    np.testing.assert_allclose(mean, big.mean(axis=1, keepdims=True), rtol=1e-4)


def test_several_inputs_and_outputs(both: Both) -> None:
    a, b = np.array([[1.0], [-2.0]], np.float32), np.ones((2, 3), np.float32)
    result = both.infer("two", {"a": a, "b": b})
    np.testing.assert_array_equal(result["sum"], a + 1)
    np.testing.assert_array_equal(result["flag"], [True, False])


def test_strings_ragged_scalars_and_empty_arrays(both: Both) -> None:
    ragged = RaggedArray(np.array([0, 2, 2, 5]), np.arange(5))
    inputs: dict[str, Any] = {
        "text": np.array(["Grüße", "", "x" * 100_000], dtype=object),
        "ragged": ragged,
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.int32),
    }
    result = both.infer("any", inputs, deadline=30.0)
    assert list(result["out_text"]) == list(inputs["text"])
    np.testing.assert_array_equal(result["out_ragged"].offsets, ragged.offsets)
    np.testing.assert_array_equal(result["out_ragged"].values, ragged.values)
    assert result["out_scalar"].shape == ()
    assert result["out_scalar"] == 2.5
    assert result["out_empty"].shape == (0, 3)


def test_text_and_ragged_rows_work_as_the_pages_say(both: Both) -> None:
    called = code_blocks("client.md", RAGGED_HEADING)["python"]
    names: dict[str, Any] = {"client": both, "np": np, "tensorwire": tensorwire}
    exec(called, names)
    assert names["result"]["longest"].item() == "two words"
    assert names["result"]["doubled"].tolist() == [[2, 4, 6], [], [8]]
    assert isinstance(names["result"]["doubled"], tensorwire.RaggedArray)


def test_values_that_a_model_refuses_are_the_callers_fault(both: Both) -> None:
    tokens = RaggedArray.from_rows([[50_257], [1]])
    with pytest.raises(InvalidArgument, match="tokens: 50257, expected 0 to 50256") as caught:
        both.infer("words", {"texts": [""], "tokens": tokens})
    assert not caught.value.not_started


def test_numbers_of_a_list_are_refused_with_the_way_out(both: Both) -> None:
    with pytest.raises(InvalidArgument, match=r"sent float64\[1, 4\], .*asarray\(..., 'float32'\)"):
        both.infer("echo", {"x": [[1.0, 2.0, 3.0, 4.0]]})
    np.testing.assert_array_equal(both.infer("echo", {"x": np.asarray([[1, 2, 3, 4]], "float32")})["y"], [[1, 2, 3, 4]])


def test_timing_adds_up(both: Both) -> None:
    timing = both.infer("echo", {"x": X}, timing=True).timing
    assert timing is not None
    assert timing.server_total <= timing.round_trip
    parts = timing.queue + timing.batch_wait + timing.copy_in + timing.compute + timing.copy_out
    assert parts <= timing.server_total + 100


def test_errors_name_what_is_wrong_and_the_connection_lives_on(both: Both) -> None:
    with pytest.raises(NotFound, match="nothing"):
        both.infer("nothing", {"x": X})
    with pytest.raises(InvalidArgument, match="float64") as caught:
        both.infer("echo", {"x": X.astype(np.float64)})
    assert caught.value.request_id
    with pytest.raises(InvalidArgument, match="x"):
        both.infer("echo", {"z": X})
    with pytest.raises(Internal, match="weights say no") as failed:
        both.infer("raises", {"x": X})
    assert "\x1b" not in str(failed.value)
    np.testing.assert_array_equal(both.infer("echo", {"x": X})["y"], X)


def test_a_deadline_covers_a_slow_model(both: Both) -> None:
    with pytest.raises(DeadlineExceeded):
        both.infer("sleeps", {"x": np.array([[0.5]], np.float32)}, deadline=0.1)
    np.testing.assert_array_equal(both.infer("echo", {"x": X})["y"], X)


def test_a_process_that_dies_under_a_call_is_an_error_and_comes_back(both: Both) -> None:
    with pytest.raises((Unavailable, Internal)) as caught:
        both.infer("dies", {"x": np.array([[9.0]], np.float32)}, deadline=30.0)
    assert not caught.value.not_started
    for _ in range(100):
        try:
            both.infer("dies", {"x": np.zeros((1, 1), np.float32)}, deadline=10.0)
            break
        except Unavailable:
            threading.Event().wait(0.1)
    else:
        pytest.fail("the engine did not come back")


def test_services_answer(both: Both) -> None:
    assert {entry.model for entry in both.call("models").models} >= {"echo", "two", "any"}
    description = both.call("describe", "two")
    assert [spec.name for spec in description.inputs] == ["a", "b"]
    health = both.call("health", "echo").models
    assert [report.state in {State.IDLE, State.SERVING} for report in health] == [True] * len(health)
    assert health
    assert both.call("ping", deadline=5.0) > 0.0


def test_health_can_be_watched(url: str) -> None:
    with tensorwire.connect(url) as client:
        stream = client.watch_health("echo")
        assert next(stream).models[0].model == "echo"
        stream.close()
        client.infer("echo", {"x": X})

    async def main() -> None:
        async with await aio.connect(url) as client:
            stream = client.watch_health("echo")
            assert (await anext(stream)).models[0].model == "echo"
            await stream.aclose()
            await client.infer("echo", {"x": X})

    asyncio.run(main())


def test_pipelined_calls_are_batched_and_each_gets_its_own_rows(url: str) -> None:
    with tensorwire.connect(url) as client:
        calls = [client.submit("echo", {"x": X + n}, deadline=30.0) for n in range(500)]
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(call.result()["y"], X + n)

    async def main() -> None:
        async with await aio.connect(url) as client:
            results = await asyncio.gather(*(client.infer("echo", {"x": X + n}, deadline=30.0) for n in range(500)))
            for n, result in enumerate(results):
                np.testing.assert_array_equal(result["y"], X + n)

    asyncio.run(main())


def test_more_calls_than_the_server_takes_at_once_wait_their_turn(url: str) -> None:
    async def main() -> None:
        async with await aio.connect(url) as client:
            calls = [client.submit("echo", {"x": X}, deadline=60.0) for _ in range(3000)]
            await asyncio.gather(*calls)

    asyncio.run(main())


def test_threads_share_a_client(url: str) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(50):
                np.testing.assert_array_equal(client.infer("echo", {"x": X + n * number})["y"], X + n * number)
        except BaseException as error:
            failures.append(error)

    with tensorwire.connect(url) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures


def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "echo", ECHO, flat())
    path = tmp_path / "tw.sock"
    flags = ("--no-tcp", "--unix", str(path))
    with running_server(tmp_path / "models", *flags) as running:
        client = tensorwire.connect(f"tw+unix://{path}", wait_for_ready=True)
        client.infer("echo", {"x": X})
        assert running.terminate() == 0
    with running_server(tmp_path / "models", *flags):
        np.testing.assert_array_equal(client.infer("echo", {"x": X}, deadline=30.0)["y"], X)
    impatient = pytest.raises((ConnectFailed, ConnectionLost))
    client.close()
    with impatient:
        tensorwire.connect(f"tw+unix://{path}", timeout=5.0)
