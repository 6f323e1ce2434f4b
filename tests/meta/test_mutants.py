"""The list of checks and the source agree tag for tag, however the source is named, laid out or moved."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import subprocess
import sys
import tokenize
from collections import Counter
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from tests.attacks.guards import REFERENCE, NoSuchPart, change, find_guards
from tests.attacks.mutants import BEGIN, END, PACKAGE, PAGE, ROOT, Mutant, read_list, table

MUTANTS = read_list([])
GUARDS = find_guards(ROOT / PACKAGE)
PLACES = {guard.tag: guard for guard in GUARDS}
LIBRARIES = {*dir(builtins), *dir(str), *dir(object), "pickle", "TLSv1_2", "CERT_OPTIONAL", "__stderr__"}


@cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def functions(path: str) -> frozenset[str]:
    nodes = ast.walk(ast.parse(source(ROOT / path)))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def renamed(path: Path) -> str:
    """The source with `_renamed` behind every name in it."""
    lines = source(path).split("\n")
    for token in reversed(list(tokenize.generate_tokens(StringIO(source(path)).readline))):
        if token.type == tokenize.NAME and token.string not in {*keyword.kwlist, *keyword.softkwlist}:
            row, end = token.end
            lines[row - 1] = f"{lines[row - 1][:end]}_renamed{lines[row - 1][end:]}"
    return "\n".join(lines)


def test_each_tag_stands_once_in_the_source_and_is_in_the_list() -> None:
    assert [tag for tag, times in Counter(guard.tag for guard in GUARDS).items() if times > 1] == []
    assert set(PLACES) ^ {mutant.guard for mutant in MUTANTS} == set()


def test_an_attack_is_in_the_list_once() -> None:
    assert [attack for attack, times in Counter(mutant.attack for mutant in MUTANTS).items() if times > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.attack} ({mutant.guard})" for mutant in MUTANTS])
def test_a_check_of_the_list_can_be_taken_out_and_its_test_is_there(mutant: Mutant) -> None:
    guard = PLACES[mutant.guard]
    changed = change(source(guard.file), guard.line, mutant.part, mutant.without)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source(guard.file)))
    compile(changed, guard.file.name, "exec")
    path, _, name = mutant.test.partition("::")
    assert not name or name.partition("[")[0] in functions(path)


def test_the_same_checks_are_taken_out_of_a_source_in_which_every_name_is_another() -> None:
    for mutant in MUTANTS:
        guard = PLACES[mutant.guard]
        changed = change(source(guard.file), guard.line, mutant.part, mutant.without)
        again = change(renamed(guard.file), guard.line, mutant.part, mutant.without)
        assert again != changed
        assert again.replace("_renamed", "") == changed, mutant


def test_the_same_checks_are_taken_out_of_files_that_were_moved_and_laid_out_anew(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "linked").symlink_to(tmp_path / "deep")
    for number, path in enumerate(sorted({guard.file for guard in GUARDS})):
        (tmp_path / "deep" / "er" / f"moved_{number}.py").write_text(source(path), encoding="utf-8")
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "format", "--isolated", "--line-length", "79", tmp_path / "deep"], check=True, timeout=60)
    moved = {guard.tag: guard for guard in find_guards(tmp_path / "package")}
    assert set(moved) == set(PLACES)
    one_a_file = {PLACES[mutant.guard].file: mutant for mutant in MUTANTS}
    for mutant in one_a_file.values():
        old, new = PLACES[mutant.guard], moved[mutant.guard]
        changed = change(source(old.file), old.line, mutant.part, mutant.without)
        again = change(source(new.file), new.line, mutant.part, mutant.without)
        assert ast.dump(ast.parse(again)) == ast.dump(ast.parse(changed)), mutant


def test_what_a_mutant_itself_names_is_in_its_file() -> None:
    """Otherwise it dies of a NameError, whether or not its test notices that the check is gone."""
    for mutant in MUTANTS:
        text = REFERENCE.sub("", re.sub(r"""b?(["']).*?\1""", "", mutant.without))
        named = set(re.findall(r"\b[A-Za-z_]\w*", text)) - {*LIBRARIES, *keyword.kwlist}
        assert {name for name in named if not re.search(rf"\b{name}\b", source(PLACES[mutant.guard].file))} == set()


def test_a_path_that_does_not_fit_its_statement_is_told() -> None:
    with pytest.raises(NoSuchPart, match=r"no values\[2\] in a or b"):
        change("if a or b:  # guard: x\n    pass\n", 1, "test.values[2]", "False")


@pytest.mark.parametrize(
    ("part", "without", "expected"),
    [
        ("test", "False", "if False:  # guard: x\n    run('\xe9')  # why\n"),
        ("test.values[0]", "$left < $comparators[0]", "if a < 1 or b:  # guard: x\n    run('\xe9')  # why\n"),
        ("test", "$values[1] and ($)[0]", "if b and (a > 1 or b)[0]:  # guard: x\n    run('\xe9')  # why\n"),
        ("", "assert not $test", "assert not (a > 1 or b)  # why\n"),
        ("body[0].value.args[0]", "f($)", "if a  > 1 or b:  # guard: x\n    run(f('\xe9'))  # why\n"),
    ],
)
def test_a_part_gives_way_and_the_rest_stays(part: str, without: str, expected: str) -> None:
    assert change("if a  > 1 or b:  # guard: x\n    run('\xe9')  # why\n", 1, part, without) == expected


def test_the_page_has_the_table_of_the_list() -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert rest.partition(END)[0] == table(MUTANTS), "run: make mutants ARGS=--table"
