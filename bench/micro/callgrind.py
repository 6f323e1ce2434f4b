"""Runs a file of cases under callgrind and reads what was counted, section by section.

What lives here: building the marker, starting valgrind, reading its profiles. What must not: cases, baselines.

A section is a stretch of code that a case names (see ``worker.py``). Each ends in a profile of its own, so start-up is
in none of them. Instructions of the kernel are not counted, nor its copies.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600.0
"""Seconds one run under valgrind may take."""

_POSITION = re.compile(r"^(?:[+*-]?\d*) (\d+)$")
_NAMED = re.compile(r"^\((\d+)\)(?: (.*))?$")
_TRIGGER = "desc: Trigger: Client Request: "


class CallgrindError(Exception):
    """Counting is not possible here; the message says what is missing and how to get it."""


@dataclass(slots=True)
class Section:
    """What one section of ``calls`` calls cost: instructions in all, and by the function that they belong to."""

    name: str
    calls: int
    instructions: int = 0
    functions: dict[str, int] = field(default_factory=dict)

    @property
    def per_call(self) -> float:
        """Instructions of one call."""
        return self.instructions / self.calls

    def copying(self) -> int:
        """Instructions in the C library's functions that move or fill memory."""
        return sum(cost for name, cost in self.functions.items() if re.search(r"mem(p?cpy|move|set)", name))


def count(cases: Path, path: Path, names: Sequence[str] = ()) -> list[Section]:
    """Run the cases of a file (all, or those named) under callgrind, tensorwire imported from ``path``.

    The same machine code gives the same figures: hashes are seeded, the environment is empty, the clock is told.
    Raises CallgrindError.
    """
    with tempfile.TemporaryDirectory(prefix="tensorwire-micro-") as folder:
        command = [
            tool("valgrind"), "--tool=callgrind", "--instr-atstart=no", "--collect-jumps=no",
            f"--callgrind-out-file={folder}/profile", sys.executable, "-P", str(Path(__file__).with_name("worker.py")),
            str(build_marker(Path(folder))), str(cases), *names,
        ]  # fmt: skip
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{path}:{ROOT}",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "HOME": folder,
        }
        try:
            done = subprocess.run(
                command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CallgrindError(f"{cases.name} took more than {TIMEOUT:g} s under valgrind") from error
        if done.returncode:
            raise CallgrindError(f"{cases.name} failed under valgrind:\n{done.stderr[-4000:]}")
        return [section for file in _profiles(Path(folder)) if (section := read_profile(file.read_text())) is not None]


def build_marker(folder: Path) -> Path:
    """Compile marker.c. Raises CallgrindError."""
    library = folder / "marker.so"
    command = [tool("cc"), "-O2", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).with_name("marker.c"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CallgrindError(f"marker.c does not compile (it needs valgrind's headers):\n{done.stderr}")
    return library


def tool(name: str) -> str:
    """Path of a program. Raises CallgrindError."""
    found = shutil.which(name)
    if found is None:
        raise CallgrindError(f"{name} is not here: apt-get install valgrind gcc (make debian does)")
    return os.path.realpath(found)


def read_profile(text: str) -> Section | None:
    """The section of one profile in callgrind's format; None for one that no section asked for."""
    label = next((line[len(_TRIGGER) :] for line in text.splitlines() if line.startswith(_TRIGGER)), "")
    name, _, calls = label.rpartition("|")
    if not name:
        return None
    section = Section(name, int(calls))
    costs: defaultdict[str, int] = defaultdict(int)
    names: dict[str, str] = {}
    function, called = "", False
    for line in text.splitlines():
        if line.startswith(("fn=", "cfn=")):
            key, _, value = line.partition("=")
            known = _NAMED.match(value)
            if known is not None:
                number, given = known.groups()
                value = names[number] = given or names[number]
            if key == "fn":
                function = value
        elif line.startswith("calls="):
            called = True  # the next line is what the called function cost: counted there
        elif (cost := _POSITION.match(line)) is not None:
            if not called:
                costs[function] += int(cost[1])
            called = False
    section.functions = dict(costs)
    section.instructions = sum(costs.values())
    return section


def _profiles(folder: Path) -> Iterator[Path]:
    """The profiles in the order they were written."""
    numbered = [file for file in folder.glob("profile.*") if file.suffix[1:].isdigit()]
    return iter(sorted(numbered, key=lambda file: int(file.suffix[1:])))
