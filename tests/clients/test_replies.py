"""Replies from bytes to results, and the tables that make it fast."""

from __future__ import annotations

import numpy as np
import pytest

from tensorwire.clients import replies
from tensorwire.clients.replies import ReplyDecoder, allocate_body
from tensorwire.codec import CodecError, Encoded, Encoder
from tensorwire.protocol import ProtocolError, pack_extension


def encoded(array: object, version: str = "3") -> tuple[Encoded, bytes]:
    message = Encoder().encode("m", version, {"y": array})
    return message, b"".join(message.buffers)


def test_a_reply_is_a_dict_of_arrays_with_what_came_along() -> None:
    message, body = encoded(np.arange(6.0).reshape(2, 3))
    result = ReplyDecoder().decode(pack_extension(dims=message.dims), message.meta, body, 0.0)
    np.testing.assert_array_equal(result["y"], np.arange(6.0).reshape(2, 3))
    assert (result.model, result.model_version, result.timing) == ("m", "3", None)
    assert not result["y"].flags.writeable


def test_timing_is_read_and_does_not_fill_the_table() -> None:
    message, body = encoded(np.arange(6.0))
    decoder = ReplyDecoder()
    for n in range(10):
        ext = pack_extension(dims=message.dims, timing=(n, 2, 3, 4, 5, 6, 7))
        result = decoder.decode(ext, message.meta, body, 0.001)
        assert result.timing is not None
        assert (result.timing.receive, result.timing.server_total, result.timing.round_trip) == (n, 7, 1000)
    assert len(decoder._by_extension) == 0
    assert len(decoder._by_dims) == 1


def test_the_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "LAYOUT_ENTRIES", 8)
    decoder = ReplyDecoder()
    for n in range(100):
        message, body = encoded(np.zeros(n))
        assert decoder.decode(pack_extension(dims=message.dims), message.meta, body, 0.0)["y"].shape == (n,)
        assert len(decoder._by_extension) <= 8


def test_a_body_of_the_wrong_length_and_bytes_without_sense_are_refused() -> None:
    message, body = encoded(np.zeros(4))
    ext = pack_extension(dims=message.dims)
    decoder = ReplyDecoder()
    with pytest.raises(CodecError):
        decoder.decode(ext, message.meta, body + b"x", 0.0)
    with pytest.raises(CodecError):
        decoder.decode(ext, b"\x00" * 32, body, 0.0)
    with pytest.raises(ProtocolError):
        decoder.decode(b"\xff\x00", message.meta, body, 0.0)
    assert decoder.decode(ext, message.meta, body, 0.0)["y"].shape == (4,)


@pytest.mark.parametrize("size", [1, 4096, 100_001])
def test_memory_for_big_bodies_is_page_aligned_and_writable(size: int) -> None:
    memory = allocate_body(size)
    assert memory.nbytes == size
    assert not memory.readonly
    assert np.frombuffer(memory, np.uint8).ctypes.data % 4096 == 0
