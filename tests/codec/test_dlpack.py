"""DLPack in (what numpy's bridge takes and what it does not) and out."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import CodecError, Encoder, decode_arrays, decode_metadata, resolve
from tensorwire.codec.dlpack import from_dlpack

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "name",
    [
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "complex64",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    ],
)
def test_every_torch_dtype_arrives_with_its_bits(name: str) -> None:
    tensor = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]).to(getattr(torch, name)).reshape(2, 3)
    dtype, array = from_dlpack(tensor)
    assert dtype.name == name
    assert array.shape == (2, 3)
    assert array.tobytes() == bytes(tensor.flatten().view(torch.uint8).tolist())


def test_strides_offsets_and_0_d_are_followed() -> None:
    tensor = torch.arange(12).to(torch.bfloat16).reshape(3, 4)
    for view in (tensor.T, tensor[1:, ::2], tensor[1, 2], tensor[:0]):
        _, array = from_dlpack(view)
        expected = np.array(view.contiguous().view(torch.uint16).tolist(), np.uint16).reshape(tuple(view.shape))
        assert np.array_equal(array, expected)


def test_the_memory_lives_as_long_as_the_array() -> None:
    tensor = torch.ones(1000, dtype=torch.bfloat16)
    (buffer,) = Encoder().encode("m", "", {"x": tensor}).buffers
    del tensor
    gc.collect()
    reused = [torch.zeros(1000, dtype=torch.bfloat16) for _ in range(8)]
    assert bytes(buffer) == b"\x80\x3f" * 1000
    assert len(reused) == 8


def test_a_tensor_that_requires_grad_is_refused_with_the_way_out() -> None:
    with pytest.raises(CodecError, match="detach"):
        from_dlpack(torch.ones(2, requires_grad=True))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_nine_dimensions_are_refused(name: str) -> None:
    with pytest.raises(CodecError, match="'x': array has 9 dimensions"):
        Encoder().encode("m", "", {"x": torch.zeros((1,) * 9, dtype=getattr(torch, name))})


class Elsewhere:
    """A producer in device memory."""

    def __dlpack__(self, **_: Any) -> Any:
        raise RuntimeError("must not be asked")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class Deviceless:
    """A producer that speaks half of the protocol."""

    def __dlpack__(self, **_: Any) -> Any:
        return None


def test_device_memory_is_refused_with_the_way_out() -> None:
    with pytest.raises(CodecError, match=r"\.cpu\(\)"):
        from_dlpack(Elsewhere())


def test_half_a_protocol_is_refused() -> None:
    with pytest.raises(CodecError, match="__dlpack_device__"):
        Encoder().encode("m", "", {"x": Deviceless()})


def test_decoded_views_reach_torch_through_dlpack_without_a_copy() -> None:
    message = Encoder().encode("m", "", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    body = bytearray(b"".join(message.buffers))
    array = decode_arrays(resolve(decode_metadata(message.meta), message.dims), memoryview(body))["x"]
    tensor = torch.from_dlpack(array)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]
