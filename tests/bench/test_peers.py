"""Each peer, with its real server: it answers right, its client looks at the first reply, it says what it cannot do.

A peer whose package is missing is skipped with the reason; the benchmark itself reports it in its tables.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import psutil
import pytest

from bench import harness, measure, native_tools, works
from bench.harness import Server
from bench.measure import MissingError, Target
from bench.peers import NOT_FOR_ALL, PEERS
from bench.processes import ended, tree
from bench.works import WORKS, Work, WrongReplyError

#: the module whose server each peer needs; ours is tested as it is interpreted
SERVERS = {module: "ours_pure" if module.startswith("ours") else module for module in PEERS}
SERVERS |= {"raw_echo_spin": "raw_echo", "raw_echo_batched": "raw_echo"}
EACH = [pytest.param(module, marks=pytest.mark.xdist_group(f"bench {SERVERS[module]}")) for module in PEERS]
#: one work a way of calling; sizes and sweeps are the same calls again
KEYS = ("A.python", "B.python", "C.rate", "D", "E.8x8", "I.flood", "A.native", "B.native.8", "C.native")


def loaded(module: str) -> ModuleType:
    try:
        return harness.load(module)
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    native_tools.prepare()
    with contextlib.ExitStack() as stack:

        class Started(dict[str, Server]):
            def __missing__(self, module: str) -> Server:
                loaded(module)
                self[module] = stack.enter_context(harness.serving(module))
                return self[module]

        yield Started()


def target(work: Work, server: Server) -> Target:
    return Target(work, server.address, server.process.pid, work.in_flight, seconds=0.05)


@pytest.mark.parametrize("module", EACH)
def test_a_peer_answers_right_in_every_way_it_is_called(module: str, servers: dict[str, Server]) -> None:
    peer, missing = loaded(module), []
    server = servers[SERVERS[module]]
    for key in KEYS:
        work = WORKS[key]
        if work.within(peer.WORKS) and not any(work.within((name,)) for name in getattr(peer, "CANNOT", {})):
            try:
                sample = measure.measure(module, target(work, server))
            except MissingError as error:
                missing.append(f"{key}: {error}")
                continue
            assert sample.calls >= min(work.in_flight, 32)
            assert sample.figure(work) > 0
    if missing:
        pytest.skip("; ".join(missing))


@pytest.mark.parametrize("module", [each for each in EACH if each.values[0] != "in_process"])
def test_a_peer_that_answers_wrong_bytes_is_noticed(
    module: str, servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers as ever; what is held to be right differs from it in the last value alone."""
    peer, server = loaded(module), servers[SERVERS[module]]
    work = next(WORKS[key] for key in KEYS if WORKS[key].within(peer.WORKS))
    right = works.expected(work).copy()
    right.reshape(-1)[-1] += 1
    monkeypatch.setattr(works, "expected", lambda _work: right)
    if module.startswith(("raw", "epoll", "blocking")):  # their replies are bytes that were agreed upon
        from bench.peers import raw_client

        monkeypatch.setattr(raw_client, "pattern", bytes)
    with pytest.raises(WrongReplyError, match=work.key):
        measure.measure(module, target(work, server))


@pytest.mark.parametrize("module", EACH)
def test_a_peer_says_of_every_work_that_it_does_it_or_why_not(module: str) -> None:
    peer = loaded(module)
    cannot: dict[str, str] = getattr(peer, "CANNOT", {})
    names = {*peer.WORKS, *cannot}
    assert all(any(work.within((name,)) for work in WORKS.values()) for name in names), "a name that means no work"
    if not getattr(peer, "VARIANT", False):
        asked = [work for work in WORKS.values() if work.group not in NOT_FOR_ALL]
        assert [work.key for work in asked if not work.within(tuple(names))] == []


@pytest.mark.parametrize(("module", "began"), [("ours", 0), ("ours_hmac", 1)])
def test_memory_is_measured_on_a_server_that_nobody_else_has_called(
    module: str, began: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thing that a peer does with its server in a start; who shares another's gets a fresh one."""
    other = SimpleNamespace(address="fresh", process=SimpleNamespace(pid=2))
    fresh = MagicMock(return_value=contextlib.nullcontext(other))
    monkeypatch.setattr(harness, "serving", fresh)
    own, client = MagicMock(address="own"), MagicMock()
    harness.Peer(module, "ours", ("F",), {}, own, client).round(WORKS["F"], 1, 0.1)
    assert fresh.call_count == began
    assert client.submit.call_args.args[2].address == ("fresh" if began else "own")
    assert own.go_on.call_count == own.stop.call_count == 1 - began


def test_memory_of_idle_connections_is_that_of_the_server(servers: dict[str, Server]) -> None:
    sample = measure.measure("raw_echo", target(replace(WORKS["F"], connections=20), servers["raw_echo"]))
    assert sample.value is not None
    assert 60 < sample.value < 120  # its receive buffer is 64 KiB


def test_a_server_that_does_not_start_is_missing_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MissingError, match="raw_echo did not start"), harness.serving("raw_echo"):
        pass


def test_a_package_that_is_missing_is_named_with_what_installs_it() -> None:
    with pytest.raises(MissingError, match=r"no Python package 'bench.peers.absent': `make bench` installs it"):
        harness.load("absent")


def test_the_network_gives_the_same_answers_in_every_process(servers: dict[str, Server]) -> None:
    from bench.network import answer

    assert np.array_equal(answer(works.request(WORKS["E.8x8"])), works.expected(WORKS["E.8x8"]))


def wait_for(holds: Callable[[], bool]) -> None:
    """A signal reaches a process that runs on another core a little after it was sent."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_server_that_is_not_measured_has_no_processor_and_can_be_ended_so() -> None:
    with harness.serving("ours_pure") as server:  # it has a process for its models
        server.stop()
        started = tree(server.process.pid)
        assert len(started) > 1
        wait_for(lambda: {process.status() for process in started} == {psutil.STATUS_STOPPED})
        server.go_on()
        assert not {process.status() for process in tree(server.process.pid)} & {psutil.STATUS_STOPPED}
        server.stop()
    assert all(map(ended, started))
