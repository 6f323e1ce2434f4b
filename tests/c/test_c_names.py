"""Inputs of the C and C++ clients reach the model by their names, whatever their order; the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import c_programs
from tests.support.server import running_server, write_model

pytestmark = pytest.mark.timeout(180)

HEAD = 'backend = "python"\nengine = "inline"\nmax_batch = 8\nwarmup = false\n'
TENSOR = '[[{kind}]]\nname = "{name}"\ndtype = "{dtype}"\nshape = {shape}\n'
DIGITS = """
def build():
    def run(inputs):
        y = 100 * inputs["a"] + 10 * inputs["b"] + inputs["c"]
        return {"y": y, "z": -y}
    return run
"""
MIXED = """
def build():
    return lambda inputs: {"y": inputs["x"] + inputs["n"].astype("float32")}
"""
MANY = """
def build():
    return lambda inputs: {"y": inputs["n98"] - 2 * inputs["n0"]}
"""


def described(*tensors: tuple[str, str, str, str]) -> str:
    return HEAD + "".join(TENSOR.format(kind=k, name=n, dtype=d, shape=s) for k, n, d, s in tensors)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("c_names") / "models"
    two = "[-1, 2]"
    names = [*(("inputs", n) for n in "abc"), *(("outputs", n) for n in "yz")]
    write_model(models, "digits", DIGITS, described(*((kind, n, "float32", two) for kind, n in names)))
    mixed = [("inputs", "x", "float32", two), ("inputs", "n", "int64", "[-1, 1]"), ("outputs", "y", "float32", two)]
    write_model(models, "mixed", MIXED, described(*mixed))
    many = [*(("inputs", f"n{i}", "float32", "[-1]") for i in range(100)), ("outputs", "y", "float32", "[-1]")]
    write_model(models, "many", MANY, described(*many))
    with running_server(models) as server:
        yield "tw://{}:{}".format(*server.address)


def test_inputs_are_matched_by_name_in_every_order_or_refused(programs: Path, url: str) -> None:
    done = c_programs.run(programs / "names-sanitized", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
