"""A small batcher for the peers that bring none: rows that wait when a turn of the loop ends run together.

It favours them: no queue limit, no deadline, no cancel, no fairness.
"""

from __future__ import annotations

import asyncio

import numpy as np

from bench.network import Network
from bench.works import BATCH, Array


class Batcher:
    """Runs the network of E on the loop, up to 32 rows at a time."""

    def __init__(self) -> None:
        self._network = Network()
        self._waiting: list[tuple[Array, asyncio.Future[Array]]] = []

    def submit(self, row: Array) -> asyncio.Future[Array]:
        """Return a future of the network's answer to one row."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Array] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._run)
        self._waiting.append((row, future))
        return future

    def _run(self) -> None:
        waiting, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        answers = self._network(np.concatenate([row for row, _ in waiting]))
        for index, (_, future) in enumerate(waiting):
            if not future.done():
                future.set_result(answers[index : index + 1])
