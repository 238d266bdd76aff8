"""The table of a notebook, with both terms of the loss and their weights."""

from __future__ import annotations

from typing import Any

from transformers.utils.notebook import NotebookProgressCallback, NotebookTrainingTracker

__all__ = ["LossTable"]

COLUMNS = {"loss_ce": "CE", "loss_el": "EL", "alpha": "α", "beta": "β"}


class LossTable(NotebookProgressCallback):
    """The Trainer's table with columns for CE, EL, α and β of the training loss.

    The loss changes its meaning with the schedule; CE and the validation loss, which is cross entropy, do not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._terms: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start a table."""
        super().on_train_begin(args, state, control, **kwargs)
        names = self.training_tracker.inner_table[0]
        self.training_tracker = _Table(state.max_steps, names)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add both terms and their weights to the line of a training log."""
        super().on_log(args, state, control, logs=logs, **kwargs)
        if "loss" in logs:
            self._terms = {name: logs[key] for key, name in COLUMNS.items() if key in logs}
            if str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
                self._add_terms("Step", state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Add the latest terms to the line of an evaluation."""
        super().on_evaluate(args, state, control, metrics=metrics, **kwargs)
        if self._terms:
            self._add_terms(self.first_column, int(state.epoch) if self.first_column == "Epoch" else state.global_step)

    def _add_terms(self, column: str, value: int) -> None:
        if isinstance(self.training_tracker, _Table):
            self.training_tracker.write_line({column: value, **self._terms})


class _Table(NotebookTrainingTracker):
    def write_line(self, values: dict[str, Any]) -> None:
        super().write_line({"Validation EL" if name == "Loss El" else name: value for name, value in values.items()})
