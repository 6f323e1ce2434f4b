"""Seeds for the C client's fuzz target: `python -m tests.c.seeds FOLDER` writes what a server sends in each vector."""

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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
