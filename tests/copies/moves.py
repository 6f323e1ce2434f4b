"""Calls of growing size for callgrind: who copies the tensor executes more of the C library's memory functions.

What lives here: cases for ``bench.micro.callgrind``. What must not: limits and verdicts (``test_bytes_moved.py``).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from bench.micro.cases import large_call
from bench.micro.ends import ClientEnd, ServerEnd
from bench.micro.worker import Case, End, Round

SMALL, IMAGE, HUGE = 1024, 602_112, 64 << 20
SIZES = tuple(times * size for size in (SMALL, IMAGE, HUGE) for times in (1, 2))
MEMORY = np.zeros(SIZES[-1], np.uint8).data


def copy(size: int) -> Round:
    """One copy of so many bytes: what the others are measured by."""

    view, target = MEMORY[:size], memoryview(bytearray(size))

    def run(end: End) -> None:
        end("", 1)
        target[:] = view
        end(f"copy {size}", 1)

    return run


def large(model: str, size: int) -> Round:
    """A call in chunks; what moves between the ends moves no tensor bytes (``bench.micro.ends``)."""
    return large_call(model, {"x": np.ones((1, size // 4), np.float32)}, f"{size} {model}", 1)


def small(size: int) -> Round:
    """A call of one frame there, and one back: here the reads themselves are copies, one each."""
    server = ServerEnd()
    client = ClientEnd(server)
    x = {"x": np.ones((1, size // 4), np.float32)}

    def run(end: End) -> None:
        core, link = client.core, client.link
        for model in ("sum", "echo"):
            end("", 1)
            core.infer(model, x, "", None, False, 0, 0.0)
            pieces = link.data_to_send(0.0)
            end(f"client: submit {size} {model}", 1)
            request = b"".join(pieces)
            end("", 1)
            server.protocol.get_buffer(-1)[: len(request)] = request
            server.protocol.buffer_updated(len(request))
            server.loop.turn()
            end(f"server: {size} {model}", 1)
            reply = b"".join(server.take())
            end("", 1)
            link.next_buffer()[: len(reply)] = reply
            link.received(len(reply), 0.0)
            end(f"client: reply to {size} {model}", 1)

    return run


CASES: dict[str, Case] = {
    **{f"copy {size}": partial(copy, size) for size in SIZES},
    **{f"small {size}": partial(small, size) for size in SIZES[:2]},
    **{f"large {size} {model}": partial(large, model, size) for size in SIZES[2:] for model in ("echo", "fresh")},
    **{f"large {size} kept": partial(large, "kept", size) for size in SIZES[2:4]},
}
