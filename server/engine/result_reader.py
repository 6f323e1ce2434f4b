"""What an engine process says through its ring, turned into results.

What lives here: reading records, and views of result slabs in the shape the front wants. What must not: life and death
of the process, telling it anything. One `ResultReader` per instance of a process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgpack

from ...codec import Encoded
from .api import BatchResult
from .inflight import NotInFlightError
from .records import CANCELLED, ENCODED, KEPT, PREPARED, RESULT, SHORT, SIGNATURE, output_places
from .ring import RingError

if TYPE_CHECKING:
    from .api import Failure, OutputSignature
    from .inflight import InFlight
    from .result_leases import ResultLeases
    from .worker import Worker

__all__ = ["PROTOCOL_VIOLATIONS", "ResultReader"]

#: What reading raises if the process writes records that cannot be: it is broken, whatever the reason.
PROTOCOL_VIOLATIONS = (
    RingError,
    NotInFlightError,
    LookupError,
    ValueError,
    TypeError,
    OverflowError,
    msgpack.UnpackException,
)


class ResultReader:
    """Reads `worker`'s records. `prepared(number)` is called when it has read the metadata sent under that number."""

    def __init__(
        self, worker: Worker, in_flight: InFlight, leases: ResultLeases, prepared: Callable[[int], object]
    ) -> None:
        self._worker = worker
        self._in_flight = in_flight
        self._leases = leases
        self._prepared = prepared
        self._signatures: dict[int, OutputSignature] = {}

    def read(self, outcome: list[BatchResult | Failure]) -> bool:
        """Append what came to `outcome`, and return whether any request is over.

        Raises one of PROTOCOL_VIOLATIONS; `outcome` is valid all the same.
        """
        finish = self._in_flight.finish
        worker = self._worker
        marks = worker.marks
        progress = False
        for record in worker.to_front.read():
            kind, flags, signature, count, rows, offset, nbytes, planned, copied_in, computed, copied_out = record
            if kind == RESULT:
                layout = self._signatures[signature]
                places, end = output_places(count, rows, layout)
                if nbytes != end:
                    raise RingError(f"a result of {nbytes} bytes, expected {end}")
                data = self._lease(offset, nbytes)
                outputs = [data[start : start + size] for start, size in places]
                slots = data[: 4 * count].cast("I").tolist()
                requests = finish(marks, slots, worker if flags & KEPT else None)
                outcome.append(BatchResult(requests, layout, outputs, rows, planned, copied_in, computed, copied_out))
                progress = True
                self._leases.eager = False
            elif kind == ENCODED:
                end = 64 + nbytes
                data = self._lease(offset, end + signature + count)
                meta, dims = bytes(data[end : end + signature]), bytes(data[end + signature :])
                encoded = Encoded(meta, dims, [data[64:end]], nbytes)
                requests = finish(marks, [data[:4].cast("I")[0]], worker if flags & KEPT else None)
                outcome.append(BatchResult(requests, (), [], rows, planned, copied_in, computed, copied_out, encoded))
                progress = True
                self._leases.eager = False
            elif kind == CANCELLED:
                finish(marks, [count])
                progress = True
            elif kind == PREPARED:
                self._prepared(count)
            elif kind == SIGNATURE:
                self._signatures[signature] = _layout(bytes(worker.results.view(offset, nbytes)))
                self._leases.released.append(offset)
            elif kind == SHORT:
                self._leases.release_eagerly()
            else:
                raise RingError(f"a record of kind {kind}")
        return progress

    def _lease(self, offset: int, nbytes: int) -> memoryview:
        return self._leases.lease(self._worker.results.view(offset, nbytes), offset)


def _layout(raw: bytes) -> OutputSignature:
    return tuple(
        (str(name), str(dtype), tuple(map(int, row_shape)), int(row_bytes))
        for name, dtype, row_shape, row_bytes in msgpack.unpackb(raw)
    )
