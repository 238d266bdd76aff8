"""The callback that moves the weights of the loss as training goes on."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_elmix.schedules import MixingSchedule, focus_of

__all__ = ["MixingCallback"]


class MixingCallback(TrainerCallback):
    """Sets the weights of the mixed loss at every optimizer step, and averages the loss terms between two logs.

    It is the one object that the loss and the training loop share: the loop tells it where training stands, the loss
    reads `alpha` and `beta` from it and reports its two terms. The weights are computed afresh from the state each
    time, so a resumed run needs nothing saved, and accumulation, `max_steps` and `num_train_epochs` all just work.

    Args:
        schedule: A schedule, or what `MixingSchedule.parse` reads.

    Attributes:
        schedule: The schedule that is followed.
        alpha: Weight of the cross entropy in the current optimizer step.
        beta: Weight of the expectation loss in the current optimizer step.

    Raises:
        UsageError: (a ValueError) If it is no schedule.
    """

    def __init__(self, schedule: MixingSchedule | str | float) -> None:
        self.schedule = MixingSchedule.parse(schedule)
        self.alpha, self.beta = self.schedule.weights(0, 1)
        self._terms: Tensor | None = None
        self._steps = 0

    @property
    def focus(self) -> float:
        """Probability of the true label at which the gradient is largest now (see `focus_of`)."""
        return focus_of(self.alpha, self.beta)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the terms of an earlier training, and follow `args.mixing`, which a search may have changed.

        Raises:
            UsageError: (a ValueError) If that is no schedule.
        """
        self.schedule = MixingSchedule.parse(getattr(args, "mixing", self.schedule))
        self.take_terms()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the weights of the optimizer step that begins; called once for all its accumulated batches."""
        self.alpha, self.beta = self.schedule.weights(state.global_step, state.max_steps)
        self._steps += 1

    def add_terms(self, terms: Tensor) -> None:
        """Add a batch's share of both terms; they stay on their device until they are logged.

        Args:
            terms: Cross entropy and expectation loss, unweighted, shape (2,).
        """
        self._terms = terms if self._terms is None else self._terms + terms

    def pending(self) -> tuple[Tensor | None, int]:
        """Sum of both terms since the last log, shape (2,) or None, and the steps it is over."""
        return self._terms, self._steps

    def resume(self, terms: Tensor | None, steps: int) -> None:
        """Go on from what `pending` gave where training was left.

        Args:
            terms: Sum of both terms, shape (2,), or None.
            steps: Optimizer steps it is over.
        """
        self._terms, self._steps = terms, steps

    def take_terms(self) -> Tensor | None:
        """Mean of both terms per optimizer step since the last call, shape (2,), or None if there was no step."""
        mean = None if self._terms is None else self._terms / max(self._steps, 1)
        self._terms, self._steps = None, 0
        return mean
