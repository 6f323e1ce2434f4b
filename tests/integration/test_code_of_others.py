"""A model is somebody else's code: it forks, sets handlers, closes descriptors, prints; others do not notice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import tensorwire
from tensorwire.clients.errors import Unavailable
from tensorwire.protocol import Status
from tests.integration.models import ECHO, flat
from tests.support.server import ServerProcess, running_server, write_model
from tests.support.wire import WireClient

pytestmark = pytest.mark.timeout(120)

X = np.arange(4, dtype=np.float32).reshape(1, 4)
ENGINES = ["inline", "process"]


def model(body: str, before: str = "") -> str:
    """A model.py whose run() does `body` and then gives its input back; `x[0, 0]` says what to do."""
    lines = "\n".join("        " + line for line in body.strip("\n").splitlines())
    return (
        "import multiprocessing, os, signal, sys, threading, time\n"
        f"{before}\n"
        f"def build():\n    def run(inputs):\n        x = inputs['x']\n{lines}\n"
        "        return {'y': x}\n    return run\n"
    )


def folder(tmp_path: Path, engine: str, code: str, **more: bool) -> Path:
    """The model `odd` in this engine, and a good one in each."""
    models = tmp_path / "models"
    write_model(models, "odd", code, flat(engine=engine, warmup=more.get("warmup", False)))
    write_model(models, "echo", ECHO, flat())
    write_model(models, "apart", ECHO, flat(engine="process"))
    return models


def call(server: ServerProcess, name: str, value: float = 0.0) -> None:
    x = np.full((1, 4), value, np.float32)
    with WireClient(server.address) as client:
        np.testing.assert_array_equal(client.infer(name, {"x": x})["y"], x)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def others_answer(server: ServerProcess) -> None:
    call(server, "echo")
    call(server, "apart")


def wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


# -- children


HELPER = """
context = multiprocessing.get_context("fork")
helper = context.Process(target=time.sleep, args=(600,))
helper.start()
helper.terminate()
helper.join(10)
assert helper.exitcode == -signal.SIGTERM, helper.exitcode
child = os.fork()
if child == 0:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(600)
    except KeyboardInterrupt:
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
program = __import__("subprocess").Popen(["sleep", "600"])
program.send_signal(signal.SIGINT)
assert program.wait(10) == -signal.SIGINT
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_children_of_a_model_heed_their_signals_and_their_parent_does_not(tmp_path: Path, engine: str) -> None:
    with running_server(folder(tmp_path, engine, model(HELPER))) as server:
        for _ in range(3):
            call(server, "odd")
            others_answer(server)
        assert server.terminate() == 0


LOADER = """
loader = torch.utils.data.DataLoader(list(range(4)), num_workers=1)
assert sum(int(each) for each in loader) == 6
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_may_use_a_data_loader_with_workers(tmp_path: Path, engine: str) -> None:
    code = model(LOADER, "import torch.utils.data")
    with running_server(folder(tmp_path, engine, code)) as server:
        for _ in range(2):
            call(server, "odd")
        others_answer(server)
        assert server.terminate() == 0


STAYS = """
if x[0, 0] == 1:
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
"""


def _sockets(process: psutil.Process, kind: str = "") -> set[str]:
    """The open sockets of a process, or those of them that are of this kind."""
    links = {int(path.name): str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
    if not kind:
        return {link for link in links.values() if link.startswith("socket:")}
    return {links[each.fd] for each in process.net_connections(kind)}


def test_a_child_of_a_model_holds_no_socket_of_the_server(tmp_path: Path) -> None:
    with running_server(folder(tmp_path, "inline", model(STAYS))) as server:
        own = psutil.Process(server.process.pid)
        with WireClient(server.address) as client:
            before = {child.pid for child in own.children()}
            client.infer("odd", {"x": np.ones((1, 4), np.float32)})
            (helper,) = [child for child in own.children() if child.pid not in before]
            try:
                while os.getsid(helper.pid) != helper.pid:  # the parent may be on before the fork is back in the child
                    time.sleep(0.01)
                assert not _sockets(helper) & _sockets(own, "inet")
                server.process.kill()
                assert client.socket.recv(1) == b""  # nobody keeps the connection open
                server.process.wait(20)
                with socket.create_server(server.address):  # nor the port
                    pass
            finally:
                helper.kill()


RETURNS = """
if x[0, 0] == 1:
    os.fork()
elif x[0, 0] == 2:
    if os.fork() == 0:
        raise ValueError("in the child")
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_child_that_comes_back_from_the_call_answers_nobody(tmp_path: Path, engine: str) -> None:
    with running_server(folder(tmp_path, engine, model(RETURNS))) as server:
        own = psutil.Process(server.process.pid)
        count = len(own.children(recursive=True))
        with WireClient(server.address) as client:
            for value in (1.0, 2.0, 0.0, 1.0, 3.0):
                x = np.full((1, 4), value, np.float32)
                np.testing.assert_array_equal(client.infer("odd", {"x": x})["y"], x)
        wait(lambda: len([c for c in own.children(recursive=True) if _lives(c)]) <= count)
        others_answer(server)
        assert server.terminate() == 0


INTERRUPTED = """
if x[0, 0] == 1:
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGINT)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1, status
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_child_that_is_interrupted_ends_and_leaves_the_loop_alone(tmp_path: Path, engine: str) -> None:
    """One epoll is both its own and its parent's, which did not hear engines in processes any more."""
    with running_server(folder(tmp_path, engine, model(INTERRUPTED))) as server:
        call(server, "odd", 1.0)
        call(server, "odd")
        others_answer(server)
        assert server.terminate() == 0


# -- signals

ALARM = """
if x[0, 0] == 1:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    time.sleep(0.2)
    signal.setitimer(signal.ITIMER_REAL, 0)
elif x[0, 0] == 2:
    signal.set_wakeup_fd(-1)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_an_idle_engine_uses_no_cpu_after_a_model_had_alarms(tmp_path: Path, engine: str) -> None:
    with running_server(folder(tmp_path, engine, model(ALARM))) as server:
        call(server, "odd", 1.0)
        processes = [psutil.Process(server.process.pid)]
        processes += processes[0].children()
        before = [sum(process.cpu_times()[:2]) for process in processes]
        time.sleep(1.5)
        after = [sum(process.cpu_times()[:2]) for process in processes]
        assert max(b - a for a, b in zip(before, after, strict=True)) < 0.1
        call(server, "odd")


def test_an_engine_without_its_wake_up_still_heeds_its_signal(tmp_path: Path) -> None:
    with running_server(folder(tmp_path, "process", model(ALARM))) as server:
        call(server, "odd", 2.0)
        (engine, _) = sorted(psutil.Process(server.process.pid).children(), key=lambda child: child.pid)[::-1]
        engine.terminate()
        wait(lambda: not _lives(engine))


TAKES = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, lambda *_: None)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.set_wakeup_fd(-1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_cannot_keep_the_server_from_being_stopped(tmp_path: Path, engine: str, number: int) -> None:
    with running_server(folder(tmp_path, engine, model(TAKES, TAKES))) as server:
        call(server, "odd")
        time.sleep(1.0)  # two looks of the server's
        server.process.send_signal(signal.SIGHUP)
        others_answer(server)
        server.process.send_signal(number)
        assert server.process.wait(20) == 0


HABITS = {
    "sets signal handlers": "signal.signal(signal.SIGUSR1, lambda *_: None)",
    "forks": "os.waitpid(os.fork() or os._exit(0), 0)",
    "leaves threads running": "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "changes standard descriptors": "os.closerange(0, 1)",
}


@pytest.mark.parametrize("habit", HABITS)
def test_auto_keeps_a_model_away_whose_code_concerns_a_whole_process(tmp_path: Path, habit: str) -> None:
    models = tmp_path / "models"
    write_model(models, "odd", model(HABITS[habit]), flat(engine="auto", max_batch=1))
    write_model(models, "loads", f"import os, signal, threading, time\n{HABITS[habit]}\n{ECHO}", flat(engine="auto"))
    log = tmp_path / "log"
    with running_server(models, log=log) as server:
        assert "loads/1 (process)" in server.ready
        assert "odd/1 (process)" in server.ready
    assert any(f"its code {habit}" in line and '"model": "loads"' in line for line in log.read_text().splitlines())


LOOP = """
loop = asyncio.new_event_loop()
async def answer():
    return 7
"""


def test_auto_keeps_a_model_away_that_does_not_load_on_the_loop(tmp_path: Path) -> None:
    """One event loop cannot run within another, so this model runs in a process only, cheap as it is."""
    models = tmp_path / "models"
    code = model("assert loop.run_until_complete(answer()) == 7", f"import asyncio\n{LOOP}")
    write_model(models, "odd", code, flat(engine="auto", max_batch=1))
    write_model(models, "echo", ECHO, flat(engine="auto"))
    write_model(models, "apart", ECHO, flat(engine="process"))
    with running_server(models) as server:
        assert "odd/1 (process)" in server.ready
        call(server, "odd", 3.0)
        others_answer(server)
        assert server.terminate() == 0


# -- descriptors, folder, environment


CLOSES = """
if x[0, 0] == 1:
    os.closerange(0, 3)
elif x[0, 0] == 2:
    os.closerange(3, 256)
elif x[0, 0] == 3:
    os._exit(0)
elif x[0, 0] == 4:
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("value", [2.0, 3.0])
def test_an_engine_whose_descriptors_are_closed_or_that_leaves_is_started_again(tmp_path: Path, value: float) -> None:
    with running_server(folder(tmp_path, "process", model(CLOSES))) as server, WireClient(server.address) as client:
        ended = client.fail("odd", {"x": np.full((1, 4), value, np.float32)})
        assert (ended.status, ended.not_started) == (Status.UNAVAILABLE, False)
        others_answer(server)
        wait(lambda: "odd/1 idle" in _ready(server))
        call(server, "odd")
        assert server.terminate() == 0


def _ready(server: ServerProcess) -> str:
    with contextlib.suppress(OSError):
        return server.page("/readyz")
    return ""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_closes_the_standard_descriptors_breaks_no_call(tmp_path: Path, engine: str) -> None:
    log = tmp_path / "log"
    with running_server(folder(tmp_path, engine, model(CLOSES)), log=log) as server:
        call(server, "odd", 1.0)
        others_answer(server)
        call(server, "odd", 0.0)
        assert server.terminate() == 0
    assert "stopped" in log.read_text()


def test_an_engine_that_terminates_itself_answers_first(tmp_path: Path) -> None:
    with running_server(folder(tmp_path, "process", model(CLOSES))) as server:
        own = psutil.Process(server.process.pid)
        before = set(own.children())
        call(server, "odd", 4.0)
        wait(lambda: set(own.children()) - before)  # its successor
        wait(lambda: "odd/1 idle" in _ready(server))
        call(server, "odd", 0.0)
        others_answer(server)


MOVES = """
os.chdir("/")
os.environ["OMP_NUM_THREADS"] = "77"
os.environ["PYTHONPATH"] = "/nowhere"
"""
TELLS = """
assert os.getcwd() == os.environ["STARTED_IN"], os.getcwd()
assert os.environ.get("OMP_NUM_THREADS") != "77"
if x[0, 0] == 1:
    os._exit(3)
"""


def test_a_model_that_changes_folder_and_environment_changes_them_for_no_engine_and_no_file(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "a", model(MOVES, MOVES), flat(engine="inline"))
    write_model(models, "b", model(TELLS), flat(engine="process", warmup=False))
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        command = [sys.executable, "-m", "tensorwire", "keys", "new", "--principal", "me", "--out", "me.key"]
        subprocess.run(command, check=True, capture_output=True)
        env = {"STARTED_IN": str(tmp_path.resolve())}
        flags = ("--keys", "keys.toml", "--audit", "audit.log", "--unix", "socket")
        with running_server(models, *flags, env=env) as server:
            with tensorwire.connect("tw://{}:{}".format(*server.address), key=tmp_path / "me.key") as client:
                client.infer("a", {"x": X})
                client.infer("b", {"x": X})
                with pytest.raises(Unavailable):
                    client.infer("b", {"x": np.ones((1, 4), np.float32)})
                wait(lambda: "b/1 idle" in _ready(server))
                client.infer("b", {"x": X})
            (tmp_path / "audit.log").rename(tmp_path / "audit.1")
            server.process.send_signal(signal.SIGHUP)
            wait((tmp_path / "audit.log").exists)
            assert server.terminate() == 0
        assert not (tmp_path / "socket").exists()
    finally:
        os.chdir(here)


# -- output and threads


FLOOD = """
if x[0, 0] == 1:
    def flood():
        while True:
            print("spam" * 20)
    threading.Thread(target=flood, daemon=True).start()
elif x[0, 0] == 2:
    sys.stdout = sys.stderr = open("/dev/full", "w")
elif x[0, 0] == 3:
    sys.stdout.close()
    sys.stderr = None
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_prints_without_end_fills_no_log_and_others_answer(tmp_path: Path, engine: str) -> None:
    log = tmp_path / "log"
    with running_server(folder(tmp_path, engine, model(FLOOD)), log=log) as server:
        call(server, "odd", 1.0)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            others_answer(server)
        assert server.terminate() == 0
    lines = log.read_text().splitlines()
    assert len(lines) < 1500
    assert any("left out" in line for line in lines)


@pytest.mark.parametrize("value", [2.0, 3.0])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_takes_stdout_away_takes_no_log_away(tmp_path: Path, engine: str, value: float) -> None:
    log = tmp_path / "log"
    with running_server(folder(tmp_path, engine, model(FLOOD)), log=log) as server:
        call(server, "odd", value)
        others_answer(server)
        assert server.terminate() == 0
    assert "stopped" in log.read_text()


FOREVER = """
threading.Thread(target=time.sleep, args=(600,)).start()
multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_and_children_that_never_end_do_not_hold_up_the_end(tmp_path: Path, engine: str) -> None:
    with running_server(folder(tmp_path, engine, model(FOREVER))) as server:
        call(server, "odd")
        children = psutil.Process(server.process.pid).children(recursive=True)
        try:
            assert server.terminate(20) == 0
            wait(lambda: not [child for child in children if _lives(child)])
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
