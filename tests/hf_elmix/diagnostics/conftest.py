"""A classifier whose Hessian can be written down whole, and the plain way to do that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

WEIGHTS = {"ce": (1, 0), "el": (0, 1), "mix:0.3": (1, 2.5)}


class Net(nn.Module):
    """Three classes, 30 weights, in double precision."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4, dtype=torch.float64), nn.Linear(4, 3, bias=False, dtype=torch.float64)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.last.weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.last(self.dropout(torch.tanh(self.first(x))))}


class Whole:
    """Everything about a model's losses on some rows, by brute force."""

    Net = Net

    @staticmethod
    def rows(count: int, seed: int = 1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        return {"x": x, "labels": torch.randint(3, (count,), generator=generator)}

    @staticmethod
    def batches(rows: dict[str, Tensor], *sizes: int) -> list[dict[str, Tensor]]:
        parts = {name: part.split(list(sizes)) for name, part in rows.items()}
        return [{name: parts[name][place] for name in parts} for place in range(len(sizes))]

    @staticmethod
    def losses(model: nn.Module, rows: dict[str, Tensor], loss: str) -> tuple[Callable[..., Tensor], Tensor]:
        """The loss of each row as a function of all weights, and the weights."""
        parts = {name: part.detach() for name, part in model.named_parameters()}
        inputs = {name: part for name, part in rows.items() if name != "labels"}
        alpha, beta = WEIGHTS[loss]

        def of(weights: Tensor) -> Tensor:
            named, place = {}, 0
            for name, part in parts.items():
                named[name] = weights[place : place + part.numel()].view(part.shape)
                place += part.numel()
            p = functional_call(model, named, kwargs=inputs)["logits"].softmax(-1)
            p = p[torch.arange(len(p)), rows["labels"]]
            return alpha * -p.log() + beta * (1 - p)

        return of, torch.cat([part.flatten() for part in parts.values()])

    @classmethod
    def hessian(cls, model: nn.Module, rows: dict[str, Tensor], loss: str) -> Tensor:
        of, weights = cls.losses(model, rows, loss)
        return hessian(lambda w: of(w).mean())(weights)

    @classmethod
    def gradients(cls, model: nn.Module, rows: dict[str, Tensor], loss: str) -> Tensor:
        of, weights = cls.losses(model, rows, loss)
        return jacrev(of)(weights)


@pytest.fixture
def whole() -> Any:
    return Whole
