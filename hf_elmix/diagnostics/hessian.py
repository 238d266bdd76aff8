"""Slopes and curvature of losses in a model's weights, over all rows of a data loader and batch by batch.

Products with a Hessian are derivatives of gradients, both in reverse mode (``torch.func``). What is cheaper in memory,
to differentiate forward-mode derivatives, gives wrong numbers for layer normalisation in PyTorch 2.13, and no error
(github.com/pytorch/pytorch/issues/196700). Fused attention has no second derivatives; it is left out meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.base import Loss
from hf_elmix.losses.baselines import ComplementEntropy, MaxMahalanobis
from hf_elmix.losses.registry import parse_loss
from hf_elmix.losses.schedules import RescaledCrossEntropy
from hf_elmix.predictions.rows import check_rows, evaluating, labelled
from hf_elmix.training.model_support import base_model, check_class_logits, logits_of

__all__ = ["Surface", "constant_losses"]

SAME = 1e-3  # share by which a mean loss may differ from pass to pass; float32 takes a thousandth of it


def constant_losses(losses: Iterable[str | Loss]) -> list[Loss]:
    """Losses that do not change over training: of a schedule, that of each phase.

    Args:
        losses: Spellings, or losses.

    Raises:
        UsageError: If one of them is none, or no function of logits and labels alone.
    """
    found: list[Loss] = []
    for given in losses:
        schedule = parse_loss(given)
        found += schedule.losses
        if isinstance(found[-1], ComplementEntropy | MaxMahalanobis | RescaledCrossEntropy):
            raise UsageError(
                f"The loss {str(schedule)!r} is more than a function of logits and labels. Expected one such as ce, "
                "el, mix:0.3 or focal:gamma=2."
            )
    return list(dict.fromkeys(found))


class Surface:
    """Losses as functions of a model's weights, each the mean over the rows of a loader.

    Only weights with ``requires_grad`` count, and dropout is off. The loader is read anew in each pass, and may bring
    its rows in another order then, but must bring the same.

    Args:
        model: Gives class logits (N, C); in float32 or float64.
        loader: Batches are dictionaries of what the model takes, and ``labels``.
        losses: The losses.

    Raises:
        UsageError: If the model has another head, other numbers, or nothing to differentiate in.

    Attributes:
        weights: All weights in one vector (P,).
        rows: How many rows the loader has; known once it is `opened`.
        means: The mean of each loss over them.
        top: The largest probability of a true label among them.
    """

    def __init__(self, model: nn.Module, loader: Iterable[Mapping[str, Any]], losses: Sequence[Loss]) -> None:
        self.model, self.loader, self.losses = model, loader, losses
        check_class_logits(base_model(model), [])
        parts = {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}
        _check_weights(parts)
        self._shapes = {name: part.shape for name, part in parts.items()}
        self.weights = torch.cat([part.flatten() for part in parts.values()])
        self.rows, self.means, self.top = 0, [0.0], 0.0

    @contextmanager
    def opened(self, title: str, passes: int, progress: bool = True) -> Iterator[None]:
        """Ready for derivatives: the model in evaluation mode, as it was afterwards; random numbers, too.

        Args:
            title: Of the progress bar.
            passes: Passes over the loader that there will be, this one included.
            progress: Whether to show it, if standard error is a terminal.

        Raises:
            UsageError: If there are no rows, or some without a class.
        """
        devices = [self.weights.device] if self.weights.is_cuda else []
        length = len(self.loader) if isinstance(self.loader, Sized) else None
        bar = tqdm(total=length and passes * length, desc=title, unit="batch", disable=None if progress else True)
        quiet = torch.random.fork_rng(devices), sdpa_kernel(SDPBackend.MATH), torch.no_grad()
        with bar as self._bar, evaluating(self.model), quiet[0], quiet[1], quiet[2]:
            self._survey()
            yield

    def gradients(self, factors: Tensor) -> list[Tensor]:
        """The mean over rows of a factor times the row's gradient, (P,) for each loss.

        Args:
            factors: Shape (rows,).
        """
        totals = [torch.zeros_like(self.weights) for _ in self.losses]
        place, mean = 0, 0.0
        for inputs, labels in self._batches():
            part = factors[place : place + len(labels)].to(self.weights) / self.rows
            place += len(labels)
            values, pull, *_ = vjp(lambda weights, batch=(inputs, labels): self._values(weights, *batch), self.weights)
            mean += float(values[0].double().sum()) / self.rows
            for total, one in zip(totals, torch.eye(len(self.losses)).to(part), strict=True):
                total += pull(one[:, None] * part)[0]
        self._check_same(mean)
        return totals

    def products(self, directions: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        """The product of each loss's Hessian with a direction of its own.

        Args:
            directions: Shape (P,) for each loss.

        Returns:
            For each loss the product, (P,), and the mean square of the rows' derivatives along the direction.

        Raises:
            UsageError: If the model has an operation without second derivatives.
        """
        products = [torch.zeros_like(self.weights) for _ in self.losses]
        squares = [0.0 for _ in self.losses]
        for batch in self._batches():
            for place, (loss, direction) in enumerate(zip(self.losses, directions, strict=True)):
                product, along = self._bent(loss, batch, direction)
                products[place] += product / self.rows
                squares[place] += float(along.double().square().sum()) / self.rows
        return list(zip(products, squares, strict=True))

    def _bent(self, loss: Loss, batch: tuple[dict[str, Any], Tensor], direction: Tensor) -> tuple[Tensor, Tensor]:
        """Along a direction: the derivative of the gradient of the rows' sum, (P,), and that of each row, (N,).

        The second is the derivative of the first's gradient in a factor that each row is given.
        """
        inputs, labels = batch

        def total(weights: Tensor, factors: Tensor) -> Tensor:
            return (factors * loss(self._logits(inputs, weights), labels, reduction="none")).sum()

        try:
            _, pull, *_ = vjp(grad(total), self.weights, self.weights.new_ones(len(labels)))
            return pull(direction)
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise UsageError(
                f"{type(self.model).__name__} has no second derivatives: {in_one_line(error)} Load it with "
                "attn_implementation='eager'."
            ) from error

    def _values(self, weights: Tensor, inputs: dict[str, Any], labels: Tensor) -> Tensor:
        """Each loss of each row, (losses, N)."""
        logits = self._logits(inputs, weights)
        return torch.stack([loss(logits, labels, reduction="none") for loss in self.losses])

    def _logits(self, inputs: dict[str, Any], weights: Tensor) -> Tensor:
        parts = weights.split([shape.numel() for shape in self._shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        return logits_of(functional_call(self.model, named, kwargs=inputs), "labels" in inputs)

    def _survey(self) -> None:
        """Count the rows and average the losses, of a first pass."""
        rows, sums = 0, torch.zeros(len(self.losses), dtype=torch.float64)
        ce = parse_loss("ce").at(0, 1)
        for inputs, labels in self._read():
            logits = self._logits(inputs, self.weights)
            check_rows(logits, labels)
            rows += len(labels)
            sums += torch.stack([loss(logits, labels, reduction="none").double().sum().cpu() for loss in self.losses])
            self.top = max(self.top, float((-ce(logits, labels, reduction="none")).exp().max()))
        if not rows:
            raise UsageError("Expected a loader with rows, but it gave none.")
        self.rows, self.means = rows, (sums / rows).tolist()

    def _batches(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """What the loader brings in a further pass, all of which is to be read."""
        rows = 0
        for inputs, labels in self._read():
            rows += len(labels)
            if rows > self.rows:
                break
            yield inputs, labels
        if rows != self.rows:
            raise UsageError(
                f"Expected a loader with the same rows in each pass, but it gave {self.rows} and then {rows}: pass a "
                "DataLoader or a list of batches, not an iterator."
            )

    def _check_same(self, mean: float) -> None:
        if not math.isclose(mean, self.means[0], rel_tol=SAME, abs_tol=1e-5):
            raise UsageError(
                f"Expected the same in each pass, but the mean of {self.losses[0]} was {self.means[0]:.6g} and then "
                f"{mean:.6g}: no random augmentation, no drop_last with shuffled rows, no model that draws at random."
            )

    def _read(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for batch in self.loader:
            yield labelled(batch, self.model, self.weights.device)
            self._bar.update()


def _check_weights(parts: Mapping[str, Tensor]) -> None:
    if not parts:
        raise UsageError("Expected a model with weights to differentiate in: model.requires_grad_(True).")
    kinds = {(part.dtype, str(part.device)) for part in parts.values()}
    if len(kinds) > 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise UsageError(
            f"Expected weights in float32 on one device, but got {found}: second derivatives need the digits. "
            "model.float() converts them."
        )
