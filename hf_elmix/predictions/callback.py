"""Record how predictions change during training: which rows are correct, and the p_y of each.

This reproduces the paper's motivating example: of the rows that are incorrect at some epoch, those with p_y > 0.2 are
often correct at the end, the others rarely.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_elmix.errors import UsageError
from hf_elmix.predictions.recorder import Recorder
from hf_elmix.predictions.records import FILE, THRESHOLD, Predictions, read_predictions, write_predictions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CohortCallback"]

TOLERANCE = 1e-6  # in epochs, which the Trainer computes as sums of fractions
SPEED = "_samples_per_second"  # suffix of a metric that the Trainer adds for each evaluation set


class CohortCallback(TrainerCallback):
    """Records p_y of each evaluation row, and whether it is correct, at chosen points of training and at its end.

    Works with any Trainer whose model returns class logits (N, C). It observes the evaluations that happen anyway and
    changes nothing about them. After each evaluation it writes ``predictions.safetensors`` to the output folder. If an
    evaluation cannot be recorded, it warns and training continues.

    Args:
        at: Epochs to record, such as ``[70]``: for each, the first evaluation at or after it, besides the last
            evaluation. By default every evaluation is recorded.
        threshold: The p_y that separates near from far incorrect rows in `transitions`, in (0, 1).

    Attributes:
        predictions: The predictions recorded so far, by the name of the evaluation set (``""`` if there is only one);
            in the main process only.

    Example:
        ```python
        trainer = Trainer(model, args, train_dataset=rows, eval_dataset=others, callbacks=[CohortCallback(at=[2])])
        trainer.train()  # with eval_strategy="epoch" in args
        ```

    Raises:
        UsageError: If an epoch or the threshold is out of range.
    """

    def __init__(self, at: Iterable[float] | None = None, threshold: float = THRESHOLD) -> None:
        if at is not None:
            epochs = tuple(at) if isinstance(at, Iterable) else (None,)
            if not all(_is_number(epoch) and 0 <= epoch < math.inf for epoch in epochs):
                raise UsageError(f"Expected epochs of 0 or more, such as at=[70], but got at={at!r}.")
            at = epochs
        if not (_is_number(threshold) and 0 < threshold < 1):
            raise UsageError(f"Expected a threshold between 0 and 1, such as 0.2, but got {threshold!r}.")
        self.at, self.threshold = at, threshold
        self.predictions: dict[str, Predictions] = {}
        self._recorder, self._training_began = Recorder(), False

    def transitions(self, name: str = "") -> pd.DataFrame:
        """Count how the rows of each cohort of an evaluation set end up; see `transition_table`.

        Raises:
            UsageError: If this process recorded nothing for the set of that name.
        """
        from hf_elmix.predictions.cohorts import transition_table  # needs the extra `report`

        if name not in self.predictions:
            known = ", ".join(map(repr, self.predictions)) or "none"
            raise UsageError(f"Expected the name of a recorded evaluation set ({known}), but got {name!r}.")
        return transition_table(self.predictions[name], self.threshold)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Attach to the model. When resuming, load what was recorded before the checkpoint."""
        self._recorder.attach(kwargs["model"], args)
        self._training_began = True
        self.predictions = {}
        if state.global_step and state.is_world_process_zero:
            try:
                self.predictions = _recorded_until(state.global_step, _file(args))
            except UsageError as error:
                _warn(state, f"No predictions before step {state.global_step} are available. {error}")
        if args.eval_strategy == IntervalStrategy.NO:
            _warn(state, "There is no evaluation during training. Set eval_strategy='epoch'.")
        elif late := [epoch for epoch in self.at or () if epoch > state.num_train_epochs]:
            _warn(state, f"Training ends after {state.num_train_epochs} epochs, before epoch {_listed(late)}.")

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Record the output of the model for a batch."""
        self._recorder.record_batch(kwargs["eval_dataloader"])

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        """Discard the recorded batches: `Trainer.predict` is not an evaluation."""
        self._recorder.discard()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Add the evaluation to the predictions and write the file, unless training has not begun."""
        if not self._training_began:  # the file may be that of an earlier training run
            self._recorder.discard()
            return
        name = _set_name(kwargs["metrics"])
        try:
            evaluation = self._recorder.collect(state.is_world_process_zero)
            if evaluation is not None:
                point = Predictions.from_logits(*evaluation, step=state.global_step, epoch=state.epoch or 0.0)
                self._add(name, point)
                write_predictions(_file(args), self.predictions)
        except (UsageError, OSError) as error:
            _warn(state, f"Cannot record the evaluation{f' set {name!r}' if name else ''}: {error}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Warn about epochs without an evaluation at or after them."""
        last = min((one.epochs[-1] for one in self.predictions.values()), default=math.inf)
        if missed := [epoch for epoch in self.at or () if epoch > last + TOLERANCE]:
            _warn(
                state,
                f"There was no evaluation at or after epoch {_listed(missed)}; the last one was at {last:g}. Set "
                "eval_strategy='epoch', or lower eval_steps.",
            )

    def _add(self, name: str, point: Predictions) -> None:
        """Add a point to an evaluation set. Keep only the last point and the first at or after each epoch of `at`."""
        points = point
        if earlier := self.predictions.get(name):
            if not np.array_equal(earlier.labels, point.labels):
                raise UsageError(
                    f"Expected the same {len(earlier.labels)} rows as before, but got {len(point.labels)} others. "
                    "Evaluate other rows with another metric_key_prefix."
                )
            points = earlier.followed_by(point)
        if self.at is not None:
            firsts = {int(np.searchsorted(points.epochs, epoch - TOLERANCE)) for epoch in self.at}
            count = len(points.steps)
            points = points.at(np.isin(np.arange(count), [*firsts, count - 1]))
        self.predictions[name] = points


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _file(args: TrainingArguments) -> Path:
    return Path(args.output_dir or "", FILE)


def _listed(epochs: Iterable[float]) -> str:
    return ", ".join(f"{epoch:g}" for epoch in epochs)


def _warn(state: TrainerState, text: str) -> None:
    if state.is_world_process_zero:
        warnings.warn(f"CohortCallback: {text}", stacklevel=2)


def _set_name(metrics: Mapping[str, Any]) -> str:
    """``matched`` if the metrics are named ``eval_matched_...``, and ``""`` if they are named ``eval_...``."""
    speed = [name for name in metrics if name.endswith(SPEED)]  # the last is that of the Trainer
    prefix = speed[-1].removesuffix(SPEED) if speed else "eval"
    return "" if prefix == "eval" else prefix.removeprefix("eval_")


def _recorded_until(step: int, path: Path) -> dict[str, Predictions]:
    """Read the points up to a step. Logits are NaN if they belong to a later point."""
    recorded = {}
    for name, one in read_predictions(path).items() if path.is_file() else ():
        early = one.steps <= step
        if early.any():
            recorded[name] = replace(one, logits=np.where(early.all(), one.logits, np.nan)).at(early)
    return recorded
