"""Cohorts of rows at a point of training, and whether these rows are correct at the end.

The paper's motivating example groups 10,000 test images at epoch 70 of 90 by the model's predictions. A row is
*correct*; or incorrect and *near* the boundary, if the probability of its label is above a threshold; or else *far*.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import THRESHOLD, Predictions

__all__ = [
    "COHORTS",
    "PAPER",
    "START",
    "cohorts_of",
    "flow_table",
    "histogram_table",
    "share_table",
    "start_of",
    "transition_table",
]

COHORTS = ("correct", "near", "far")
START = 7 / 9  # of the training: the paper's epoch 70 of 90
# Rows at epoch 70, and how many of them are correct at epoch 90. (The paper prints 95.58 % for the correct ones; its
# counts give 95.80 %.)
PAPER = pd.DataFrame(
    {"correct": [6766], "correct_end": [6482], "near": [611], "near_end": [235], "far": [2623], "far_end": [88]}
)


def cohorts_of(predictions: Predictions, threshold: float = THRESHOLD) -> np.ndarray:
    """Assign each row to a cohort at each point.

    Recorded probabilities are rounded to half precision, and so is the threshold. Rounding keeps the order, hence no
    row at or below the threshold counts as near (a recorded 0.3 is 0.30005 and would exceed 0.3 in double precision).
    Rows above it by less than the rounding, 0.00006 at 0.2, count as far.

    Args:
        predictions: On an evaluation set.
        threshold: Probability of the true label above which an incorrect row is near, in (0, 1).

    Returns:
        Indices into `COHORTS`, shape (T, N), int8.

    Raises:
        UsageError: If the threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise UsageError(f"Expected a threshold between 0 and 1, but got {threshold}.")
    near = predictions.p_true > np.float16(threshold)
    return np.where(predictions.correct, 0, np.where(near, 1, 2)).astype(np.int8)


def transition_table(predictions: Predictions, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Count, for each recorded point, the rows of each cohort and how many of these are correct at the end.

    Args:
        predictions: On an evaluation set.
        threshold: As in `cohorts_of`.

    Returns:
        A row for each point but the last, indexed by ``step``: ``epoch``, and the counts ``correct``, ``correct_end``,
        ``near``, ``near_end``, ``far`` and ``far_end``.

    Raises:
        UsageError: If the threshold is not between 0 and 1.
    """
    cohorts, correct_at_end = cohorts_of(predictions, threshold)[:-1], predictions.correct[-1]
    columns = {"epoch": predictions.epochs[:-1]}
    for k, name in enumerate(COHORTS):
        members = cohorts == k
        columns |= {name: members.sum(axis=1), f"{name}_end": (members & correct_at_end).sum(axis=1)}
    return pd.DataFrame(columns, index=pd.Index(predictions.steps[:-1], name="step"))


def share_table(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Compute the share of each cohort that is correct at the end, with its Wilson score interval (Wilson 1927).

    The interval assumes independent rows.

    Args:
        table: From `transition_table`.
        level: Confidence level, in (0, 1).

    Returns:
        The same rows, with ``_share``, ``_low`` and ``_high`` of each cohort in [0, 1]; NaN if it is empty.
    """
    columns = {}
    for name in COHORTS:
        ends, rows = table[f"{name}_end"], table[name]
        intervals = [
            stats.binomtest(int(count), int(total)).proportion_ci(level, method="wilson")
            if total
            else (np.nan, np.nan)
            for count, total in zip(ends, rows, strict=True)
        ]
        columns[f"{name}_share"] = ends / rows.where(rows > 0)
        columns |= {f"{name}_low": [low for low, _ in intervals], f"{name}_high": [high for _, high in intervals]}
    return pd.DataFrame(columns, table.index)


def start_of(predictions: Predictions, start: float | None = None) -> int:
    """Find the recorded point, other than the last, that is nearest to a given epoch.

    Args:
        predictions: On an evaluation set.
        start: Epoch; by default 7/9 of the training's steps, as in the paper.

    Returns:
        Index of the point; the earlier one of two that are equally near.

    Raises:
        UsageError: If there is only one point, or the epoch is not within the training.
    """
    if len(predictions.steps) < 2:
        raise UsageError("Expected predictions at two points of training or more, but got one.")
    steps, epochs = predictions.steps, predictions.epochs
    if start is not None and not 0 <= start < epochs[-1]:
        raise UsageError(f"Expected the start to be an epoch before the last, {epochs[-1]:g}, but got {start:g}.")
    distances = steps - START * steps[-1] if start is None else epochs - start
    return int(np.abs(distances[:-1]).argmin())


def flow_table(predictions: Predictions, threshold: float = THRESHOLD, start: float | None = None) -> pd.DataFrame:
    """Count the rows that go from each cohort at a point to each cohort at the end.

    Args:
        predictions: On an evaluation set.
        threshold: As in `cohorts_of`.
        start: As in `start_of`.

    Returns:
        A row for each cohort at the start, a column for each at the end.

    Raises:
        UsageError: If the threshold is not between 0 and 1, or there is only one point.
    """
    cohorts = cohorts_of(predictions, threshold)
    before, after = cohorts[start_of(predictions, start)].astype(int), cohorts[-1]
    counts = np.bincount(len(COHORTS) * before + after, minlength=len(COHORTS) ** 2)
    names = pd.Index(COHORTS)
    return pd.DataFrame(counts.reshape(len(COHORTS), -1), names.rename("start"), names.rename("end"))


def histogram_table(predictions: Predictions, bins: int = 20) -> pd.DataFrame:
    """Count rows by the probability of their label, at each recorded point.

    Args:
        predictions: On an evaluation set.
        bins: Number of bins of equal width over [0, 1].

    Returns:
        A row for each point, indexed by ``epoch``; columns are the left edges of the bins. NaN is not counted.
    """
    edges = np.linspace(0, 1, bins + 1)
    counts = [np.histogram(row[np.isfinite(row)].astype(float), edges)[0] for row in predictions.p_true]
    return pd.DataFrame(counts, pd.Index(predictions.epochs, name="epoch"), edges[:-1])
