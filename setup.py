"""What pyproject.toml cannot say: with TENSORWIRE_COMPILE=1 mypyc compiles the hot modules, from the same source.

`TENSORWIRE_COMPILE=1 pip install '.[server]'` needs a C compiler and about two minutes. Everything works without it; a
small call then costs both sides about twice as much. `make compiled` builds such a copy in build/compiled.
"""

import os
import sys

from setuptools import setup

# What runs for every frame, call or batch. Not here: what other modules subclass, subclasses of asyncio's classes, and
# what users call (blocking, aio, results, errors), whose classes are to be patched, extended, pickled and read as any.
FRAMES = "header limits errors events extension states streams frame_builder repeated_frames frame_rules assembly "
FRAMES += "signing records reader record_reader writer adaptive_spin alarm"
ENGINE = "inline types queue batcher blocks batch_memory outputs inputs executor core"
FRONT = "timers ports call metrics reply_budget body_memory admission principals reply_encoder call_table context "
FRONT += "session_lifetime session connection_table dispatcher busy_poll socket_outlet transport"
HOT = {
    "protocol": [*FRAMES.split(), "calls", "control", "connection"],
    "codec": ["cache", "metadata", "layout", "encoder", "decoder"],
    "gpu": ["slab"],
    "server/engine": [
        "inline",
        "types",
        "queue",
        "batcher",
        "blocks",
        "batch_memory",
        "outputs",
        "inputs",
        "executor",
        "core",
    ],
    "server": ["latency_estimate", "model_stats", "model", "registry"],
    "server/front": FRONT.split(),
    "clients": [
        "calls",
        "replies",
        "retry",
        "link",
        "core",
        "sockets",
        "leader_follower",
        "blocking_wire",
        "blocking_driver",
    ],
}


def extensions() -> list[object]:
    """Return the compiled modules; none for the steps that only ask for metadata, since compiling takes its time."""
    if os.environ.get("TENSORWIRE_COMPILE") != "1" or not {"bdist_wheel", "build_ext", "build"} & set(sys.argv):
        return []
    from mypyc.build import mypycify

    files = [f"src/tensorwire/{part}/{name}.py" for part, names in HOT.items() for name in names]
    return list(mypycify(["--config-file=mypyc.ini", *files], opt_level="2"))


setup(ext_modules=extensions(), setup_requires=["mypy"] if os.environ.get("TENSORWIRE_COMPILE") == "1" else [])
