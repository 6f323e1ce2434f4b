"""Calls that take long and outputs that are large: as much as the settings say, and they can say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tensorwire.protocol import Ended, Status
from tests.integration.models import SLEEPS, flat
from tests.support.server import running_server, write_model
from tests.support.wire import WireClient

pytestmark = pytest.mark.timeout(180)

GROWS = """
import numpy as np
def build():
    return lambda inputs: {"y": np.repeat(inputs["x"], (12 << 20) // 4, axis=1)}
"""
SLOW = """
import time
import numpy as np
def build():
    def run(inputs):
        time.sleep(0.3)  # what comes meanwhile is one batch
        return {"y": np.repeat(inputs["x"], (12 << 20) // 4, axis=1)}
    return run
"""
GROWN = (12 << 20) // 4


def test_batches_whose_outputs_are_more_than_the_result_memory_are_answered(tmp_path: Path) -> None:
    models = tmp_path / "models"
    description = flat(1, GROWN, engine="process", max_batch=32, warmup=False)
    write_model(models, "grows", SLOW, description)
    with running_server(models, "--result-bytes", "64MiB") as server, WireClient(server.address) as client:
        x = [np.full((1, 1), number, np.float32) for number in range(29)]
        streams = [client.open("grows", {"x": each}) for each in x]
        for number, stream in enumerate(streams):
            y = client.reply(stream).arrays["y"]
            assert y.nbytes == 12 << 20
            assert (y[0, 0], y[0, -1]) == (number, number)


def test_a_call_that_never_fits_is_told_the_limit_and_what_changes_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "grows", GROWS, flat(1, GROWN, engine="process", max_batch=8, warmup=False))
    more = flat(1, GROWN, engine="process", max_batch=8, warmup=False)
    write_model(models, "more", GROWS, more.replace("backend", 'result_bytes = "128MiB"\nbackend'))
    x = {"x": np.zeros((3, 1), np.float32)}
    with running_server(models, "--result-bytes", "48MiB") as server, WireClient(server.address) as client:
        ended = client.fail("grows", x)
        assert ended.status is Status.RESOURCE_EXHAUSTED
        for word in (str(32 << 20), "result_bytes", "--result-bytes"):
            assert word in ended.detail
        assert client.infer("more", x)["y"].shape == (3, GROWN)


def test_the_default_result_memory_grows_with_the_pool(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "grows", GROWS, flat(1, GROWN, engine="process", max_batch=32, warmup=False))
    with running_server(models, "--pool-bytes", "4GiB") as server, WireClient(server.address) as client:
        y = client.infer("grows", {"x": np.ones((25, 1), np.float32)})["y"]  # 300 MiB
        assert y.shape == (25, GROWN)
        assert y[24, -1] == 1.0


def test_a_run_may_take_as_long_as_the_settings_say_and_no_longer(tmp_path: Path) -> None:
    models = tmp_path / "models"
    description = flat(1, engine="process", max_batch=1, warmup=False)
    write_model(models, "short", SLEEPS, description)
    write_model(models, "long", SLEEPS, "run_limit_s = 60\n" + description)
    x = {"x": np.full((1, 1), 3.0, np.float32)}
    with running_server(models, "--run-limit", "1") as server, WireClient(server.address) as client:
        short, long = client.open("short", x, deadline=100.0), client.open("long", x, deadline=100.0)
        ended = client.outcome(short)
        assert isinstance(ended, Ended)
        assert (ended.status, ended.not_started) == (Status.UNAVAILABLE, False)
        for word in ("hung for 1 s", "run_limit_s", "--run-limit"):
            assert word in ended.detail
        assert client.reply(long).arrays["y"][0, 0] == 3.0
