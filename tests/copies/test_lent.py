"""A lone call is lent to its model where it lies, in both builds: a count that is one too high would copy every one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tensorwire
from tests.support.server import running_server

TOML = """
backend = "{backend}"
engine = "{engine}"
max_batch = 4

[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 150528]

[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 1]
"""
LOOK = """
def shared(address):
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return float("/memfd:tensorwire" in line)
"""
SOURCES = {
    "python": """
import numpy as np

def build():
    def run(inputs):
        x = inputs["x"]
        return {"y": np.full((len(x), 1), shared(x.ctypes.data), np.float32)}
    return run
""",
    "torch": """
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.full((len(x), 1), shared(x.data_ptr()))

def build():
    return Model()
""",
}


@pytest.mark.parametrize("engine", ["inline", "process"])
@pytest.mark.parametrize("backend", ["python", "torch"])
def test_a_lone_call_is_lent_where_it_lies(tmp_path: Path, backend: str, engine: str) -> None:
    version = tmp_path / "model" / "1"
    version.mkdir(parents=True)
    (version / "model.toml").write_text(TOML.format(backend=backend, engine=engine))
    (version / "model.py").write_text(SOURCES[backend] + LOOK)
    x = np.ones((1, 150528), np.float32)
    with running_server(tmp_path) as server, tensorwire.connect("tw://{}:{}".format(*server.address), key="") as client:
        answers = [float(client.infer("model", {"x": x})["y"][0, 0]) for _ in range(5)]
    assert answers == [1.0] * 5
