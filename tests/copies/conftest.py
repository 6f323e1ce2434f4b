"""A real server whose receive buffer is overwritten after every read, and where memory is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import ServerProcess, running_server, write_model

ECHO = "def build():\n    return lambda inputs: {'y': inputs['x']}\n"
WIDE = """
backend = "python"
engine = "inline"
warmup = false
inputs = [{ name = "x", dtype = "float32", shape = [-1, -1] }]
outputs = [{ name = "y", dtype = "float32", shape = [-1, -1] }]
"""


@pytest.fixture(scope="session")
def poisoned_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "echo", ECHO, WIDE)
    with running_server(folder, "--poison") as server:
        yield server
