"""What a caller gets does not depend on who else calls: models that are quantised while they run, behind sockets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tensorwire
from tests.integration.test_keys import KeyFile
from tests.support.quantised import WIDTH, write_quantised
from tests.support.server import running_server

pytestmark = pytest.mark.timeout(180)

ROUNDS = 40
QUIET = np.random.default_rng(2).random((1, WIDTH), np.float32)
LOUD = QUIET * 1000
"""In one batch with it, the quiet row's values are less than half a step of the common scale: all zeros."""


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize(("engine", "key"), [("inline", ""), ("process", ""), ("process", "principal")])
def test_a_loud_neighbour_changes_no_bit_of_an_answer(tmp_path: Path, backend: str, engine: str, key: str) -> None:
    """The calls of two principals come together, again and again, to an engine that waits for such."""
    more = f'batch_with = "{key}"' if key else ""
    write_quantised(tmp_path / "models", "mlp", backend, engine, f"max_wait_ms = 50\n{more}")
    keys, log = KeyFile(tmp_path / "keys.toml"), tmp_path / "log"
    quiet, loud = keys.add("quiet"), keys.add("loud")
    with running_server(tmp_path / "models", "--keys", str(keys.path), log=log) as server:
        url = "tw://{}:{}".format(*server.address)
        with tensorwire.connect(url, key=quiet) as one, tensorwire.connect(url, key=loud) as other:
            lone = one.infer("mlp", {"x": QUIET})["y"]
            assert np.abs(lone).max() > 0
            for _ in range(ROUNDS):
                shout, call = other.submit("mlp", {"x": LOUD}), one.submit("mlp", {"x": QUIET})
                assert call.result()["y"].tobytes() == lone.tobytes()
                shout.result()
            pages = json.loads(server.page("/models"))
    told = [line for line in log.read_text().splitlines() if "batch_with" in line]
    if not key and pages[0]["batch_with"] == "anyone":  # on a busy machine batches may seem to bring nothing at all
        assert (pages[0]["effective_max_batch"], told) == (1, [])
        return
    assert [page["batch_with"] for page in pages] == [key or "nobody"]
    assert len(told) == (0 if key else 1), "one line says why, unless the key is set"
    assert all("mlp" in line and "1,000 times" in line for line in told)
