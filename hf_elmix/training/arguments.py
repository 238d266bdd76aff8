"""Training arguments with the loss among them, for command lines and configuration files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import ComplementLoss, Loss, MixedLoss
from hf_elmix.losses.registry import EXAMPLES, parse_loss
from hf_elmix.losses.schedules import GRAMMAR, MixingSchedule

__all__ = ["DEFAULT_MIXING", "MixedLossArguments", "check_one_step", "choose_loss", "note_loss"]

DEFAULT_MIXING = "0-0.5"


@dataclass
class MixedLossArguments(TrainingArguments):
    """`TrainingArguments` and the loss; everything else is as documented there.

    Attributes:
        mixing: Schedule of the mixed loss, in the words of `MixingSchedule.parse`: the short form of ``mix:...``. Left
            out, with no `loss` either, ``"0-0.5"``; None where the loss is another one.
        loss: Any loss, in the words of `hf_elmix.losses.registry.parse_loss`.

    Raises:
        UsageError: If there is no such loss, or the two are different ones.
    """

    mixing: str | None = field(
        default=None,
        metadata={"help": f"Schedule of the mixed loss: {GRAMMAR}. Default, where there is no --loss: 0-0.5."},
    )
    loss: str | None = field(default=None, metadata={"help": f"Any loss, such as {EXAMPLES}."})

    def __post_init__(self) -> None:
        note_loss(self, choose_loss(self.mixing, self.loss))
        super().__post_init__()


def choose_loss(mixing: Any, loss: Any) -> Loss:
    """The loss that was asked for by one of its two names, or by none.

    Args:
        mixing: What `MixingSchedule.parse` reads, or None.
        loss: What `hf_elmix.losses.registry.parse_loss` reads, or None.

    Returns:
        The loss; the mixed loss under ``0-0.5`` if both are None.

    Raises:
        UsageError: If there is no such loss, or both are given and different.
    """
    if loss is None:
        return MixedLoss(MixingSchedule.parse(DEFAULT_MIXING if mixing is None else mixing))
    chosen = parse_loss(loss)
    if mixing is not None and chosen != MixedLoss(MixingSchedule.parse(mixing)):
        raise UsageError(f"Expected mixing or loss, but got mixing {mixing!r} and loss {loss!r}. Leave one out.")
    return chosen


def check_one_step(loss: Loss, smoothing: float) -> None:
    """Refuse a loss that is not one step for each batch, or that label smoothing has no meaning with.

    Args:
        loss: The loss.
        smoothing: The ``label_smoothing_factor``.

    Raises:
        UsageError: If it is such a loss.
    """
    if isinstance(loss, ComplementLoss):
        raise UsageError("The loss 'cot' takes two steps for each batch. Use hf_elmix.ComplementTrainer for it.")
    if smoothing and not loss.smooths:
        raise UsageError(f"Label smoothing has no meaning with the loss {str(loss)!r}. Leave it out.")


def note_loss(args: Any, loss: Loss) -> None:
    """Write down in training arguments which loss it is, so that what is written down is what is done.

    Args:
        args: `MixedLossArguments`.
        loss: The loss.
    """
    args.loss = str(loss)
    args.mixing = str(loss.schedule) if isinstance(loss, MixedLoss) else None
