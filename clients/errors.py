"""Every error a client raises. Whose fault it is, and what is known of the call, is in the type.

- :class:`RemoteError`: the server answered with a status. One subclass per status code.
- :class:`LocalError`: this side refused or gave up; the subclasses say why.
- :class:`ConnectionLost`: the connection went away under a call, whose outcome is therefore *unknown*.
- :class:`ConnectFailed`: no connection could be made, so the call was never started; :class:`AuthenticationError` where
  the two sides do not share a key.

Every one of them is a :class:`TensorwireError` with the same attributes. Not here: when to raise or to retry
(``core``).
"""

# ruff: noqa: N818 - statuses are named as gRPC names them, without "Error"

from __future__ import annotations

from ..protocol import Status
from ..protocol.safe_text import masked, printable

NOBODY_LISTENS = "is the server running and listening on"
"""What the error asks where a connection was refused, or a socket's path is not there."""


class TensorwireError(Exception):
    """Base of everything a client raises.

    ``status``: the gRPC status code that fits best. ``request_id``: the name of the call in the server's log, or "".
    ``not_started``: true where the model provably never saw the call, so that repeating it is safe.
    ``retry_after``: seconds the server asks to wait before another try, or None.
    """

    status: Status = Status.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        status: Status | None = None,
        request_id: str = "",
        not_started: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(masked(message))
        if status is not None:
            self.status = status
        self.request_id = request_id
        self.not_started = not_started
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """What went wrong, without the request id."""
        return str(self.args[0])

    def __str__(self) -> str:
        # A server may have named the request in its own words already.
        named = not self.request_id or self.request_id in self.message
        return self.message if named else f"{self.message} [request {self.request_id}]"


# --- either side -----------------------------------------------------------------------------------------------------


class DeadlineExceeded(TensorwireError, TimeoutError):
    """The call's deadline passed; at the server or here, the subclass says which."""

    status = Status.DEADLINE_EXCEEDED


class Cancelled(TensorwireError):
    """The call was cancelled; at the server or here, the subclass says which."""

    status = Status.CANCELLED


# --- the server said so ----------------------------------------------------------------------------------------------


class RemoteError(TensorwireError):
    """The server ended the call with a status other than OK."""


class RemoteCancelled(RemoteError, Cancelled):
    """The server cancelled the call."""


class RemoteUnknown(RemoteError):
    """The server could not tell what went wrong."""

    status = Status.UNKNOWN


class InvalidArgument(RemoteError):
    """The inputs do not fit the model: the message names the field, what was sent and what is expected. Or the model
    refused their values.
    """

    status = Status.INVALID_ARGUMENT


class RemoteDeadlineExceeded(RemoteError, DeadlineExceeded):
    """The server saw the deadline pass, or could not have met it."""


class NotFound(RemoteError):
    """The server has no such model or version."""

    status = Status.NOT_FOUND


class AlreadyExists(RemoteError):
    """What was to be made exists."""

    status = Status.ALREADY_EXISTS


class PermissionDenied(RemoteError):
    """This principal may not do that."""

    status = Status.PERMISSION_DENIED


class ResourceExhausted(RemoteError):
    """The server's queue, memory or this principal's share is full: see ``retry_after``."""

    status = Status.RESOURCE_EXHAUSTED


class FailedPrecondition(RemoteError):
    """The model is not in a state in which it can be called."""

    status = Status.FAILED_PRECONDITION


class Aborted(RemoteError):
    """The call lost against another one."""

    status = Status.ABORTED


class OutOfRange(RemoteError):
    """A value is beyond what the model takes."""

    status = Status.OUT_OF_RANGE


class Unimplemented(RemoteError):
    """The server does not know this operation."""

    status = Status.UNIMPLEMENTED


class Internal(RemoteError):
    """The model or the server failed."""

    status = Status.INTERNAL


class Unavailable(RemoteError):
    """The model or the server is not able to serve now; ``not_started`` says whether a repetition is safe."""

    status = Status.UNAVAILABLE


class DataLoss(RemoteError):
    """The server lost data it cannot get back."""

    status = Status.DATA_LOSS


class Unauthenticated(RemoteError):
    """The server does not accept this client's key."""

    status = Status.UNAUTHENTICATED


REMOTE_ERRORS: dict[int, type[RemoteError]] = {
    int(kind.status): kind
    for kind in (
        RemoteCancelled, RemoteUnknown, InvalidArgument, RemoteDeadlineExceeded, NotFound, AlreadyExists,
        PermissionDenied, ResourceExhausted, FailedPrecondition, Aborted, OutOfRange, Unimplemented, Internal,
        Unavailable, DataLoss, Unauthenticated,
    )
}  # fmt: skip
"""Status code -> the class that is raised for it."""


def remote_error(
    status: int, detail: str, *, request_id: str, not_started: bool = False, retry_after: float | None = None
) -> RemoteError:
    """Make the error for an END frame: the class of its status, with the server's own (escaped, capped) words."""
    kind = REMOTE_ERRORS.get(status, RemoteUnknown)
    name = Status(status).name if kind.status == status else f"status {status}"
    message = f"{name}: {printable(detail)}" if detail else name  # guard: printed-error
    return kind(message, request_id=request_id, not_started=not_started, retry_after=retry_after)


# --- this side -------------------------------------------------------------------------------------------------------


class LocalError(TensorwireError):
    """This side refused the call or gave it up; the server did not fail it."""

    status = Status.FAILED_PRECONDITION


class InvalidURL(LocalError, ValueError):
    """The server's address cannot be read."""

    status = Status.INVALID_ARGUMENT


class InvalidKey(LocalError, ValueError):
    """The key is missing where one is needed, or cannot be read; nothing was sent."""

    status = Status.UNAUTHENTICATED


class InvalidInput(LocalError, ValueError):
    """An argument of the call cannot be sent; nothing was."""

    status = Status.INVALID_ARGUMENT


class LocalDeadlineExceeded(LocalError, DeadlineExceeded):
    """The deadline passed here, without an answer. The server was told to stop."""

    status = Status.DEADLINE_EXCEEDED


class LocalCancelled(LocalError, Cancelled):
    """This side cancelled the call. The server was told to stop."""

    status = Status.CANCELLED


class ClientClosed(LocalError):
    """The client was closed, before the call or under it."""


class ClientInUse(LocalError):
    """A signal handler, a finalizer or an input's own code used the client in the middle of a call that the same thread
    had under way, for which it would wait for ever. Nothing was sent.
    """


class ForkedClient(LocalError):
    """The client was made before a fork and is used in the child: two processes cannot share one connection."""


# --- the connection --------------------------------------------------------------------------------------------------


class ConnectFailed(TensorwireError, ConnectionError):
    """No connection could be made: nobody listens, the name is unknown, or the handshake failed. Nothing was
    started.
    """

    status = Status.UNAVAILABLE


class AuthenticationError(ConnectFailed):
    """The server wants a key and has got none, refused it, or could not prove that it has it too. The same key will
    not do at another try, so there is none, and none with a weaker MAC or without TLS.
    """

    status = Status.UNAUTHENTICATED


class ConnectionLost(TensorwireError, ConnectionError):
    """The connection went away under the call. Unless ``not_started``, its outcome is UNKNOWN: the model may have run
    it.
    """

    status = Status.UNKNOWN


class BadReply(TensorwireError):
    """The server broke the protocol, or sent a reply that cannot be read."""

    status = Status.DATA_LOSS
