"""One run of one target: its process, its folders, and what libFuzzer said.

What lives here: starting and reading a worker. What must not: atheris; choices about several targets (__main__.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .target import FUZZ, load

BUILD = FUZZ.parent / "build" / "fuzz"
_STATUS = re.compile(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
LAST_LINES = 25
MERGE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of a run. features: libFuzzer's count of edges and how often each was taken."""

    executions: int
    per_second: int
    features: int
    new_inputs: int
    findings: list[Path]


class Run:
    """A worker for one target, for at most `seconds` and `runs` inputs (0: no bound).

    seeds: whether it begins with the target's seeds too; for a moment's run the kept inputs do.
    """

    def __init__(
        self, name: str, seconds: float = 0, runs: int = 0, *, seeds: bool = True, build: Path | None = None
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.runs = runs
        self.seeds = seeds
        self.folder = (build or BUILD) / name.rpartition(".")[2]
        self.log = self.folder / "log"
        self.findings = self.folder / "findings"
        self.process: subprocess.Popen[bytes] | None = None
        self.wall = 0.0
        self._began = 0.0
        self._before: set[Path] = set()

    def start(self) -> None:
        """Start the worker."""
        for folder in ("found", "seeds", "findings"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        if self.seeds:
            self._write_seeds()
        self._before = set(self.findings.iterdir())
        options = [f"-max_total_time={max(round(self.seconds), 1)}", "-print_final_stats=1"]
        options += [f"-artifact_prefix={self.findings}/"]
        if self.runs:
            options.append(f"-runs={self.runs}")
        folders = [self.folder / "found", self.folder / "seeds", FUZZ / "corpus" / self.name]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self._command(), *options, *(str(folder) for folder in folders if folder.is_dir())],
                stdout=log,
                stderr=log,
                cwd=FUZZ.parent,
                env=os.environ | {"PYTHONPATH": f"{FUZZ.parent / 'src'}:{FUZZ.parent}"},
            )
        self._began = time.monotonic()

    def merge(self, out: Path) -> None:
        """Write to `out` the inputs, of all that are known, that add coverage; SubprocessError if it fails."""
        out.mkdir(parents=True)
        (self.folder / "found").mkdir(parents=True, exist_ok=True)
        self._write_seeds()
        folders = [self.folder / "found", self.folder / "seeds", FUZZ / "corpus" / self.name]
        command = [*self._command(), "-merge=1", "-set_cover_merge=1", str(out), *map(str, folders)]
        subprocess.run(command, check=True, cwd=FUZZ.parent, stderr=subprocess.DEVNULL, timeout=MERGE_SECONDS)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "fuzz.worker", self.name]

    def _write_seeds(self) -> None:
        folder = self.folder / "seeds"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        target = load(self.name)
        for seed in target.seeds():
            (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)

    def ended(self) -> bool:
        """Whether the worker has ended; notes how long it took."""
        assert self.process is not None, "start() comes first"
        if self.process.poll() is None:
            return False
        self.wall = self.wall or time.monotonic() - self._began
        return True

    def stop(self) -> None:
        """End the worker now."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def failed(self) -> bool:
        """Whether the worker ended with a finding, or did not work at all."""
        return self.process is None or self.process.returncode != 0

    def progress(self) -> str:
        """One line on how far it is."""
        found = _STATUS.findall(self._said())
        count, _, features, inputs = map(int, found[-1]) if found else (0, 0, 0, 0)
        spent = time.monotonic() - self._began
        return (
            f"{self.name:<12}{spent:5.0f} of {self.seconds:.0f} s {count:>12,} inputs"
            f" {features:>7,} features {inputs:>6,} kept"
        )

    def result(self) -> Result:
        """What came of it so far."""
        said = self._said()
        status = _STATUS.findall(said)
        executed = _EXECUTED.findall(said)
        executions = int(executed[-1]) if executed else int(status[-1][0]) if status else 0
        return Result(
            executions=executions,
            per_second=round(executions / self.wall) if self.wall else 0,
            features=int(status[-1][2]) if status else 0,
            new_inputs=len(re.findall(r"^#\d+\s+NEW ", said, re.MULTILINE)),
            findings=sorted(set(self.findings.iterdir()) - self._before),
        )

    def last_words(self) -> str:
        """The end of what the worker said: of a finding its traceback, without libFuzzer's dump of the input."""
        said = self._said().partition("ERROR: libFuzzer")[0]
        lines = [line for line in said.splitlines() if line and not line.startswith(("#", "==", "MS:"))]
        return "\n".join(f"  | {line}" for line in lines[-LAST_LINES:])

    def _said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""
