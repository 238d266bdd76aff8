"""Which rows a training still changes: cohorts at a point, and what became of them at the end.

The paper's motivating example: 10,000 test images at epoch 70 of 90, by what the model says of them then. A row is
*right*, or wrong and *near* the boundary (the probability of its label is above a threshold), or wrong and *far*.
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
    "wilson",
]

COHORTS = ("right", "near", "far")
START = 7 / 9  # of the training: the paper's epoch 70 of 90
# Rows at epoch 70 and those of them that were right at epoch 90. (For the first the paper prints 95.58 %, where its
# counts give 95.80 %.)
PAPER = pd.DataFrame(
    {"right": [6766], "right_end": [6482], "near": [611], "near_end": [235], "far": [2623], "far_end": [88]}
)


def cohorts_of(predictions: Predictions, threshold: float = THRESHOLD) -> np.ndarray:
    """The cohort of each row at each point, as places in `COHORTS`.

    Probabilities were rounded to half precision, and so is the threshold before they are compared: rounding keeps the
    order, so that no row at or below the threshold counts as near. (In double precision a probability of 0.3, which
    is 0.30005 in half, would be above 0.3.) Rows above it by less than its rounding, 0.00006 at 0.2, count as far.

    Args:
        predictions: On an evaluation set.
        threshold: Of the probability of the true label, in (0, 1).

    Returns:
        Shape (T, N), int8.

    Raises:
        UsageError: If the threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise UsageError(f"Expected a threshold between 0 and 1, but got {threshold}.")
    near = predictions.p_true > np.float16(threshold)
    return np.where(predictions.right, 0, np.where(near, 1, 2)).astype(np.int8)


def transition_table(predictions: Predictions, threshold: float = THRESHOLD) -> pd.DataFrame:
    """From each recorded point to the end: how many rows each cohort had, and how many of these ended right.

    Args:
        predictions: On an evaluation set.
        threshold: As in `cohorts_of`.

    Returns:
        A row for each point but the last, indexed by ``step``: ``epoch``, and ``right``, ``right_end``, ``near``,
        ``near_end``, ``far``, ``far_end`` in rows.

    Raises:
        UsageError: If the threshold is not between 0 and 1.
    """
    cohorts, end = cohorts_of(predictions, threshold)[:-1], predictions.right[-1]
    columns = {"epoch": predictions.epochs[:-1]}
    for place, name in enumerate(COHORTS):
        members = cohorts == place
        columns |= {name: members.sum(axis=1), f"{name}_end": (members & end).sum(axis=1)}
    return pd.DataFrame(columns, index=pd.Index(predictions.steps[:-1], name="step"))


def share_table(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Which share of each cohort was right at the end, and how sure that is.

    Args:
        table: From `transition_table`.
        level: Of the interval, in (0, 1).

    Returns:
        The same rows: for each cohort ``_share`` in [0, 1], and ``_low``, ``_high``: its Wilson interval.
    """
    columns = {}
    for name in COHORTS:
        columns[f"{name}_share"] = table[f"{name}_end"] / table[name].where(table[name] > 0)
        ends = [wilson(*counts, level) for counts in zip(table[f"{name}_end"], table[name], strict=True)]
        columns |= {f"{name}_low": [low for low, _ in ends], f"{name}_high": [high for _, high in ends]}
    return pd.DataFrame(columns, table.index)


def wilson(count: int, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927), for rows that are independent of each other.

    Args:
        count: Rows that have something.
        rows: All of them.
        level: Share of samples whose interval holds the true one, in (0, 1).

    Returns:
        Its ends in [0, 1]; (nan, nan) of no rows.
    """
    if not rows:
        return np.nan, np.nan
    low, high = stats.binomtest(int(count), int(rows)).proportion_ci(level, method="wilson")
    return float(low), float(high)


def start_of(predictions: Predictions, start: float | None = None) -> int:
    """The recorded point before the last that is nearest to a wanted one.

    Args:
        predictions: On an evaluation set.
        start: Epoch; left out, 7/9 of the training, as the paper's 70 of 90.

    Returns:
        Its place among the points; of two that are as near, the earlier.

    Raises:
        UsageError: If there is no point but the last.
    """
    if len(predictions.steps) < 2:
        raise UsageError("Expected predictions at two points of a training at least, but there are those of one.")
    times, wanted = (
        (predictions.steps, START * predictions.steps[-1]) if start is None else (predictions.epochs, start)
    )
    return int(np.abs(times[:-1] - wanted).argmin())


def flow_table(predictions: Predictions, threshold: float = THRESHOLD, start: float | None = None) -> pd.DataFrame:
    """How many rows went from each cohort at a point to each at the end.

    Args:
        predictions: On an evaluation set.
        threshold: As in `cohorts_of`.
        start: As in `start_of`.

    Returns:
        A row for each cohort at the start, a column for each at the end.

    Raises:
        UsageError: If the threshold is not between 0 and 1, or there is no point but the last.
    """
    cohorts = cohorts_of(predictions, threshold)
    before, after = cohorts[start_of(predictions, start)].astype(int), cohorts[-1]
    counts = np.bincount(len(COHORTS) * before + after, minlength=len(COHORTS) ** 2)
    names = pd.Index(COHORTS)
    return pd.DataFrame(counts.reshape(len(COHORTS), -1), names.rename("start"), names.rename("end"))


def histogram_table(predictions: Predictions, bins: int = 20) -> pd.DataFrame:
    """How many rows give their label which probability, at each recorded point.

    Args:
        predictions: On an evaluation set.
        bins: Equal ones, over [0, 1].

    Returns:
        A row for each point, indexed by ``epoch``; columns are the left ends of the bins. A probability that is no
        number is in none.
    """
    edges = np.linspace(0, 1, bins + 1)
    counts = [np.histogram(row[np.isfinite(row)].astype(float), edges)[0] for row in predictions.p_true]
    return pd.DataFrame(counts, pd.Index(predictions.epochs, name="epoch"), edges[:-1])
