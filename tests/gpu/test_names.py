"""Every name, argument and flag of CUDA that the device path uses exists in the real packages, asked without a device.

The first run on a GPU must not be where a spelling error is met. Held against: torch (its CUDA classes are there in
the CPU build too), the pinned CuPy wheel, and the headers of the CUDA runtime. Both wheels lie in build/cuda, apart
from everything else: code that finds CuPy may behave otherwise than code that does not.
"""

from __future__ import annotations

import ast
import fcntl
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from tensorwire.gpu import devices, graphs, staging

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "build" / "cuda"
STAGING = sorted((ROOT / "gpu").glob("*.py"))
OTHERS = [
    ROOT / "server" / "engine" / "backends" / "torch_backend.py",
    ROOT / "tests" / "gpu" / "test_cuda.py",
    ROOT / "bench" / "gpu.py",
]
TORCH: dict[str, Any] = {"torch": torch, "self._torch": torch}
#: What the variables of gpu/ hold, where the name itself does not say it.
HELD: dict[str, Any] = {
    **TORCH,
    "self._copies": torch.cuda.Stream,
    "self._copied": torch.cuda.Event,
    "self._free": torch.cuda.Event,
    "compute": torch.cuda.Stream,
    "graph": torch.cuda.CUDAGraph,
    **dict.fromkeys(("target", "flat", "kept", "source", "output", "value"), torch.Tensor),
}
#: What torch's C++ functions take by keyword; they have no signature to ask for.
KEYWORDS = {"empty": {"dtype", "device"}, "full": {"device"}, "ones": {"device"}, "zeros": {"device"},
            "arange": {"device"}, "frombuffer": {"dtype"}, "copy_": {"non_blocking"}, "tensor": {"device"}}  # fmt: skip


@pytest.fixture(scope="module")
def wheels() -> Path:
    """The folder with CuPy and the headers; installed once, as constraints.txt pins them."""
    WHEELS.parent.mkdir(exist_ok=True)
    with (WHEELS.parent / ".cuda.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-s", "cuda-wheels"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
        )
    assert done.returncode == 0, done.stderr
    return WHEELS


def ask(wheels: Path, program: str) -> str:
    """What a program prints in an interpreter of its own that finds the wheels."""
    code = f"import sys; sys.path.insert(0, {str(wheels)!r})\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def path_of(node: ast.expr) -> str:
    """`a.b.c` as text; empty where it does not begin with a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def uses(source: str) -> Iterator[tuple[str, ast.Call | None]]:
    """Each dotted name of a file, with the call that is made of it."""
    tree = ast.parse(source)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner and path_of(node):
            yield path_of(node), called.get(id(node))


def problem(path: str, call: ast.Call | None, held: dict[str, Any]) -> str | None:
    """What is wrong with one use of a name; None: nothing; "-": it begins with none of those `held`."""
    root = next((r for r in sorted(held, key=len, reverse=True) if path.startswith(r + ".")), "")
    if not root:
        return "-"
    found = held[root]
    for name in path[len(root) + 1 :].split("."):
        if not hasattr(found, name):
            return f"{path}: no {name!r} in {found!r}"
        owner, found = found, getattr(found, name)
    if call is None or any(isinstance(each, ast.Starred) for each in call.args):
        return None
    keywords = {each.arg for each in call.keywords if each.arg}
    try:
        signature = inspect.signature(found)
    except ValueError:
        name = path.rpartition(".")[2]
        unknown = keywords - KEYWORDS.get(name, set())
        documented = all(each in (found.__doc__ or "") for each in keywords)
        return None if not unknown and documented else f"{path}: does not take {keywords}"
    bound_to = [object()] if inspect.isclass(owner) and inspect.isfunction(found) else []
    try:
        signature.bind(*bound_to, *call.args, **dict.fromkeys(keywords))
    except TypeError as error:
        return f"{path}: {error}"
    return None


def problems(source: str, held: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The names of a file that were looked at, and what is wrong with them."""
    seen = [(path, found) for path, call in uses(source) if (found := problem(path, call, held)) != "-"]
    return [path for path, _ in seen], [found for _, found in seen if found]


def test_every_name_and_argument_of_torch_that_the_device_path_uses_exists() -> None:
    sources = [(source, HELD) for source in STAGING] + [(source, TORCH) for source in OTHERS]
    results = [problems(source.read_text(), held) for source, held in sources]
    expected = {"torch.cuda.CUDAGraph", "torch.cuda.graph", "self._copies.wait_event", "graph.replay", "target.view",
                "torch.cuda.cudart", "torch.frombuffer", "self._free.record", "torch.cuda.current_stream"}  # fmt: skip
    assert expected <= {name for names, _ in results for name in names}
    assert [wrong for _, found in results for wrong in found] == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("torch.cuda.current_stream(", "torch.cuda.curent_stream("),
        ("torch.cuda.Stream(self.device)", "torch.cuda.Stream(self.device, 0, 1)"),
        ("self._copies.wait_event(self._free)", "self._copies.wait_event(self._free, 1)"),
        ("dtype=torch.uint8", "dtyp=torch.uint8"),
        ("self._free.record(compute)", "self._free.records(compute)"),
    ],
)
def test_a_spelling_error_would_be_found(right: str, wrong: str) -> None:
    source = Path(staging.__file__).read_text()
    assert right in source
    assert problems(source.replace(right, wrong, 1), HELD)[1]


def test_the_capture_mode_is_one_that_torch_knows() -> None:
    used = re.findall(r'capture_error_mode="(\w+)"', Path(graphs.__file__).read_text())
    known = re.search(r"capture_error_mode \(str, optional\):(.*?)\n\n", torch.cuda.graph.__doc__ or "", re.DOTALL)
    assert known is not None
    assert used
    assert all(f'"{mode}"' in known[1] for mode in used)


def test_every_dtype_that_is_staged_is_one_of_torch() -> None:
    assert all(isinstance(staging.torch_dtype(name), torch.dtype) for name in staging._TORCH_NAMES)


def test_onnx_runtime_knows_the_providers_by_these_names() -> None:
    source = (ROOT / "server" / "engine" / "backends" / "onnx.py").read_text()
    named = set(re.findall(r'"(\w+ExecutionProvider)"', source))
    assert named == {"CPUExecutionProvider", "CUDAExecutionProvider"}
    assert named <= set(onnxruntime.get_all_providers())


def test_pinning_through_torch_is_called_as_torch_calls_it_itself() -> None:
    """torch's binding of the CUDA runtime is in its CUDA build only, but torch's own use of it is in both."""
    theirs = (Path(torch.__file__).parent / "cuda" / "_pin_memory_utils.py").read_text()
    ours = (ROOT / "gpu" / "pinned.py").read_text()
    for name, arguments in (("cudaHostRegister", 3), ("cudaHostUnregister", 1)):
        for text in (theirs, ours):
            calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
            counts = [len(n.args) for n in calls if isinstance(n.func, ast.Attribute) and n.func.attr == name]
            assert counts == [arguments]


def test_every_function_of_cupy_is_there_and_takes_what_it_is_given(wheels: Path) -> None:
    """Without a driver each call gets past the check of its arguments and ends in CuPy's own error, which we catch."""
    source = (ROOT / "gpu" / "pinned.py").read_text() + Path(devices.__file__).read_text()
    named = set(re.findall(r"(?:self\._runtime|runtime)\.(\w+)", source)) - {"register", "unregister"}
    named -= {"cudaHostRegister", "cudaHostUnregister"}  # torch's
    assert named == {"setDevice", "hostRegister", "hostUnregister", "CUDARuntimeError", "driverGetVersion",
                     "getDeviceCount", "getDeviceProperties"}  # fmt: skip
    out = ask(
        wheels,
        """
import warnings; warnings.simplefilter("error")
import cupy
runtime = cupy.cuda.runtime
assert issubclass(runtime.CUDARuntimeError, Exception)
assert isinstance(runtime.driverGetVersion(), int)
asked = {"setDevice": (0,), "hostRegister": (1 << 40, 4096, 1), "hostUnregister": (1 << 40,), "getDeviceCount": (),
         "getDeviceProperties": (0,)}
for name, arguments in asked.items():
    try:
        getattr(runtime, name)(*arguments)
    except runtime.CUDARuntimeError:
        pass
    try:
        getattr(runtime, name)(*arguments, "one more")
    except TypeError:
        print(name)
""",
    )
    assert out.split() == ["setDevice", "hostRegister", "hostUnregister", "getDeviceCount", "getDeviceProperties"]


def test_the_properties_of_a_device_have_these_names(wheels: Path) -> None:
    source = Path(devices.__file__).read_text()
    named = set(re.findall(r"properties\[['\"](\w+)['\"]\]", source))
    assert named == {"name", "totalGlobalMem", "major", "minor"}
    header = next(wheels.glob("nvidia/*/include/driver_types.h")).read_text()
    fields = re.search(r"struct __device_builtin__ cudaDeviceProp\s*\{(.*?)\};", header, re.DOTALL)
    assert fields is not None
    assert all(re.search(rf"\b{name}\b", fields[1]) for name in named)
    binary = next(wheels.glob("cupy_backends/cuda/api/runtime*.so")).read_bytes()  # which makes them keys of a dict
    assert all(name.encode() in binary for name in named)


def test_flags_and_versions_are_as_the_headers_of_cuda_say(wheels: Path) -> None:
    header = next(wheels.glob("nvidia/*/include/driver_types.h")).read_text()
    portable = re.search(r"#define cudaHostRegisterPortable\s+(0x[0-9a-f]+)", header)
    assert portable is not None
    flags = re.findall(r"ostRegister\(address, nbytes, (\d+)\)", (ROOT / "gpu" / "pinned.py").read_text())
    assert [int(flag) for flag in flags] == [int(portable[1], 16)] * 2
    api = next(wheels.glob("nvidia/*/include/cuda_runtime_api.h")).read_text()
    version = re.search(r"#define CUDART_VERSION\s+(\d+)", api)
    installed = next(wheels.glob("nvidia_cuda_runtime-*.dist-info")).name.split("-")[1]
    assert version is not None
    assert devices._version(int(version[1])) == ".".join(installed.split(".")[:2])


def test_a_machine_without_a_driver_is_told_so_by_the_real_cupy(wheels: Path) -> None:
    out = ask(
        wheels,
        f"""
sys.path.insert(0, {str(ROOT / "src")!r})
from tensorwire.gpu import discover, cuda_problem
from tensorwire.gpu.pinned import pin_problem
print([device.kind for device in discover()][0]); print(cuda_problem() or "-"); print(pin_problem() or "-")
""",
    )
    kind, without, unpinned = out.splitlines()
    assert kind == "cpu"
    if not torch.cuda.is_available():
        assert "CUDA" in without
        assert "CUDARuntimeError" in unpinned
