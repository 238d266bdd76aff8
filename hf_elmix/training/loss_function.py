"""The mixed loss as a `compute_loss_func`, for a Trainer that cannot be subclassed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.losses.baselines import MaxMahalanobis
from hf_elmix.losses.mixed import loss_terms
from hf_elmix.losses.reduction import divisor, scalar_sum
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
    """A `compute_loss_func` and the callback that updates it, in one object; see `mixed_loss_func`."""

    def __init__(self, loss: Any) -> None:
        super().__init__(loss)
        self._shifts: bool | None = None
        self._smoothing = 0.0
        self.parts = 1  # batches in an optimizer step, over all devices, for a Trainer that does not count labels

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Inspect the model once the Trainer has it.

        Raises:
            UsageError: If the loss cannot be computed for the model, or only by a `MixedLossMixin`.
        """
        model = base_model(kwargs["model"])
        self._smoothing = args.label_smoothing_factor
        self.check_one_step(self._smoothing)
        if isinstance(self.current_loss, MaxMahalanobis):
            raise UsageError(f"The loss {str(self.schedule)!r} needs a special head. Use MixedLossTrainer for it.")
        check_class_logits(model, args.label_names or ["labels"])
        # The Trainer withholds the labels from the model.
        name, config = type(model).__name__, getattr(model, "config", None)
        if requires_labels(model):
            raise UsageError(f"{name} cannot be called without labels. {USE_MIXIN}")
        if getattr(config, "output_router_logits", False) and getattr(config, "router_aux_loss_coef", 0):
            raise UsageError(f"{name} adds the load-balancing loss of its experts only to its own loss. {USE_MIXIN}")
        if getattr(args.parallelism_config, "sp_enabled", False):
            raise UsageError("Sequence parallelism computes the model's own loss and calls no loss function.")
        self.parts = args.gradient_accumulation_steps * _device_scale(args, kwargs["model"])
        self._shifts = predicts_next_token(model)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Do what a `MixingCallback` does, inspect the model again, and check for decoder inputs."""
        super().on_train_begin(args, state, control, **kwargs)
        self.on_init_end(args, state, control, **kwargs)
        if makes_decoder_inputs(base_model(kwargs["model"])):
            _check_decoder_inputs(kwargs["model"])

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The configured loss in training (by default Eq. 12), plain cross entropy in evaluation (Eq. 1).

        Args:
            outputs: Outputs of the model, with logits of shape (..., C).
            labels: Shape (...).
            num_items_in_batch: Number of non-ignored labels in the whole optimizer step; by default, in the batch.

        Returns:
            A scalar.

        Raises:
            UsageError: If the function is not a callback of the Trainer, or there are no labels.
        """
        if self._shifts is None:
            raise UsageError(
                "Expected the loss function to be a callback of the Trainer too, so that it can follow its schedule. "
                "Add callbacks=[f], as in Trainer(..., compute_loss_func=f, callbacks=[f])."
            )
        if labels is None:
            raise UsageError("Expected the batch to have 'labels', but it has none.")
        logits = logits_of(outputs)
        labels = labels_for(logits, labels, self._shifts)
        ce, el, counts = loss_terms(logits, labels, label_smoothing=self._smoothing)
        count = counts if num_items_in_batch is None else num_items_in_batch
        if not torch.is_grad_enabled():
            return ce.sum() / scalar_sum(count, ce)  # NaN if all are ignored; the Trainer leaves it out of its mean
        denominator = divisor(count, ce)
        self.add_terms(ce, el, denominator)
        return loss_of_terms(self.current_loss, ce, el, logits, labels).sum() / denominator

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Add the values of the loss and both terms to the training logs."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        ours = self.logs(_device_scale(args, kwargs["model"]))
        logs.update(ours)  # for later callbacks
        state.log_history[-1].update(ours)


def mixed_loss_func(loss: Any = DEFAULT_MIXING) -> MixedLossFunction:
    """The mixed loss, or another, for a Trainer that cannot be subclassed; pass it to the Trainer twice.

    If you can write a subclass, `hf_elmix.MixedLossMixin` does more: ``eval_loss_el``, tracker logs, models that need
    their labels. Here the Trainer counts the labels of a step; if it does not know that a causal language model shifts
    its labels (`GPT2LMHeadModel`), it counts one too many in each row whose first label is not ignored.

    Args:
        loss: Anything that `hf_elmix.parse_loss` reads, such as ``"0-0.5"``, ``"ce"`` or ``"focal:gamma=2"``.

    Returns:
        A function of (outputs, labels, num_items_in_batch) that is also a callback.

    Raises:
        UsageError: If the loss does not exist.

    Example:
        ```python
        f = mixed_loss_func("0-0.5")
        trainer = Trainer(model=model, args=args, train_dataset=rows, compute_loss_func=f, callbacks=[f])
        ```
    """
    return MixedLossFunction(loss)


def _device_scale(args: TrainingArguments, model: nn.Module) -> int:
    return device_scale(args, getattr(model, "_tp_size", None) or 1)


def _check_decoder_inputs(model: nn.Module) -> None:
    """Make the first call of an encoder-decoder fail if it has no decoder inputs.

    The model would make them from labels; without labels, BART and similar models silently train on something else.
    """

    def check(model: nn.Module, args: Any, given: dict[str, Any]) -> None:
        handle.remove()
        if given.get("decoder_input_ids") is None and given.get("decoder_inputs_embeds") is None:
            raise UsageError(
                "Expected the batches of an encoder-decoder to have 'decoder_input_ids', because the model is given "
                "no labels to make them from. Give the collator the model: DataCollatorForSeq2Seq(tokenizer, model). "
                f"Or: {USE_MIXIN}"
            )

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
