"""Calls and results."""

from __future__ import annotations

from tensorwire.clients.calls import FOREVER, ON_STREAM, Call
from tensorwire.clients.errors import LocalCancelled
from tensorwire.clients.results import Result
from tensorwire.codec import Encoded


def new_call() -> Call:
    return Call(ON_STREAM, 0.0, FOREVER, lambda call: None, None)


def test_a_result_is_a_dict_with_a_name() -> None:
    result = Result(a=1)
    result.connection_id, result.stream_id = b"\xab" * 8, 12
    assert result == {"a": 1}
    assert result.request_id == "abababababababab-12"


def test_a_done_call_lets_go_of_the_callers_arrays() -> None:
    done, failed = new_call(), new_call()
    done.encoded = failed.encoded = Encoded(b"", b"", [], 0)
    done.finish(None, 1.0)
    failed.fail(LocalCancelled("x"), 1.0)
    assert done.finished
    assert failed.finished
    assert [done.encoded, failed.encoded] == [None, None]


def test_a_call_without_a_connection_has_no_name_yet() -> None:
    assert new_call().request_id == ""
