"""A header that breaks two rules is refused for the first of them, in the order of SPEC 3.2, before a byte more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.header_rules import CHUNK, LARGE_CHUNK, SITUATIONS, beginning, broken, headers
from tests.vectors.case import receive
from tests.vectors.player import Player, whole


@pytest.mark.parametrize("agreed", [CHUNK, LARGE_CHUNK])
@pytest.mark.parametrize("name", SITUATIONS)
def test_the_first_rule_that_a_header_breaks_decides(name: str, agreed: int) -> None:
    situation = replace(SITUATIONS[name], agreed=agreed)
    file, steps = beginning(situation)
    pairs = set()
    for header in headers(situation):
        rules = broken(situation, header)
        player = Player(file, {"role": situation.role, "start": "new"}, whole)
        player.play(steps)
        player.events.clear()
        player.play([receive(header.pack())])
        codes = [event["code"] for event in player.events if event["event"] == "closed"]
        assert codes == [rules[0][1]], (header, rules)
        pairs.add(tuple(rule for rule, _ in rules[:2]))
    assert len(pairs) > 6
