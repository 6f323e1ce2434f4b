"""A torch model on a real device behind the process engine. Run by `make gpu-check`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.server.engine.process_front import Front, write_model

pytestmark = pytest.mark.gpu

TOML = """
backend = "torch"
max_batch = 32
engine = "process"
device = "cuda:0"
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 256]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 256]
"""

MODEL = """
import torch

class Double(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) * 2

def build():
    return Double()
"""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    made = Front(write_model(tmp_path, TOML, MODEL), pool_bytes=64 << 20, result_bytes=64 << 20)
    made.engine.start()
    made.until(lambda: made.engine.health().state.name != "LOADING", timeout=110)
    assert made.engine.health().ready, made.health()
    yield made
    made.engine.stop()


def test_calls_of_many_sizes_come_back_right(front: Front) -> None:
    random = np.random.default_rng(0)
    expected = {}
    for turn in range(200):
        x = random.integers(0, 99, (int(random.integers(1, 33)), 256)).astype(np.float32)
        expected[front.submit(x=x, slab=turn % 3 == 0)] = x * 2
        while front.engine.queue_depth > 500:
            front.turn()
    for request, y in expected.items():
        assert front.rows(request) == y.tolist()
    front.assert_memory_is_back()


def test_warm_up_measured_the_device(front: Front) -> None:
    assert front.engine.effective_max_batch >= 1
    assert 1 in front.engine.warm_up


def test_a_killed_process_lets_the_device_go_and_comes_back(front: Front) -> None:
    os.kill(front.pid, signal.SIGKILL)
    front.until(lambda: front.health()[0] == "FAILED")
    front.until(lambda: front.engine.health().ready, timeout=110)
    assert front.rows(front.submit(x=np.ones((1, 256), np.float32))) == [[2.0] * 256]
