"""The C core refuses a header that breaks two rules for the first of them, as the Python core does (SPEC 3.2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.c.test_c_vectors import Play, commands_of
from tests.support.header_rules import CHUNK, LARGE_CHUNK, SITUATIONS, beginning, broken, headers
from tests.vectors.case import receive
from tests.vectors.player import Json


def test_the_first_rule_that_a_header_breaks_decides(programs: Path) -> None:
    asked = []
    for situation in (replace(each, agreed=agreed) for each in SITUATIONS.values() for agreed in (CHUNK, LARGE_CHUNK)):
        if situation.role != "client":
            continue
        file, steps = beginning(situation)
        for header in headers(situation):
            vector: Json = {"role": "client", "start": "new", "steps": [*steps, receive(header.pack())]}
            commands = [command for command, _ in commands_of(file, vector, 0)]
            asked.append((header, broken(situation, header), commands))
    answers = Play(programs / "play").run([command for _, _, commands in asked for command in commands])
    at = 0
    for header, rules, commands in asked:
        mine = answers[at : at + len(commands)]
        at += len(commands)
        codes = [int(fields["code"]) for answer in mine for name, fields in answer if name == "closed"]
        assert codes == [rules[0][1]], (header, rules)
    assert len(asked) > 1000
