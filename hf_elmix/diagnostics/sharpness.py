"""The largest eigenvalues of a loss's Hessian in a model's weights: its sharpness, by Lanczos iterations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_elmix.diagnostics.hessian import Surface, constant_losses
from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss

__all__ = ["Eigenvalue", "top_eigenvalues"]

PRECISION = 1e-3  # share of the largest eigenvalue at which iterations stop


@dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue of a Hessian, as far as it has converged.

    Attributes:
        value: The Ritz value.
        error: Norm of its residual: a true eigenvalue is within that of the value.
    """

    value: float
    error: float


def top_eigenvalues(
    model: nn.Module,
    loader: Iterable[Mapping[str, Any]],
    loss: str | Loss = "ce",
    count: int = 3,
    *,
    steps: int = 30,
    seed: int = 0,
    progress: bool = True,
) -> list[Eigenvalue]:
    """The largest eigenvalues of a loss's Hessian (its sharpness), by Lanczos with full reorthogonalisation.

    Each iteration takes one product with the Hessian over the whole loader, and holds one more vector as large as the
    weights: `steps` + 3 of them at most. An eigenvalue that is there several times is found once.

    Args:
        model: As for `hf_elmix.diagnostics.escape.escape`.
        loader: As there.
        loss: Its spelling, or the loss.
        count: How many.
        steps: Iterations at most; fewer are taken where all have converged to a thousandth of the largest.
        seed: Of the first vector.
        progress: Show a bar, on a terminal.

    Returns:
        The eigenvalues, the largest first; fewer than `count` where the Hessian has fewer different ones.

    Raises:
        UsageError: As for `hf_elmix.diagnostics.escape.escape`.
    """
    if not 1 <= count <= steps:
        raise UsageError(f"Expected count to be from 1 to steps={steps}, but got {count}.")
    losses = constant_losses([loss])
    if len(losses) > 1:
        raise UsageError(f"Expected one loss, but {str(loss)!r} is several: {', '.join(map(str, losses))}.")
    surface = Surface(model, loader, losses)
    with surface.opened("Lanczos", steps + 1, progress):
        return _lanczos(surface, count, min(steps, len(surface.weights)), seed)


def _lanczos(surface: Surface, count: int, steps: int, seed: int) -> list[Eigenvalue]:
    weights = surface.weights
    basis = weights.new_zeros(steps, len(weights))
    vector = torch.randn(len(weights), generator=torch.Generator().manual_seed(seed)).to(weights)
    small = torch.zeros(steps, steps, dtype=torch.float64)
    for step in range(steps):
        basis[step] = vector / vector.norm()
        ((vector, _),) = surface.products([basis[step]])
        small[step, step] = vector @ basis[step]
        for _ in range(2):  # once is not enough in floating point
            vector = vector - basis.T @ (basis @ vector)
        left = float(vector.norm())
        found = _ritz_values(small[: step + 1, : step + 1], left)[:count]
        converged = len(found) == count and max(one.error for one in found) <= PRECISION * abs(found[0].value)
        exhausted = left <= 10 * torch.finfo(basis.dtype).eps * float(small.abs().max())
        if converged or exhausted or step + 1 == steps:
            break
        small[step, step + 1] = small[step + 1, step] = left
    return found


def _ritz_values(small: Tensor, left: float) -> list[Eigenvalue]:
    """Of a tridiagonal matrix (k, k), the largest first; `left` is the norm of what the k vectors do not span."""
    values, vectors = torch.linalg.eigh(small)
    errors = left * vectors[-1].abs()
    return [Eigenvalue(*pair) for pair in zip(values.tolist(), errors.tolist(), strict=True)][::-1]
