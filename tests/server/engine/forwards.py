"""Modules whose inputs can be called wrongly: imported, and copied as model.py. TorchScript reads the source itself."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    difference: Tensor
    total: Tensor


class Two(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Pair:
        return Pair(a - b, a + b)


class Keyword(torch.nn.Module):
    def forward(self, a: Tensor, *, b: Tensor) -> dict[str, Tensor]:
        return {"total": a + b, "difference": a - b}


class Scaled(torch.nn.Module):
    def forward(self, a: Tensor, *, scale: float = 2.0, b: Tensor) -> dict[str, Tensor]:
        return {"total": (a + b) * scale, "difference": (a - b) * scale}


class OfDict(torch.nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"total": batch["a"] + batch["b"], "difference": batch["a"] - batch["b"]}


class Between(torch.nn.Module):
    def forward(self, a: Tensor, scale: int = 1, b: Tensor | None = None) -> Pair:
        if b is None:
            b = torch.zeros_like(a)
        return Pair((a - b) * scale, (a + b) * scale)


class Nested(torch.nn.Module):
    def forward(self, first: Any, rest: Any, nothing: Any = None) -> Any:
        return first["a"] - rest[0], first["a"] + rest[0]


class Around(torch.nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        difference, total = self.inner(a, b)
        return self.dropout(difference), total
