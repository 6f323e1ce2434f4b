"""Finds a check in the source by its tag, and changes it by its syntax: names, layout and file do not matter.

A comment `# guard: TAG` tags the statement on its line or, alone on a line, the next one: the `if`, the `except` or the
simple statement that stands against an attack. A part of the statement is a path in its syntax tree, as Python's `ast`
names it (`test.values[1]`: the second operand of the condition); the empty path is the whole statement. What comes in
its place is source text, in which `$` is the part itself and `$path` a part of the part: `$left < $comparators[0]`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

_TAG = re.compile(r"# guard: ([a-z0-9-]+)$")
_STEP = r"[a-z_]+(?:\[\d+\])?"
REFERENCE = re.compile(rf"\$({_STEP}(?:\.{_STEP})*)?")
"""A part of the part, in what comes in its place; group 1 is its path."""


class NoSuchPart(Exception):
    """A path names nothing in the tagged statement."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A tag and where it is; `line` counts from 1."""

    tag: str
    file: Path
    line: int


def find_guards(package: Path) -> list[Guard]:
    """All tags in the files of a package, whose parts may be links to folders."""
    folders = [package, *(path for path in sorted(package.iterdir()) if path.is_symlink())]
    files = [file for folder in folders for file in sorted(folder.resolve().rglob("*.py"))]
    return [
        Guard(found[1], file, number)
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1)
        if (found := _TAG.search(line))
    ]


def change(source: str, line: int, part: str, without: str) -> str:
    """The source with `without` in place of a part of the statement that is tagged in `line`, and the rest as it was.

    NoSuchPart if the path does not fit the statement, SyntaxError if `without` does not fit its place.
    """
    steps = part.split(".") if part else []
    way = [_statement(source, line)]
    for step in steps:
        way.append(_step(way[-1], step))
    text = REFERENCE.sub(lambda found: _text(_at(way[-1], found[1] or "")), without)
    # The outermost part is written anew, and not only the one meant: inside an f-string Python 3.11 knows no places.
    outer = next((node for node in way[1:] if hasattr(node, "end_col_offset")), way[0])
    if steps:
        new = ast.parse(f"({text})", mode="eval").body
        if way[-1] is not outer:
            _put(way[-2], steps[-1], new)
        text = ast.unparse(new if way[-1] is outer else outer)
    raw = source.encode()
    start, end = _span(raw, outer)
    return (raw[:start] + text.encode() + raw[end:]).decode()


def _statement(source: str, line: int) -> ast.AST:
    """The innermost statement or handler on a line of code; for a line of comment, on the next of code."""
    lines = source.split("\n")
    while lines[line - 1].strip().startswith("#"):
        line += 1
    kinds = (ast.stmt, ast.ExceptHandler)
    around = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    around = [node for node in around if node.lineno <= line <= (node.end_lineno or 0)]
    return max(around, key=lambda node: (node.lineno, node.col_offset))


def _at(node: ast.AST, path: str) -> ast.AST:
    for step in path.split(".") if path else ():
        node = _step(node, step)
    return node


def _step(node: ast.AST, step: str) -> ast.AST:
    field, _, index = step.rstrip("]").partition("[")
    found = getattr(node, field, None)
    if index and isinstance(found, list) and int(index) < len(found):
        found = found[int(index)]
    if not isinstance(found, ast.AST):
        raise NoSuchPart(f"no {step} in {ast.unparse(node).splitlines()[0]}")
    return found


def _put(node: ast.AST, step: str, new: ast.expr) -> None:
    field, _, index = step.rstrip("]").partition("[")
    if index:
        getattr(node, field)[int(index)] = new
    else:
        setattr(node, field, new)


def _text(node: ast.AST) -> str:
    return f"({ast.unparse(node)})" if isinstance(node, ast.expr) else ast.unparse(node)


def _span(raw: bytes, node: ast.AST) -> tuple[int, int]:
    """Where the text of a node begins and ends, in bytes."""
    begins = [0]
    for line in raw.split(b"\n"):
        begins.append(begins[-1] + len(line) + 1)
    assert isinstance(node, ast.stmt | ast.expr | ast.ExceptHandler | ast.keyword)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return begins[node.lineno - 1] + node.col_offset, begins[node.end_lineno - 1] + node.end_col_offset
