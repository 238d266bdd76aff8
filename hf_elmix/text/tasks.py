"""What a text classification task is: which columns hold the text, which classes there are, how it is scored."""

from __future__ import annotations

from dataclasses import dataclass

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
