"""The mixed loss in the Hugging Face Trainer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss, Schedule
from hf_elmix.losses.baselines import MaxMahalanobis
from hf_elmix.losses.mixed import loss_terms
from hf_elmix.losses.reduction import divisor, total_of
from hf_elmix.losses.schedules import MixingSchedule
from hf_elmix.training.arguments import choose_loss
from hf_elmix.training.callback import MixingCallback, device_scale, loss_of_terms
from hf_elmix.training.mahalanobis_head import use_mahalanobis_head
from hf_elmix.training.model_support import (
    base_model,
    check_class_logits,
    check_labels_of,
    labels_for,
    logits_of,
    predicts_next_token,
    requires_labels,
    without_loss,
)

__all__ = ["MixedLossMixin", "MixedLossTrainer"]

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class MixedLossMixin(_Base):
    """Gives any Trainer the mixed loss ``alpha * CE + beta * EL`` (Eq. 12) on a schedule, or another loss.

    Put it before the Trainer: ``class MyTrainer(MixedLossMixin, Seq2SeqTrainer): ...``. It changes the Trainer as
    follows:

    - Labels are withheld from the model, so that it does not compute its own loss.
    - The loss is a mean over the labels that count in the whole optimizer step, over all accumulated batches and
      devices, whatever the model does with ``num_items_in_batch``.
    - Training logs also contain ``alpha``, ``beta``, ``focus`` (of the last step; other losses have other values or
      none) and, for every loss, ``loss_ce`` and ``loss_el`` (means since the last log, like ``loss``).
    - In every phase ``eval_loss`` is the cross entropy, as without the mixin (smoothed if ``label_smoothing_factor``
      is set), and ``eval_loss_el`` is the expectation loss.

    Args:
        *args: Arguments of the Trainer.
        mixing: A `MixingSchedule` or its text: short for ``loss="mix:..."``.
        loss: Any loss that `hf_elmix.parse_loss` reads, such as ``"focal:gamma=2"`` or a custom function. By default
            that of the `MixedLossArguments`, else ``"mix:0-0.5"``.
        **kwargs: Arguments of the Trainer.

    Attributes:
        mixing: The `MixingCallback` that holds the schedule and the loss of the current step.

    Raises:
        UsageError: If the loss does not exist, the model or the data has no single true class, or a
            ``compute_loss_func`` is given too.
    """

    # The loss is already divided by the number of labels in the whole step, so the Trainer must not divide it again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        mixing: str | float | MixingSchedule | None = None,
        loss: str | Schedule | Loss | Callable[..., Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if mixing is None and loss is None:
            mixing, loss = getattr(self.args, "mixing", None), getattr(self.args, "loss", None)
        self.mixing = MixingCallback(choose_loss(mixing, loss))
        if hasattr(self.args, "loss"):
            self.args.loss = str(self.mixing.loss)
        self._inspect()
        self.add_callback(self.mixing)
        # Given a loss function, the Trainer counts the labels of a step for every model.
        self.compute_loss_func = self._mixed_loss
        # A model need not accept labels, because they are withheld; without a name, evaluation would skip the loss.
        self.label_names = self.label_names or ["labels"]
        # What the loss function must know about the batch, besides outputs and labels.
        self._training = True
        self._labels_passed = False
        self._shift_labels: Tensor | None = None
        self._el: Tensor | None = None
        self._el_of_batches: list[Tensor] = []

    def _inspect(self) -> None:
        """Check that the loss can be used, and note what it must know about the model."""
        if self.compute_loss_func is not None:
            raise UsageError(
                "Expected either a loss or `compute_loss_func`, but got both: the loss would replace your function. "
                "Leave `compute_loss_func` out, or use the Trainer without the mixed loss."
            )
        if getattr(getattr(self.accelerator, "parallelism_config", None), "sp_enabled", False):
            raise UsageError(
                "The mixed loss cannot be used with sequence parallelism, which uses the model's own loss."
            )
        model = self._model
        self._config = getattr(model, "config", None)
        self._requires_labels = requires_labels(model)
        # If the Trainer does not know that the model shifts its labels, it counts the first label of each row.
        self._loss_shifts_labels = predicts_next_token(model)
        self._check_loss()
        check_class_logits(model, self.label_names)
        self._give_head(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        for dataset in (self.train_dataset, self.eval_dataset):
            check_labels_of(dataset, model)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """See the Trainer. The model of each trial gets the head that the loss needs."""
        model = super().call_model_init(trial)
        if hasattr(self, "mixing"):  # else the Trainer is being built and inspects its model later
            self._give_head(model)
        return model

    def _give_head(self, model: nn.Module) -> None:
        """Replace the classifier by Max-Mahalanobis centres if the loss needs them."""
        if isinstance(self.mixing.current, MaxMahalanobis):
            use_mahalanobis_head(model, self.mixing.current.scale)

    def _check_loss(self) -> None:
        """Refuse a loss that this Trainer cannot use."""
        self.mixing.check_one_step(self._smoothing)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch during training (Eq. 12), and cross entropy during evaluation (Eq. 1).

        Args:
            model: The model, possibly wrapped.
            inputs: The batch, with ``labels`` of shape (...) for logits (..., C).
            return_outputs: Whether to return the outputs of the model too.
            num_items_in_batch: Labels that count in the whole optimizer step; by default, those of the batch.

        Returns:
            The loss, a scalar; with `return_outputs`, the loss and the outputs.

        Raises:
            UsageError: If the batch has no labels, or they do not fit the logits.
        """
        if inputs.get("labels") is None:
            raise UsageError(f"Expected the batch to have 'labels', but it has only {', '.join(inputs)}.")
        inputs = dict(inputs)
        prepare: Any = getattr(self._model, "prepare_decoder_input_ids_from_labels", None)
        if prepare is not None and self._makes_decoder_inputs(inputs):
            inputs["decoder_input_ids"] = prepare(labels=inputs["labels"])
        self._training, self._shift_labels = model.training, inputs.get("shift_labels")
        self._labels_passed = self._requires_labels or self._makes_decoder_inputs(inputs)
        call: Any = functools.partial(model, labels=inputs["labels"]) if self._labels_passed else model
        loss, outputs = super().compute_loss(call, inputs, True, num_items_in_batch)
        if not (isinstance(outputs, Mapping) or self._labels_passed):
            # With labels, a tuple starts with the loss; the Trainer's prediction step relies on that.
            outputs = (loss, *without_loss(outputs))
        return (loss, outputs) if return_outputs else loss

    def _mixed_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The `compute_loss_func`: the sum over the labels that count, divided by their number in the whole step."""
        logits = logits_of(outputs, self._labels_passed)
        labels = self._aligned(logits, labels)
        ce, el, counts = loss_terms(logits, labels, label_smoothing=self._smoothing)
        loss = loss_of_terms(self._objective, ce, el, logits, labels) if self._training else ce
        return self._over_step(loss, ce, el, counts if num_items_in_batch is None else num_items_in_batch, outputs)

    def _over_step(self, loss: Tensor, ce: Tensor, el: Tensor, count: Tensor | int, outputs: Any) -> Tensor:
        """A batch's share of the loss of a step, from the loss and terms of samples or their sums."""
        # Under DataParallel there is one count per GPU, and the Trainer multiplies the loss by the number of GPUs, so
        # dividing by the sum of the counts is correct there and everywhere else.
        if not self._training:
            per = total_of(count, ce)  # 0 if no label counts: the Trainer leaves the NaN out of its means
            self._el = (el.sum() / per).detach() * self._device_scale
            return loss.sum() / per
        per = divisor(count, ce)
        self.mixing.add_terms(ce, el, per)
        return self._with_router_loss(loss.sum() / per, outputs)

    def _aligned(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels at the positions of the logits that predict them."""
        if self._loss_shifts_labels and self._shift_labels is not None:
            return self._shift_labels
        return labels_for(logits, labels, self._loss_shifts_labels)

    @property
    def _smoothing(self) -> float:
        return self.label_smoother.epsilon if self.label_smoother is not None else 0.0

    @property
    def _objective(self) -> Loss:
        """The loss of the current optimizer step."""
        return self.mixing.current

    def _makes_decoder_inputs(self, inputs: dict[str, Any]) -> bool:
        """Whether this is an encoder-decoder that would make its decoder inputs from the labels."""
        given = inputs.get("decoder_input_ids") is not None or inputs.get("decoder_inputs_embeds") is not None
        sequences = inputs["labels"].dim() > 1
        return sequences and not given and getattr(self._config, "is_encoder_decoder", False)

    def _with_router_loss(self, loss: Tensor, outputs: Any) -> Tensor:
        """Add the load-balancing loss of a mixture of experts, which the model adds only if it is given labels.

        It is averaged over accumulated batches and devices, because it is not a sum over labels.
        """
        coefficient = getattr(self._config, "router_aux_loss_coef", None)
        router_loss = outputs.get("aux_loss") if isinstance(outputs, Mapping) else None
        if coefficient is None or router_loss is None:
            return loss
        batches = getattr(self, "current_gradient_accumulation_steps", 1)
        return loss + coefficient * router_loss.to(loss.device) / (batches * self._device_scale)

    @property
    def _model(self) -> nn.Module:
        """The model without wrappers of PEFT, compilation and distributed training."""
        return base_model(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and add the values of the loss and both terms to the training logs."""
        if "loss" in logs:
            logs.update(self._mixing_logs())
        super().log(logs, start_time)

    def _mixing_logs(self) -> dict[str, float]:
        return self.mixing.logs(self._device_scale)

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


class MixedLossTrainer(MixedLossMixin, Trainer):
    """The Hugging Face Trainer with the mixed loss. It takes every argument of `Trainer`, and `mixing` or `loss`.

    Example:
        ```python
        trainer = MixedLossTrainer(model=model, args=TrainingArguments("out"), train_dataset=rows)  # mixing="0-0.5"
        trainer.train()
        ```
    """
