"""NOT_STARTED of calls that end early is proven: what says it never runs, and nearly all that do not say it ran."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

import tensorwire
from tensorwire.protocol import Ended
from tests.integration.models import ECHO, flat
from tests.support.server import running_server, write_model
from tests.support.wire import WireClient

pytestmark = pytest.mark.timeout(120)

NOTES = """
import os, time
def build():
    seen = open(os.environ["SEEN"], "a", buffering=1)
    def run(inputs):
        for number in inputs["x"][:, 0]:
            seen.write(f"{int(number)}\\n")
        time.sleep(0.02)
        return {"y": inputs["x"]}
    return run
"""


@pytest.mark.parametrize("how", ["expired", "cancelled"])
@pytest.mark.parametrize("max_batch", [1, 4])
def test_what_ends_early_says_not_started_only_if_the_model_never_sees_it(
    tmp_path: Path, how: str, max_batch: int
) -> None:
    models, seen = tmp_path / "models", tmp_path / "seen"
    write_model(models, "notes", NOTES, flat(1, engine="process", max_batch=max_batch, warmup=False))
    audit = tmp_path / "audit"
    environment = {"SEEN": str(seen)}
    with running_server(models, "--audit", str(audit), env=environment) as server, WireClient(server.address) as client:
        streams: dict[int, int] = {}
        for number in range(200):
            deadline = 0.2 + number / 1000 if how == "expired" else 0.0
            streams[client.open("notes", {"x": np.full((1, 1), number, np.float32)}, deadline=deadline)] = number
        client.flush()
        if how == "cancelled":
            time.sleep(0.2)  # some have run
            for stream in streams:
                client.connection.cancel(stream)
            client.flush()
        while client.connection.open_streams:
            assert client.receive()
        time.sleep(1.0)  # if it is going to run, it does now
        assert server.terminate() == 0
    ends = {
        streams[int(line["request_id"].rpartition("-")[2])]: line
        for line in map(json.loads, audit.read_text().splitlines())
        if line["event"] == "call"
    }
    ran = {int(line) for line in seen.read_text().split()}
    may_have_run = {number for number, end in ends.items() if end["started"]}
    assert ran <= may_have_run
    # Where front and process look at each other in the same moment, neither can tell who was first: it may have run.
    assert len(may_have_run - ran) <= 5
    status = "DEADLINE_EXCEEDED" if how == "expired" else "CANCELLED"
    assert sum(end["status"] == status and not end["started"] for end in ends.values()) > 50
    for stream, number in streams.items():  # the caller is told the same, where it still listens
        for outcome in client.outcomes.get(stream, []):
            if isinstance(outcome, Ended):
                assert outcome.not_started != ends[number]["started"]


def test_progress_is_counted_from_the_loading_until_there_is_a_batch(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for engine in ("inline", "process"):
        write_model(models, engine, ECHO, flat(engine=engine))
    with running_server(models) as server:
        time.sleep(0.3)
        with tensorwire.connect("tw://{}:{}".format(*server.address)) as client:
            for health in client.health().models:
                assert 0.3 <= health.last_progress < 60
