"""Training arguments with the loss among them, for command lines and configuration files."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_elmix.schedules import GRAMMAR, MixingSchedule

__all__ = ["DEFAULT_MIXING", "MixedLossArguments"]

DEFAULT_MIXING = "0-0.5"


@dataclass
class MixedLossArguments(TrainingArguments):
    """`TrainingArguments` and the schedule of the mixed loss; everything else is as documented there.

    Attributes:
        mixing: Schedule of the mixed loss, in the words of `MixingSchedule.parse`.

    Raises:
        UsageError: (a ValueError) If `mixing` is no schedule.
    """

    mixing: str = field(
        default=DEFAULT_MIXING,
        metadata={"help": f"Schedule of the mixed loss: {GRAMMAR}."},
    )

    def __post_init__(self) -> None:
        schedule = MixingSchedule.parse(self.mixing)
        if not isinstance(self.mixing, str):  # a number in a configuration file, or a schedule: trackers want text
            self.mixing = str(schedule)
        super().__post_init__()
