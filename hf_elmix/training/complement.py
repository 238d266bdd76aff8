"""Complement objective training: a second step on every batch that evens out the incorrect classes."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState, TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss
from hf_elmix.losses.baselines import NegativeComplementEntropy
from hf_elmix.losses.reduction import divisor
from hf_elmix.losses.registry import parse_loss
from hf_elmix.losses.schedules import CROSS_ENTROPY
from hf_elmix.training.model_support import number_of_labels
from hf_elmix.training.trainer import MixedLossTrainer

__all__ = ["ComplementTrainer", "trainer_for"]


class ComplementTrainer(MixedLossTrainer):
    """Complement objective training (COT; Chen et al. 2019, arXiv:1903.01182; Eq. 6 of the paper).

    Each optimizer step on the cross entropy is followed by a second one, with another forward pass, that *maximises*
    the `complement_entropy` of the same batches. Both use the same optimizer and learning rate; the Trainer counts,
    schedules, logs and saves them as one step. Training logs also contain ``complement_entropy`` (mean since the last
    log, in nats).

    Args:
        *args: Arguments of the Trainer.
        loss: ``"cot"``, the default.
        **kwargs: Arguments of the Trainer.

    Raises:
        UsageError: If there are fewer than three classes, or DeepSpeed is used; and as for `MixedLossMixin`.
    """

    def __init__(self, *args: Any, loss: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, loss="cot" if loss is None else loss, **kwargs)
        self._second = False
        self._batches: list[dict[str, Any]] = []
        self._count: Tensor | int | None = None
        self._entropy: list[Tensor] = []
        self.add_callback(_SecondPass(self))

    def _check_loss(self) -> None:
        if not isinstance(self.mixing_callback.current_loss, NegativeComplementEntropy):
            raise UsageError(
                f"Expected the loss 'cot', but got {str(self.mixing_callback.schedule)!r}. "
                "Use MixedLossTrainer for it."
            )
        if self.label_smoother is not None:
            raise UsageError("Label smoothing cannot be applied to the loss 'cot'. Leave it out.")
        if number_of_labels(self._model) == 2:
            raise UsageError(
                "Expected three classes or more, but the model has 2. Complement objective training evens out the "
                "probabilities of the incorrect classes, and here there is only one. Use another loss."
            )
        if self.class_weights is not None:
            raise UsageError("Class weights cannot be applied to the loss 'cot'. Leave them out.")
        if self.is_deepspeed_enabled:
            raise UsageError("DeepSpeed takes one step for each batch; complement objective training needs two.")

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Tensor | int | None]:
        """See the Trainer. The batches are kept for the second pass."""
        self._batches, self._count = super().get_batch_samples(*args, **kwargs)
        return self._batches, self._count

    @property
    def _objective(self) -> Loss:
        return self.mixing_callback.current_loss if self._second else CROSS_ENTROPY

    def _over_step(self, loss: Tensor, ce: Tensor, el: Tensor, count: Tensor | int, outputs: Any) -> Tensor:
        if self._second:  # the terms and the load-balancing loss belong to the first step
            return loss / divisor(count, ce)
        return super()._over_step(loss, ce, el, count, outputs)

    def second_pass(self) -> None:
        """Take a step on the complement entropy of the batches of the optimizer step just taken."""
        losses = []
        self._second = True
        try:
            self.model_wrapped.zero_grad()
            for batch in self._batches:
                # Devices exchange gradients with the last batch only.
                last = batch is self._batches[-1]
                with contextlib.nullcontext() if last else self.accelerator.no_sync(model=self.model_wrapped):
                    losses.append(self.training_step(self.model_wrapped, batch, self._count))
        finally:
            self._second = False
        if self.args.max_grad_norm > 0:
            self._clip_grad_norm(self.model_wrapped)
        assert self.optimizer is not None, "training has an optimizer"
        self.optimizer.step()
        self._entropy.append(-torch.stack(losses).sum())

    def _mixing_logs(self) -> dict[str, float]:
        logs, entropy = super()._mixing_logs(), self._entropy
        self._entropy = []
        if logs and entropy:
            logs["complement_entropy"] = self.accelerator.gather(torch.stack(entropy).mean()).mean().item()
        return logs


def trainer_for(loss: Any) -> type[MixedLossTrainer]:
    """The Trainer class for a loss, which is anything that `hf_elmix.parse_loss` reads."""
    return ComplementTrainer if isinstance(parse_loss(loss).at(0, 1), NegativeComplementEntropy) else MixedLossTrainer


class _SecondPass(TrainerCallback):
    """Starts the second pass after the first step, before the learning rate changes."""

    def __init__(self, trainer: ComplementTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.trainer.second_pass()
