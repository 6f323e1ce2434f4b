"""The list of checks is about the code as it is: each stands where it says, its test is there, the page has it."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.attacks.mutants import BEGIN, END, PAGE, ROOT, Mutant, read_list, table

MUTANTS = read_list([])


@cache
def source(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def functions(name: str) -> frozenset[str]:
    nodes = ast.walk(ast.parse(source(name)))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.attack} ({mutant.file})" for mutant in MUTANTS])
def test_a_check_of_the_list_can_be_taken_out_and_its_test_is_there(mutant: Mutant) -> None:
    text = source(mutant.file)
    assert text.count(mutant.check) == 1
    changed = text.replace(mutant.check, mutant.without)
    assert changed != text
    compile(changed, mutant.file, "exec")
    path, _, name = mutant.test.partition("::")
    assert not name or name.partition("[")[0] in functions(path)


def test_the_page_has_the_table_of_the_list() -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert rest.partition(END)[0] == table(MUTANTS), "run: python tests/attacks/mutants.py --table"
