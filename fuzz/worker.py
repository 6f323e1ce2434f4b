"""One target under libFuzzer: `python -m fuzz.worker TARGET [libFuzzer's options and folders]`.

What lives here: the only use of atheris, and the limits of the process. What must not: what is fuzzed (targets/), and
how runs are planned and told (__main__.py).
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from random import Random

import atheris

from .target import load, run_timed, run_traced

TRACED_EVERY = 64  # inputs: counting allocations makes one several times slower
ADDRESS_SPACE = 1 << 30  # bytes more than after the imports: a length bomb fails at once, whatever RSS shows


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer's options say so; ends the process."""
    name, *options = arguments
    with atheris.instrument_imports(include=["tensorwire"]):
        target = load(name)
    count = 0

    def one_input(data: bytes) -> None:
        nonlocal count
        count += 1
        if count % TRACED_EVERY:
            run_timed(target, data)
        else:
            run_traced(target, data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        if target.mutate is None or not data:
            return bytes(atheris.Mutate(data, most))
        return bytes(target.mutate(data, most, Random(seed), atheris.Mutate))[:most]

    one_input(b"")  # what is imported on first use is imported now
    bound_address_space()
    peak = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    )  # that of whoever started us, too: a peak outlives fork and exec
    defaults = [f"-max_len={target.max_bytes}", "-timeout=20", f"-rss_limit_mb={2048 + peak}"]
    # -merge starts this command again, through a shell.
    command = f"{sys.executable} -m fuzz.worker {name}"
    atheris.Setup([command, *defaults, *options], one_input, custom_mutator=change, internal_libfuzzer=True)
    atheris.Fuzz()


def bound_address_space() -> None:
    """From now on a large allocation is a MemoryError, which no target documents."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmSize:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError("/proc/self/status tells no VmSize; fuzzing runs on Linux")
    limit = int(found[1]) * 1024 + ADDRESS_SPACE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)  # left as it is: -merge starts workers inside a worker
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    main(sys.argv[1:])
