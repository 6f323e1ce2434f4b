"""What is shipped: the wheel holds every module as a real file, the sdist builds, no forbidden call is in it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tensorwire.clients.cli.group import SERVER

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("protocol", "codec", "gpu", "server", "clients")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist and, from it, the wheel: what a release would upload."""
    out = tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    copy = tmp_path_factory.mktemp("tree")
    for name in filter(None, tracked):
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.write_bytes(source.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return out


@pytest.mark.xdist_group("wheel")
def test_the_wheel_brings_every_command_of_the_server(built: Path) -> None:
    """The group finds them by what an installed package says of itself."""
    parser = ConfigParser()
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
        parser.read_string(wheel.read(name).decode())
    commands = dict(parser["tensorwire.commands"])
    assert set(commands) == set(SERVER)
    for command, place in commands.items():
        assert EntryPoint(command, place, "tensorwire.commands").load().name == command


@pytest.mark.xdist_group("wheel")
def test_the_wheel_holds_every_module_as_a_real_file(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        infos = {info.filename: info for info in wheel.infolist()}
    expected = {f"tensorwire/{path.relative_to(ROOT)}" for part in PARTS for path in (ROOT / part).rglob("*.py")}
    expected |= {
        "tensorwire/__init__.py",
        "tensorwire/py.typed",
        "tensorwire/protocol/SPEC.md",
        "tensorwire/codec/tensor.fbs",
    }
    assert expected <= set(infos)
    assert all((infos[name].external_attr >> 16) & 0o170000 != 0o120000 for name in expected), (
        "a link was packed as a link"
    )
    assert not [name for name in infos if "wireshark" in name]
    assert all(infos[name].file_size for name in expected if not name.endswith("py.typed"))


@pytest.mark.xdist_group("wheel")
def test_the_sdist_holds_the_tests_and_the_licence(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {"LICENSE", "pyproject.toml", "constraints.txt", "tests/meta/test_wheel.py", "bench/__main__.py"} <= names
    assert "src/tensorwire/protocol/wireshark/tensorwire.lua" in names


@pytest.mark.xdist_group("wheel")
def test_the_wheel_imports_without_the_extras(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tensorwire; tensorwire.connect;"
        "print(tensorwire.__file__); unwanted = {'torch', 'click', 'rich', 'uvloop', 'pydantic', 'asyncio', 'PIL'};"
        "print(sorted(unwanted & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    path, modules = done.stdout.splitlines()
    assert path.startswith(str(tmp_path))
    assert modules == "[]"


def package_files() -> list[Path]:
    return [path for part in PARTS for path in (ROOT / part).rglob("*.py") if "generated" not in path.parts]


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_run_what_a_peer_sends(path: Path) -> None:
    """Pickle, eval, and loaders that unpickle are absent; a check is never an ``assert`` (it vanishes under -O)."""
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where}: assert in package code"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )
            assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle"} & set(names), f"{where}: unpickling"
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            assert name not in {"eval", "os.system"}, where
            if name == "torch.load":
                flag = keywords.get("weights_only")
                assert isinstance(flag, ast.Constant), f"{where}: torch.load without weights_only=True"
                assert flag.value is True, f"{where}: torch.load without weights_only=True"
            if name in {"np.load", "numpy.load"}:
                flag = keywords.get("allow_pickle")
                assert flag is None or (isinstance(flag, ast.Constant) and flag.value is False), where


def test_nothing_committed_names_one_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    needles = ["/" + "work/", "/" + "root/", "/" + "farm/"]
    for name in tracked:
        path = ROOT / name
        if (
            path.is_file()
            and not path.is_symlink()
            and path.suffix in {".py", ".md", ".toml", ".json", ".yaml", ".txt", ".fbs", ""}
        ):
            text = path.read_text(errors="replace")
            assert not [needle for needle in needles if needle in text], name
