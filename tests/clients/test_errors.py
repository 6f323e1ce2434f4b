"""Errors: the type says whose fault it is, the attributes say what is known."""

from __future__ import annotations

import pickle

import pytest

from tensorwire.clients import errors
from tensorwire.clients.errors import (
    Cancelled,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    LocalCancelled,
    LocalDeadlineExceeded,
    LocalError,
    NotFound,
    RemoteDeadlineExceeded,
    RemoteError,
    RemoteUnknown,
    TensorwireError,
    remote_error,
)
from tensorwire.protocol import Status


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.OK])
def test_every_status_has_a_class_of_its_own(status: Status) -> None:
    error = remote_error(status, "why", request_id="ab-1", not_started=True, retry_after=0.5)
    assert isinstance(error, RemoteError)
    assert type(error) is not RemoteError
    assert (error.status, error.request_id, error.not_started, error.retry_after) == (status, "ab-1", True, 0.5)
    assert str(error) == f"{status.name}: why [request ab-1]"


def test_an_unknown_status_is_unknown_and_shows_its_number() -> None:
    error = remote_error(99, "", request_id="ab-1")
    assert type(error) is RemoteUnknown
    assert "99" in str(error)


def test_a_deadline_is_one_error_on_either_side_and_a_timeout() -> None:
    for kind, side in ((LocalDeadlineExceeded, LocalError), (RemoteDeadlineExceeded, RemoteError)):
        assert issubclass(kind, (DeadlineExceeded,))
        assert issubclass(kind, side)
        assert issubclass(kind, TimeoutError)
    assert issubclass(LocalCancelled, Cancelled)
    assert not issubclass(LocalDeadlineExceeded, RemoteError)


def test_a_lost_connection_is_neither_sides_answer() -> None:
    for kind in (ConnectionLost, ConnectFailed):
        assert issubclass(kind, ConnectionError)
        assert not issubclass(kind, (RemoteError, LocalError))


def test_every_error_is_a_tensorwire_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 20
    assert all(issubclass(kind, TensorwireError) for kind in kinds)


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(remote_error(Status.NOT_FOUND, "no model", request_id="ab-7")))
    assert type(error) is NotFound
    assert str(error) == "NOT_FOUND: no model [request ab-7]"


def test_the_peers_text_is_escaped_and_capped() -> None:
    error = remote_error(Status.INVALID_ARGUMENT, "\x1b[31mred\r\n" + "x" * 5000, request_id="")
    assert type(error) is InvalidArgument
    assert "\x1b" not in str(error)
    assert "\n" not in str(error)
    assert "\\x1b[31mred" in str(error)
    assert len(str(error)) < 1200
