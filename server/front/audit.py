"""The audit log: who called which model, when, what came of it and how many bytes; one JSON object a line.

Events: `authentication` (accepted or refused, one per connection), `call` (one per end of a call), `connection` (the
end of one that had been accepted), `lost` (so many lines are missing here). Never a tensor, a text of an error or a
secret. What a peer chose (key id, names) is escaped and capped; fields named in `audit_mask` are replaced by a keyed
hash, so that lines can still be joined. Calls are noted as tuples; lines are made of them 20 times a second or when
many wait. The file is audit_file.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time

from ...protocol import Status
from ..engine.api import BatchResult
from ..model import Model
from .audit_file import AuditFile, lost_line, stamp
from .call import Call
from .mask import Mask
from .ports import ConnectionInfo
from .reply_encoder import ReplyEncoder
from .timers import Timer, Timers

INTERVAL = 0.05
"""Seconds that a line waits at most before it is on its way to the file."""

MANY = 256
"""Lines made in one go, 0.5 ms of the loop; more than that do not wait for each other."""

STRANGERS = 100
"""Lines per second about connections that were refused: a flood of strangers must not fill the disk."""

MAX_MODELS = 1024
"""Models whose names are kept as JSON: those served, or so many that were asked for."""

_STATUS = tuple(status.name for status in Status)
_Record = tuple[float, ConnectionInfo, int, str, str, int, bool, int, int, float]


class Audit:
    """Notes what happened on one loop's connections, and hands lines to `file`.

    call_soon: the loop's. timers: its heap of moments.
    """

    def __init__(
        self, file: AuditFile, timers: Timers, call_soon: Callable[[Callable[[], None]], object], mask: Mask
    ) -> None:
        self.file = file
        self._timers = timers
        self._call_soon = call_soon
        self._mask = mask
        self._records: list[_Record | str] = []
        self._timer: Timer | None = None
        self._flush_comes = False
        self._who: dict[ConnectionInfo, str] = {}  # of accepted connections
        self._gone: list[ConnectionInfo] = []  # to be forgotten when their last lines are made
        self._refused: set[tuple[ConnectionInfo, int]] = set()
        self._models: dict[tuple[str, str], str] = {}
        self.left_out = 0  # lines about refused connections, above STRANGERS
        self._unsaid = 0
        self._second = 0.0
        self._strangers = 0

    # -- calls -----------------------------------------------------------------------------------------------------

    def replied(self, model: Model, encoder: ReplyEncoder, result: BatchResult, calls: list[Call], now: float) -> None:
        """Note that these calls of `result` were answered OK."""
        spec, length = model.spec, encoder.length
        self._records += [
            (
                now, call.target.info, call.stream_id, spec.name, spec.version, 0, True, call.route.body_length,
                length(result, call.rows), now - call.first_byte,
            )
            for call in calls
        ]  # fmt: skip
        self._written_soon()

    def ended(self, call: Call, status: int, started: bool, now: float) -> None:
        """Note that a call which had been taken ended with an error; its request counts if its body was there."""
        spec, route = call.route.model.spec, call.route
        nbytes = route.body_length if call.receiving is None else 0
        seconds = now - call.first_byte
        self._call(
            call.target.info, call.stream_id, (spec.name, spec.version), status, started, nbytes, 0, seconds, now
        )

    def refused(self, info: ConnectionInfo, stream_id: int, status: int, asked: tuple[str, str], started: bool) -> None:
        """Note the end of a stream that never was a call of a model; `asked`: model and version it named, if known."""
        self._call(info, stream_id, asked, status, started, 0, 0, 0.0, monotonic())

    def refused_body(self, info: ConnectionInfo, stream_id: int, status: int, asked: tuple[str, str]) -> None:
        """Note the same of a large message; the core will say so once more, by an event."""
        self._refused.add((info, stream_id))
        self.refused(info, stream_id, status, asked, started=False)

    def refused_by_core(self, info: ConnectionInfo, stream_id: int, status: int) -> None:
        """Note that the core refused a message, without asking for memory or after it was told that there is none."""
        if (info, stream_id) in self._refused:  # guard: audit-told-once
            self._refused.remove((info, stream_id))
        else:
            self.refused(info, stream_id, status, ("", ""), started=False)

    def service(self, info: ConnectionInfo, stream_id: int, name: str, sent: int, received: int) -> None:
        """Note that a service call was answered."""
        self._call(info, stream_id, (name, ""), 0, True, received, sent, 0.0, monotonic())

    def _call(
        self,
        info: ConnectionInfo,
        stream_id: int,
        model: tuple[str, str],
        status: int,
        started: bool,
        received: int,
        sent: int,
        seconds: float,
        now: float,
    ) -> None:
        self._records.append((now, info, stream_id, *model, status, started, received, sent, seconds))
        self._written_soon()

    # -- connections -----------------------------------------------------------------------------------------------

    def authenticated(self, info: ConnectionInfo) -> None:
        """Note that a connection was accepted; from now on its calls are those of its principal."""
        self._who[info] = who = self._describe(info, info.principal)
        self._note(f'"event":"authentication",{who},"outcome":"accepted"')

    def turned_away(self, info: ConnectionInfo, reason: str) -> None:
        """Note the end of a connection that was not accepted; `reason` is one of a few fixed words."""
        now = monotonic()
        if now - self._second >= 1.0:
            self._second, self._strangers = now, 0
        self._strangers += 1
        if self._strangers > STRANGERS:  # guard: audit-flood
            self.left_out += 1
            self._unsaid += 1
            self._written_soon()
            return
        # guard: audit-stranger
        self._note(f'"event":"authentication",{self._describe(info, "")},"outcome":"refused","reason":"{reason}"')

    def disconnected(self, info: ConnectionInfo, reason: str) -> None:
        """Note that an accepted connection is over, after all its calls."""
        seconds = monotonic() - info.since
        who = self._who_is(info)
        calls = info.streams
        self._note(f'"event":"connection",{who},"reason":"{reason}","calls":{calls},"seconds":{seconds:.6f}')
        self._gone.append(info)

    def _describe(self, info: ConnectionInfo, principal: str) -> str:
        mask = self._mask.json
        address, port = info.peer
        key_id = info.key_id.decode("utf-8", "backslashreplace")
        return (
            f'"connection":"{info.name}","principal":{mask("principal", principal)},'
            f'"key_id":{mask("key_id", key_id)},"peer":{mask("peer", address)},"port":{port or "null"}'
        )

    def _who_is(self, info: ConnectionInfo) -> str:
        return self._who.get(info) or f'"connection":"{info.name}"'

    def _note(self, fields: str) -> None:
        self._records.append(f'{{"time":"{stamp(time())}",{fields}}}\n')
        self._written_soon()

    # -- lines -----------------------------------------------------------------------------------------------------

    def _written_soon(self) -> None:
        if len(self._records) >= MANY and not self._flush_comes:
            self._flush_comes = True
            self._call_soon(self.flush)
        elif self._timer is None:
            self._timer = Timer(self._due)
            self._timers.add(monotonic() + INTERVAL, self._timer)

    def _due(self, _now: float) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Make lines of everything that was noted, and hand them over."""
        self._flush_comes = False
        if self._unsaid:
            self._records.append(lost_line(self._unsaid, "too many refused connections"))
            self._unsaid = 0
        records, self._records = self._records, []
        if not records:
            return
        offset = time() - monotonic()
        moment, text = -1.0, ""
        lines: list[str] = []
        for record in records:
            if isinstance(record, str):
                lines.append(record)
                continue
            if record[0] != moment:  # the calls of a batch end together
                moment = record[0]
                text = stamp(offset + moment)
            lines.append(self._line(text, record))
        self.file.write("".join(lines).encode("ascii"), len(lines))
        for info in self._gone:
            self._who.pop(info, None)
        self._gone.clear()
        self._refused.clear()  # the core's events came in the same turn

    def _line(self, time_text: str, record: _Record) -> str:
        _, info, stream_id, model, version, status, started, received, sent, seconds = record
        which = self._models.get((model, version)) or self._model(model, version)
        return (
            f'{{"time":"{time_text}","event":"call","request_id":"{info.name}-{stream_id}",{self._who_is(info)},'
            f'{which},"status":"{_STATUS[status]}","started":{"true" if started else "false"},'
            f'"bytes_in":{received},"bytes_out":{sent},"seconds":{seconds:.6f}}}\n'
        )

    def _model(self, model: str, version: str) -> str:
        text = f'"model":{self._mask.json("model", model)},"version":{self._mask.json("version", version)}'
        if len(self._models) >= MAX_MODELS:
            self._models.clear()
        self._models[model, version] = text
        return text

    def reopen(self) -> None:
        """Go on in a new file, if the old one was renamed."""
        self.flush()
        self.file.reopen()

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self.file.close()
