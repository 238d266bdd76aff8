"""The callback that changes the loss during training, and functions that the Trainers share."""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from transformers import TrainerCallback, TrainerState, TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import CrossEntropyFunction, Loss
from hf_elmix.losses.baselines import MaxMahalanobis, NegativeComplementEntropy
from hf_elmix.losses.registry import parse_loss
from hf_elmix.losses.schedules import Mixed

__all__ = ["MixingCallback", "cross_entropy_function", "device_scale", "sums_of"]

LOGGER = logging.getLogger(__name__)
BOUND = (NegativeComplementEntropy, MaxMahalanobis)  # losses that need a special Trainer or head
KEPT = "loss of hf_elmix"  # what the state of the Trainer, and so each checkpoint, has under this name


class MixingCallback(TrainerCallback):
    """Sets the loss of every optimizer step, and averages both terms of the mixed loss between two logs.

    The Trainer reads `current_loss` and reports both terms. It is computed from the Trainer's state at each step, so
    accumulation, `max_steps` and `num_train_epochs` need no special care. Checkpoints keep the loss, so that none is
    resumed whose steps were taken with another.

    Args:
        loss: Anything that `hf_elmix.parse_loss` reads.

    Attributes:
        schedule: The loss as a schedule.
        current_loss: The loss of the current optimizer step.

    Raises:
        UsageError: If the loss does not exist.
    """

    def __init__(self, loss: Any) -> None:
        self.schedule = parse_loss(loss)
        self.current_loss = self.schedule.at(0, 1)
        self._terms: Tensor | None = None
        self._steps = 0
        self._rates: list[Any] = []

    def check_one_step(self, label_smoothing: float) -> None:
        """Refuse a loss that takes two steps for each batch, or to which label smoothing cannot be applied."""
        if isinstance(self.current_loss, NegativeComplementEntropy):
            raise UsageError("The loss 'cot' takes two steps for each batch. Use hf_elmix.ComplementTrainer for it.")
        if label_smoothing and not self.current_loss.smooths:
            raise UsageError(f"Label smoothing cannot be applied to the loss {str(self.schedule)!r}. Leave it out.")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Discard the terms of an earlier training, and follow `args.loss`, which a search may have changed.

        Raises:
            UsageError: If that loss does not exist, or needs another Trainer or head; or if training continues from a
                checkpoint whose steps were taken with another loss.
        """
        asked = next((v for v in (getattr(args, name, None) for name in ("mixing", "loss")) if v is not None), None)
        if asked not in (None, str(self.schedule)):  # the spec of a custom function cannot be parsed
            loss = parse_loss(asked)
            if loss != self.schedule and (isinstance(self.current_loss, BOUND) or isinstance(loss.at(0, 1), BOUND)):
                raise UsageError(
                    f"A search cannot change the loss from {str(self.schedule)!r} to {str(loss)!r}: one of them "
                    "needs a special Trainer or head. Build a Trainer for each."
                )
            self.schedule, self.current_loss = loss, loss.at(0, 1)
            args.loss, args.mixing = str(loss), None  # type: ignore[attr-defined]
        callbacks: Any = state.stateful_callbacks
        kept = callbacks.get(KEPT, {}).get("args", {}).get("loss")
        if kept is not None and not self._took_steps_of(kept, state):
            raise UsageError(
                f"Expected to continue with the loss {kept!r}, which the steps of the checkpoint were taken with, but "
                f"got {str(self.schedule)!r}. Give that loss, or start again without resume_from_checkpoint."
            )
        callbacks[KEPT] = {"args": {"loss": str(self.schedule)}, "attributes": {}}
        self.take_terms()
        untrained = self.schedule.untrained(state.max_steps)
        if untrained and state.is_world_process_zero and args.get_process_log_level() <= logging.WARNING:
            LOGGER.warning(untrained)

    def _took_steps_of(self, kept: str, state: TrainerState) -> bool:
        """Whether this schedule has the same loss as another, given as text, in each step until now."""
        if kept == str(self.schedule):
            return True
        try:
            other = parse_loss(kept)
        except UsageError:  # a custom function
            return False
        steps = {0, *self.schedule.changes(state.max_steps), *other.changes(state.max_steps)}
        loss_at = lambda schedule, step: schedule.at(step, state.max_steps)  # noqa: E731
        return all(loss_at(self.schedule, n) == loss_at(other, n) for n in steps if n < state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Set the loss of the optimizer step that begins; called once for all accumulated batches."""
        self.current_loss = self.schedule.at(state.global_step, state.max_steps)
        self._steps += 1

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Multiply the learning rate by the factor of the loss, for one step."""
        groups, factor = kwargs["optimizer"].param_groups, self.current_loss.learning_rate_factor
        self._rates = [group["lr"] for group in groups] if factor != 1 else []
        for group, rate in zip(groups, self._rates, strict=False):
            group["lr"] = rate * factor

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Restore the learning rate for the scheduler."""
        for group, rate in zip(kwargs["optimizer"].param_groups, self._rates, strict=False):
            group["lr"] = rate

    def add_terms(self, ce: Tensor, el: Tensor, denominator: Tensor) -> None:
        """Add a batch's share of both terms; they stay on their device until they are logged.

        Args:
            ce: Cross entropy, summed over the labels.
            el: Expectation loss, summed likewise.
            denominator: Number of labels by which the sums are divided, a scalar like them.
        """
        terms = torch.stack((ce.detach(), el.detach())) / denominator
        self._terms = terms if self._terms is None else self._terms + terms

    def pending(self) -> tuple[Tensor | None, int]:
        """The sum of both terms since the last log, shape (2,) or None, and the number of steps it covers."""
        return self._terms, self._steps

    def resume(self, terms: Tensor | None, steps: int) -> None:
        """Continue with the values that `pending` returned when training was interrupted."""
        self._terms, self._steps = terms, steps

    def take_terms(self) -> Tensor | None:
        """Mean of both terms per optimizer step since the last call, shape (2,), or None if there was no step."""
        mean = None if self._terms is None else self._terms / max(self._steps, 1)
        self._terms, self._steps = None, 0
        return mean

    def logs(self, scale: int) -> dict[str, float]:
        """Values of the loss, and ``loss_ce`` and ``loss_el`` since the last call, the same in all processes.

        The terms are multiplied by `scale`, the result of `device_scale`.
        """
        terms = self.take_terms()
        if terms is None:
            return {}
        ce, el = (gather(terms).view(-1, 2).mean(0) * scale).tolist()
        return {**self.current_loss.logged(), "loss_ce": ce, "loss_el": el}


def sums_of(
    loss: Loss, ce: Tensor, el: Tensor, logits: Tensor, labels: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, cross entropy and expectation loss of a batch, each summed over its labels.

    The loss is computed from both terms, of shape (...), if they suffice, else from logits (..., C). With class
    weights (C,) the terms are weighted already, so that only a loss that is linear in them can use them.
    """
    sums = ce.sum(), el.sum()
    if isinstance(loss, Mixed):
        return loss.of_terms(*sums), *sums
    if isinstance(loss, CrossEntropyFunction) and (weight is None or loss.smooths):
        return loss.of_ce(ce).sum(), *sums
    return loss(logits, labels, reduction="sum", weight=weight), *sums


def cross_entropy_function(loss: Loss) -> CrossEntropyFunction:
    """The loss itself; a UsageError is raised if it needs more than the cross entropy."""
    if not isinstance(loss, CrossEntropyFunction):
        raise UsageError(
            f"The loss {str(loss)!r} needs all logits, but only the cross entropy of each label is computed here."
        )
    return loss


def device_scale(args: TrainingArguments, tp_size: int) -> int:
    """Factor by which the Trainer multiplies a loss that was divided by the number of labels on all devices.

    `tp_size` is the number of processes that share one copy of the model, and a batch.
    """
    if not args.average_tokens_across_devices:
        return 1
    return args.world_size // tp_size if args.n_gpu <= 1 else args.n_gpu
