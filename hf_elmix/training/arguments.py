"""Training arguments that include the loss, for command lines and configuration files."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_elmix.losses.registry import EXAMPLES, choose_loss
from hf_elmix.losses.schedules import GRAMMAR

__all__ = ["MixedLossArguments"]


@dataclass
class MixedLossArguments(TrainingArguments):
    """`TrainingArguments` with a loss.

    Attributes:
        loss: Any loss that `hf_elmix.parse_loss` reads; ``"mix:0-0.5"`` by default.
        mixing: Short for ``loss="mix:..."``: anything that `MixingSchedule.parse` reads. It is moved to `loss` and set
            to None.
        class_weights: ``["balanced"]``, or a number for each class; see `hf_elmix.MixedLossMixin`.

    Raises:
        UsageError: If the loss does not exist, or both are given and differ.
    """

    mixing: str | None = field(
        default=None, metadata={"help": f"Schedule of the mixed loss: {GRAMMAR}. Default, without --loss: 0-0.5."}
    )
    loss: str | None = field(default=None, metadata={"help": f"Any loss, such as {EXAMPLES}."})
    class_weights: list[str] | None = field(
        default=None, metadata={"help": "A factor for each class in the training loss, in order; or: balanced."}
    )

    def __post_init__(self) -> None:
        self.loss, self.mixing = str(choose_loss(self.mixing, self.loss)), None
        super().__post_init__()
