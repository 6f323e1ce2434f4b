"""What users call behaves the same in the pure and in the compiled build: kinds of arguments, docstrings, what tools do
with classes and objects. `make test` runs this file with both.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import inspect
import os
import pickle
import pydoc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
import pytest

import tensorwire
from tensorwire.clients import aio, blocking, errors
from tensorwire.clients.arguments import of_call, seconds, whole
from tensorwire.clients.results import Result, Timing
from tests.integration.models import ECHO, flat
from tests.support.server import running_server, write_model

pytestmark = pytest.mark.timeout(120)

X = np.ones((1, 4), np.float32)
SECONDS: list[Any] = [5, 5.0, np.float32(5), np.float64(5), np.float16(5), np.int64(5), Fraction(11, 2), Decimal(5)]
PRIORITIES: list[Any] = [0, 3, True, np.int8(3), np.uint64(3), np.int64(255), 3.0, np.float32(3)]
FLAGS: list[Any] = [True, False, 1, 0, None, "yes", np.True_, np.False_]
SIZES: list[Any] = [1 << 20, 1e6, np.int64(1 << 20), np.float32(1e6), np.uint32(1 << 20)]
NO_SECONDS: list[Any] = ["1s", "1", b"1", [1], 1j, float("nan"), object()]
NO_COUNTS: list[Any] = [1.5, "1", b"1", [1], float("inf"), float("nan"), object()]


class Name(StrEnum):
    ECHO = "m"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "m", ECHO, flat(engine="inline"))
    with running_server(folder) as running:
        host, port = running.address
        yield f"tw://{host}:{port}"


class Face:
    """Either client, waited for."""

    def __init__(self, kind: str) -> None:
        self.runner = asyncio.Runner() if kind == "aio" else None
        self.module: Any = aio if kind == "aio" else blocking

    def run(self, outcome: Any) -> Any:
        if self.runner is None:
            return outcome

        async def waited() -> Any:
            return await outcome

        return self.runner.run(waited())

    def connect(self, *arguments: Any, **options: Any) -> Any:
        return self.run(self.module.connect(*arguments, **options))

    @contextlib.contextmanager
    def client(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        client = self.connect(*arguments, **options)
        try:
            yield client
        finally:
            self.run(client.close())

    def submitted(self, client: Any, **options: Any) -> Any:
        if self.runner is None:
            return client.submit("m", {"x": X}, **options).result(np.float32(5))

        async def waited() -> Any:
            return await client.submit("m", {"x": X}, **options)

        return self.runner.run(waited())


@pytest.fixture(params=["blocking", "aio"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    made = Face(request.param)
    yield made
    if made.runner is not None:
        made.runner.close()


# --- arguments ------------------------------------------------------------------------------------------------------


def test_every_call_takes_every_kind_of_seconds_count_and_flag(face: Face, url: str) -> None:
    with face.client(url) as client:
        options = [{"deadline": value} for value in [None, *SECONDS]] + [{"priority": value} for value in PRIORITIES]
        for given in [*options, *({"timing": value} for value in FLAGS)]:
            for result in (face.run(client.infer("m", {"x": X}, **given)), face.submitted(client, **given)):
                assert result["y"].tolist() == X.tolist()
                assert (result.timing is not None) == bool(given.get("timing"))
        for value in [None, *SECONDS]:
            assert face.run(client.ping(deadline=value)) > 0
            assert face.run(client.models(deadline=value)).models[0].model == "m"
            assert face.run(client.describe("m", deadline=value)).model == "m"
            assert face.run(client.health("m", deadline=value)).models[0].model == "m"
            face.run(client.wait_connected(5 if value is None else value))


@pytest.mark.parametrize("timeout", SECONDS)
def test_connect_takes_every_kind_of_seconds(face: Face, url: str, timeout: Any) -> None:
    spin = {} if face.runner else {"spin": timeout}
    with face.client(url, timeout=timeout, **spin) as client:
        assert face.run(client.infer("m", {"x": X}))["y"].shape == (1, 4)


@pytest.mark.parametrize("size", SIZES)
def test_connect_takes_every_kind_of_size_and_flag(face: Face, url: str, size: Any) -> None:
    with face.client(url, max_reply=size, wait_for_ready=size, capture=None, mac=("none",), key="") as client:
        assert face.run(client.infer("m", {"x": X}))["y"].shape == (1, 4)


@pytest.mark.parametrize("model", ["m", np.str_("m"), Name.ECHO])
@pytest.mark.parametrize("inputs", [{"x": X}, MappingProxyType({"x": X}), {np.str_("x"): X.tolist()}])
def test_names_and_inputs_of_any_kind(face: Face, url: str, model: str, inputs: Any) -> None:
    inputs = {name: np.asarray(value, np.float32) for name, value in inputs.items()} if type(inputs) is dict else inputs
    with face.client(url) as client:
        result = face.run(client.infer(model, inputs, version=np.str_("1")))
        assert (result.model, result.model_version) == ("m", "1")


def test_what_is_no_number_is_refused_in_words(face: Face, url: str) -> None:
    with face.client(url) as client:
        for value in NO_SECONDS:
            with pytest.raises(errors.InvalidInput, match=r"deadline is .*, expected seconds"):
                face.run(client.infer("m", {"x": X}, deadline=value))
            with pytest.raises(errors.InvalidInput, match=r"deadline is .*, expected seconds"):
                face.run(client.ping(deadline=value))
        for value in NO_COUNTS:
            with pytest.raises(errors.InvalidInput, match=r"priority is .*, expected"):
                face.run(client.infer("m", {"x": X}, priority=value))
    for option in ({"timeout": "1"}, {"max_reply": 1.5}, {"max_reply": "1"}):
        with pytest.raises(errors.InvalidInput, match=f"{next(iter(option))} is"):
            face.connect(url, **option)


@pytest.mark.parametrize("value", SECONDS)
def test_seconds_reach_the_clock_as_python_floats(value: Any) -> None:
    up = 100 * 86400.0  # a float32 of this size knows no second, let alone a part of one
    tenth = value / 50
    assert type(seconds("deadline", tenth)) is float
    assert (up + seconds("deadline", tenth)) - up == pytest.approx(0.1, abs=0.02)
    deadline, timing, priority = of_call(value, 1, np.int8(3))
    assert (type(deadline), type(timing), type(priority)) == (float, bool, int)
    assert type(whole("max_reply", 1e6)) is int


# --- what tools do with it ------------------------------------------------------------------------------------------


def public() -> list[tuple[str, Any]]:
    """Every class and function that users meet, by name."""
    found: list[tuple[str, Any]] = [("connect", tensorwire.connect), ("aio.connect", aio.connect)]
    for kind in (tensorwire.Client, blocking.Pending, aio.Client, Result, Timing):
        found.append((kind.__qualname__, kind))
        for name, value in vars(kind).items():
            if name[0] != "_" and callable(value):
                found.append((f"{kind.__qualname__}.{name}", value))
    return found


@pytest.mark.parametrize(("name", "thing"), public(), ids=lambda value: value if isinstance(value, str) else "")
def test_everything_public_has_its_docstring_annotations_and_help(name: str, thing: Any) -> None:
    assert inspect.getdoc(thing)
    assert thing.__doc__
    assert thing.__annotations__ or inspect.isclass(thing) or name.endswith((".done", ".close"))
    assert inspect.getsource(thing)
    assert name.rpartition(".")[2] in pydoc.render_doc(thing)
    if thing is not Result:  # a dict, which has no signature
        parameters = inspect.signature(thing).parameters
        assert all(p.annotation is not p.empty for p in parameters.values() if p.name != "self")


def test_the_top_level_names_are_there() -> None:
    assert {"Client", "aio", "connect", "errors"} <= set(tensorwire.__all__)
    assert tensorwire.Client is blocking.Client
    assert tensorwire.aio is aio
    assert tensorwire.errors is errors


def test_the_parts_of_the_package_are_imported_by_their_names() -> None:
    script = (
        "import tensorwire.aio, tensorwire.errors, tensorwire\n"
        "from tensorwire.aio import connect, Client\n"
        "from tensorwire.errors import NotFound\n"
        "from tensorwire.clients import aio, errors\n"
        "assert tensorwire.aio is aio and tensorwire.errors is errors and connect is aio.connect\n"
        "assert NotFound is errors.NotFound\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_what_is_no_call_is_told_with_the_right_usage(face: Face, url: str) -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (X, {}, r"inputs are of type ndarray, expected a mapping of names to tensors, such as {'x': array}"),
        (np.ones((3, 4)), {}, "inputs are of type ndarray"),
        ([X], {}, "inputs are of type list"),
        (None, {}, "inputs are of type NoneType"),
        ({1: X}, {}, "inputs have the name 1, expected a str such as '1'"),
        ({"x": X}, {"version": 1}, "version is 1, expected a str such as '1'"),
        ({"x": X}, {"version": 0}, "version is 0"),
        ({"x": X}, {"model": 5}, "model is 5"),
        ({"x": X}, {"model": b"m"}, "model is b'm'"),
    ]
    with face.client(url) as client:
        for inputs, options, message in wrong:
            call = {"model": "m", "inputs": inputs, **options}
            with pytest.raises(errors.InvalidInput, match=message):
                face.run(client.infer(**call))
            with pytest.raises(errors.InvalidInput, match=message):
                face.run(client.submit(**call))
            assert face.run(client.infer("m", {"x": X}, version=None))["y"].tolist() == X.tolist()
        with pytest.raises(errors.InvalidInput, match="version is 1"):
            face.run(client.describe("m", version=1))
        with pytest.raises(errors.InvalidInput, match="model is 5"):
            face.run(client.health(5))


def test_connect_without_an_address_asks_the_environment(face: Face, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORWIRE_URL", url)
    with face.client() as client:
        assert face.run(client.infer("m", {"x": X}))["y"].shape == (1, 4)


def test_a_client_can_be_referred_to_weakly_patched_and_extended(face: Face, url: str) -> None:
    with face.client(url) as client:
        weak: Any = weakref.ref(client)
        assert weak() is client
        with mock.patch.object(client, "infer", return_value="patched"):
            assert face.run(client.infer("m", {})) == "patched"
        with mock.patch.object(face.module.Client, "infer", autospec=True, return_value="patched"):
            assert face.run(client.infer("m", {"x": X})) == "patched"
        assert face.run(client.infer("m", {"x": X}))["y"].shape == (1, 4)
        client.mine = 1

    class Mine(face.module.Client):  # type: ignore[name-defined,misc]  # whichever client
        def infer(self, *arguments: Any, **options: Any) -> Any:
            return super().infer(*arguments, **options | {"deadline": np.float32(5)})

    with mock.patch.object(face.module, "Client", Mine), face.client(url) as client:
        assert isinstance(client, Mine)
        assert face.run(client.infer("m", {"x": X}))["y"].shape == (1, 4)
        assert face.run(client.describe("m")).model == "m"


def test_a_client_is_not_pickled(face: Face, url: str) -> None:
    with face.client(url) as client, pytest.raises(TypeError):
        pickle.dumps(client)


def test_with_closes_and_lets_errors_through(url: str) -> None:
    with pytest.raises(KeyError), tensorwire.connect(url) as client:
        raise KeyError(1)
    with pytest.raises(errors.ClientClosed):
        client.infer("m", {"x": X})

    async def both() -> None:
        async with await aio.connect(url) as client:
            pass
        with pytest.raises(errors.ClientClosed):
            await client.infer("m", {"x": X})

    asyncio.run(both())


def test_a_result_is_a_dict_that_can_be_copied_and_pickled(face: Face, url: str) -> None:
    with face.client(url) as client:
        result = face.run(client.infer("m", {"x": X}, timing=True))
        described = face.run(client.describe("m"))
    assert described == pickle.loads(pickle.dumps(described)) == copy.deepcopy(described)
    assert issubclass(Result, dict)
    for again in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert type(again) is Result
        assert again["y"].tolist() == X.tolist()
        assert (again.timing, again.request_id, again.model) == (result.timing, result.request_id, result.model)
    with pytest.raises(AttributeError):
        result.unheard_of = 1


def test_a_timing_is_a_frozen_dataclass() -> None:
    timing = Timing(1, 2, 3, 4, 5, 6, 7, 8)
    assert timing == pickle.loads(pickle.dumps(timing)) == copy.deepcopy(timing) == copy.copy(timing)
    assert hash(timing) == hash(Timing(1, 2, 3, 4, 5, 6, 7, 8))
    assert dataclasses.replace(timing, queue=9).queue == dataclasses.asdict(timing)["queue"] + 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        timing.queue = 1  # type: ignore[misc]  # this is what is refused


ERRORS: list[Callable[..., errors.TensorwireError]] = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TensorwireError)
]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_copied_and_pickled_whole(kind: Callable[..., errors.TensorwireError]) -> None:
    error = kind("reason", request_id="12-3", not_started=True, retry_after=1.5)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error) == "reason [request 12-3]"
        assert (again.status, again.not_started, again.retry_after) == (error.status, True, 1.5)


def test_a_capture_and_a_path_are_taken(face: Face, url: str, tmp_path: Path) -> None:
    with face.client(url, capture=tmp_path / "a.twcap") as client:
        face.run(client.infer("m", {"x": X}))
    assert (tmp_path / "a.twcap").stat().st_size > 0
