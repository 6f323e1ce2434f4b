"""The handshake's goals hold against an attacker who is the network, and fail as soon as what they rest on is missing.

docs/handshake-model.md says what is modelled and what is not, and has the figures of the larger bounds.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from . import goals
from .explore import SCENARIOS, explore
from .machine import Client, Scenario
from .rules import INGREDIENTS, Hello, Welcome
from .terms import derives, parts, public, term

TWO = SCENARIOS["two"]
SAME_NONCE = (Client(nonce="same"), Client(nonce="same"))


@pytest.mark.parametrize(("name", "complete", "least"), [("two", 2, 7_000), ("wrong certificate", 1, 8_000)])
def test_every_goal_holds_in_every_state(name: str, complete: int, least: int) -> None:
    found = explore(SCENARIOS[name])
    print(f"{name}: {found.states} states")
    assert found.broken is None, "\n".join((found.broken, *found.trace))
    # Neither is it empty: honest ends that the attacker leaves alone open and take each other's records.
    assert found.complete == complete
    assert found.states >= least


# Left out: the goal that breaks.
NEEDED = {
    "binding": "server authentication",
    "secret": "secrecy",
    "info label": "records",
    "direction label": "records",
    "counter": "a counter repeats",
    "AUTH in client proof": "client authentication",
    **{f"HELLO.{name}": "server authentication" for name in Hello._fields if name not in {"draft", "nonce", "key_id"}},
    **{f"WELCOME.{name}": "server authentication" for name in Welcome._fields if name not in {"draft", "nonce"}},
}
# Each of these may go alone: what is named beside it stands in for it. When both go, the goal breaks.
DOUBLED = {
    "salt client nonce": (("HELLO.nonce",), "server authentication"),
    "salt server nonce": (("WELCOME.nonce",), "server authentication"),
    "HELLO.nonce": (("salt client nonce",), "server authentication"),
    "WELCOME.nonce": (("salt server nonce",), "server authentication"),
    "info TH": (("salt client nonce", "salt server nonce"), "records"),
    "server proof TH": (("info TH",), "server authentication"),
    "client proof TH": (("info TH", "salt client nonce", "salt server nonce"), "client authentication"),
    "server proof label": (("AUTH in client proof",), "client authentication"),
    "HELLO.key_id": (("a secret for each key",), "server authentication"),
    "a secret for each key": (("HELLO.key_id",), "server authentication"),
}
# Both ends take one value only, so there is nothing to alter.
CONSTANT = ("preface", "HELLO.draft", "WELCOME.draft")


def test_every_ingredient_has_a_verdict() -> None:
    assert sorted([*NEEDED, *DOUBLED, *CONSTANT, "proof zeroing"]) == sorted(INGREDIENTS)


def scenario_for(left_out: str) -> Scenario:
    return SCENARIOS["wrong certificate"] if left_out == "binding" else TWO


@pytest.mark.parametrize("left_out", NEEDED)
def test_without_it_an_attack_is_found(left_out: str) -> None:
    found = explore(scenario_for(left_out), [left_out])
    assert found.broken is not None
    assert found.broken.startswith(NEEDED[left_out])
    assert found.trace


@pytest.mark.parametrize("left_out", [*DOUBLED, *CONSTANT])
def test_without_it_something_else_still_holds(left_out: str) -> None:
    found = explore(TWO, [left_out])
    assert found.broken is None
    assert found.complete == 2


@pytest.mark.parametrize("left_out", DOUBLED)
def test_without_it_and_what_stands_in_for_it_an_attack_is_found(left_out: str) -> None:
    beside, broken = DOUBLED[left_out]
    found = explore(TWO, [left_out, *beside])
    assert found.broken is not None
    assert found.broken.startswith(broken)


def test_a_proof_that_covers_itself_completes_nothing() -> None:
    found = explore(TWO, ["proof zeroing"])
    assert (found.broken, found.complete) == (None, 0)


def test_without_the_counter_records_are_replayed_and_reordered() -> None:
    found = explore(TWO, ["counter"], [goals.records])
    assert found.broken is not None
    taken = re.search(r"takes \('(?:client|server)', 0, (\d)\) as record (\d)", found.broken)
    assert taken is not None, found.broken
    assert taken[1] != taken[2]


CARELESS = {
    "a client that does not check the proof": (replace(TWO, client_checks=False), "server authentication"),
    "a server that does not check the proof": (replace(TWO, server_checks=False), "client authentication"),
    "clients that draw the same nonce": (replace(TWO, clients=SAME_NONCE), "server authentication, injective"),
    "servers that draw the same nonce": (replace(TWO, fresh_server_nonces=False), "records"),
}


@pytest.mark.parametrize("name", CARELESS)
def test_a_careless_side_is_found_out(name: str) -> None:
    scenario, broken = CARELESS[name]
    found = explore(scenario)
    assert found.broken is not None
    assert found.broken.startswith(broken)


@pytest.mark.parametrize("scenario", [replace(TWO, clients=SAME_NONCE), replace(TWO, fresh_server_nonces=False)])
def test_a_nonce_drawn_twice_lets_a_replay_repeat_a_counter(scenario: Scenario) -> None:
    found = explore(scenario, watched=[goals.counters])
    assert found.broken is not None
    # Not so where the network replays nothing: then the other side's nonce keeps the keys apart.
    held = explore(replace(scenario, replay=False))
    assert (held.broken, held.complete) == (None, 2)


def test_nonces_that_both_sides_draw_twice_repeat_a_counter_in_any_network() -> None:
    found = explore(replace(TWO, clients=SAME_NONCE, fresh_server_nonces=False, replay=False), watched=[goals.counters])
    assert found.broken is not None


def test_the_attacker_opens_frames_and_computes_but_inverts_nothing() -> None:
    secret, nonce = term("secret", value="s"), term("fresh", value="n")
    known = parts([term("frame", term("entry", nonce), term("hash", secret))])
    assert derives(known, term("hmac", nonce, public("any", 1)))
    assert derives(known, term("hash", secret))
    assert not derives(known, secret)
    assert not derives(known, term("hmac", secret, nonce))
    assert not derives(parts([]), nonce)
