"""Small models that behave and misbehave, written to a folder for the server to load."""

from __future__ import annotations

from pathlib import Path

from tests.support.server import write_model

ROW = 65536  # float32 per row of the big models: 256 KiB, which travels in chunks

FLAT = """
backend = "python"
engine = "{engine}"
max_batch = {max_batch}
warmup = {warmup}
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, {width}]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, {out}]
"""


def flat(
    width: int = 4, out: int | None = None, engine: str = "inline", max_batch: int = 8, *, warmup: bool = True
) -> str:
    """A description: x float32[-1, width] -> y float32[-1, out]."""
    out = width if out is None else out
    return FLAT.format(width=width, out=out, engine=engine, max_batch=max_batch, warmup=str(warmup).lower())


ECHO = """
def build():
    return lambda inputs: {"y": inputs["x"]}
"""
MEAN = """
def build():
    return lambda inputs: {"y": inputs["x"].mean(axis=1, keepdims=True)}
"""
RAISES = """
def build():
    def run(inputs):
        raise ValueError("the weights say no\\x1b[31m")
    return run
"""
WRONG_SHAPE = """
def build():
    return lambda inputs: {"y": inputs["x"][:, :2]}
"""
SLEEPS = """
import time
def build():
    def run(inputs):
        time.sleep(float(inputs["x"].max()))
        return {"y": inputs["x"]}
    return run
"""
DIES = """
import ctypes, os, signal
def build():
    def run(inputs):
        how = int(inputs["x"].max())
        if how == 11:
            ctypes.string_at(0)
        elif how:
            os.kill(os.getpid(), how)
        return {"y": inputs["x"]}
    return run
"""
TWO = """
def build():
    return lambda inputs: {"sum": inputs["a"] + inputs["b"][:, :1], "flag": inputs["a"][:, 0] > 0}
"""
TWO_DESCRIPTION = """
backend = "python"
engine = "inline"
max_batch = 8
[[inputs]]
name = "a"
dtype = "float32"
shape = [-1, 1]
[[inputs]]
name = "b"
dtype = "float32"
shape = [-1, 3]
[[outputs]]
name = "sum"
dtype = "float32"
shape = [-1, 1]
[[outputs]]
name = "flag"
dtype = "bool"
shape = [-1]
"""


def write_models(folder: Path, *, processes: bool = True) -> Path:
    """All of them in `folder`."""
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "echo", ECHO, flat(), version="2")
    write_model(folder, "mean", MEAN, flat(ROW, 1, max_batch=4))
    write_model(folder, "blob", ECHO, flat(ROW, max_batch=4))
    write_model(folder, "raises", RAISES, flat(warmup=False))
    write_model(folder, "wrong", WRONG_SHAPE, flat(warmup=False))
    write_model(folder, "two", TWO, TWO_DESCRIPTION)
    if processes:
        write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
        write_model(folder, "dies", DIES, flat(1, engine="process", max_batch=1, warmup=False))
        write_model(folder, "far", ECHO, flat(ROW, engine="process", max_batch=4))
    return folder
