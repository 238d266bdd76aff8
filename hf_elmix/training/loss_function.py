"""The mixed loss as a `compute_loss_func`, for a Trainer that cannot be subclassed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.losses.baselines import MaxMahalanobis
from hf_elmix.losses.mixed import loss_terms
from hf_elmix.losses.reduction import divisor, total_of
from hf_elmix.training.arguments import DEFAULT_MIXING
from hf_elmix.training.callback import MixingCallback, device_scale, loss_of_terms
from hf_elmix.training.model_support import (
    base_model,
    check_class_logits,
    labels_for,
    logits_of,
    makes_decoder_inputs,
    predicts_next_token,
    requires_labels,
)

__all__ = ["MixedLossFunction", "mixed_loss_func"]

USE_MIXIN = "Use hf_elmix.MixedLossMixin instead of a loss function."


class MixedLossFunction(MixingCallback):
    """A `compute_loss_func` and the callback that moves it on its schedule, in one; see `mixed_loss_func`.

    Args:
        loss: What `hf_elmix.parse_loss` reads.

    Attributes:
        parts: Batches in an optimizer step, over all devices, for a Trainer that counts no labels.

    Raises:
        UsageError: If it is no loss.
    """

    def __init__(self, loss: Any) -> None:
        super().__init__(loss)
        self._shifts: bool | None = None
        self._smoothing = 0.0
        self.parts = 1

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the model, once the Trainer has it.

        Raises:
            UsageError: If there is no mixed loss for it, or not without knowing the batch.
        """
        model = base_model(kwargs["model"])
        self._smoothing = args.label_smoothing_factor
        self.check_one_step(self._smoothing)
        if isinstance(self.current, MaxMahalanobis):
            raise UsageError(f"The loss {str(self.loss)!r} needs a head of its own, which MixedLossTrainer puts in.")
        check_class_logits(model, args.label_names or ["labels"])
        _check_without_labels(model)
        if getattr(args.parallelism_config, "sp_enabled", False):
            raise UsageError("Sequence parallelism computes the model's own loss, and asks no loss function.")
        self.parts = args.gradient_accumulation_steps * _device_scale(args, kwargs["model"])
        self._shifts = predicts_next_token(model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As a `MixingCallback`, arguments and all; looks at the model, and at whether it is given decoder inputs.

        Raises:
            UsageError: As for `on_init_end`.
        """
        super().on_train_begin(args, state, control, **kwargs)
        self.on_init_end(args, state, control, **kwargs)
        if makes_decoder_inputs(base_model(kwargs["model"])):
            _check_decoder_inputs(kwargs["model"])

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of a batch while the model trains (Eq. 12), cross entropy where nothing is trained (Eq. 1).

        Args:
            outputs: Of the model, with logits of shape (..., C).
            labels: Shape (...).
            num_items_in_batch: Labels that count in the whole optimizer step; left out, those of the batch.

        Returns:
            A scalar.

        Raises:
            UsageError: If it has not been made a callback too, or there are no labels.
        """
        if self._shifts is None:
            raise UsageError(
                "Expected the loss function to be a callback of the Trainer too, which moves it on its schedule. Add "
                "callbacks=[f], as in Trainer(..., compute_loss_func=f, callbacks=[f])."
            )
        if labels is None:
            raise UsageError("Expected the batch to have 'labels', but it has none.")
        logits = logits_of(outputs)
        labels = labels_for(logits, labels, self._shifts)
        ce, el, counts = loss_terms(logits, labels, label_smoothing=self._smoothing)
        count = counts if num_items_in_batch is None else num_items_in_batch
        if not torch.is_grad_enabled():
            return ce.sum() / total_of(count, ce)  # NaN where no label counts, which the Trainer leaves out
        per = divisor(count, ce)
        self.add_terms(ce, el, per)
        return loss_of_terms(self.current, ce, el, logits, labels).sum() / per

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add what the loss says of itself, and both terms, to the training logs."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        ours = self.logs(_device_scale(args, kwargs["model"]))
        logs.update(ours)  # for the callbacks that come after this one
        state.log_history[-1].update(ours)


def mixed_loss_func(loss: Any = DEFAULT_MIXING) -> MixedLossFunction:
    """The mixed loss, or another, for a Trainer that cannot be subclassed: hand it over twice.

    Where a subclass can be written, `hf_elmix.MixedLossMixin` does more: ``eval_loss_el``, tracker logs, models that
    need their labels. Here the Trainer counts the labels of a step: one too many in a row whose first label counts,
    with those causal language models whose class it does not know to shift them (`GPT2LMHeadModel`).

    Args:
        loss: What `hf_elmix.parse_loss` reads, such as ``"0-0.5"``, ``"ce"`` or ``"focal:gamma=2"``.

    Returns:
        A function of (outputs, labels, num_items_in_batch) that is a callback, too.

    Raises:
        UsageError: If it is no loss.

    Example:
        ```python
        f = mixed_loss_func("0-0.5")
        trainer = Trainer(model=model, args=args, train_dataset=rows, compute_loss_func=f, callbacks=[f])
        ```
    """
    return MixedLossFunction(loss)


def _device_scale(args: TrainingArguments, model: nn.Module) -> int:
    return device_scale(args, getattr(model, "_tp_size", None) or 1)


def _check_without_labels(model: nn.Module) -> None:
    """Refuse a model that needs the labels which the Trainer takes from it."""
    name, config = type(model).__name__, getattr(model, "config", None)
    if requires_labels(model):
        raise UsageError(f"{name} cannot be called without labels. {USE_MIXIN}")
    if getattr(config, "output_router_logits", False) and getattr(config, "router_aux_loss_coef", 0):
        raise UsageError(f"{name} adds the load-balancing loss of its experts only where it has labels. {USE_MIXIN}")


def _check_decoder_inputs(model: nn.Module) -> None:
    """Have the first call of an encoder-decoder refused if it brings no decoder inputs.

    The model would make them of its labels, had it any; BART and its kin then train on something else without a word.
    """

    def check(model: nn.Module, args: Any, given: dict[str, Any]) -> None:
        handle.remove()
        if given.get("decoder_input_ids") is None and given.get("decoder_inputs_embeds") is None:
            raise UsageError(
                "Expected the batches of an encoder-decoder to have 'decoder_input_ids': it has no labels to make "
                f"them of. Give the collator the model: DataCollatorForSeq2Seq(tokenizer, model). Or: {USE_MIXIN}"
            )

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
