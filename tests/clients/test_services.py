"""Service calls: questions are ordinary inputs, answers are checked."""

from __future__ import annotations

import numpy as np
import pytest

from tensorwire.clients import services
from tensorwire.clients.errors import BadReply
from tensorwire.clients.results import Result
from tensorwire.codec import (
    DescribeRequest,
    Health,
    HealthReport,
    HealthRequest,
    ModelEntry,
    ModelList,
    State,
    unpack_service,
)


def answer(raw: bytes) -> Result:
    result = Result({"payload": np.frombuffer(raw, np.uint8)})
    result.connection_id, result.stream_id = b"\x00" * 8, 7
    return result


def test_questions_are_msgpack_in_one_tensor() -> None:
    assert unpack_service(services.ask_models()["payload"].tobytes()) == {}
    asked = services.ask_describe("m", "2")["payload"].tobytes()
    assert DescribeRequest.unpack(asked) == DescribeRequest("m", "2")
    asked = services.ask_health("m", watch=True)["payload"].tobytes()
    assert HealthRequest.unpack(asked) == HealthRequest("m", watch=True)


def test_answers_are_typed() -> None:
    models = ModelList((ModelEntry("m", "1", State.IDLE),))
    assert services.read_models(answer(models.pack())) == models
    health = HealthReport((Health("m", "1", State.STALLED),))
    assert services.read_health(answer(health.pack())) == health


@pytest.mark.parametrize("payload", [None, np.zeros(3, np.float32), np.zeros((1, 3), np.uint8)])
def test_an_answer_without_its_payload_is_a_bad_reply(payload: np.ndarray | None) -> None:
    result = answer(b"")
    if payload is None:
        del result["payload"]
    else:
        result["payload"] = payload
    with pytest.raises(BadReply, match="payload") as caught:
        services.read_models(result)
    assert caught.value.request_id == "0000000000000000-7"


def test_an_answer_that_is_no_msgpack_is_a_bad_reply() -> None:
    with pytest.raises(BadReply, match="cannot be read"):
        services.read_description(answer(b"\xc1"))
