"""Recording what becomes of samples while a model trains: which are right, and with what p_y the others are wrong.

The question is the paper's motivating example: of the samples that are wrong at some epoch, those with p_y > 0.2 are
often right at the end, those below hardly ever.
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
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_elmix.errors import UsageError
from hf_elmix.predictions.recorder import Watch
from hf_elmix.predictions.records import (
    FILE,
    THRESHOLD,
    Predictions,
    at_one_point,
    read_predictions,
    write_predictions,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CohortCallback"]

TOLERANCE = 1e-6  # epochs; the Trainer's are sums of fractions
SERIES = ("steps", "epochs", "p_true", "right")  # what predictions have for each point
SPEED = "_samples_per_second"  # what the Trainer adds to the metrics of each evaluation set


class CohortCallback(TrainerCallback):
    """Records p_y of each evaluation row, and whether it is right, at chosen points of a training and at its end.

    For any Trainer whose model gives class logits (N, C), with or without metrics; it rides on the evaluations that
    happen anyway and changes nothing of them. What it has recorded is in ``predictions.safetensors`` in the output
    folder after each evaluation. What it cannot record it warns of, and training goes on.

    Args:
        at: Epochs, such as ``[70]``: the first evaluation at or after each is kept, and the last of all. Left out,
            every evaluation is.
        threshold: The p_y that parts the wrong rows in tables of what became of them, between 0 and 1.

    Attributes:
        predictions: What is recorded so far by the name of the evaluation set, ``""`` for the only one; in the main
            process only.

    Example:
        ```python
        trainer = Trainer(model, args, train_dataset=rows, eval_dataset=others, callbacks=[CohortCallback(at=[2])])
        trainer.train()  # with eval_strategy="epoch" in args
        ```

    Raises:
        UsageError: If an epoch or the threshold is outside its range.
    """

    def __init__(self, at: Iterable[float] | None = None, threshold: float = THRESHOLD) -> None:
        self.at, self.threshold = _epochs(at), threshold
        if not (_is_number(threshold) and 0 < threshold < 1):
            raise UsageError(f"Expected a threshold between 0 and 1, such as 0.2, but got {threshold!r}.")
        self.predictions: dict[str, Predictions] = {}
        self._watch, self._began = Watch(), False

    def transitions(self, name: str = "") -> pd.DataFrame:
        """What became of the right rows, and of the wrong ones above and below the threshold; see `transition_table`.

        Args:
            name: Of the evaluation set, where it has one.

        Raises:
            UsageError: If nothing was recorded of it in this process.
        """
        from hf_elmix.predictions.cohorts import transition_table  # with what the extra `report` brings

        if name not in self.predictions:
            known = ", ".join(map(repr, self.predictions)) or "nothing"
            raise UsageError(f"Nothing is recorded of the evaluation set {name!r}, but of {known}.")
        return transition_table(self.predictions[name], self.threshold)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Watch the model; where training goes on from a checkpoint, take up what was recorded before it."""
        self._watch.follow(kwargs["model"], args)
        self._began = True
        self.predictions = {}
        if state.global_step and state.is_world_process_zero:
            self._go_on(args, state)
        if args.eval_strategy == IntervalStrategy.NO:
            _warn(state, "Nothing is evaluated while this trains. Set eval_strategy='epoch'.")
        elif late := [epoch for epoch in self.at or () if epoch > state.num_train_epochs]:
            _warn(state, f"Training ends after {state.num_train_epochs} epochs, before epoch {_words(late)}.")

    def _go_on(self, args: TrainingArguments, state: TrainerState) -> None:
        try:
            self.predictions = _before(_file(args), state.global_step)
        except UsageError as error:
            _warn(state, f"Nothing is known of the training before step {state.global_step}. {error}")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what the model said of a batch."""
        self._watch.note(kwargs["eval_dataloader"])

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        """Forget what was kept: it was no evaluation."""
        self._watch.drop()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record an evaluation and write the file, once a training has begun."""
        if not self._began:  # the file may be that of a training that has ended
            self._watch.drop()
            return
        name = _set_name(kwargs["metrics"])
        try:
            seen = self._watch.take(state.is_world_process_zero)
            if seen is not None:
                point = at_one_point(*seen, step=state.global_step, epoch=state.epoch or 0.0)
                self.predictions[name] = _kept(_joined(self.predictions.get(name), point), self.at)
                write_predictions(_file(args), self.predictions)
        except (UsageError, OSError) as error:
            which = f"the evaluation set {name!r}" if name else "the evaluation"
            _warn(state, f"Cannot record {which}: {error}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn of epochs that no evaluation came for."""
        last = min((one.epochs[-1] for one in self.predictions.values()), default=math.inf)
        if missed := [epoch for epoch in self.at or () if epoch > last + TOLERANCE]:
            _warn(
                state,
                f"No evaluation came at or after epoch {_words(missed)}; the last was at {last:g}. Set "
                "eval_strategy='epoch', or eval_steps to fewer steps.",
            )


def _epochs(at: Iterable[float] | None) -> tuple[float, ...] | None:
    if at is None:
        return None
    epochs = tuple(at) if isinstance(at, Iterable) else (None,)
    if not all(_is_number(epoch) and 0 <= epoch < math.inf for epoch in epochs):
        raise UsageError(f"Expected epochs from 0 on, such as at=[70], but got at={at!r}.")
    return epochs


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _file(args: TrainingArguments) -> Path:
    return Path(args.output_dir or "", FILE)


def _words(epochs: Iterable[float]) -> str:
    return ", ".join(f"{epoch:g}" for epoch in epochs)


def _warn(state: TrainerState, text: str) -> None:
    """Say what is not recorded, once; training goes on."""
    if state.is_world_process_zero:
        warnings.warn(f"CohortCallback: {text}", stacklevel=2)


def _set_name(metrics: Mapping[str, Any]) -> str:
    """``matched`` where the metrics are called ``eval_matched_...``, and ``""`` where they are called ``eval_...``."""
    speed = [name for name in metrics if name.endswith(SPEED)]  # the Trainer's own comes last
    prefix = speed[-1].removesuffix(SPEED) if speed else "eval"
    return "" if prefix == "eval" else prefix.removeprefix("eval_")


def _joined(earlier: Predictions | None, point: Predictions) -> Predictions:
    """Earlier points and a new one, in the place of one at the same step.

    Raises:
        UsageError: If they are predictions of other rows.
    """
    if earlier is None:
        return point
    if not np.array_equal(earlier.labels, point.labels):
        raise UsageError(
            f"Expected the same rows each time, but there were {len(earlier.labels)} before and now "
            f"{len(point.labels)}, or others. Give other rows another metric_key_prefix."
        )
    before = earlier.steps < point.steps[0]
    series = {name: np.concatenate((getattr(earlier, name)[before], getattr(point, name))) for name in SERIES}
    return replace(point, **series)


def _kept(points: Predictions, at: Iterable[float] | None) -> Predictions:
    """The first point at or after each epoch, and the last one.

    Args:
        points: All that were kept before, and a new one.
        at: The epochs; None for every point.
    """
    if at is None:
        return points
    firsts = {int(np.searchsorted(points.epochs, epoch - TOLERANCE)) for epoch in at}
    return _at(points, np.isin(np.arange(len(points.steps)), [*firsts, len(points.steps) - 1]))


def _before(path: Path, step: int) -> dict[str, Predictions]:
    """What a file holds of a training up to a step, with logits only where they are those of the last point.

    Raises:
        UsageError: If it holds no predictions.
    """
    held = read_predictions(path) if path.is_file() else {}
    early = {name: one.steps <= step for name, one in held.items()}
    logits = {name: np.where(early[name].all(), one.logits, np.nan) for name, one in held.items()}
    return {
        name: _at(replace(one, logits=logits[name]), early[name]) for name, one in held.items() if early[name].any()
    }


def _at(points: Predictions, chosen: np.ndarray) -> Predictions:
    """Some of the points.

    Args:
        points: All of them.
        chosen: Which, shape (T,) of bool.
    """
    return replace(points, **{name: getattr(points, name)[chosen] for name in SERIES})
