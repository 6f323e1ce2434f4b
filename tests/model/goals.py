"""What must hold in every state that an attacker can bring about.

What lives here: the goals, each a function that gives None or a sentence on how it is broken. What must not: how states
are reached (machine.py, explore.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from . import negotiation
from .machine import HONEST, Model, Side, State
from .terms import Term, derives, parts


def partner(model: Model, state: State, side: Side) -> Side | None:
    """The other role's side that holds the same true of the handshake."""
    if side.role == "client":
        return next((other for other in state[model.clients :] if other.view == side.view), None)
    opened = (other for other in state[: model.clients] if other.phase == "open")
    return next((other for other in opened if other.view == side.view and other.auth == side.auth), None)


def honest(side: Side) -> bool:
    """Whether both ends of this side's key are honest. "nobody's": the dummy's, which neither end has."""
    return bool(side.view) and side.view is not None and side.view[0].key_id in (*HONEST, "nobody's")


def secrecy(model: Model, state: State, moved: Side, known: frozenset[Term]) -> str | None:
    """No key of an honest pair can be made by the attacker, nor the secret that they come from."""
    for side in state:
        if honest(side):
            for label, key in side.keys.items():
                if derives(known, key):
                    return f"secrecy: the attacker has the key {label!r} of {side}"
    return None


def agreement(model: Model, state: State, moved: Side, known: frozenset[Term]) -> str | None:
    """Whoever opens for an honest key has one partner, and no other side has the same one: injective agreement on
    every entry of HELLO and WELCOME, so on version, MAC, features, limits, key id and nonces, and on the binding.
    """
    if moved.phase != "open" or moved.view is None or moved.view[0].key_id not in HONEST:
        return None
    goal = "server" if moved.role == "client" else "client"
    found = partner(model, state, moved)
    if found is None:
        return f"{goal} authentication: {moved} agrees with no {goal}; there are {state}"
    for other in state:
        if other is not moved and other.role == moved.role and other.phase == "open" and other.view == moved.view:
            return f"{goal} authentication, injective: {moved} and {other} both agree with {found}"
    return None


def no_downgrade(model: Model, state: State, moved: Side, known: frozenset[Term]) -> str | None:
    """What a client ends with is what the server picks from what this client really offered."""
    if moved.role == "client" and moved.phase == "open" and moved.view is not None:
        hello, welcome, _ = moved.view
        best = negotiation.choose(hello)
        if best != (welcome.versions, welcome.features, welcome.mac):
            return f"downgrade: {moved}, and the server would have picked {best}"
    return None


def counters(model: Model, state: State, moved: Side, known: frozenset[Term]) -> str | None:
    """No key makes two tags under one counter for different contents: as GMAC's nonce, that would give the key away."""
    used = dict(moved.sealed)
    if any(used[pair] != contents for pair, contents in moved.sealed):
        return f"a counter repeats under one key: {moved} seals {[what for _, what in moved.sealed]}"
    for other in state:
        if other is not moved:
            for pair, contents in other.sealed:
                if used.get(pair, contents) != contents:
                    return f"a counter repeats under one key: {moved} seals {used[pair]}, {other} seals {contents}"
    return None


def accepted(side: Side, known: frozenset[Term]) -> Iterator[tuple[int, object]]:
    """(position, contents) of the records that the attacker can make this side accept, other than with its own keys."""
    for tag, taken in side.accepts.items():  # in this order, and not a set's: what is found first must not be chance
        if tag in known:
            yield from taken


def records(model: Model, state: State, moved: Side, known: frozenset[Term]) -> str | None:
    """A record that is accepted was sent by the partner, in this session, at this position."""
    for side in state:
        if side.accepts and side.view and side.view[0].key_id in HONEST:
            other = partner(model, state, side)
            sent = dict(enumerate(other.sent)) if other else {}
            for position, contents in accepted(side, known):
                if sent.get(position) != contents:
                    return f"records: {side} takes {contents} as record {position}; its partner sent {sent}"
    return None


Goal = Callable[[Model, State, Side, frozenset[Term]], str | None]
GOALS: tuple[Goal, ...] = (secrecy, agreement, no_downgrade, counters, records)


def broken(model: Model, state: State, moved: Side, watched: Collection[Goal] = GOALS) -> str | None:
    """The first of the goals that does not hold in `state`, which `moved` has just brought about; None if all hold."""
    known = model.known(state)
    return next((what for goal in watched if (what := goal(model, state, moved, known))), None)


def complete(model: Model, state: State) -> int:
    """Clients that are open, with a server that is, and take every record of each other: what must be reachable."""
    done = 0
    for side in state[: model.clients]:
        other = partner(model, state, side) if side.phase == "open" else None
        if other and other.phase == "open":
            # Only what the two themselves have sent.
            known = parts([*side.emitted, *other.emitted])
            want = [set(enumerate(one.sent)) if one.sealed else set() for one in (side, other)]
            done += set(accepted(other, known)) >= want[0] and set(accepted(side, known)) >= want[1]
    return done
