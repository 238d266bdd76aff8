"""The mixed loss in TRL's `SFTTrainer`, without another forward pass.

`SFTTrainer` computes the log-probability of each token without holding the logits, and its loss is minus their sum.
The mixed loss is a function of the log-probability alone (see `hf_elmix.losses.mixed`), so minus the mixed loss
replaces it. Metrics, counts and the load-balancing loss stay the same. Source: trl/trainer/sft_trainer.py, 1.16.0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss, Schedule
from hf_elmix.losses.reduction import divisor
from hf_elmix.losses.registry import choose_loss
from hf_elmix.losses.schedules import MixingSchedule
from hf_elmix.training.callback import MixingCallback, cross_entropy_function, device_scale

__all__ = ["MixedSFTTrainer"]


class MixedSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer` with the mixed loss ``alpha * CE + beta * EL`` of each token (Eq. 12), or another.

    Packing, completion-only and assistant-only losses, and PEFT work as before. The logs are those of
    `hf_elmix.MixedLossMixin`; ``eval_loss`` is the cross entropy in every phase.

    Args:
        *args: Arguments of the `SFTTrainer`.
        mixing: A `MixingSchedule` or its string: short for ``loss="mix:..."``.
        loss: Any function of the cross entropy alone that `hf_elmix.parse_loss` reads; ``"mix:0-0.5"`` by default.
        **kwargs: Arguments of the `SFTTrainer`.

    Attributes:
        mixing_callback: The `MixingCallback` that holds the schedule and the loss of the current step.

    Raises:
        UsageError: If the loss does not exist or needs the logits, or another argument sets the loss:
            `compute_loss_func`, label smoothing, ``loss_type="dft"``, sequence parallelism.
    """

    def __init__(
        self,
        *args: Any,
        mixing: str | float | MixingSchedule | None = None,
        loss: str | Schedule | Loss | Callable[..., Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mixing_callback = MixingCallback(choose_loss(mixing, loss))
        self.mixing_callback.check_one_step(0.0)
        cross_entropy_function(self.mixing_callback.current_loss)
        parallelism, loss_type = self.accelerator.parallelism_config, getattr(self.args, "loss_type", "nll")
        others = {
            "compute_loss_func": self.compute_loss_func is not None,
            "label_smoothing_factor": self.label_smoother is not None,
            f"loss_type={loss_type!r}": loss_type != "nll",
            "sequence parallelism": parallelism is not None and parallelism.sp_enabled,
        }
        given = [name for name, is_given in others.items() if is_given]
        if given:
            raise UsageError(f"{given[0]} sets another loss, which the mixed loss would replace. Leave it out.")
        self.add_callback(self.mixing_callback)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See the `SFTTrainer`. During training, the loss of each token is replaced."""
        call = functools.partial(self._with_loss, model, num_items_in_batch) if model.training else model
        return super().compute_loss(call, inputs, return_outputs, num_items_in_batch)

    def _with_loss(self, model: nn.Module, count: Tensor | int | None, **inputs: Any) -> Any:
        """Call the model, and replace the log-probability of each token by minus its loss."""
        outputs = model(**inputs)
        if not inputs.get("fused_lm_head"):
            return outputs  # with the logits, for `return_outputs`
        ce = -outputs.log_probs
        denominator = divisor(outputs.label_mask if count is None else count, ce)
        self.mixing_callback.add_terms(ce.sum(), -torch.expm1(-ce).sum(), denominator)
        outputs.log_probs = -cross_entropy_function(self.mixing_callback.current_loss).of_ce(ce)
        return outputs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and add the values of the loss and both terms to the training logs."""
        if "loss" in logs:
            logs.update(self.mixing_callback.logs(device_scale(self.args, self.get_tp_size())))
        super().log(logs, start_time)
