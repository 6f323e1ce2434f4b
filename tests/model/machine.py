"""The two roles, and every step that an attacker who is the network can make them take.

What lives here: the state of a run and its successors. What must not: what is good or bad about one (goals.py).

The attacker hands each honest side any message that he can make, in any order, any number of times, or never: that is
every drop, replay, reordering and splice. What a side sends depends on nothing but the one message that made it send,
so it is sent at once, and a state is no more than what each side has accepted. Whether a record is accepted changes
nothing that is sent: goals.py asks it of every state instead of making it a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import negotiation
from .negotiation import ATTACKERS_NONCE, HELLO_VALUES, WELCOME_VALUES
from .rules import KEY_IDS, Hello, Rules, Welcome, nonce
from .terms import Term, derives, parts

HONEST = ("A", "B")  # key ids whose secret no attacker has
EXTRA = ("", "altered")  # unknown entries in AUTH
CERTIFICATE = "the server's certificate"
CLOSE = "CLOSE"
FORGED = "forged"


@dataclass(frozen=True)
class Client:
    """One client: its key, the certificate it was shown, its MACs, and its nonce where that is not its own."""

    key_id: str = "A"
    binding: str = CERTIFICATE
    mac: tuple[str, ...] = negotiation.MACS[:2]
    nonce: str = ""


@dataclass(frozen=True)
class Scenario:
    """Who takes part, and the bounds."""

    clients: tuple[Client, ...] = (Client(), Client())
    servers: int = 2
    altered: int = 1
    """Entries of a HELLO or WELCOME that the attacker replaces at once."""
    entries: tuple[str, ...] = Hello._fields + Welcome._fields[-2:]
    """Which of them he replaces."""
    records: int = 2
    """Records that each side sends."""
    replay: bool = True
    """False: a network that loses, delays and exchanges messages, but makes none up and delivers none twice."""
    fresh_server_nonces: bool = True
    client_checks: bool = True
    server_checks: bool = True


class Side:
    """A client or server as it stands: what it has sent, and what it would accept next. One object for each."""

    __slots__ = ("accepts", "auth", "emitted", "index", "keys", "phase", "role", "sealed", "sent", "view")

    def __init__(self, role: str, index: int, phase: str) -> None:
        self.role = role
        self.index = index
        self.phase = phase  # client: hello, open; server: waiting, welcomed, open, refused
        self.view: tuple[Hello, Welcome, str] | None = None
        """What it holds true of the handshake: HELLO, WELCOME, binding."""
        self.auth: str | None = None
        self.emitted: frozenset[Term] = frozenset()
        self.keys: dict[str, Term] = {}
        self.sent: tuple[Any, ...] = ()
        """Contents of its records, by position."""
        self.sealed: tuple[tuple[tuple[Term, int], Any], ...] = ()
        """((key, counter), contents) of each tag it made."""
        self.accepts: dict[Term, list[tuple[int, Any]]] = {}
        """Tags that it would accept, with the position and contents that each is right for."""

    def __repr__(self) -> str:
        return f"{self.role} {self.index} is {self.phase}: {self.view}, AUTH {self.auth!r}"


State = tuple[Side, ...]


class Model:
    """The transition system of one scenario under one set of rules."""

    def __init__(self, scenario: Scenario, rules: Rules | None = None) -> None:
        self.scenario = scenario
        self.rules = rules or Rules()
        self.clients = len(scenario.clients)
        self._sides: dict[tuple[Any, ...], Side] = {}
        self._hellos: dict[tuple[str, ...], dict[Hello, int]] = {}
        self._welcomes: dict[tuple[Any, ...], dict[Term | None, list[Side]]] = {}
        self._proofs: dict[tuple[Any, ...], Term] = {}
        records = range(scenario.records)
        sides = [("client", index) for index in range(self.clients)]
        sides += [("server", index) for index in range(scenario.servers)]
        self.contents = [FORGED, CLOSE, *((*side, position) for side in sides for position in records)]
        self.start: State = (
            *(self._waiting_client(index) for index in range(self.clients)),
            *(Side("server", index, "waiting") for index in range(scenario.servers)),
        )
        self.attacker = parts([nonce(ATTACKERS_NONCE), self.rules.secret("M")])

    def known(self, state: State) -> frozenset[Term]:
        """All that the attacker has seen."""
        return self.attacker.union(*(side.emitted for side in state))

    def steps(self, state: State) -> Iterator[tuple[int, State]]:
        """(index of the side that moved, the state after it)."""
        known = self.known(state)
        for index, side in enumerate(state):
            if side.phase == "hello":
                moves = self._client_steps(state, index, known)
            elif side.phase == "waiting" and (index == self.clients or state[index - 1].phase != "waiting"):
                moves = self._hello_steps(state, side)  # servers not yet used are alike: the first one is taken
            elif side.phase == "welcomed":
                moves = self._auth_steps(side, known)
            else:
                continue
            for moved in moves:
                yield index, (*state[:index], moved, *state[index + 1 :])

    # ---- the server ----

    def _hello_steps(self, state: State, side: Side) -> Iterator[Side]:
        servers = state[self.clients : self.clients + side.index]
        seen = [server.view[0] for server in servers if server.view]
        if not self.scenario.replay:
            sent = [self._offer(index) for index in range(self.clients)]
            for hello in seen:
                sent.remove(hello)
            hellos = dict.fromkeys(sent, 0)
            least = 0
        else:
            # Servers are alike: of two that got messages that were there from the start, the first got the earlier one.
            hellos = self._hello_candidates(self._nonces(state))
            least = hellos[seen[-1]] if seen else 0
        for hello, rank in hellos.items():
            if rank >= least or rank < 0:
                yield self._server(side.index, hello, "welcomed", "")

    def _auth_steps(self, side: Side, known: frozenset[Term]) -> Iterator[Side]:
        assert side.view is not None
        hello = side.view[0]
        for extra in EXTRA:
            expected = self._client_proof(side, extra)
            # Without a key there is nothing to prove; an id that is nobody's is refused whatever the proof.
            if hello.key_id in ("", *KEY_IDS) and (
                expected is None or not self.scenario.server_checks or derives(known, expected)
            ):
                yield self._server(side.index, hello, "open", extra)
        yield self._server(side.index, hello, "refused", "")

    def _server(self, index: int, hello: Hello, phase: str, extra: str) -> Side:
        key = ("server", index, hello, phase, extra)
        if key not in self._sides:
            number = index if self.scenario.fresh_server_nonces else 0
            choice = negotiation.choose(hello)
            assert choice is not None
            welcome = Welcome(
                choice.versions, 1, f"server {number}", choice.features, choice.mac,
                "server's", "server", f"connection {number}", "boot",
            )  # fmt: skip
            side = self._sides[key] = Side("server", index, phase)
            side.auth = extra if phase == "open" else None
            th = self._agree(side, (hello, welcome, CERTIFICATE), None)
            proof = self.rules.server_proof(side.keys, th) if side.keys else None
            out = [self.rules.welcome(welcome, proof)]
            if phase == "open":
                side.sent = tuple(("server", index, position) for position in range(self.scenario.records))
            elif phase == "refused":
                side.sent = (CLOSE,)
            self._seal(side, out, phase == "open")
        return self._sides[key]

    # ---- the client ----

    def _waiting_client(self, index: int) -> Side:
        spec = self.scenario.clients[index]
        side = Side("client", index, "hello")
        hello = Hello(
            negotiation.VERSIONS, 1, spec.nonce or f"client {index}", (2, 3, negotiation.GREASE), (2,),
            spec.mac, spec.key_id, "client's", "client",
        )  # fmt: skip
        # A waiting client's WELCOME is unknown: the view holds HELLO for those who look for it.
        side.view = (hello, Welcome(0, 0, "", (), "", "", "", "", ""), spec.binding)
        side.emitted = parts([self.rules.hello(hello)])
        return side

    def _client_steps(self, state: State, index: int, known: frozenset[Term]) -> Iterator[Side]:
        bases = [side.view[1] for side in state[self.clients :] if side.view]
        if not self.scenario.replay:
            for client in state[: self.clients]:
                if client.phase == "open" and client.view:
                    bases.remove(client.view[1])
        made_up = negotiation.choose(self._offer(index)) if self.scenario.replay else None
        if made_up:
            choice = (made_up.versions, 1, ATTACKERS_NONCE, made_up.features, made_up.mac)
            bases.append(Welcome(*choice, "server's", "server", "altered", "boot"))
        nonces = self._nonces(state)
        for base in dict.fromkeys(bases):
            offers = self._welcome_candidates(index, base, nonces)
            for expected, sides in offers.items():
                if expected is None or expected in known or derives(known, expected):
                    yield from sides

    def _welcome_candidates(self, index: int, base: Welcome, nonces: tuple[str, ...]) -> dict[Term | None, list[Side]]:
        """What the client makes of each WELCOME, by the proof it asks for; None: it asks for none."""
        key = (index, base, nonces)
        if key not in self._welcomes:
            values = self._values(WELCOME_VALUES, nonces)
            offers: dict[Term | None, list[Side]] = {}
            for welcome in negotiation.altered(base, values, self.scenario.altered * self.scenario.replay):
                if negotiation.acceptable(self._offer(index), welcome):
                    side, expected = self._open_client(index, welcome)
                    if side is not None:
                        offers.setdefault(expected, []).append(side)
            self._welcomes[key] = offers
        return self._welcomes[key]

    def _open_client(self, index: int, welcome: Welcome) -> tuple[Side | None, Term | None]:
        side = Side("client", index, "open")
        view = (self._offer(index), welcome, self.scenario.clients[index].binding)
        th = self._agree(side, view, None)
        expected = self.rules.server_proof(side.keys, th)
        if "proof zeroing" in self.rules.without:
            # The client hashes the proof that it got, which must be the one that it then computes: there is none.
            th = self._agree(side, view, expected)
            if self.rules.server_proof(side.keys, th) is not expected:
                return None, None
        side.auth = ""
        side.sent = tuple(("client", index, position) for position in range(self.scenario.records))
        proof = self.rules.client_proof(side.keys, th, side.auth)
        self._seal(side, [self.rules.hello(view[0]), self.rules.auth(side.auth, proof)], True)
        return side, expected if self.scenario.client_checks else None

    # ---- both ----

    def _offer(self, index: int) -> Hello:
        view = self.start[index].view
        assert view is not None
        return view[0]

    def _values(self, values: dict[str, tuple[Any, ...]], nonces: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
        """What the attacker puts in the place of each entry."""
        every = {**values, "nonce": (*nonces, ATTACKERS_NONCE)}
        return {name: others for name, others in every.items() if name in self.scenario.entries}

    def _nonces(self, state: State) -> tuple[str, ...]:
        """The nonces sent so far, for the attacker to put elsewhere."""
        clients = [side.view[0].nonce for side in state[: self.clients] if side.view]
        servers = [side.view[1].nonce for side in state[self.clients :] if side.view]
        return tuple(dict.fromkeys(clients + servers))

    def _hello_candidates(self, nonces: tuple[str, ...]) -> dict[Hello, int]:
        """Every HELLO that a server would welcome, with its rank; -1 for those that hold a server's nonce."""
        if nonces not in self._hellos:
            values = self._values(HELLO_VALUES, nonces)
            honest = [self._offer(index) for index in range(self.clients)]
            bases = [*honest, honest[0]._replace(key_id="M", nonce=ATTACKERS_NONCE)]
            made = (hello for base in bases for hello in negotiation.altered(base, values, self.scenario.altered))
            able = [hello for hello in dict.fromkeys(made) if negotiation.choose(hello)]
            if nonces == self._nonces(self.start):
                self._hellos[nonces] = {hello: rank for rank, hello in enumerate(able)}
            else:
                first = self._hello_candidates(self._nonces(self.start))
                self._hellos[nonces] = {hello: first.get(hello, -1) for hello in able}
        return self._hellos[nonces]

    def _agree(self, side: Side, view: tuple[Hello, Welcome, str], received: Term | None) -> Term:
        """Sets what the side holds true and its keys; TH."""
        hello, welcome, binding = side.view = view
        th = self.rules.th(hello, welcome, binding, received)
        if hello.key_id:
            side.keys = self.rules.keys(hello, welcome, th, self.rules.secret(hello.key_id))
        return th

    def _client_proof(self, side: Side, extra: str) -> Term | None:
        assert side.view is not None
        if not side.keys:
            return None
        hello, welcome, binding = side.view
        key = (hello, welcome, extra)
        if key not in self._proofs:
            th = self.rules.th(hello, welcome, binding)
            self._proofs[key] = self.rules.client_proof(side.keys, th, extra)
        return self._proofs[key]

    def _seal(self, side: Side, out: list[Term], receives: bool) -> None:
        """Adds the side's records to what it sends, and what it would accept of the other's."""
        assert side.view is not None
        mac = side.view[1].mac
        if side.keys and mac != "none":
            mine, theirs = f"{side.role} record", f"{'client' if side.role == 'server' else 'server'} record"
            out += [self.rules.tag(mac, side.keys[mine], at, what) for at, what in enumerate(side.sent)]
            counts = "counter" not in self.rules.without
            side.sealed = tuple(((side.keys[mine], at if counts else 0), what) for at, what in enumerate(side.sent))
            for at in range(self.scenario.records if receives else 0):
                for what in self.contents:
                    tag = self.rules.tag(mac, side.keys[theirs], at, what)
                    side.accepts.setdefault(tag, []).append((at, what))
        side.emitted = parts(out)
