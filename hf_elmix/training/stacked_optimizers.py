"""SGD and AdamW for parameters with a leading axis of runs, each of which has its own learning rate.

The updates are those of `torch.optim`, which takes one learning rate for all elements of a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_elmix.errors import UsageError

__all__ = ["StackedAdamW", "StackedOptimizer", "StackedSGD", "clip_gradients", "stacked_optimizer"]


class StackedOptimizer:
    """Updates stacked parameters with the hyperparameters of an optimizer of one model.

    Args:
        groups: The hyperparameters of each parameter, as in `torch.optim.Optimizer.param_groups`.
    """

    refused: Mapping[str, Any] = {}  # hyperparameters that must have this value

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self.groups = list(groups)
        for name, value in self.refused.items():
            if any(group.get(name, value) != value for group in groups):
                raise UsageError(f"A stack cannot be trained with {name}={groups[0][name]!r} of the optimizer.")

    def step(self, params: list[Tensor], gradients: list[Tensor], rates: Tensor) -> None:
        """Update the parameters in place.

        Args:
            params: Each of shape (R, ...).
            gradients: Their gradients, which may be overwritten.
            rates: Learning rate of each run, shape (R,).
        """
        raise NotImplementedError


class StackedSGD(StackedOptimizer):
    """`torch.optim.SGD` with momentum, Nesterov's too, and weight decay."""

    refused = {"dampening": 0, "maximize": False}

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(groups)
        self.momenta: list[Tensor] = []

    def step(self, params: list[Tensor], gradients: list[Tensor], rates: Tensor) -> None:
        """See `StackedOptimizer.step`."""
        momentum, nesterov = self.groups[0]["momentum"], self.groups[0]["nesterov"]
        for value, gradient, group in zip(params, gradients, self.groups, strict=True):
            if group["weight_decay"]:
                gradient.add_(value, alpha=group["weight_decay"])
        if momentum:
            self.momenta = self.momenta or [torch.zeros_like(gradient) for gradient in gradients]
            torch._foreach_mul_(self.momenta, momentum)
            torch._foreach_add_(self.momenta, gradients)
            if nesterov:
                torch._foreach_add_(gradients, self.momenta, alpha=momentum)
            else:
                gradients = self.momenta
        torch._foreach_addcmul_(params, gradients, _columns(-rates, params))


class StackedAdamW(StackedOptimizer):
    """`torch.optim.AdamW`."""

    refused = {"amsgrad": False, "maximize": False}

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(groups)
        self.steps = 0
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    def step(self, params: list[Tensor], gradients: list[Tensor], rates: Tensor) -> None:
        """See `StackedOptimizer.step`."""
        self.steps += 1
        self.means = self.means or [torch.zeros_like(gradient) for gradient in gradients]
        self.squares = self.squares or [torch.zeros_like(gradient) for gradient in gradients]
        (first, second), eps = self.groups[0]["betas"], self.groups[0]["eps"]
        columns = _columns(rates, params)
        for value, column, group in zip(params, columns, self.groups, strict=True):
            if group["weight_decay"]:
                value.mul_(1 - column * group["weight_decay"])
        torch._foreach_lerp_(self.means, gradients, 1 - first)
        torch._foreach_mul_(self.squares, second)
        torch._foreach_addcmul_(self.squares, gradients, gradients, value=1 - second)
        roots = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(roots, (1 - second**self.steps) ** 0.5)
        torch._foreach_add_(roots, eps)
        updates = torch._foreach_div(self.means, roots)
        torch._foreach_addcmul_(params, updates, columns, value=-1 / (1 - first**self.steps))


def stacked_optimizer(optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> StackedOptimizer:
    """The counterpart of an optimizer of one model.

    Args:
        optimizer: SGD or AdamW.
        params: The parameters of that model whose stacks are to be updated, in their order.

    Raises:
        UsageError: If the optimizer is another, or has a hyperparameter that a stack cannot have.
    """
    kinds = {torch.optim.SGD: StackedSGD, torch.optim.AdamW: StackedAdamW}
    if type(optimizer) not in kinds:
        raise UsageError(f"Expected SGD or AdamW for a stack, but got {type(optimizer).__name__}.")
    groups = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    return kinds[type(optimizer)]([groups[id(param)] for param in params])


def clip_gradients(gradients: list[Tensor], max_norm: float) -> None:
    """Scale the gradient of each run, over all parameters, to a norm of `max_norm` if it is larger."""
    norms = torch.stack([gradient.reshape(len(gradient), -1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)  # as in torch.nn.utils.clip_grad_norm_
    torch._foreach_mul_(gradients, _columns(factors, gradients))


def _columns(values: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """One number for each run, shaped for multiplication with stacked tensors."""
    return [values.view(-1, *(1,) * (tensor.dim() - 1)) for tensor in like]
