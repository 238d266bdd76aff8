"""Many small models trained as one batched model, each with its own weights, batches, loss and learning rate.

A small model spends its training on the overhead of hundreds of tiny operations. With a leading axis of runs, one
operation serves all of them, and a run costs little more than its arithmetic.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vjp, vmap
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.base import CrossEntropyFunction, FunctionLoss, Loss
from hf_elmix.losses.schedules import Mixed, RescaledCrossEntropy
from hf_elmix.training.model_support import logits_of
from hf_elmix.training.stacked_optimizers import clip_gradients, stacked_optimizer

__all__ = ["Objective", "StackedModel", "stacking_key"]

aten = torch.ops.aten

TRACED_AFTER = 40  # uses of a step before it is traced, which takes as long as about 100 of them
CELLS = 2**22  # numbers in the largest intermediate value of an evaluation

Part = tuple[int, int, Loss | None]  # the runs start..stop and their loss; None: the mixed loss, with weights per run


class StackedModel:
    """Models of one architecture, as one model whose parameters have a leading axis of R runs.

    Args:
        models: The R models; those that start alike may be the same object.
        rows: The training rows: inputs of the models by name, each with a leading axis of rows.
        labels: Their class ids, shape (rows,).
        optimizer: SGD or AdamW over the parameters of the first model. All runs get its hyperparameters, except for
            the learning rate.
        rates: The learning rate of each run.
        max_grad_norm: Norm to which the gradient of each run is clipped, if above 0.
        randomness: ``same``: models with dropout are taken, and all runs draw the same numbers; ``error``: they are
            refused.

    Raises:
        UsageError: If `vmap` does not take the model, or the optimizer is another.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        rows: Mapping[str, Tensor],
        labels: Tensor,
        optimizer: torch.optim.Optimizer,
        rates: Sequence[float],
        max_grad_norm: float = 0.0,
        randomness: str = "error",
    ) -> None:
        self.base, self.randomness = models[0].train(), randomness
        self.rows, self.labels, self.max_grad_norm = dict(rows), labels, max_grad_norm
        params, buffers = stack_module_state(list(models))
        trained = {name for name, parameter in self.base.named_parameters() if parameter.requires_grad}
        self.frozen = {name: value.detach() for name, value in {**params, **buffers}.items() if name not in trained}
        self.params = {name: value.detach() for name, value in params.items() if name in trained}
        self.rates = torch.tensor(rates, dtype=torch.float32, device=labels.device)
        own = dict(self.base.named_parameters())
        self.optimizer = stacked_optimizer(optimizer, [own[name] for name in self.params])
        self._laid_out = False
        self._steps: dict[Any, Callable[..., Any]] = {}  # traced, by batch size and kinds of losses
        self._uses: Counter[Any] = Counter()
        self._check()

    def step(self, batches: Tensor, losses: Objective, factor: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Take one optimizer step with every run, each on a batch of its own.

        Args:
            batches: Rows of each run's batch, shape (R, B).
            losses: The loss of each run.
            factor: By what the learning rate of each run is multiplied, shape (R,).

        Returns:
            Log-probability of each label before the step, (R, B), and, for each part of `losses` that is no function
            of it, the losses of its samples, (runs, B).
        """
        gradients, log_p, others = self._gradients(batches, losses)
        self._update(gradients, factor)
        return log_p, others

    def step_together(
        self, batch: dict[str, Tensor], labels: Tensor, losses: Objective, factor: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Take one optimizer step with every run, all on the same batch.

        Args:
            batch: Inputs of the models by name, each with a leading axis of B rows.
            labels: Their class ids, shape (B,).
            losses: The loss of each run.
            factor: By what the learning rate of each run is multiplied, shape (R,).

        Returns:
            What `step` returns.
        """
        index = labels.expand(len(self.rates), -1).unsqueeze(-1)
        with torch.no_grad():
            *gradients, log_p, others = self._derivatives(
                self.params, batch, None, index, losses.parts, losses.alpha, losses.beta
            )
        self._update(gradients, factor)
        return log_p, others

    def _update(self, gradients: list[Tensor], factor: Tensor) -> None:
        """Take an optimizer step."""
        if not self._laid_out:
            # In the memory order of their gradients, parameters are updated in one pass; else it jumps.
            pairs = zip(self.params.items(), gradients, strict=True)
            self.params = {name: torch.empty_like(gradient).copy_(value) for (name, value), gradient in pairs}
            self._laid_out = True
        if self.max_grad_norm > 0:
            clip_gradients(gradients, self.max_grad_norm)
        self.optimizer.step(list(self.params.values()), gradients, self.rates * factor)

    def logits(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The logits of all runs for the same rows, shape (R, rows, C)."""
        size = sum(values[0].numel() for values in rows.values())
        parts = zip(
            *(values.split(max(1, CELLS // (len(self.rates) * size))) for values in rows.values()), strict=True
        )
        self.base.eval()
        with torch.no_grad():
            logits = [self._forward(self.params, dict(zip(rows, part, strict=True)), None) for part in parts]
        self.base.train()
        return torch.cat(logits, dim=1)

    def state_of(self, run: int) -> dict[str, Tensor]:
        """The state of one run's model, for `load_state_dict`."""
        return {name: value[run].contiguous() for name, value in {**self.params, **self.frozen}.items()}

    def _gradients(self, batches: Tensor, losses: Objective) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """The gradients of the parameters, and what `step` returns; traced once it has been used often."""
        arguments = (*self.params.values(), batches.flatten(), losses.alpha, losses.beta)
        key = batches.shape, losses.parts
        self._uses[key] += 1
        with torch.no_grad():
            # The smaller last batch of an epoch is used too rarely for that.
            if self._uses[key] == TRACED_AFTER and losses.traceable and not self._is_rare(key):
                self._steps[key] = _traced(self._step_function(*key), arguments)
            *gradients, log_p, others = (self._steps.get(key) or self._step_function(*key))(*arguments)
        return gradients, log_p, others

    def _is_rare(self, key: Any) -> bool:
        """Whether a batch of another size is used more often for the same losses."""
        return any(count > self._uses[key] for (_, parts), count in self._uses.items() if parts == key[1])

    def _step_function(self, shape: torch.Size, parts: tuple[Part, ...]) -> Callable[..., Any]:
        def step(*arguments: Tensor) -> list[Any]:
            *values, rows, alpha, beta = arguments
            batch = {name: x.index_select(0, rows).unflatten(0, shape) for name, x in self.rows.items()}
            labels = self.labels.index_select(0, rows).view(*shape, 1)
            params = dict(zip(self.params, values, strict=True))
            return self._derivatives(params, batch, 0, labels, parts, alpha, beta)

        return step

    def _derivatives(
        self,
        params: dict[str, Tensor],
        batch: dict[str, Tensor],
        axis: int | None,
        labels: Tensor,
        parts: tuple[Part, ...],
        alpha: Tensor,
        beta: Tensor,
    ) -> list[Any]:
        """The gradients of the parameters, and what `step` returns; labels have the shape (R, B, 1)."""
        logits, pull, *_ = vjp(lambda params: self._forward(params, batch, axis), params)
        slopes, log_p, others = _slopes(parts, logits, labels, alpha, beta)
        (gradients,) = pull(slopes / labels.shape[1])
        return [*gradients.values(), log_p, others]

    def _forward(self, params: dict[str, Tensor], batch: dict[str, Tensor], axis: int | None) -> Tensor:
        """Logits (R, B, C) of inputs that each run has its own of (`axis` 0) or all share (None)."""

        def forward(params: dict[str, Tensor], frozen: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
            logits = logits_of(functional_call(self.base, {**params, **frozen}, (), batch))
            return logits.to(torch.promote_types(logits.dtype, torch.float32))  # as accelerate does under autocast

        with sdpa_kernel(SDPBackend.MATH):  # vmap would loop over runs for other attention kernels of a CPU
            return vmap(forward, in_dims=(0, 0, axis), randomness=self.randomness)(params, self.frozen, batch)

    def _check(self) -> None:
        """Refuse a model that does not give the logits of one row, or draws random numbers where it must not."""
        row = {name: values[:1] for name, values in self.rows.items()}
        try:
            shape = self._forward(self.params, row, None).shape
        except Exception as error:  # whatever a model does that `vmap` cannot do
            raise UsageError(
                f"{type(self.base).__name__} cannot be trained in a stack: {in_one_line(error)}"
            ) from error
        if len(shape) != 3:
            raise UsageError(f"Expected a model that gives logits (rows, C) in a stack, but got {tuple(shape[1:])}.")


class Objective:
    """The loss of every run of a stack, for some steps.

    Args:
        losses: The R losses. Consecutive ones that are equal, or mixed losses with any weights, are computed together.
        device: Where to compute them.

    Attributes:
        parts: Consecutive runs with their loss.
        alpha: Weight of the cross entropy in the mixed loss of each run, shape (R, 1, 1).
        beta: Weight of the expectation loss.
    """

    def __init__(self, losses: Sequence[Loss], device: torch.device | None = None) -> None:
        weights = torch.tensor([_weights(loss) for loss in losses], device=device)
        self.alpha, self.beta = weights[:, 0, None, None], weights[:, 1, None, None]
        self.parts: tuple[Part, ...] = ()
        start = 0
        for loss, group in itertools.groupby(losses, stacking_key):
            stop = start + len(list(group))
            self.parts += ((start, stop, loss),)
            start = stop
        # A custom function may depend on the values that it is traced with.
        own = all(type(loss).__module__.startswith("hf_elmix.") for *_, loss in self.parts if loss is not None)
        self.traceable = own and not any(isinstance(loss, FunctionLoss) for *_, loss in self.parts)

    def of_terms(self, log_p: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, cross entropy and expectation loss each (..., R, B), from what `StackedModel.step` gives."""
        ce, rest, losses = -log_p, list(others), []
        el = -(-ce).expm1()
        for start, stop, loss in self.parts:
            runs = slice(start, stop)
            if loss is None:
                alpha, beta = self.alpha[runs, :, 0], self.beta[runs, :, 0]
                losses.append(alpha * ce[..., runs, :] + beta * el[..., runs, :])
            else:
                losses.append(loss.of_ce(ce[..., runs, :]) if isinstance(loss, CrossEntropyFunction) else rest.pop(0))
        return torch.cat(losses, dim=-2), ce, el


def stacking_key(loss: Loss) -> Loss | None:
    """What consecutive runs must have in common to be computed together: None for any mixed loss."""
    return None if isinstance(loss, Mixed | RescaledCrossEntropy) else loss


def _weights(loss: Loss) -> tuple[float, float]:
    return (float(loss.alpha), float(loss.beta)) if isinstance(loss, Mixed) else (1.0, 0.0)


def _slopes(
    parts: Sequence[Part], logits: Tensor, labels: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The gradient of each sample's loss in its logits (R, B, C), and what `StackedModel.step` returns.

    For a function of the cross entropy it is the gradient of that (Eq. 8) times the slope of the function; for the
    mixed loss, the slope is α + β p_y (Eq. 13).
    """
    log_p = logits.log_softmax(-1)
    log_p_y = log_p.gather(-1, labels)
    slopes: list[Tensor] = []
    gradients: dict[tuple[int, int], Tensor] = {}  # of losses that are no function of the cross entropy
    others: list[Tensor] = []
    for start, stop, loss in parts:
        runs = slice(start, stop)
        if loss is None:
            slopes.append(torch.addcmul(alpha[runs], beta[runs], log_p_y[runs].exp()))
        elif isinstance(loss, CrossEntropyFunction):
            slopes.append(_slope(loss.of_ce, -log_p_y[runs])[1])
        else:
            values, gradients[start, stop] = _slope(_flattened(loss, labels[runs].flatten()), logits[runs])
            others.append(values.view(-1, labels.shape[1]))
            slopes.append(torch.zeros_like(log_p_y[runs]))
    slope = torch.cat(slopes) if len(slopes) > 1 else slopes[0]
    gradient = (log_p.exp() * slope).scatter_add(-1, labels, -slope)
    for (start, stop), own in gradients.items():
        gradient = torch.cat([gradient[:start], own, gradient[stop:]])
    return gradient, log_p_y.squeeze(-1), others


def _flattened(loss: Loss, ids: Tensor) -> Callable[[Tensor], Tensor]:
    """A loss of samples as a function of stacked logits."""
    return lambda logits: loss.per_sample(logits.flatten(0, 1), ids)


def _slope(function: Callable[[Tensor], Tensor], values: Tensor) -> tuple[Tensor, Tensor]:
    """What a function gives, and the gradient of its sum."""
    results, pull, *_ = vjp(function, values)
    return results, pull(torch.ones_like(results))[0]


def _traced(function: Callable[..., Any], arguments: Sequence[Tensor]) -> Callable[..., Any]:
    """A function as the operations that it does on such arguments, without those that change nothing."""
    graph = make_fx(function)(*arguments)
    same = (aten.view.default, aten._unsafe_view.default, aten.expand.default)
    for node in list(graph.graph.nodes):
        shape = getattr(node.meta.get("tensor_meta"), "shape", None)
        of = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        keeps = node.target in same
        if node.target in (aten.mul.Scalar, aten.pow.Tensor_Scalar):
            keeps = node.args[1] == 1
        elif node.target is aten.mul.Tensor and of is not None and of.target is aten.ones_like.default:
            keeps, of = True, node.args[1]
        if keeps and isinstance(of, Node) and of.meta["tensor_meta"].shape == shape:
            node.replace_all_uses_with(of)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph.forward
