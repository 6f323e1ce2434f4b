"""Seeds for the C client's fuzz targets: `python -m tests.c.seeds [--signed] FOLDER`.

For clients/c/tests/fuzz.c what a server sends in each vector; with --signed, for fuzz_signed.c, edits of a session.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.vectors.player import load, unpack

HANDSHAKE_DONE = 1
PIECE = 199  # the longest piece that one length byte of clients/c/tests/fuzz.c stands for
RUN = bytes((0x11,)) * 1024  # and what it writes shorter


def pieces(data: bytes) -> bytes:
    """Bytes from the server as the target reads them."""
    made, at = b"", 0
    while at < len(data):
        runs = 0
        while runs < 64 and data.startswith(RUN, at + runs * len(RUN)):
            runs += 1
        if runs:
            made += bytes((PIECE, runs - 1))
            at += runs * len(RUN)
            continue
        end = data.find(RUN, at, at + PIECE + len(RUN))
        piece = data[at : at + PIECE] if end < 0 else data[at:end]
        made += bytes((len(piece) - 1,)) + piece
        at += len(piece)
    return made


def main(folder: Path) -> None:
    """One file for each client vector, and one for each valid metadata vector: a reply that carries it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, _, vector) in enumerate(load("connection")):
        if vector["role"] == "client":
            received = b"".join(unpack(step["receive"]) for step in vector["steps"] if "receive" in step)
            mode = HANDSHAKE_DONE if vector["start"] == "open" else 0
            (folder / f"connection-{number}").write_bytes(bytes((mode,)) + pieces(received))
    for number, (_, _, vector) in enumerate(load("metadata")):
        metadata = unpack(vector["metadata"])
        dims, body = bytes.fromhex(vector.get("dims", "")), unpack(vector.get("body", []))
        if len(dims) > 248 or len(metadata) > 65536:
            continue
        item = bytes((1, len(dims))) + dims if dims else b""
        size = len(item) + len(metadata) + len(body)
        header = b"".join(
            part.to_bytes(width, "little")
            for part, width in ((size, 4), (6, 1), (0, 1), (1, 2), (1, 8), (0, 4), (0, 4), (len(metadata), 4))
        )
        frame = header + len(item).to_bytes(2, "little") + bytes(2) + item + metadata + body
        (folder / f"metadata-{number}").write_bytes(bytes((HANDSHAKE_DONE,)) + pieces(frame))


def signed(folder: Path) -> None:
    """The session in each suite, whole and in pieces, with places that refuse, cancels, and an edit of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, piece, jump, cancel, write = bytes((163,)) * 17, bytes((100,)), 180, 191, bytes((192, 255))
    for suite in (0, 1):
        edits = {
            "whole": whole,
            "pieces": piece * 1100,
            "written": write.join((piece * 8, whole)),
            "cancelled": piece * 10 + bytes((cancel, 1)) + whole,
            "added": piece * 8 + b"\0x" + whole,
            "repeated": piece * 8 + bytes((jump, 64, 1)) + whole,
            "left-out": piece * 4 + bytes((jump, 64, 2)) + whole,
        }
        for name, steps in edits.items():
            (folder / f"{name}-{suite}").write_bytes(bytes((suite,)) + steps)
        (folder / f"refused-{suite}").write_bytes(bytes((suite | 2,)) + whole)


if __name__ == "__main__":
    if sys.argv[1] == "--signed":
        signed(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
