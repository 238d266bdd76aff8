"""Text classification tasks: the text columns, the classes, and the metrics of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["MAX_LENGTH", "PADDINGS", "TextTask"]

MAX_LENGTH = 64  # tokens to which a row is truncated by default
# What a batch is padded to: nothing (the default, see `padding_free`), its longest row, the next multiple of 16 (few
# lengths, for compiled models), or the maximum length. Training is the same with each, up to rounding and the random
# numbers for dropout.
PADDINGS = ("free", "longest", "multiple_of_16", "max_length")


@dataclass(frozen=True)
class TextTask:
    """A text classification or regression task.

    Attributes:
        name: Name of the task, and of its configuration in a dataset that has one for each task.
        columns: The text column, or the two of a pair task in the order in which the model reads them.
        labels: Class names in the order of their ids; empty for a regression.
        metrics: Metric names; the first is the score of a study.
        splits: Evaluation splits; a study's score is measured on the first.
        test_splits: Splits to predict, one for each evaluation split; their labels may be unknown.
        positive: The class of which F1 is measured; by default the second.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    positive: str = ""

    @property
    def regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return not self.labels

    def to_settings(self) -> dict[str, Any]:
        """The task as plain JSON values; a record keeps them, so that reading it does not require a table of tasks."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if value != ""}

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> TextTask:
        """The task with the values of `to_settings`, which a record holds in its settings under ``text``.

        Raises:
            TypeError: If they are not the values of a task.
        """
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**fields)
