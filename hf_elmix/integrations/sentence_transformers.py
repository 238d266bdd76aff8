"""The mixed loss for the `CrossEncoder` of sentence-transformers, whose Trainer takes the loss as a module."""

from __future__ import annotations

from sentence_transformers.cross_encoder import CrossEncoder
from sentence_transformers.cross_encoder.losses import CrossEntropyLoss
from torch import Tensor, nn

from hf_elmix.errors import UsageError
from hf_elmix.training.loss_function import MixedLossFunction
from hf_elmix.training.own_loss import LabelUse

__all__ = ["MixedCrossEncoderLoss"]


class MixedCrossEncoderLoss(CrossEntropyLoss):
    """The mixed loss, or another, in place of the `CrossEntropyLoss` of sentence-transformers.

    It is a mean over the text pairs of a batch, and cross entropy in evaluation.

    Args:
        model: A model with two classes or more.
        function: The result of `hf_elmix.mixed_loss_func`, which must be a callback of the Trainer too.

    Raises:
        UsageError: If the model has a single score instead of classes; in training, if labels are to be smoothed.

    Example:
        ```python
        f = mixed_loss_func("0-0.5")
        loss = MixedCrossEncoderLoss(model, f)
        trainer = CrossEncoderTrainer(model=model, args=args, train_dataset=pairs, loss=loss, callbacks=[f])
        ```
    """

    def __init__(self, model: CrossEncoder, function: MixedLossFunction) -> None:
        super().__init__(model)
        if model.num_labels == 1:
            raise UsageError("Expected a CrossEncoder with num_labels of 2 or more, but got one with a single score.")
        function.label_uses = dict.fromkeys((True, False), LabelUse())  # the model gets no labels and has no loss
        self.ce_loss = _BatchMean(function)


class _BatchMean(nn.CrossEntropyLoss):
    """A loss function as a mean over one batch, which the Trainer averages over a step."""

    def __init__(self, function: MixedLossFunction) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.function.smoothing:
            raise UsageError(
                "CrossEncoderTrainer ignores label_smoothing_factor, and so does this loss. Leave it out."
            )
        parts = self.function.parts  # so that the logged terms are means over the step
        return parts * self.function(logits, labels, parts * labels.ne(-100).sum())
