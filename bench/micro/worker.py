"""The process under callgrind: runs the cases of a file, each warmed up and then counted.

A file of cases has ``CASES``: name -> function that prepares and gives back a *round*: a function that takes ``end``
and makes calls. ``end(name, calls)`` ends a section: what was counted since the last ``end`` is what so many calls of
that name cost; with the name "" it is thrown away.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import runpy
import sys
import time
from collections.abc import Callable

End = Callable[[str, int], None]
Round = Callable[[End], None]
Case = Callable[[], Round]

WARM_UP = 3
"""Rounds before the counted one: caches are filled, the interpreter has specialised its code."""


def stop_clocks() -> None:
    """Give every module of tensorwire a clock on which each look takes a microsecond: slow is not late here."""
    tell = itertools.count(1.0, 1e-6).__next__
    for name, module in sys.modules.items():
        if name.startswith("tensorwire") and getattr(module, "monotonic", None) is time.monotonic:
            module.monotonic = tell  # type: ignore[attr-defined]


def main() -> None:
    """Count the cases named on the command line, or all."""
    library, file, *names = sys.argv[1:]
    marker = ctypes.CDLL(library)
    marker.dump.argtypes = [ctypes.c_char_p]
    cases: dict[str, Case] = runpy.run_path(file)["CASES"]
    stop_clocks()
    rounds = [cases[name]() for name in names or cases]

    def ignore(name: str, calls: int) -> None:
        """No section yet."""

    def end(name: str, calls: int) -> None:
        marker.dump(f"{name}|{calls}".encode())

    for run in rounds:
        for _ in range(WARM_UP):
            run(ignore)
    gc.collect()
    gc.freeze()
    gc.disable()  # when it runs depends on what ran before
    marker.start()
    for _ in range(3):
        end("nothing", 1)
    for run in rounds:
        end("", 1)
        run(end)
    sys.stdout.flush()
    os._exit(0)  # what happens at exit is not counted, and takes time


if __name__ == "__main__":
    main()
