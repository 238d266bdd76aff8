"""Cohorts and calibration of the runs of a study: each file of predictions is read once and summarised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hf_elmix.diagnostics.calibration import WHEN, calibration_table, reliability_table, temperature_scaled
from hf_elmix.errors import UsageError
from hf_elmix.predictions.cohorts import COHORTS, cohorts_of, flow_table, histogram_table, start_of, transition_table
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey

__all__ = ["BINS", "NEAR_FOR", "SIXTHS", "PredictionReaders", "PredictionSummary", "summarise_predictions"]

PredictionReaders = Mapping[RunKey, Callable[[], Mapping[str, Predictions] | None]]
"""A function for each run that reads its predictions by evaluation set."""

NEAR_FOR = ("both", "each", "baseline")  # the run for which rows compared with the baseline were near the boundary
SIXTHS = 6  # histograms of several runs are summed at each sixth of the training
BINS = 15  # of confidence


@dataclass(frozen=True)
class PredictionSummary:
    """Cohorts and calibration of the runs with predictions; the start is the point nearest to 7/9 of the training.

    Attributes:
        transitions: `transition_table` of each run and evaluation set: ``task``, ``method``, ``seed`` and ``set``.
        flows: A row for each run and evaluation set: the share of the training done at the ``start``, and how many
            rows went from each cohort to each, such as ``near_correct``.
        near: Rows near the boundary at the start. A run whose block has a baseline run has three entries: ``near_for``
            both runs, for each run itself, or for the baseline. Counts of ``rows`` and of those ``correct`` at the
            end, and the same in the baseline run, ``base_rows`` and ``base_correct``.
        histograms: A row for each ``method`` and ``sixth`` of the training: counts by the probability of the label.
        calibration: `calibration_table` of each run with finite logits, over all its evaluation sets, with ``when``,
            one of `hf_elmix.diagnostics.calibration.WHEN`, as a column.
        reliability: `reliability_table` over all rows of all runs, indexed by bin, by ``when`` and method.
    """

    transitions: pd.DataFrame
    flows: pd.DataFrame
    near: pd.DataFrame
    histograms: pd.DataFrame
    calibration: pd.DataFrame
    reliability: Mapping[tuple[str, str], pd.DataFrame]


def summarise_predictions(readers: PredictionReaders, methods: Sequence[str], baseline: str) -> PredictionSummary:
    """Read all predictions, one block at a time, and summarise them.

    Args:
        readers: A function for each run with predictions.
        methods: All methods in the order of the study.
        baseline: One of the methods.

    Raises:
        UsageError: If a file has no class predictions, or runs of a block were evaluated on different rows.
    """
    transitions, flows, near, calibration = [], [], [], []
    histograms: dict[tuple[str, int], pd.Series] = {}
    reliability: dict[tuple[str, str], pd.DataFrame] = {}
    for key, sets, base in _runs(readers, methods, baseline):
        run: dict[str, Any] = {"task": key.task, "method": key.method, "seed": key.seed}
        try:
            for name, one in sets.items():
                for sixth, counts in _histograms(one):
                    histograms[key.method, sixth] = counts + histograms.get((key.method, sixth), 0)
                if len(one.steps) > 1:
                    transitions.append(transition_table(one).reset_index().assign(**run, set=name))
                    flow, start = flow_table(one), one.steps[start_of(one)] / one.steps[-1]
                    pairs = {f"{before}_{after}": flow.loc[before, after] for before in COHORTS for after in COHORTS}
                    flows.append({**run, "set": name, "start": start, **pairs})
            near += [] if base is None else [{**run, **counts} for counts in _near_rows(sets, base)]
            scores, tables = _calibration(sets)
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from error
        calibration += [scores.assign(**run)] if tables else []
        for when, table in tables.items():
            total = reliability.get((when, key.method))
            reliability[when, key.method] = table if total is None else _sum_of_bins(table, total)
    table = pd.DataFrame(histograms).T.rename_axis(["method", "sixth"])
    return PredictionSummary(
        pd.concat(transitions, ignore_index=True) if transitions else pd.DataFrame(),
        pd.DataFrame(flows),
        pd.DataFrame(near),
        table.sort_index(level="sixth", kind="stable"),
        pd.concat(calibration, ignore_index=True) if calibration else pd.DataFrame(),
        reliability,
    )


def _runs(
    readers: PredictionReaders, methods: Sequence[str], baseline: str
) -> Iterator[tuple[RunKey, Mapping[str, Predictions], Mapping[str, Predictions] | None]]:
    """Read the predictions of each run, with those of the baseline run in its block if that is another run."""
    for task, seed in dict.fromkeys((key.task, key.seed) for key in readers):
        base, first = None, None
        for method in sorted(methods, key=lambda name: name != baseline):
            key = RunKey(task, method, seed)
            if key in readers and (sets := readers[key]()):
                labels = {name: one.labels for name, one in sets.items()}
                first = first or (key, labels)
                _check_same_rows(key, labels, *first)
                yield key, sets, base
                base = sets if method == baseline else base


def _check_same_rows(
    key: RunKey, labels: Mapping[str, np.ndarray], other: RunKey, others: Mapping[str, np.ndarray]
) -> None:
    """Refuse runs of a task and seed that were evaluated on different rows, by their labels in each set."""
    if labels.keys() != others.keys() or not all(np.array_equal(labels[name], others[name]) for name in labels):
        raise UsageError(
            f"{key}: Expected all runs of a task and seed to be evaluated on the same rows, but these differ from "
            f"those of {other.method}. Delete the runs and repeat them."
        )


def _histograms(one: Predictions) -> Iterator[tuple[int, pd.Series]]:
    """Histograms at the recorded points nearest to each sixth of the training, less than half a sixth away."""
    table, times = histogram_table(one), SIXTHS * one.steps / max(1, one.steps[-1])
    for sixth in range(SIXTHS + 1):
        nearest = int(np.abs(times - sixth).argmin())
        if abs(times[nearest] - sixth) < 0.5:
            yield sixth, table.iloc[nearest]


def _near_rows(sets: Mapping[str, Predictions], base: Mapping[str, Predictions]) -> list[dict[str, Any]]:
    """Count rows near the boundary at the start, over the evaluation sets with a start in both runs."""
    names = [name for name, one in sets.items() if min(len(one.steps), len(base[name].steps)) > 1]
    if not names:
        return []
    (near, correct), (base_near, base_correct) = (
        (
            np.concatenate([cohorts_of(run[name])[start_of(run[name])] == COHORTS.index("near") for name in names]),
            np.concatenate([run[name].correct[-1] for name in names]),
        )
        for run in (sets, base)
    )
    both = near & base_near
    selections = zip(NEAR_FOR, (both, near, base_near), (both, base_near, base_near), strict=True)
    return [
        {
            "near_for": who,
            "rows": rows.sum(),
            "correct": (rows & correct).sum(),
            "base_rows": base_rows.sum(),
            "base_correct": (base_rows & base_correct).sum(),
        }
        for who, rows, base_rows in selections
    ]


def _calibration(sets: Mapping[str, Predictions]) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """`calibration_table` and, for each of `WHEN`, `reliability_table` at the end of a run, over all evaluation sets.

    Both are empty if a logit is not finite.
    """
    classes = sorted({one.logits.shape[1] for one in sets.values()})
    if len(classes) > 1:
        raise UsageError(f"Expected logits of the same classes on all evaluation sets, but got {classes}.")
    logits = np.concatenate([one.logits for one in sets.values()])
    labels = np.concatenate([one.labels for one in sets.values()])
    if not np.isfinite(logits).all():
        return pd.DataFrame(), {}
    scaled = temperature_scaled(logits, labels)
    tables = {}
    for when, values in zip(WHEN, (logits, scaled[0]), strict=True):
        table = reliability_table(values, labels, bins=BINS)
        tables[when] = table.set_index(np.searchsorted(np.arange(1, BINS) / BINS, table["confidence"]))
    table = calibration_table(logits, labels, bins=BINS, scaled=scaled)
    return table.rename_axis("when").reset_index(), tables


def _sum_of_bins(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Merge two reliability tables of different rows, bin by bin."""
    first, second = (table.mul(table["rows"], axis=0).assign(rows=table["rows"]) for table in (one, other))
    both = first.add(second, fill_value=0)
    return both.div(both["rows"], axis=0).assign(rows=both["rows"].astype(int))
