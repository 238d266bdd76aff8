"""Whether a model is as often right as it says, before and after temperature scaling.

The mixed loss gives up likelihood for fewer errors, so its probabilities may be less honest. From the logits of
labelled rows that the model was not trained on: expected calibration error (ECE), Brier score, likelihood, a diagram.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599) divides all logits by one number T, the one with the smallest
mean negative log-likelihood. It is never judged on the rows that it was fitted to: a seeded permutation cuts the rows
in two halves, and each is divided by the T of the other. Nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hf_elmix.errors import UsageError
from hf_elmix.plotting import drawn_name, finished, style_of

__all__ = [
    "WHEN",
    "calibration_table",
    "draw_reliability",
    "fit_temperature",
    "plot_reliability",
    "reliability_table",
    "score_table",
    "temperature_scaled",
]

WHEN = ("as trained", "temperature scaled")
LOWEST = -1e300  # of logits below the largest of their row, so that they and their sums are finite
EVEN = 100.0  # times the largest difference of logits: a temperature that makes probabilities as good as even
AREA = 200  # of the marker of a bin that holds all rows, in square points


def calibration_table(logits: ArrayLike, labels: ArrayLike, *, bins: int = 15, seed: int = 0) -> pd.DataFrame:
    """How well the probabilities of a model agree with what comes true, before and after temperature scaling.

    Args:
        logits: Shape (N, C), finite, of any type; all is computed in float64.
        labels: True class ids, shape (N,).
        bins: Bins of confidence in both kinds of ECE.
        seed: Of the permutation that cuts the rows in two halves; see `temperature_scaled`.

    Returns:
        Rows ``as trained`` and ``temperature scaled``. Columns: ``accuracy``; ``ece``, the mean distance of confidence
        and accuracy over bins of equal width, weighted by their rows; ``ece_adaptive``, the same over bins of equally
        many rows; ``brier``, the squared distance of the probabilities from the one-hot label, summed over classes, in
        [0, 2] (with two classes twice the score of one class alone); ``nll``, the mean of -log p of the true label, in
        nats; ``temperature``, 1 as trained.

    Raises:
        UsageError: If the arrays are no logits and labels, or there is no bin.
    """
    return score_table(logits, temperature_scaled(logits, labels, seed=seed), labels, bins=bins)


def score_table(
    logits: ArrayLike, scaled: tuple[np.ndarray, float], labels: ArrayLike, *, bins: int = 15
) -> pd.DataFrame:
    """As `calibration_table`, for whoever has the scaled logits already: fitting them takes the longest.

    Args:
        logits: Shape (N, C), finite.
        scaled: What `temperature_scaled` made of them.
        labels: True class ids, shape (N,).
        bins: As there.

    Raises:
        UsageError: If the arrays are no logits and labels, or there is no bin.
    """
    kinds = zip(WHEN, ((logits, 1.0), scaled), strict=True)
    rows = {name: {**_scores(of, labels, bins), "temperature": by} for name, (of, by) in kinds}
    return pd.DataFrame.from_dict(rows, orient="index")


def temperature_scaled(logits: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> tuple[np.ndarray, float]:
    """Logits divided by a temperature that was fitted to other rows (two-fold cross-fitting).

    Args:
        logits: Shape (N, C), finite.
        labels: True class ids, shape (N,).
        seed: Of the permutation that cuts the rows in two halves. Give models that are compared on the same rows the
            same one.

    Returns:
        Logits (N, C) of which the largest in each row is 0, and the geometric mean of the rows' temperatures.

    Raises:
        UsageError: If the arrays are no logits and labels.
    """
    logits, labels = _checked(logits, labels)
    first, second = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
    temperature = np.empty((len(labels), 1))
    for rows, others in ((first, second), (second, first)):
        temperature[rows] = _fitted(logits[others], labels[others])
    with np.errstate(over="ignore"):
        return np.maximum(logits / temperature, LOWEST), float(np.exp(np.log(temperature).mean()))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature whose division of all logits makes the labels likeliest.

    Where every label has the largest logit (as it may be with few rows), the likelihood grows without end as the
    temperature falls, and says nothing about it: the result is then 1. Where even probabilities are the best, because
    the true labels have no larger logits than the others, it is 100 times the largest difference of logits.

    Args:
        logits: Shape (N, C), finite.
        labels: True class ids, shape (N,).

    Raises:
        UsageError: If the arrays are no logits and labels.
    """
    return _fitted(*_checked(logits, labels))


def reliability_table(
    logits: ArrayLike, labels: ArrayLike, *, bins: int = 15, equal_mass: bool = False
) -> pd.DataFrame:
    """Confidence against accuracy: rows in bins by the probability of the predicted class.

    Args:
        logits: Shape (N, C), finite.
        labels: True class ids, shape (N,).
        bins: Number of bins. They are of equal width in (0, 1], each with its upper end.
        equal_mass: Whether they hold equally many rows instead. Rows of the same confidence stay together, so that the
            order of the rows does not matter.

    Returns:
        One row for each bin that holds any: how many ``rows``, their mean ``confidence``, and their ``accuracy``.

    Raises:
        UsageError: If the arrays are no logits and labels, or there is no bin.
    """
    logits, labels = _checked(logits, labels)
    if bins < 1:
        raise UsageError(f"Expected one bin or more, but got {bins}.")
    confidence = 1 / np.exp(logits).sum(axis=1)  # the largest logit is 0
    inner = np.arange(1, bins) / bins
    ends = np.quantile(confidence, inner, method="inverted_cdf") if equal_mass else inner
    table = pd.DataFrame({"confidence": confidence, "accuracy": _right(logits, labels)})
    grouped = table.groupby(np.searchsorted(ends, confidence))
    return pd.concat([grouped.size().rename("rows"), grouped.mean()], axis=1).reset_index(drop=True)


def plot_reliability(
    sets: Mapping[str, tuple[ArrayLike, ArrayLike]],
    ax: Axes | None = None,
    *,
    bins: int = 15,
    order: Sequence[str] | None = None,
) -> Axes:
    """Draw a reliability diagram: accuracy against confidence; on the diagonal a model is as right as it says.

    The area of a marker is the share of rows in its bin. For how it is after scaling, give what `temperature_scaled`
    returns.

    Args:
        sets: Logits (N, C) and labels (N,) by the name of their method.
        ax: Where to draw; the current axis if left out.
        bins: Bins of equal width in (0, 1].
        order: All methods in the study's order, which gives each its style; left out, that of `sets`.

    Returns:
        The axis.

    Raises:
        UsageError: If the arrays are no logits and labels, or there is no bin.
    """
    tables = {name: reliability_table(*one, bins=bins) for name, one in sets.items()}
    ax = draw_reliability(tables, ax, order=order)
    most = max((np.shape(logits)[1] for logits, _ in sets.values()), default=2)
    ax.set_xlim(1 / most - 0.03, 1.03)  # no prediction has less than its share
    return ax


def draw_reliability(
    tables: Mapping[str, pd.DataFrame], ax: Axes | None = None, *, order: Sequence[str] | None = None
) -> Axes:
    """Draw a reliability diagram of tables.

    Args:
        tables: From `reliability_table`, by the name of their method.
        ax: Where to draw; the current axis if left out.
        order: As in `plot_reliability`.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    ax.plot([0, 1], [0, 1], color="#888888", lw=0.8)
    places = {name: place for place, name in enumerate(order or tables)}
    for name, table in tables.items():
        style = style_of(places[name])
        x, y, share = table["confidence"], table["accuracy"], table["rows"] / table["rows"].sum()
        look: dict[str, Any] = {"color": style.colour, "ls": style.line, "lw": 1.4}
        ax.plot(x, y, label=drawn_name(name), **look)
        ax.scatter(x, y, s=AREA * share, marker=style.marker, color=style.colour, ec="#000000", lw=0.6, zorder=3)
    least = min((table["confidence"].min() for table in tables.values()), default=0.5)
    ax.set_xlim(least - 0.03, 1.03)
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("confidence: probability of the predicted class")
    ax.set_ylabel("accuracy (area: share of rows)")
    return finished(ax, legend="below")


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Logits in float64, of which the largest in each row is 0, and labels that are class ids."""
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or not labels.size:
        raise UsageError(
            "Expected logits of shape (N, C) with two classes or more, and labels of shape (N,), but got logits "
            f"{logits.shape} and labels {labels.shape}."
        )
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits)).any(axis=1).sum())
        raise UsageError(f"Expected finite logits, but {rows} of {len(logits)} rows hold nan or infinity.")
    if labels.dtype.kind not in "iu":
        raise UsageError(f"Expected labels to be integer class ids, but got {labels.dtype}.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UsageError(
            f"Expected labels to be class ids from 0 to {logits.shape[1] - 1}, but got {labels.min()} to "
            f"{labels.max()}. Leave out rows without a label (-100)."
        )
    with np.errstate(over="ignore"):
        return np.maximum(logits - logits.max(axis=1, keepdims=True), LOWEST), labels


def _fitted(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of `fit_temperature`, of what is `_checked`, or of no rows.

    As the largest logit of a row is 0, a row costs at least the shortfall of its label, -q_y / T; and no row need cost
    more than log C, as with even probabilities. So T is mean shortfall / log C at least. In 1/T the mean negative
    log-likelihood is convex, so it has one minimum.
    """
    shortfall = -logits[np.arange(len(labels)), labels].sum() / max(len(labels), 1)
    if not shortfall:
        return 1.0
    bounds = np.log([shortfall / np.log(logits.shape[1]), -EVEN * logits.min()])
    best = minimize_scalar(
        lambda log_t: _nll(logits / np.exp(log_t), labels), bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(best.x))


def _scores(logits: ArrayLike, labels: ArrayLike, bins: int) -> dict[str, float]:
    centred, ids = _checked(logits, labels)
    wrong_by = np.exp(log_softmax(centred, axis=1))
    wrong_by[np.arange(len(ids)), ids] -= 1
    return {
        "accuracy": _right(centred, ids).mean(),
        "ece": _error(reliability_table(logits, labels, bins=bins)),
        "ece_adaptive": _error(reliability_table(logits, labels, bins=bins, equal_mass=True)),
        "brier": (wrong_by**2).sum(axis=1).mean(),
        "nll": _nll(centred, ids),
    }


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return logits.argmax(axis=1) == labels


def _nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _error(table: pd.DataFrame) -> float:
    """The expected calibration error."""
    return float(((table["confidence"] - table["accuracy"]).abs() * table["rows"]).sum() / table["rows"].sum())
