"""Arrow Flight: one open DoExchange stream; a record batch of float32 values each way, zero-copy from and to numpy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import flight

from bench import works
from bench.harness import announce
from bench.works import Array, Work

WORKS = ("A.python", "B.python", "C.python", "C.rate", "D", "F", "S")
CANNOT = {
    "A.native": "its wire has no load generator here",
    "B.native": "its wire has no load generator here",
    "C.native": "its wire has no load generator here",
    "E": "a transport: has no model and makes no batches",
}
SCHEMA = pa.schema([("x", pa.float32())])


def batch_of(array: Array) -> Any:
    """Return a record batch over the array's own memory."""
    return pa.record_batch([pa.array(array.reshape(-1))], schema=SCHEMA)


class Exchange(flight.FlightServerBase):  # type: ignore[misc] # pyarrow has no types
    """Answers every batch of a stream; the descriptor's path names the model."""

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        scores = batch_of(works.scores())
        writer.begin(SCHEMA)
        image = descriptor.path[0] == b"image"
        for chunk in reader:
            writer.write_batch(scores if image else chunk.data)


def serve() -> None:
    server = Exchange("grpc://127.0.0.1:0")
    announce(f"127.0.0.1:{server.port}")
    server.serve()


@contextlib.contextmanager
def pipeline(work: Work, address: str) -> Iterator[tuple[Callable[[], None], Callable[[], Array]]]:
    array = works.request(work)
    with flight.connect(f"grpc://{address}") as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path(work.model))
        with writer:
            writer.begin(SCHEMA)
            yield (
                lambda: writer.write_batch(batch_of(array)),
                lambda: reader.read_chunk().data.column(0).to_numpy(),
            )
            writer.done_writing()
