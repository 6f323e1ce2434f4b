"""Limits, configuration, codes and events: what can be said wrong is refused where it is said."""

from __future__ import annotations

import pytest

from tensorwire.protocol import Closed, Config, ErrorCode, Limits, Message, MessageAborted, Role, Status
from tensorwire.protocol.errors import error_code
from tensorwire.protocol.header import CONTROL_RULES, FrameType, type_name
from tensorwire.protocol.limits import RECEIVE_BUFFER
from tensorwire.protocol.records import PlainRecords


@pytest.mark.parametrize(
    "wrong", [{"chunk": 16383}, {"chunk": 2**20 + 1}, {"max_streams": 0}, {"max_message": 65535}, {"chunk": 0}]
)
def test_limits_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version_min": 2},
        {"version_min": 0},
        {"features_required": (1,)},
        {"key_id": bytes(65)},
        {"agent": "x" * 129},
        {"mac_algorithms": ()},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Config(Role.CLIENT, **wrong)  # type: ignore[arg-type]


def test_the_receive_buffer_holds_the_largest_frame_its_record_and_the_next_ones_head() -> None:
    assert RECEIVE_BUFFER >= 4 + 32 + 1024 + 65536 + 65536 + 16 + 4 + 32


def test_status_codes_are_grpcs_seventeen() -> None:
    assert [s.value for s in Status] == list(range(17))
    assert (Status.OK, Status.UNAVAILABLE, Status.UNAUTHENTICATED) == (0, 14, 16)


def test_an_unknown_error_code_counts_as_protocol() -> None:
    assert error_code(15) is ErrorCode.NOT_TENSORWIRE
    assert error_code(2**32 - 1) is ErrorCode.PROTOCOL


def test_every_control_type_that_is_built_has_a_rule() -> None:
    drafts = {FrameType.CREDIT, FrameType.RATE, FrameType.RESUME, FrameType.KEY_UPDATE}
    assert set(CONTROL_RULES) == set(FrameType) - drafts - {FrameType.OPEN, FrameType.DATA}


def test_types_have_names() -> None:
    assert type_name(5) == "OPEN"
    assert type_name(77) == "type 77"


def test_events_compare_by_value_and_show_themselves_in_short() -> None:
    message = Message(1, 0, 1, 0, 0, b"", bytes(99), memoryview(b"abc"), owned=False)
    assert message.end_stream
    assert "meta=<99 bytes>" in repr(message)
    assert "body=b'abc'" in repr(message)
    assert MessageAborted(1) == MessageAborted(1) != MessageAborted(2)
    assert MessageAborted(1) != Closed(ErrorCode.NO_ERROR, "", remote=False)
    with pytest.raises(TypeError):
        hash(message)


def test_plain_records_add_nothing() -> None:
    frames: list[bytes | memoryview] = [b"a", b"b"]
    assert PlainRecords().seal(frames, 2) is frames
