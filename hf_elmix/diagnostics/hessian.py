"""Gradients, Hessian-vector products and top eigenvalues of losses in a model's weights, over all rows of a loader.

Hessian-vector products are derivatives of gradients, both in reverse mode (``torch.func``). Forward-over-reverse would
need less memory, but PyTorch 2.13 computes it incorrectly for layer normalisation, without an error
(github.com/pytorch/pytorch/issues/196700). Fused attention has no second derivatives and is switched off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.base import Loss
from hf_elmix.losses.baselines import MaxMahalanobis, NegativeComplementEntropy
from hf_elmix.losses.registry import parse_loss
from hf_elmix.losses.schedules import RescaledCrossEntropy
from hf_elmix.predictions.predict import evaluation_mode, split_labels
from hf_elmix.predictions.records import check_class_labels
from hf_elmix.training.model_support import base_model, check_class_logits, logits_of

__all__ = ["Eigenvalue", "LossSurface", "constant_losses", "top_eigenvalues"]

SAME = 1e-3  # tolerated relative difference of a mean loss between passes; float32 needs a thousandth of it
PRECISION = 1e-3  # error, relative to the largest eigenvalue, at which iterations stop


def constant_losses(losses: Iterable[str | Loss]) -> list[Loss]:
    """List the losses of all phases of the given losses or texts, without repeats.

    Raises:
        UsageError: If one is not a loss, or more than a function of logits and labels.
    """
    found: list[Loss] = []
    for given in losses:
        schedule = parse_loss(given)
        found += schedule.losses
        if isinstance(found[-1], NegativeComplementEntropy | MaxMahalanobis | RescaledCrossEntropy):
            raise UsageError(
                f"The loss {str(schedule)!r} is more than a function of logits and labels. Expected one such as ce, "
                "el, mix:0.3 or focal:gamma=2."
            )
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Eigenvalue:
    """An approximate eigenvalue of a Hessian.

    Attributes:
        value: The Ritz value.
        error: Norm of its residual: some true eigenvalue is at most this far from the value.
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
    """Compute the largest eigenvalues of a loss's Hessian (its sharpness), by Lanczos with full reorthogonalisation.

    Each iteration takes one Hessian-vector product over the whole loader and one more vector as large as the weights,
    `steps` + 3 of them at most. A multiple eigenvalue is found once.

    Args:
        model: As in `hf_elmix.diagnostics.escape.escape`.
        loader: As there.
        loss: A loss, or its text.
        count: Number of eigenvalues.
        steps: Iterations at most; they stop early if the error of all values is below a thousandth of the largest one.
        seed: Of the first vector.
        progress: Show a progress bar on a terminal.

    Returns:
        The eigenvalues in descending order; fewer than `count` if the Hessian has fewer distinct ones.

    Raises:
        UsageError: As for `hf_elmix.diagnostics.escape.escape`.
    """
    if not 1 <= count <= steps:
        raise UsageError(f"Expected count to be from 1 to steps={steps}, but got {count}.")
    losses = constant_losses([loss])
    if len(losses) > 1:
        raise UsageError(f"Expected one loss, but {str(loss)!r} has several phases: {', '.join(map(str, losses))}.")
    surface = LossSurface(model, loader, losses)
    with surface.prepared("Lanczos", steps + 1, progress):
        return _lanczos(surface, count, min(steps, len(surface.weights)), seed)


class LossSurface:
    """Losses as functions of a model's weights, each the mean over the rows of a loader.

    Only weights with ``requires_grad`` count, and dropout is off. The loader is read again in each pass. The rows must
    stay the same between passes; their order may change.

    Args:
        model: Returns class logits (N, C), in float32 or float64.
        loader: Batches are dictionaries of model inputs and ``labels``.
        losses: The losses.

    Raises:
        UsageError: If the model has another head, another data type or no trainable weights.

    Attributes:
        weights: All weights in one vector (P,).
        rows: Number of rows of the loader; known inside `prepared`, like the next two.
        means: Mean of each loss over the rows.
        max_p: Largest probability of a true label.
    """

    def __init__(self, model: nn.Module, loader: Iterable[Mapping[str, Any]], losses: Sequence[Loss]) -> None:
        self.model, self.loader, self.losses = model, loader, losses
        check_class_logits(base_model(model))
        parts = {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}
        if not parts:
            raise UsageError("Expected a model with trainable weights. Call model.requires_grad_(True).")
        kinds = sorted({f"{part.dtype} on {part.device}" for part in parts.values()})
        if len(kinds) > 1 or next(iter(parts.values())).dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"Expected weights in float32 on one device, but got {', '.join(kinds)}: second derivatives need the "
                "precision. Call model.float()."
            )
        self._shapes = {name: part.shape for name, part in parts.items()}
        self.weights = torch.cat([part.flatten() for part in parts.values()])
        self.rows, self.means, self.max_p = 0, [0.0], 0.0

    @contextmanager
    def prepared(self, title: str, passes: int, progress: bool = True) -> Iterator[None]:
        """Count rows and average losses in a first pass; at exit restore the model's mode and the random state.

        Args:
            title: Title of the progress bar.
            passes: Total number of passes over the loader, including the first.
            progress: Show the bar if standard error is a terminal.

        Raises:
            UsageError: If there are no rows, or some without a class.
        """
        devices = [self.weights.device] if self.weights.is_cuda else []
        length = len(self.loader) if isinstance(self.loader, Sized) else None
        bar = tqdm(total=length and passes * length, desc=title, unit="batch", disable=None if progress else True)
        no_fused = sdpa_kernel(SDPBackend.MATH)
        with bar as self._bar, evaluation_mode(self.model), torch.random.fork_rng(devices), no_fused, torch.no_grad():
            self.rows, self.max_p, rows, ce = 0, 0.0, 0, parse_loss("ce").at(0, 1)
            sums = torch.zeros(len(self.losses), dtype=torch.float64)
            for inputs, labels in self._batches():
                logits = self._logits(inputs, self.weights)
                check_class_labels(labels.cpu().numpy(), logits.shape)
                rows += len(labels)
                row_losses = [loss(logits, labels, reduction="none") for loss in self.losses]
                sums += torch.stack([part.double().sum().cpu() for part in row_losses])
                self.max_p = max(self.max_p, float((-ce(logits, labels, reduction="none")).exp().max()))
            if not rows:
                raise UsageError("Expected a loader with rows, but it is empty.")
            self.rows, self.means = rows, (sums / rows).tolist()
            yield

    def gradients(self, factors: Tensor) -> list[Tensor]:
        """Average the gradients of all rows, each times a factor, into a vector (P,) for each loss.

        Args:
            factors: Shape (rows,).

        Raises:
            UsageError: If the rows differ from those of the first pass.
        """
        totals = [torch.zeros_like(self.weights) for _ in self.losses]
        done, mean = 0, 0.0
        for batch in self._batches():
            part = factors[done : done + len(batch[1])].to(self.weights) / self.rows
            done += len(batch[1])
            values, pull, *_ = vjp(lambda weights, batch=batch: self._row_losses(weights, *batch), self.weights)
            mean += float(values[0].double().sum()) / self.rows
            for total, one in zip(totals, torch.eye(len(self.losses)).to(part), strict=True):
                total += pull(one[:, None] * part)[0]
        if not math.isclose(mean, self.means[0], rel_tol=SAME, abs_tol=1e-5):
            raise UsageError(
                f"Expected the same rows in each pass, but the mean of {self.losses[0]} changed from "
                f"{self.means[0]:.6g} to {mean:.6g}. Use no random augmentation, no drop_last with shuffled rows, and "
                "no model that draws random numbers."
            )
        return totals

    def hessian_vector_products(self, vectors: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        """Multiply the Hessian of each loss by a vector.

        Args:
            vectors: Shape (P,), one for each loss.

        Returns:
            For each loss the product, (P,), and the mean square of the rows' derivatives along the vector.

        Raises:
            UsageError: If the model has an operation without second derivatives, or the rows change.
        """
        products = [torch.zeros_like(self.weights) for _ in self.losses]
        squares = [0.0 for _ in self.losses]
        for batch in self._batches():
            for k, (loss, vector) in enumerate(zip(self.losses, vectors, strict=True)):
                product, along = self._hessian_vector_product(loss, *batch, vector)
                products[k] += product / self.rows
                squares[k] += float(along.double().square().sum()) / self.rows
        return list(zip(products, squares, strict=True))

    def _hessian_vector_product(
        self, loss: Loss, inputs: dict[str, Any], labels: Tensor, vector: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The product (P,) for the sum of a batch, and the derivative of each row's loss along the vector, (N,).

        The second is the derivative of the same gradient in a factor on each row.
        """

        def total(weights: Tensor, factors: Tensor) -> Tensor:
            return (factors * loss(self._logits(inputs, weights), labels, reduction="none")).sum()

        try:
            _, pull, *_ = vjp(grad(total), self.weights, self.weights.new_ones(len(labels)))
            return pull(vector)
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise UsageError(
                f"{type(self.model).__name__} has no second derivatives: {in_one_line(error)} Load it with "
                "attn_implementation='eager'."
            ) from error

    def _row_losses(self, weights: Tensor, inputs: dict[str, Any], labels: Tensor) -> Tensor:
        logits = self._logits(inputs, weights)
        return torch.stack([loss(logits, labels, reduction="none") for loss in self.losses])

    def _logits(self, inputs: dict[str, Any], weights: Tensor) -> Tensor:
        parts = weights.split([shape.numel() for shape in self._shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        return logits_of(functional_call(self.model, named, kwargs=inputs))

    def _batches(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Read the loader. After the first pass, it must give the same number of rows again."""
        rows = 0
        for batch in self.loader:
            inputs, labels = split_labels(batch, self.model, self.weights.device)
            rows += len(labels)
            if self.rows and rows > self.rows:
                break
            yield inputs, labels
            self._bar.update()
        if self.rows and rows != self.rows:
            raise UsageError(
                f"Expected the same rows in each pass, but the loader gave {self.rows} and then {rows}. Pass a "
                "DataLoader or a list of batches, not an iterator."
            )


def _lanczos(surface: LossSurface, count: int, steps: int, seed: int) -> list[Eigenvalue]:
    weights = surface.weights
    basis = weights.new_zeros(steps, len(weights))
    vector = torch.randn(len(weights), generator=torch.Generator().manual_seed(seed)).to(weights)
    tridiagonal = torch.zeros(steps, steps, dtype=torch.float64)
    for step in range(steps):
        basis[step] = vector / vector.norm()
        ((vector, _),) = surface.hessian_vector_products([basis[step]])
        tridiagonal[step, step] = vector @ basis[step]
        for _ in range(2):  # once is not enough in floating point
            vector = vector - basis.T @ (basis @ vector)
        residual = float(vector.norm())
        values, vectors = torch.linalg.eigh(tridiagonal[: step + 1, : step + 1])
        errors = residual * vectors[-1].abs()
        found = [Eigenvalue(*pair) for pair in zip(values.tolist(), errors.tolist(), strict=True)][::-1][:count]
        converged = len(found) == count and max(one.error for one in found) <= PRECISION * abs(found[0].value)
        exhausted = residual <= 10 * torch.finfo(basis.dtype).eps * float(tridiagonal.abs().max())
        if converged or exhausted or step + 1 == steps:
            break
        tridiagonal[step, step + 1] = tridiagonal[step + 1, step] = residual
    return found
