"""The wire, without I/O: bytes and a clock in, events and buffers out. `SPEC.md` beside this file is its law.

Here: frames, handshake, streams, the order of sending. Never: sockets, threads, asyncio, numpy, or any other part.
"""

from ..version import __version__ as __version__
from .assembly import Refusal, Reserve
from .connection import Connection
from .errors import ErrorCode, LocalError, ProtocolError
from .events import (
    Authenticated,
    Cancelled,
    Closed,
    Ended,
    Event,
    GoAway,
    Message,
    MessageAborted,
    Pong,
    Ready,
    Refused,
)
from .extension import Extension, pack_extension, parse_extension
from .frame_builder import ReplyForm
from .handshake import Hello, Welcome
from .header import Flag, FrameType
from .limits import Config, Limits, PeerLimits, Role
from .states import State
from .status import Status

__all__ = [
    "Authenticated",
    "Cancelled",
    "Closed",
    "Config",
    "Connection",
    "Ended",
    "ErrorCode",
    "Event",
    "Extension",
    "Flag",
    "FrameType",
    "GoAway",
    "Hello",
    "Limits",
    "LocalError",
    "Message",
    "MessageAborted",
    "PeerLimits",
    "Pong",
    "ProtocolError",
    "Ready",
    "Refusal",
    "Refused",
    "ReplyForm",
    "Reserve",
    "Role",
    "State",
    "Status",
    "Welcome",
    "pack_extension",
    "parse_extension",
]
