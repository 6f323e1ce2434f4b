"""The service calls of both clients: a question as the inputs of an ordinary call, and its typed answer (SPEC 16)."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np

from ..codec import CodecError, DescribeRequest, Description, HealthReport, HealthRequest, ModelList, pack_service
from ..codec.service import PAYLOAD
from .errors import BadReply
from .results import Result

MODELS = "$models"
DESCRIBE = "$describe"
HEALTH = "$health"

Inputs = dict[str, Any]
T_co = TypeVar("T_co", covariant=True)


class _Readable(Protocol[T_co]):
    """A service message's class."""

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> T_co: ...


def ask_models() -> Inputs:
    """Make the inputs of ``$models``."""
    return _payload(pack_service({}))


def ask_describe(model: str, version: str) -> Inputs:
    """Make the inputs of ``$describe``."""
    return _payload(DescribeRequest(model, version).pack())


def ask_health(model: str, *, watch: bool) -> Inputs:
    """Make the inputs of ``$health``."""
    return _payload(HealthRequest(model, watch).pack())


def read_models(result: Result) -> ModelList:
    """Read the answer of ``$models``. Raises :class:`BadReply`, as the others do."""
    return _read(ModelList, result)


def read_description(result: Result) -> Description:
    """Read the answer of ``$describe``."""
    return _read(Description, result)


def read_health(result: Result) -> HealthReport:
    """One answer of ``$health``."""
    return _read(HealthReport, result)


def _payload(raw: bytes) -> Inputs:
    return {PAYLOAD: np.frombuffer(raw, np.uint8)}


def _read(kind: type[_Readable[T_co]], result: Result) -> T_co:
    payload = result.get(PAYLOAD)
    if not isinstance(payload, np.ndarray) or payload.dtype != np.uint8 or payload.ndim != 1:
        raise BadReply("the answer has no uint8 tensor 'payload'", request_id=result.request_id)
    try:
        return kind.unpack(payload.tobytes())
    except CodecError as error:
        raise BadReply(f"the answer cannot be read: {error}", request_id=result.request_id) from error
