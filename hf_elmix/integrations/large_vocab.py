"""A Trainer for language models with a large vocabulary that never holds all logits.

While the loss is computed, the model's head is replaced by a function that returns the loss instead of the logits
(`hf_elmix.losses.linear`). The rest of the model and its wrappers run unchanged, whatever the architecture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from hf_elmix.errors import UsageError
from hf_elmix.losses.linear import Kernel, linear_loss
from hf_elmix.training.callback import cross_entropy_function
from hf_elmix.training.model_support import logits_of, number_of_labels
from hf_elmix.training.own_loss import try_labels
from hf_elmix.training.trainer import MixedLossMixin

__all__ = ["LinearLossMixin", "LinearLossTrainer", "head_replaced", "linear_head"]

USE_OTHER = "Use MixedLossTrainer, which computes all logits."


def linear_head(model: nn.Module) -> nn.Linear:
    """The head of a model whose logits are ``hidden @ weight.T + bias``, neither scaled nor capped.

    This is tried on two tokens: the head is made to return known numbers, and the model must return exactly these.

    Args:
        model: The model without a wrapper.

    Raises:
        UsageError: If the model has no such head.
    """
    name, find = type(model).__name__, getattr(model, "get_output_embeddings", None)
    head = None if find is None else find()
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward or "forward" in vars(head):
        raise UsageError(f"Expected the head of {name} to be a plain nn.Linear, but it is {head}. {USE_OTHER}")
    if not _returns_unchanged(model, head):
        raise UsageError(f"{name} changes the logits of its head (for example by a scale or a cap). {USE_OTHER}")
    return head


def _returns_unchanged(model: nn.Module, head: nn.Linear) -> bool:
    known = torch.linspace(-1000, 1000, head.out_features).to(head.weight).expand(1, 2, -1)
    tokens = torch.zeros(1, 2, dtype=torch.long, device=known.device)
    training = model.training
    try:
        with torch.no_grad(), head_replaced(head, lambda hidden: known):
            logits = model.eval()(input_ids=tokens, return_dict=True).logits
    finally:
        model.train(training)
    return torch.equal(logits.to(known), known)


@contextlib.contextmanager
def head_replaced(head: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Use a function in place of a module's `forward`."""
    head.forward = function
    try:
        yield
    finally:
        del head.forward


class LinearLossMixin(MixedLossMixin):
    """`MixedLossMixin` for decoder-only language models that never holds the logits of all tokens.

    The loss, its gradients and the logs are the same, up to the order of additions. Logits are computed where
    predictions are needed: in evaluation with `compute_metrics`, and in `predict`.

    Args:
        *args: Arguments of the Trainer.
        kernel: A fused kernel for the cross entropy (see `hf_elmix.losses.linear.HeadOptions`).
        **kwargs: Arguments of the Trainer, and of `MixedLossMixin`.

    Raises:
        UsageError: As for `MixedLossMixin`; and if the loss is not a function of the cross entropy, the model does not
            predict the next token, its logits are not those of a linear head, labels are smoothed or classes weighted,
            or the model is compiled, sharded, or replicated in one process.
    """

    def __init__(self, *args: Any, kernel: Kernel | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kernel = kernel
        untested = {
            "a model that does not predict the next token": not self._predicts_next_token(),
            "label_smoothing_factor": self.label_smoother is not None,
            "class_weights": self.class_weights is not None,
            "torch_compile": self.args.torch_compile,
            "DeepSpeed or FSDP": self.is_deepspeed_enabled or self.is_fsdp_enabled,
            "several GPUs in one process": self.args.n_gpu > 1,
        }
        for what, is_so in untested.items():
            if is_so:
                raise UsageError(f"The loss without logits does not support {what}. {USE_OTHER}")
        self._head = linear_head(self._model)
        self._loss_only = False  # whether the requested outputs will be discarded
        self._replaced = False

    def _predicts_next_token(self) -> bool:
        """Try the model on a few tokens, because the logits of a whole batch may not fit into the memory."""
        if number_of_labels(self._unwrapped) is not None:  # a classifier
            return False
        tokens = torch.arange(1, 5, device=self.args.device)[None]
        try:
            use = try_labels(
                self._unwrapped, {"input_ids": tokens}, tokens, gradients=False, replace=self.replace_loss
            )
        except (IndexError, RuntimeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            return False  # it takes other labels
        if use is None or use.needed or not use.shifted:
            return False
        self._label_uses, self._loss_shifts_labels = dict.fromkeys((True, False), use), True
        return True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See `MixedLossMixin`."""
        self._replaced = inputs.get("labels") is not None and (self._loss_only or not return_outputs)
        if not self._replaced:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        with head_replaced(self._head, lambda hidden: self._sums(hidden, labels)):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _sums(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Sums of the loss, the cross entropy and the expectation loss, and the number of labels, shape (4,)."""
        labels, head = self._aligned(hidden, labels), self._head
        of = cross_entropy_function(self._objective).of_ce
        sums = linear_loss(hidden, head.weight, labels, of, bias=head.bias, reduction="sum", kernel=self.kernel)
        return torch.stack((*sums, labels.ne(-100).sum().to(sums.loss)))

    def _check_loss(self) -> None:
        super()._check_loss()
        cross_entropy_function(self.mixing_callback.current_loss)

    def _mixed_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        if not self._replaced:
            return super()._mixed_loss(outputs, labels, num_items_in_batch)
        loss, ce, el, counted = logits_of(outputs).unbind()
        count = counted if num_items_in_batch is None else num_items_in_batch
        return self._over_step(loss, ce, el, count, outputs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> tuple[Tensor | None, Any, Any]:
        """See `MixedLossMixin`."""
        self._loss_only = prediction_loss_only
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            self._loss_only = False


class LinearLossTrainer(LinearLossMixin, Trainer):
    """The Hugging Face Trainer with the mixed loss for language models with a large vocabulary.

    Example:
        ```python
        model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
        trainer = LinearLossTrainer(model=model, args=TrainingArguments("out"), train_dataset=rows, mixing="0,0.5")
        trainer.train()
        ```
    """
