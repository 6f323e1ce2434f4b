"""Ours against the C++ verifier that the schema compiler generates, which an attacker has as well.

Whatever C++ refuses, ours refuses. Ours refuses more, for the reasons of STRICTER and no others. Where both accept, the
C++ accessors (under the address sanitizer) and those of the generated Python code read the same as ours.
TENSORWIRE_BUFFERS=1000000 makes it a long run; TENSORWIRE_SEED takes other buffers.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tensorwire.codec import CodecError, decode_metadata
from tensorwire.codec.generated import tensor_generated
from tensorwire.codec.verifier import RawMetadata, RawTensor, verify
from tests.codec import verifier_cpp
from tests.codec.hostile_metadata import buffers
from tests.vectors.flat import Laid, Tensor

GENERATED: Any = tensor_generated  # generated code is not annotated
BUFFERS = int(os.environ.get("TENSORWIRE_BUFFERS", "20000"))
SEED = int(os.environ.get("TENSORWIRE_SEED", "7"))
AT_ONCE = 20_000

LAID = Laid(Tensor("image", "float32", (-1, 3)), Tensor("text", "uint8", (-1,), 1), model="classifier", version="7")


def shared() -> bytes:
    """100 offsets to one tensor: each is right, together they make a reader visit a large one 100 times."""
    laid = Laid(*(Tensor(f"{number}", shape=None) for number in range(99)), Tensor("n" * 256, shape=(1,) * 8))
    raw = bytearray(laid.whole)
    for number in range(99):
        place = laid.at[f"[{number}]"]
        struct.pack_into("<I", raw, place, laid.at["99.table"] - place)
    return bytes(raw)


def beside() -> bytes:
    """A shape of one size whose eight bytes begin at a multiple of four."""
    raw = bytearray(LAID.pointed("0.shape", ">0.shape", by=-4))
    struct.pack_into("<I", raw, LAID.at[">0.shape"] - 4, 1)
    return bytes(raw)


# Why ours refuses what C++ takes: what it says, and one buffer of each kind. SPEC 18 and tensor.fbs ask for all of it.
STRICTER: dict[str, tuple[str, bytes]] = {
    "text that is not UTF-8": (r"is not UTF-8", LAID.bent(">model", "B", 0xFF, by=4)),
    "a type code that the schema does not name": (r"unknown type code", LAID.bent("0.dtype", "B", 15)),
    "a kind that the schema does not name": (r"kind \d+, expected 0 to 2", LAID.bent("1.kind", "B", 3)),
    "fields that the schema does not have": (r"vtable of \d+ bytes", LAID.bent("vtable", "H", 12)),
    "a field that begins outside its table": (r"has a field at", LAID.bent("0.vtable", "H", 12, by=2)),
    "a field that ends outside its table": (r"leaves its table", LAID.bent("0.vtable", "H", 13, by=2)),
    "a table too small for itself": (r"of \d bytes, expected at least 4", LAID.bent("vtable", "H", 3, by=2)),
    "a table that leaves the buffer": (r"leaves the buffer", LAID.bent("vtable", "H", 0xFFFF, by=2)),
    "sizes where no i64 may stand": (r"shape at \d+ is not aligned to 8", beside()),
    "a longer text than is allowed": (r"items, at most \d+ are allowed", Laid(model="m" * 257).whole),
    "more sizes than are allowed": (r"items, at most \d+ are allowed", Laid(Tensor(shape=(1,) * 9)).whole),
    "more bytes than are allowed": (r"\d+ bytes, expected 8 to 65536", LAID.whole + bytes(65536)),
    "offsets to one thing": (r"offsets are shared", shared()),
}
# What the verifier passes and the reader of its fields refuses: values that no FlatBuffers verifier knows of.
MEANING = re.compile(
    r"dimension -?\d+, expected|is no \(code, bits, lanes\)|bytes, expected 1 to 256|appears twice"
    r"|a ragged tensor has at least one|strings have dtype uint8"
)


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return verifier_cpp.build()
    except verifier_cpp.MissingError as error:
        pytest.skip(str(error))


def refusal(raw: bytes) -> str:
    """Why ours refuses these bytes; "" if it does not. Any other exception is a failure."""
    try:
        verify(raw)
    except CodecError as error:
        return str(error)
    return ""


def as_cpp_writes(fields: RawMetadata) -> bytes:
    """The fields in the form of main.cpp."""

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode())) + value.encode()

    out = text(fields.model) + text(fields.version) + struct.pack("<I", len(fields.tensors))
    for name, triple, kind, shape in fields.tensors:
        out += text(name) + struct.pack("<BBHB", *triple, kind)
        out += struct.pack(f"<I{len(shape)}q", len(shape), *shape)
    return out


def generated_reads(raw: bytes) -> RawMetadata:
    """The fields as the generated Python code reads them, unverified."""
    root = GENERATED.Metadata.GetRootAs(raw)
    tensors = []
    for at in range(root.TensorsLength()):
        tensor = root.Tensors(at)
        dtype = tensor.Dtype()
        shape = tuple(tensor.Shape(axis) for axis in range(tensor.ShapeLength()))
        triple = (dtype.Code(), dtype.Bits(), dtype.Lanes())
        tensors.append(RawTensor(tensor.Name().decode(), triple, tensor.Kind(), shape))
    return RawMetadata(root.Model().decode(), (root.Version() or b"").decode(), tuple(tensors))


def judged(program: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """Every buffer with C++'s fields, None where it refuses."""
    made = buffers(BUFFERS, SEED)
    while some := list(islice(made, AT_ONCE)):
        yield from zip(some, verifier_cpp.ask(program, some), strict=True)


@pytest.mark.timeout(3600 if BUFFERS > 20_000 else 120)
def test_ours_refuses_all_that_cpp_refuses_and_more_for_known_reasons_only(program: Path) -> None:
    both_accept = both_refuse = ours_alone = 0
    for raw, fields in judged(program):
        why = refusal(raw)
        if fields is None:
            assert why, f"C++ refuses what ours accepts: {raw.hex()}"
            both_refuse += 1
        elif why:
            assert any(re.search(says, why) for says, _ in STRICTER.values()), f"{why}: {raw.hex()}"
            ours_alone += 1
        else:
            assert as_cpp_writes(verify(raw)) == fields, raw.hex()
            assert generated_reads(raw) == verify(raw), raw.hex()
            both_accept += 1
    print(f"{BUFFERS} buffers: {both_accept} accepted, {both_refuse} refused by both, {ours_alone} by ours alone")
    # Each of the three happens often enough for the comparison to mean something.
    assert min(both_accept, both_refuse) > BUFFERS // 10
    assert ours_alone > BUFFERS // 50


def test_only_codec_error_leaves_the_reader_and_for_known_reasons() -> None:
    taken = refused = 0
    for raw in buffers(5_000, SEED + 1):
        if refusal(raw):
            with pytest.raises(CodecError):
                decode_metadata(raw)
            continue
        try:
            metadata = decode_metadata(raw)
        except CodecError as error:
            why = str(error)
            refused += 1
        else:
            why = ""
            assert metadata.model == verify(raw).model
            taken += 1
        assert not why or MEANING.search(why), f"{why}: {raw.hex()}"
    assert min(taken, refused) > 50


@pytest.mark.parametrize("name", STRICTER)
def test_each_reason_to_be_stricter_exists(name: str, program: Path) -> None:
    says, raw = STRICTER[name]
    assert verifier_cpp.ask(program, [raw])[0] is not None
    assert re.search(says, refusal(raw))


def test_right_buffers_of_both_writers_pass_both(program: Path) -> None:
    right = [raw for number, raw in enumerate(buffers(5_000)) if number % 50 == 0]
    for raw, fields in zip(right, verifier_cpp.ask(program, right), strict=True):
        assert fields == as_cpp_writes(verify(raw))
