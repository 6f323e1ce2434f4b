"""The rule for lent memory (docs/models.md): the answer of a call is that of the same model called alone.

`make soak` makes the 200,000 calls that are promised; the tests of every day make a few thousand.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorwire
from tensorwire.clients.blocking import Client, Pending
from tensorwire.clients.errors import TensorwireError
from tests.attacks.peer import SOAK, size
from tests.memory import lenders
from tests.support.server import ServerProcess, running_server

CALLS = size(4_000, 200_000)
WIDTHS = {16: 24, 2048: 16, lenders.WIDEST: 3}
"""Row widths, from 64 bytes to 128 KiB, and how many calls of each a connection makes before any reply is read."""
BAD = 0.02
"""Share of rows that models raise on."""
CALLERS = 4

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def raising(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    return lenders.write(tmp_path_factory.getbasetemp() / "lenders")


@pytest.fixture(scope="module")
def server(raising: dict[str, bool], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.getbasetemp()
    with running_server(root / "lenders", "--log-level", "error", log=root / "lenders.log") as running:
        yield running


class Sent:
    """One call under way, and what its caller has to get."""

    def __init__(self, client: Client, model: str, raises: bool, x: Array) -> None:
        self.model = model
        self.bad = raises and bool(np.isnan(x).any())
        self.want = x * 2 + 1
        self.pending: Pending = client.submit(model, {"x": x})

    def wrong(self) -> str:
        """What is wrong with the reply, or nothing."""
        try:
            reply = self.pending.result(60)
        except TensorwireError as error:
            return "" if self.bad and "a bad row" in str(error) else "raised " + str(error).partition(" [request")[0]
        if self.bad:
            return "a bad row was answered"
        same = all(np.array_equal(reply[name], self.want, equal_nan=True) for name in "yz")
        return "" if same else f"wrong numbers at width {self.want.shape[1]}"


@pytest.mark.soak
@pytest.mark.timeout(6000 if SOAK else 300)
def test_every_reply_is_what_the_model_alone_would_have_given(
    server: ServerProcess, raising: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    choice = random.Random(11)
    made: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    number = 0
    clients = [tensorwire.connect("tw://{}:{}".format(*server.address)) for _ in range(CALLERS)]
    while sum(made.values()) < CALLS:
        model = choice.choice(list(raising))
        waiting: list[list[Sent]] = [[] for _ in clients]
        for _ in range(WIDTHS[16]):
            for client, sent in zip(clients, waiting, strict=True):
                width = choice.choices(list(WIDTHS), weights=list(WIDTHS.values()))[0]
                x = np.full((choice.choice([1, 1, 1, 2]), width), number % 4096, np.float32)
                x[:, 1::2] += 1
                if choice.random() < BAD:
                    x[0, -1] = np.nan
                number += 1
                sent.append(Sent(client, model, raising[model], x))
                made[model] += 1
        # The first caller reads at once; the others only when it is through, and their replies wait in the server.
        for sent in waiting:
            for call in sent:
                if found := call.wrong():
                    wrong[f"{model}: {found}"] += 1
    for client in clients:
        client.close()
    with capsys.disabled():
        if SOAK:
            print(f"\n{sum(made.values())} calls, {sum(wrong.values())} wrong: {dict(made)}")
    assert not wrong
