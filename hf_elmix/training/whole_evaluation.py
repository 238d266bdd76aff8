"""Evaluate and predict every row in order, whatever the training arguments say about batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

__all__ = ["with_whole_evaluation"]

T = TypeVar("T", bound=Trainer)

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object

# What the Trainer must read while it builds the loader of an evaluation. These arguments are meant for training.
IN_ORDER = {"dataloader_drop_last": False, "dataloader_in_order": True, "train_sampling_strategy": "sequential"}


def with_whole_evaluation(kind: type[T]) -> type[T]:
    """Return a subclass of a Trainer class that evaluates and predicts every row, in the order of the dataset.

    The stock Trainer applies arguments that are meant for training to evaluations, too: ``dataloader_drop_last``
    leaves out the last rows; ``train_sampling_strategy="group_by_length"`` and ``dataloader_in_order=False`` change
    their order, so that predictions no longer belong to the rows they stand beside.
    """
    return type(kind.__name__, (_WholeEvaluation, kind), {})


class _WholeEvaluation(_Base):
    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        with _changed(self.args):
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        with _changed(self.args):
            return super().get_test_dataloader(*args, **kwargs)


@contextmanager
def _changed(args: TrainingArguments) -> Iterator[None]:
    """Set `IN_ORDER` for a moment."""
    before = {name: getattr(args, name) for name in IN_ORDER}
    try:
        vars(args).update(IN_ORDER)
        yield
    finally:
        vars(args).update(before)
