"""What the runs of a study said of each evaluation row, made small: a file is read once, and only its counts stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hf_elmix.analysis.calibrated import add_reliability, run_calibration
from hf_elmix.errors import UsageError
from hf_elmix.predictions.cohorts import (
    COHORTS,
    cohorts_of,
    flow_table,
    histogram_table,
    start_of,
    transition_table,
)
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey

__all__ = ["WHOSE", "Predicted", "Readers", "reduce_predictions"]

Readers = Mapping[RunKey, Callable[[], Mapping[str, Predictions] | None]]
WHOSE = ("both", "own", "baseline")
NEAR = COHORTS.index("near")
SIXTHS = 6  # of a training; histograms of several runs are added up at these


@dataclass(frozen=True)
class Predicted:
    """Counts of rows in runs that left predictions. The start is the recorded point nearest to 7/9 of a training.

    Attributes:
        transitions: `transition_table` of each run and evaluation set: ``task``, ``method``, ``seed`` and ``set``.
        flows: A row for each run and evaluation set: the share of the training that was over at the ``start``, and how
            many rows went from each cohort to each, such as ``near_right``.
        moves: What became of rows that were near the boundary at the start, three rows for each run beside one of the
            baseline: ``whose`` they were (the method's ``own``, near for ``both``, near for the ``baseline``), how
            many ``rows`` there are and how many of them end ``right``; ``base_rows`` and ``base_right`` are the
            baseline's.
        histograms: A row for each ``method`` and ``sixth`` of the training: rows by the probability of their label.
        calibration: `calibration_table` of each run whose logits are numbers, over all its evaluation sets, two rows:
            ``when`` is one of `hf_elmix.analysis.calibrated.WHEN`.
        reliability: For each of these and each method, `reliability_table` over all rows of all its runs.
    """

    transitions: pd.DataFrame
    flows: pd.DataFrame
    moves: pd.DataFrame
    histograms: pd.DataFrame
    calibration: pd.DataFrame
    reliability: Mapping[tuple[str, str], pd.DataFrame]


def reduce_predictions(readers: Readers, methods: Sequence[str], baseline: str) -> Predicted:
    """Read all predictions, an experiment at a time.

    Args:
        readers: What reads them, for each run that has them.
        methods: In the order of the study.
        baseline: One of the methods.

    Raises:
        UsageError: If a file is none of predictions of classes, or runs of an experiment were evaluated
            on other rows.
    """
    counts = _Counts()
    for key, sets, base in _runs(readers, methods, baseline):
        try:
            counts.add(key, sets, base)
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from error
    return counts.tables()


class _Counts:
    """What is kept of the runs that were read so far."""

    def __init__(self) -> None:
        self.transitions: list[pd.DataFrame] = []
        self.flows: list[dict[str, Any]] = []
        self.moves: list[dict[str, Any]] = []
        self.histograms: dict[tuple[str, int], pd.Series] = {}
        self.calibration: list[pd.DataFrame] = []
        self.reliability: dict[tuple[str, str], pd.DataFrame] = {}

    def add(self, key: RunKey, sets: Mapping[str, Predictions], base: Mapping[str, Predictions] | None) -> None:
        for name, seen in sets.items():
            self._add_histograms(key.method, seen)
            if len(seen.steps) > 1:
                place = {**_columns(key), "set": name}
                self.transitions.append(transition_table(seen).reset_index().assign(**place))
                self.flows.append({**place, **_flow(seen)})
        self.moves += [] if base is None else _moves(key, sets, base)
        self._add_calibration(key, sets)

    def _add_histograms(self, method: str, seen: Predictions) -> None:
        """Add those of the points that are nearest to the sixths of the training, each once."""
        table, places = histogram_table(seen), SIXTHS * seen.steps / max(1, seen.steps[-1])
        for sixth in range(SIXTHS + 1):
            nearest = int(np.abs(places - sixth).argmin())
            if abs(places[nearest] - sixth) < 0.5:
                self.histograms[method, sixth] = table.iloc[nearest] + self.histograms.get((method, sixth), 0)

    def _add_calibration(self, key: RunKey, sets: Mapping[str, Predictions]) -> None:
        calibrated = run_calibration(sets)
        if calibrated is None:
            return
        self.calibration.append(calibrated[0].rename_axis("when").reset_index().assign(**_columns(key)))
        for when, table in calibrated[1].items():
            place = when, key.method
            self.reliability[place] = add_reliability(table, self.reliability.get(place))

    def tables(self) -> Predicted:
        histograms = pd.DataFrame(self.histograms).T.rename_axis(["method", "sixth"])
        return Predicted(
            _stacked(self.transitions),
            pd.DataFrame(self.flows),
            pd.DataFrame(self.moves),
            histograms.sort_index(level="sixth", kind="stable"),
            _stacked(self.calibration),
            self.reliability,
        )


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _runs(
    readers: Readers, methods: Sequence[str], baseline: str
) -> Iterator[tuple[RunKey, Mapping[str, Predictions], Mapping[str, Predictions] | None]]:
    """Each run with what it said, and what the baseline said in the same experiment, where that is another run."""
    for task, seed in dict.fromkeys((key.task, key.seed) for key in readers):
        base = None
        for method in sorted(methods, key=lambda name: name != baseline):
            key = RunKey(task, method, seed)
            if key in readers and (sets := readers[key]()):
                yield key, sets, base
                base = sets if method == baseline else base


def _columns(key: RunKey) -> dict[str, Any]:
    return {"task": key.task, "method": key.method, "seed": key.seed}


def _flow(seen: Predictions) -> dict[str, Any]:
    flow = flow_table(seen)
    counts = {f"{before}_{after}": flow.loc[before, after] for before in COHORTS for after in COHORTS}
    return {"start": seen.steps[start_of(seen)] / seen.steps[-1], **counts}


def _moves(key: RunKey, sets: Mapping[str, Predictions], base: Mapping[str, Predictions]) -> list[dict[str, Any]]:
    """What became of the rows near the boundary, over the evaluation sets of which both runs have a start."""
    _check_rows(sets, base)
    names = [name for name, seen in sets.items() if min(len(seen.steps), len(base[name].steps)) > 1]
    if not names:
        return []
    (near, right), (base_near, base_right) = (_near(run, names) for run in (sets, base))
    both = near & base_near
    found = []
    for whose, rows, base_rows in zip(WHOSE, (both, near, base_near), (both, base_near, base_near), strict=True):
        counts = {"rows": rows.sum(), "right": (rows & right).sum()}
        counts |= {"base_rows": base_rows.sum(), "base_right": (base_rows & base_right).sum()}
        found.append({**_columns(key), "whose": whose, **counts})
    return found


def _near(sets: Mapping[str, Predictions], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are near the boundary at the start, and which are right at the end, shapes (rows of all sets,)."""
    near = [cohorts_of(sets[name])[start_of(sets[name])] == NEAR for name in names]
    return np.concatenate(near), np.concatenate([sets[name].right[-1] for name in names])


def _check_rows(sets: Mapping[str, Predictions], base: Mapping[str, Predictions]) -> None:
    """Refuse to compare other rows: neither order nor number may differ."""
    if set(sets) != set(base) or not all(
        np.array_equal(seen.labels, base[name].labels) for name, seen in sets.items()
    ):
        raise UsageError(
            "Expected all runs of a task and seed to be evaluated on the same rows, but these are others than the "
            "baseline's. Have the runs done again."
        )
