"""DLPack in (what numpy's bridge takes and what it does not) and out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import CodecError, Encoder, decode_arrays, decode_metadata, resolve
from tensorwire.codec.dlpack import from_dlpack

torch = pytest.importorskip("torch")
masked_tensor = pytest.importorskip("torch.masked").masked_tensor
FakeTensorMode = pytest.importorskip("torch._subclasses.fake_tensor").FakeTensorMode


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


IMAGINARY = torch.tensor([[1 + 2j]])


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize(
    ("make", "right"),
    [
        (lambda: IMAGINARY.conj().imag, [-2.0]),
        (IMAGINARY.conj, [1 - 2j]),
        (lambda: torch._neg_view(IMAGINARY.conj()), [-1 + 2j]),
        (lambda: IMAGINARY.to(torch.complex32).conj().imag, [-2.0]),
        (lambda: torch._neg_view(torch.tensor(3.0)), [-3.0]),
        (lambda: torch._neg_view(torch.ones(3))[::2], [-1.0, -1.0]),
        (lambda: torch.nn.Parameter(torch._neg_view(torch.ones(1)), requires_grad=False), [-1.0]),
        (lambda: torch.nn.Buffer(torch.ones(1)), [1.0]),
        (lambda: torch.ones(1).expand(3), [1.0, 1.0, 1.0]),
        (lambda: [torch.ones(1), torch.zeros(1)], [1.0, 0.0]),
    ],
)
def test_a_tensor_arrives_as_torch_prints_it(make: Callable[[], Any], right: list[Any]) -> None:
    assert sent(make()) == right


def test_a_negated_bfloat16_arrives_negated() -> None:
    tensor = torch._neg_view(torch.ones(2, dtype=torch.bfloat16))
    (buffer,) = Encoder().encode("m", "", {"x": tensor}).buffers
    assert bytes(buffer) == b"\x80\xbf" * 2


def sent(value: Any) -> list[Any]:
    message = Encoder().encode("m", "", {"x": value})
    body = memoryview(b"".join(message.buffers))
    values: list[Any] = (
        decode_arrays(resolve(decode_metadata(message.meta), message.dims), body)["x"].flatten().tolist()
    )
    return values


class Wrapper(torch.Tensor):  # type: ignore[name-defined,misc]  # torch is imported where it is installed
    """A tensor without memory, as quantised and distributed ones are: what it holds is elsewhere."""

    @staticmethod
    def __new__(cls) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, (2,))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(str(func))


@pytest.mark.filterwarnings("ignore")  # torch says that quantised, nested and masked tensors are deprecated or new
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch._efficientzerotensor(2),
        lambda: torch._efficientzerotensor((2, 3), dtype=torch.bfloat16),
        lambda: FakeTensorMode().from_tensor(torch.ones(2)),
        lambda: torch.ones(2, device="meta"),
        Wrapper,
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.eye(2).to_sparse_csr(),
        lambda: torch.ones(2, 2).to_mkldnn(),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 10, torch.quint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        lambda: masked_tensor(torch.ones(2), torch.tensor([True, False])),
        lambda: torch.ones(2, dtype=torch.complex32),
        lambda: torch.nn.Parameter(torch.ones(2)),
        lambda: [IMAGINARY.conj().imag[0]],
        lambda: [torch.ones(2, requires_grad=True)],
    ],
)
def test_a_tensor_whose_numbers_are_not_in_its_memory_is_refused_in_one_line(make: Callable[[], Any]) -> None:
    with pytest.raises(CodecError, match="'x'") as caught:
        sent(make())
    assert "\n" not in str(caught.value)


def test_a_tensor_inside_a_transformation_is_refused() -> None:
    def inside(x: Any) -> Any:
        with pytest.raises(CodecError, match="'x'"):
            sent(x)
        return x.sum()

    torch.func.vmap(inside)(torch.ones(3, 2))
    torch.func.grad(inside)(torch.ones(2))
    torch.func.jvp(inside, (torch.ones(2),), (torch.ones(2),))
    torch.func.functionalize(inside)(torch.ones(2))


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
