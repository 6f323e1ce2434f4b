"""Symbolic terms, and what an attacker can make of those that he saw (Dolev-Yao).

What lives here: terms as trees, each built once so that equal terms are one object, and the attacker's deduction. What
must not: what tensorwire computes with them (rules.py).

Constructors are free: two terms are equal only if they are built alike, and of hash, HMAC and HKDF nothing but the
result is learned. Whoever sees a framing constructor (cat, sized, entry, frame) sees its parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

TRANSPARENT = frozenset({"cat", "sized", "entry", "frame"})
GUESSABLE = frozenset({"public"})  # known to everybody from the start
ATOMS = frozenset({"public", "fresh", "secret"})  # fresh: known once it was sent; secret: never sent

_TERMS: dict[tuple[Any, ...], Term] = {}


class Term:
    """One node. Equality is identity: `term` gives the same object for the same arguments."""

    __slots__ = ("args", "guards", "head", "value")

    guards: frozenset[Term]
    """The subterms, itself included, that hold a secret: none of them is made without one of them."""

    def __init__(self, head: str, value: Any, args: tuple[Term, ...]) -> None:
        self.head = head
        self.value = value
        self.args = args
        guards = frozenset[Term]().union(*(arg.guards for arg in args))
        self.guards = guards | {self} if guards or head == "secret" else guards

    def __repr__(self) -> str:
        name = self.head if self.value is None else f"{self.head}:{self.value}"
        return f"{name}({', '.join(map(repr, self.args))})" if self.args else name


def term(head: str, *args: Term, value: Any = None) -> Term:
    """The term with this constructor, value (of atoms: their name) and arguments."""
    key = (head, value, args)
    found = _TERMS.get(key)
    if found is None:
        found = _TERMS[key] = Term(head, value, args)
    return found


def public(name: str, value: Any) -> Term:
    """A value that anybody can say: a version, a list of algorithms, a counter."""
    return term("public", value=(name, value))


def parts(sent: Iterable[Term]) -> frozenset[Term]:
    """What is learned from terms that were sent: themselves, and what their framing holds."""
    learned: set[Term] = set()
    to_open = list(sent)
    while to_open:
        one = to_open.pop()
        if one not in learned:
            learned.add(one)
            if one.head in TRANSPARENT:
                to_open.extend(one.args)
    return frozenset(learned)


def derives(known: AbstractSet[Term], goal: Term) -> bool:
    """Whether `goal` can be made of `known` (as `parts` gives it) and of what everybody knows."""
    if goal in known or goal.head in GUESSABLE:
        return True
    if goal.guards and goal.guards.isdisjoint(known):
        return False
    return goal.head not in ATOMS and all(derives(known, arg) for arg in goal.args)
