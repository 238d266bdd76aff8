"""The mixed loss in the Hugging Face Trainer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, default_compute_objective, get_last_checkpoint

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss, Schedule
from hf_elmix.losses.baselines import MaxMahalanobis
from hf_elmix.losses.mixed import loss_terms
from hf_elmix.losses.reduction import divisor, scalar_sum
from hf_elmix.losses.registry import choose_loss
from hf_elmix.losses.schedules import CROSS_ENTROPY, MixingSchedule
from hf_elmix.training.callback import MixingCallback, device_scale, sums_of
from hf_elmix.training.class_weights import ClassWeights, parse_class_weights
from hf_elmix.training.mahalanobis_head import use_mahalanobis_head
from hf_elmix.training.model_support import (
    base_model,
    check_class_logits,
    check_label_ids,
    check_labels_of,
    label_input,
    logits_of,
    number_of_labels,
    router_loss,
    two_classes,
    without_loss,
)
from hf_elmix.training.own_loss import LabelUse, try_labels
from hf_elmix.training.resumable import CheckedResume, check_checkpoint

__all__ = ["MixedLossMixin", "MixedLossTrainer"]

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class MixedLossMixin(CheckedResume, _Base):
    """Gives any Trainer the mixed loss ``alpha * CE + beta * EL`` (Eq. 12) on a schedule, or another loss.

    Put it before the Trainer: ``class MyTrainer(MixedLossMixin, Seq2SeqTrainer): ...``. It changes the Trainer as
    follows:

    - Labels are withheld from the model, so that it does not compute its own loss. On the first batch only, this loss
      is compared with the cross entropy that takes its place, and a model with any other loss is refused.
    - The loss is a mean over the non-ignored labels of the whole optimizer step, over all accumulated batches and
      devices, whatever the model does with ``num_items_in_batch``.
    - Training logs also contain ``alpha``, ``beta``, ``focus`` (of the last step; other losses have other values or
      none) and, for every loss, ``loss_ce`` and ``loss_el`` (means since the last log, like ``loss``).
    - In every phase ``eval_loss`` is the cross entropy, as without the mixin (smoothed if ``label_smoothing_factor``
      is set), and ``eval_loss_el`` is the expectation loss.

    In a multi-label model each label is a problem of two classes (the paper has one true class): with ``ce`` the loss
    is that of ``BCEWithLogitsLoss``.

    Args:
        *args: Arguments of the Trainer.
        mixing: A `MixingSchedule` or its string: short for ``loss="mix:..."``.
        loss: Any loss that `hf_elmix.parse_loss` reads, such as ``"focal:gamma=2"`` or a custom function. By default
            that of the `MixedLossArguments`, else ``"mix:0-0.5"``.
        class_weights: A factor for each class in the training loss, shape (C,), whose mean is weighted as in
            ``torch.nn.CrossEntropyLoss(weight=...)``; or ``"balanced"`` (see `parse_class_weights`). By default those
            of the `MixedLossArguments`. `eval_loss` is not weighted.
        replace_loss: Train a model whose own loss is not cross entropy, too, and replace its loss.
        **kwargs: Arguments of the Trainer.

    Attributes:
        mixing_callback: The `MixingCallback` that holds the schedule and the loss of the current step.
        class_weights: Shape (C,), or None.

    Raises:
        UsageError: If the loss does not exist, the model or the data has no true class, or a ``compute_loss_func`` is
            given too. While training: if the model has another loss, a subclass does not use this one, or the
            checkpoint to continue from is damaged or of another loss.
    """

    # The loss is already divided by the number of labels in the whole step, so the Trainer must not divide it again.
    loss_is_scaled_for_ga = True

    _unwrapped_of: tuple[Any, Any] = None, None  # the model, and what is left of it without wrappers

    def __init__(
        self,
        *args: Any,
        mixing: str | float | MixingSchedule | None = None,
        loss: str | Schedule | Loss | Callable[..., Tensor] | None = None,
        class_weights: ClassWeights | None = None,
        replace_loss: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if mixing is None and loss is None:
            mixing, loss = getattr(self.args, "mixing", None), getattr(self.args, "loss", None)
        self.mixing_callback = MixingCallback(choose_loss(mixing, loss))
        if hasattr(self.args, "loss"):
            self.args.loss = str(self.mixing_callback.schedule)
        self.replace_loss = replace_loss
        self._label = label_input(self.label_names)
        weights = getattr(self.args, "class_weights", None) if class_weights is None else class_weights
        classes = number_of_labels(self._model)
        self.class_weights = parse_class_weights(weights, self.train_dataset, self._label, classes)
        self._inspect()
        self.add_callback(self.mixing_callback)
        if any(type(callback).__name__ == "NotebookProgressCallback" for callback in self.callback_handler.callbacks):
            from hf_elmix.training import notebook  # needs IPython

            self.remove_callback(notebook.NotebookProgressCallback)
            self.add_callback(notebook.LossTable)
        # Given a loss function, the Trainer counts the labels of a step for every model.
        self.compute_loss_func = self._mixed_loss
        # A model need not accept labels, because they are withheld; without a name, evaluation would skip the loss.
        self.label_names = self.label_names or [self._label]
        # What the model does with labels, in training (True) and in evaluation (False).
        self._label_uses: dict[bool, LabelUse] = {}
        # What the loss function must know about the batch, besides outputs and labels.
        self._training = self._computed = True
        self._use = LabelUse()
        self._shift_labels: Tensor | None = None
        self._el: Tensor | None = None
        self._el_of_batches: list[Tensor] = []

    def _inspect(self) -> None:
        """Validate the loss against model and data, and install any Max-Mahalanobis head."""
        if self.compute_loss_func is not None:
            raise UsageError(
                "Expected either a loss or `compute_loss_func`, but got both: the loss would replace your function. "
                "Leave `compute_loss_func` out, or use the Trainer without the mixed loss."
            )
        if getattr(getattr(self.accelerator, "parallelism_config", None), "sp_enabled", False):
            raise UsageError(
                "The mixed loss cannot be used with sequence parallelism, which uses the model's own loss."
            )
        self._check_loss()
        check_class_logits(self._model)
        self._give_head(self._unwrapped)
        for dataset in (self.train_dataset, self.eval_dataset):
            check_labels_of(dataset, self._model)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """See the Trainer. The model of each trial gets the head that the loss needs."""
        model = super().call_model_init(trial)
        if hasattr(self, "mixing_callback"):  # else the Trainer is being built and inspects its model later
            self._give_head(model)
        return model

    def _give_head(self, model: nn.Module) -> None:
        """Replace the classifier by Max-Mahalanobis centres if the loss needs them."""
        if isinstance(self.mixing_callback.current_loss, MaxMahalanobis):
            use_mahalanobis_head(model, self.mixing_callback.current_loss.scale)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """See the Trainer. A damaged checkpoint is refused, as one whose steps were taken with another loss.

        Raises:
            UsageError: With what is wrong with the checkpoint, and the nearest whole one.
        """
        given: Any = resume_from_checkpoint
        checkpoint = get_last_checkpoint(self.args.output_dir) if given is True else given
        unchecked = self.trusts_checkpoints or self.is_fsdp_enabled or self.is_deepspeed_enabled
        if checkpoint and Path(checkpoint).is_dir() and not unchecked:
            check_checkpoint(Path(checkpoint), {}, processes=0)  # of another number of processes is well
        return super().train(given, *args, **kwargs)

    def _check_loss(self) -> None:
        """Refuse a loss that this Trainer cannot use."""
        self.mixing_callback.check_one_step(self._smoothing)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The configured loss in training (by default Eq. 12), plain cross entropy in evaluation (Eq. 1).

        Args:
            model: The model, possibly wrapped.
            inputs: The batch, with ``labels`` of shape (...) for logits (..., C).
            return_outputs: Whether to return the outputs of the model too.
            num_items_in_batch: Number of non-ignored labels in the whole optimizer step; by default, in the batch.

        Returns:
            The loss, a scalar; with `return_outputs`, the loss and the outputs.

        Raises:
            UsageError: If the batch has no labels, or they do not fit the logits.
        """
        labels = inputs.get(self._label)
        if labels is None:
            raise UsageError(f"Expected the batch to have {self._label!r}, but it has only {', '.join(inputs)}.")
        self._computed, self._use = True, self._label_use(inputs)
        inputs = {name: part for name, part in inputs.items() if name not in (self._label, "skip_logits")}
        self._training, self._shift_labels = model.training, inputs.get("shift_labels")
        call: Any = functools.partial(model, **{self._label: labels}) if self._use.needed else model
        loss, outputs = super().compute_loss(call, {**inputs, "labels": labels}, True, num_items_in_batch)
        if not isinstance(outputs, Mapping):
            # With labels, a tuple starts with the loss; the Trainer's prediction step relies on that.
            outputs = (loss, *without_loss(outputs))
        return (loss, outputs) if return_outputs else loss

    def _label_use(self, inputs: Mapping[str, Any]) -> LabelUse:
        """What the model does with labels; it is tried on the first batch in training and on the first in evaluation.

        The Trainer must know before it counts the labels of a step: it leaves out the first of each row if they shift.
        """
        training = self._unwrapped.training
        if training in self._label_uses or inputs.get(self._label) is None:
            return self._label_uses.get(training, LabelUse())
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        batch = dict(self._prepare_inputs(dict(inputs)))
        labels = batch.pop(self._label)
        with self.compute_loss_context_manager():
            use = try_labels(
                self.model_wrapped if sharded else self._unwrapped, batch, labels, self._label,
                weight=self.class_weights, gradients=training and not sharded, replace=self.replace_loss,
            )  # fmt: skip
        if use is not None:
            self._label_uses[training], self._loss_shifts_labels = use, use.shifted
        return use or LabelUse()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Tensor | int | None]:
        """See the Trainer. With class weights, labels count as much as they weigh."""
        if not self.model_wrapped.training:
            self.model_wrapped.train()  # as in each training step; the labels are counted for it
        batches, count = super().get_batch_samples(*args, **kwargs)
        if self.class_weights is None or count is None:
            return batches, count
        return batches, count * self._mean_weight([batch[self._label] for batch in batches])

    def _mean_weight(self, labels_of_batches: list[Tensor]) -> Tensor:
        """Mean class weight of the non-ignored labels of a step, over all devices if their number is."""
        assert self.class_weights is not None, "without them, labels are counted"
        sums = torch.zeros(2, device=self.args.device)
        for labels in labels_of_batches:
            if labels.is_floating_point():
                raise UsageError("Expected one true class per row for class_weights, but got multi-label targets.")
            labels = labels[..., 1:] if self._loss_shifts_labels else labels
            weights = self.class_weights.to(labels.device)[labels[labels != -100]]
            sums += torch.stack((weights.sum(), weights.new_tensor(len(weights)))).to(sums)
        if self.args.average_tokens_across_devices:
            sums = self.accelerator.gather(sums[None]).sum(0)
        return sums[0] / sums[1].clamp(min=1)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        if batch_samples:
            self._label_use(batch_samples[0])
        if self._label != "labels":
            batch_samples = [{**batch, "labels": batch.get(self._label)} for batch in batch_samples]
        return super()._get_num_items_in_batch(batch_samples, device)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """See the Trainer. A subclass whose `compute_loss` does not use this loss is refused."""
        self._computed = False
        loss = super().training_step(*args, **kwargs)
        if not self._computed:
            raise UsageError(
                f"Expected {type(self).__name__}.compute_loss to call super().compute_loss, but it computes another "
                "loss, so that there is nothing to mix. Call it, or use transformers.Trainer."
            )
        return loss

    def _mixed_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The `compute_loss_func`: the sum over non-ignored labels, divided by their number in the whole step."""
        logits, labels = two_classes(logits_of(outputs), labels)
        labels = self._aligned(logits, labels)
        weight = self.class_weights if self._training else None
        try:
            ce, el, batch = loss_terms(logits, labels, weight=weight, label_smoothing=self._smoothing)
        except IndexError:
            check_label_ids(labels, self._model)
            raise
        count = batch.counts if num_items_in_batch is None else num_items_in_batch
        return self._over_step(*sums_of(self._objective, ce, el, logits, labels, weight), count, outputs)

    def _over_step(self, loss: Tensor, ce: Tensor, el: Tensor, count: Tensor | int, outputs: Any) -> Tensor:
        """Normalise a batch's summed loss: by the whole step's label count in training, by the batch's in evaluation.

        `loss`, `ce` and `el` are sums over the labels of the batch. Both terms are kept for the logs.
        """
        # Under DataParallel there is one count per GPU, and the Trainer multiplies the loss by the number of GPUs, so
        # dividing by the sum of the counts is correct there and everywhere else.
        if not self._training:
            denominator = scalar_sum(count, ce)  # 0 if all are ignored: the Trainer leaves the NaN out of its means
            self._el = (el / denominator).detach() * self._device_scale
            return self._with_router_loss(loss / denominator, outputs)
        denominator = divisor(count, ce)
        self.mixing_callback.add_terms(ce, el, denominator)
        # The router loss is averaged over accumulated batches, because it is not a sum over labels.
        batches = getattr(self, "current_gradient_accumulation_steps", 1)
        return self._with_router_loss(loss / denominator, outputs, batches)

    def _with_router_loss(self, loss: Tensor, outputs: Any, batches: int = 1) -> Tensor:
        """A loss and the load-balancing loss of a mixture of experts, averaged over devices and batches."""
        router = router_loss(self._unwrapped, outputs)
        if isinstance(router, float) and not router:
            return loss
        return loss + torch.as_tensor(router).to(loss.device).mean() / self._device_scale / batches

    def _aligned(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels at the positions of the logits that predict them."""
        if self._use.shifted and self._shift_labels is not None:
            return self._shift_labels
        return self._use.align(logits, labels)

    @property
    def _smoothing(self) -> float:
        return self.label_smoother.epsilon if self.label_smoother is not None else 0.0

    @property
    def _objective(self) -> Loss:
        """The loss of the current optimizer step; in evaluation, cross entropy."""
        return self.mixing_callback.current_loss if self._training else CROSS_ENTROPY

    @property
    def _unwrapped(self) -> nn.Module:
        """The model without wrappers of compilation and distributed training."""
        if self._unwrapped_of[0] is not self.model:  # looking for wrappers takes milliseconds, and each step asks
            self._unwrapped_of = self.model, self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return self._unwrapped_of[1]

    @property
    def _model(self) -> nn.Module:
        """The model without these, and without that of PEFT."""
        return base_model(self._unwrapped)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and add the values of the loss and both terms to the training logs."""
        if "loss" in logs:
            logs.update(self._mixing_logs())
        super().log(logs, start_time)

    def _mixing_logs(self) -> dict[str, float]:
        return self.mixing_callback.logs(self._device_scale)

    @property
    def _device_scale(self) -> int:
        return device_scale(self.args, self.get_tp_size())

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, Any, Any]:
        """See the Trainer. The expectation loss of the batch is kept for `eval_loss_el`."""
        self._el = None
        prediction = super().prediction_step(*args, **kwargs)
        if self._el is not None:
            # Repeated and gathered as the Trainer does with its loss, so that both are averaged in the same way.
            self._el_of_batches.append(self.gather_function(self._el.repeat(self.args.eval_batch_size)))
        return prediction

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """See the Trainer. The expectation loss is added to the metrics."""
        self._el_of_batches = []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self._el_of_batches and output.metrics is not None:
            el = torch.cat(self._el_of_batches)
            finite = el.isfinite()
            if self.args.logging_nan_inf_filter and finite.any():  # as the Trainer does with its loss
                el = el[finite]
            output.metrics[f"{metric_key_prefix}_loss_el"] = el.mean().item()
        return output

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, float]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """See the Trainer. The default objective is the Trainer's: `eval_loss_el` is not part of it."""
        return super().hyperparameter_search(hp_space, compute_objective or _objective_of, *args, **kwargs)


def _objective_of(metrics: dict[str, float]) -> float:
    return default_compute_objective({name: value for name, value in metrics.items() if not name.endswith("loss_el")})


class MixedLossTrainer(MixedLossMixin, Trainer):
    """The Hugging Face Trainer with the mixed loss.

    Args:
        model: As all arguments up to `preprocess_logits_for_metrics`, see `Trainer`.
        args: May be `MixedLossArguments`.
        data_collator: See `Trainer`.
        train_dataset: See `Trainer`.
        eval_dataset: See `Trainer`.
        processing_class: See `Trainer`.
        model_init: See `Trainer`.
        compute_loss_func: Refused, because the loss would replace it.
        compute_metrics: See `Trainer`.
        callbacks: See `Trainer`.
        optimizers: See `Trainer`.
        optimizer_cls_and_kwargs: See `Trainer`.
        preprocess_logits_for_metrics: See `Trainer`.
        mixing: Schedule of the mixed loss: ``"0-0.5"`` (the default: the focus rises from 0 to 0.5 in six phases),
            ``"0,0.5"``, ``"0"``, ``"ce"``, ``"el"``, phases such as ``"ce@0 0.5@0.75"``, or a `MixingSchedule`.
        loss: Any other loss, such as ``"focal:gamma=2"`` or a function of logits and labels; see `parse_loss`.
        class_weights: A factor for each class in the training loss, shape (C,), or ``"balanced"``.
        replace_loss: Train a model whose own loss is not cross entropy, too.

    Example:
        ```python
        trainer = MixedLossTrainer(model=model, args=TrainingArguments("out"), train_dataset=rows)  # mixing="0-0.5"
        trainer.train()
        ```
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        mixing: str | float | MixingSchedule | None = None,
        loss: str | Schedule | Loss | Callable[..., Tensor] | None = None,
        class_weights: ClassWeights | None = None,
        replace_loss: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**given)
