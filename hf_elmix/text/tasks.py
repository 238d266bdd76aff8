"""What a text classification task is: which columns hold the text, which classes there are, how it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["TextTask"]


@dataclass(frozen=True)
class TextTask:
    """A text classification task, or a regression: which columns hold the text, which labels it has, how it is scored.

    Attributes:
        name: Configuration name on the Hub.
        columns: The text column, or the two text columns of a pair task, in the order they are fed to the model.
        labels: Label names in the order of their ids; none for a regression.
        metrics: Metric names; the first is the score of the study (the paper compares accuracies).
        splits: Evaluation splits; the first is the one that counts.
        test_splits: Splits to predict, whose labels need not be known; one for each evaluation split.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)

    @property
    def regression(self) -> bool:
        """Whether labels are numbers to be met and no classes."""
        return not self.labels

    def to_settings(self) -> dict[str, Any]:
        """The task as plain JSON values; a record keeps them, so that whoever reads it needs no table of tasks."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> TextTask:
        """The task that `to_settings` was called on.

        Args:
            values: Its plain values, as a record's settings have them under ``text``.

        Raises:
            TypeError: If they are not the values of a task.
        """
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**fields)
