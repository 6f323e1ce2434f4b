"""The network of work E and of `python -m bench.gpu`: 784-512-512-10, with the same weights in every process.

Its text is also the server's model.py, so it needs nothing but torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def build() -> Any:
    """Return the network 784-512-512-10."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)).eval()


class Network:
    """Runs rows on one thread, in inference mode."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._network, self._torch = build(), torch

    def __call__(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with self._torch.inference_mode():
            result: npt.NDArray[np.float32] = self._network(self._torch.from_numpy(rows)).numpy()
            return result


def answer(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what the network gives for these rows."""
    return Network()(rows)
