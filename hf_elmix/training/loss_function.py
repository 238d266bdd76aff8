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
from hf_elmix.losses.registry import DEFAULT_MIXING
from hf_elmix.training.callback import MixingCallback, device_scale, sums_of
from hf_elmix.training.model_support import (
    base_model,
    check_class_logits,
    label_input,
    logits_of,
    requires_labels,
    two_classes,
)
from hf_elmix.training.own_loss import LabelUse, try_labels

__all__ = ["MixedLossFunction", "mixed_loss_func"]

USE_MIXIN = "Use hf_elmix.MixedLossMixin instead of a loss function."


class MixedLossFunction(MixingCallback):
    """A `compute_loss_func` and the callback that updates it, in one object; see `mixed_loss_func`."""

    def __init__(self, loss: Any, replace_loss: bool = False) -> None:
        super().__init__(loss)
        self.replace_loss = replace_loss
        self.smoothing = 0.0
        self.parts = 1  # batches in an optimizer step, over all devices, for a Trainer that does not count labels
        self.label_uses: dict[bool, LabelUse] = {}  # what the model does with labels, in training and in evaluation
        self._model: nn.Module | None = None
        self._hook: Any = None
        self._inputs: dict[str, Any] = {}  # of the latest batch, until the model has been tried in training

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Inspect the model once the Trainer has it.

        Raises:
            UsageError: If the loss cannot be computed for the model, or only by a `MixedLossMixin`.
        """
        model = base_model(kwargs["model"])
        self.smoothing = args.label_smoothing_factor
        self.check_one_step(self.smoothing)
        if isinstance(self.current_loss, MaxMahalanobis):
            raise UsageError(f"The loss {str(self.schedule)!r} needs a special head. Use MixedLossTrainer for it.")
        check_class_logits(model)
        # The Trainer withholds the labels from the model.
        name, config = type(model).__name__, getattr(model, "config", None)
        if label_input(args.label_names or []) != "labels":
            raise UsageError(f"Expected the label input of {name} to be 'labels', not {args.label_names}. {USE_MIXIN}")
        if requires_labels(model):
            raise UsageError(f"{name} cannot be called without labels. {USE_MIXIN}")
        if getattr(config, "output_router_logits", False) and getattr(config, "router_aux_loss_coef", 0):
            raise UsageError(f"{name} adds the load-balancing loss of its experts only to its own loss. {USE_MIXIN}")
        if getattr(args.parallelism_config, "sp_enabled", False):
            raise UsageError("Sequence parallelism computes the model's own loss and calls no loss function.")
        if args.n_gpu > 1:
            raise UsageError(
                f"Expected one GPU per process, but got {args.n_gpu}: start it with torchrun. {USE_MIXIN}"
            )
        if getattr(args, "class_weights", None) is not None:
            raise UsageError(f"A loss function does not weight classes. {USE_MIXIN}")
        if hasattr(args, "loss"):  # of MixedLossArguments, whose default would replace the loss of this function
            args.loss, args.mixing = str(self.schedule), None  # type: ignore[attr-defined]
        self.parts = args.gradient_accumulation_steps * _device_scale(args, kwargs["model"])
        self._watch(kwargs["model"])

    def _watch(self, model: nn.Module) -> None:
        """Keep the inputs of each batch, until the model has been tried on one."""
        if model is self._model:
            return

        def keep(model: nn.Module, args: Any, given: dict[str, Any]) -> None:
            self._inputs = {name: part for name, part in given.items() if name != "num_items_in_batch"}

        self._model, self._hook = model, model.register_forward_pre_hook(keep, with_kwargs=True)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Do what a `MixingCallback` does, and inspect the model again."""
        super().on_train_begin(args, state, control, **kwargs)
        self.on_init_end(args, state, control, **kwargs)

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
        if self._model is None:
            raise UsageError(
                "Expected the loss function to be a callback of the Trainer too, so that it can follow its schedule. "
                "Add callbacks=[f], as in Trainer(..., compute_loss_func=f, callbacks=[f])."
            )
        if labels is None:
            raise UsageError("Expected the batch to have 'labels', but it has none.")
        training = torch.is_grad_enabled()
        use = self._label_use(labels, training)
        logits, labels = two_classes(logits_of(outputs), labels)
        labels = use.align(logits, labels)
        ce, el, batch = loss_terms(logits, labels, label_smoothing=self.smoothing)
        count = batch.counts if num_items_in_batch is None else num_items_in_batch
        if not training:
            return ce.sum() / scalar_sum(count, ce)  # NaN if all are ignored; the Trainer leaves it out of its mean
        denominator = divisor(count, ce)
        loss, ce, el = sums_of(self.current_loss, ce, el, logits, labels)
        self.add_terms(ce, el, denominator)
        return loss / denominator

    def _label_use(self, labels: Tensor, training: bool) -> LabelUse:
        """What the model does with labels; it is tried on the first batch in training and on the first in evaluation.

        Raises:
            UsageError: If it needs them, or its own loss is not the cross entropy of its logits.
        """
        assert self._model is not None, "`__call__` has checked it"
        if training not in self.label_uses:
            use = try_labels(self._model, self._inputs, labels, gradients=training, replace=self.replace_loss)
            if use is None:
                return LabelUse()
            self.label_uses[training] = use
        if self.label_uses[training].needed:
            raise UsageError(
                f"{type(base_model(self._model)).__name__} makes inputs from labels, and gets none. Give the collator "
                f"the model, if it is an encoder-decoder: DataCollatorForSeq2Seq(tokenizer, model). Or: {USE_MIXIN}"
            )
        if training and self._hook is not None:
            self._hook.remove()
            self._hook, self._inputs = None, {}
            self.label_uses.setdefault(False, self.label_uses[True])
        return self.label_uses[training]

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Add the values of the loss and both terms to the training logs."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        ours = self.logs(_device_scale(args, kwargs["model"]))
        logs.update(ours)  # for later callbacks
        state.log_history[-1].update(ours)


def mixed_loss_func(loss: Any = DEFAULT_MIXING, *, replace_loss: bool = False) -> MixedLossFunction:
    """The mixed loss, or another, for a Trainer that cannot be subclassed; pass it to the Trainer twice.

    If you can write a subclass, `hf_elmix.MixedLossMixin` does more: ``eval_loss_el``, tracker logs, models that need
    their labels. Here the Trainer counts the labels of a step; if it does not know that a causal language model shifts
    its labels (`GPT2LMHeadModel`), it counts one too many in each row whose first label is not ignored.

    Args:
        loss: Anything that `hf_elmix.parse_loss` reads, such as ``"0-0.5"``, ``"ce"`` or ``"focal:gamma=2"``.
        replace_loss: Train a model whose own loss is not cross entropy, too, and replace its loss.

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
    return MixedLossFunction(loss, replace_loss)


def _device_scale(args: TrainingArguments, model: nn.Module) -> int:
    return device_scale(args, getattr(model, "_tp_size", None) or 1)
