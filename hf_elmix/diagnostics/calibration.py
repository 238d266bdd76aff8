"""Calibration: do predicted probabilities match observed frequencies, before and after temperature scaling?

The mixed loss trades likelihood for accuracy, so its probabilities may be less well calibrated. From the logits of
labelled rows outside the training set: expected calibration error (ECE), Brier score, likelihood, reliability diagram.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599) divides all logits by the number T that minimises the mean
negative log-likelihood. T is never evaluated on the rows it was fitted to: a seeded permutation splits the rows into
halves, and each is divided by the T of the other. This module does not need PyTorch.
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
from hf_elmix.predictions.records import check_class_labels

__all__ = [
    "WHEN",
    "calibration_table",
    "draw_reliability",
    "fit_temperature",
    "plot_reliability",
    "reliability_table",
    "temperature_scaled",
]

WHEN = ("as trained", "temperature scaled")
LOWEST = -1e300  # least logit relative to the largest of its row, so that sums of logits are finite
UNIFORM = 100.0  # this times the largest difference of logits is a temperature with practically uniform probabilities
AREA = 200  # area of the marker of a bin with all rows, in square points


def calibration_table(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = 15,
    seed: int = 0,
    scaled: tuple[np.ndarray, float] | None = None,
) -> pd.DataFrame:
    """Measure how well predicted probabilities match observed frequencies, before and after temperature scaling.

    Args:
        logits: Shape (N, C), finite, of any type; computations are in float64.
        labels: True class ids, shape (N,).
        bins: Number of confidence bins in both kinds of ECE.
        seed: Of the permutation that splits the rows into halves; see `temperature_scaled`.
        scaled: What `temperature_scaled` returned for the logits, if it is known: fitting takes longest.

    Returns:
        Rows ``as trained`` and ``temperature scaled``. Columns: ``accuracy``; ``ece``, the mean absolute difference of
        confidence and accuracy over bins of equal width, weighted by their rows; ``ece_adaptive``, the same over bins
        of equally many rows; ``brier``, the squared distance of the probabilities from the one-hot label, summed over
        classes, in [0, 2] (with two classes twice the score of one class); ``nll``, the mean of -log p of the true
        label, in nats; ``temperature``, 1 as trained.

    Raises:
        UsageError: If the arrays are not logits and class ids, or `bins` is not positive.
    """
    scaled, rows = scaled or temperature_scaled(logits, labels, seed=seed), {}
    for when, (values, temperature) in zip(WHEN, ((logits, 1.0), scaled), strict=True):
        centred, ids = _checked(values, labels)
        residuals = np.exp(log_softmax(centred, axis=1))
        residuals[np.arange(len(ids)), ids] -= 1
        rows[when] = {
            "accuracy": (centred.argmax(axis=1) == ids).mean(),
            "ece": _calibration_error(reliability_table(values, labels, bins=bins)),
            "ece_adaptive": _calibration_error(reliability_table(values, labels, bins=bins, equal_mass=True)),
            "brier": (residuals**2).sum(axis=1).mean(),
            "nll": _nll(centred, ids),
            "temperature": temperature,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def temperature_scaled(logits: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> tuple[np.ndarray, float]:
    """Divide logits by a temperature that was fitted to other rows (two-fold cross-fitting).

    Args:
        logits: Shape (N, C), finite.
        labels: True class ids, shape (N,).
        seed: Of the permutation that splits the rows into halves. Use the same one for models that are compared on the
            same rows.

    Returns:
        Logits (N, C), shifted so that the largest in each row is 0, and the geometric mean of the rows' temperatures.

    Raises:
        UsageError: If the arrays are not logits and class ids.
    """
    logits, labels = _checked(logits, labels)
    first, second = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
    temperature = np.ones((len(labels), 1))
    for rows, others in ((first, second), (second, first)):
        if len(others):  # of a single row, one half is empty
            temperature[rows] = fit_temperature(logits[others], labels[others])
    with np.errstate(over="ignore"):
        return np.maximum(logits / temperature, LOWEST), float(np.exp(np.log(temperature).mean()))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Find the temperature that maximises the likelihood of the labels.

    If every label has the largest logit (as may happen with few rows), the likelihood grows without bound as the
    temperature falls and does not determine it: the result is 1. If uniform probabilities are best, because the logits
    of the true labels are not larger than the others, it is 100 times the largest difference of logits.

    Args:
        logits: Shape (N, C), finite.
        labels: True class ids, shape (N,).

    Raises:
        UsageError: If the arrays are not logits and class ids.
    """
    logits, labels = _checked(logits, labels)
    shortfall = -logits[np.arange(len(labels)), labels].sum() / len(labels)
    if not shortfall:
        return 1.0
    # As the largest logit of a row is 0, its loss is at least the shortfall of its label, -q_y / T, and uniform
    # probabilities give log C. So T is at least mean shortfall / log C. In 1/T the mean loss is convex: one minimum.
    bounds = np.log([shortfall / np.log(logits.shape[1]), -UNIFORM * logits.min()])
    best = minimize_scalar(
        lambda log_t: _nll(logits / np.exp(log_t), labels), bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(best.x))


def reliability_table(
    logits: ArrayLike, labels: ArrayLike, *, bins: int = 15, equal_mass: bool = False
) -> pd.DataFrame:
    """Compare confidence and accuracy of rows in bins by the probability of the predicted class.

    Args:
        logits: Shape (N, C), finite.
        labels: True class ids, shape (N,).
        bins: Number of bins of equal width in (0, 1], each including its upper end.
        equal_mass: Use bins of equally many rows instead. Rows of the same confidence stay together, so that the order
            of the rows does not matter.

    Returns:
        One row for each bin that is not empty: the number of ``rows``, their mean ``confidence``, their ``accuracy``.

    Raises:
        UsageError: If the arrays are not logits and class ids, or there is no bin.
    """
    logits, labels = _checked(logits, labels)
    if bins < 1:
        raise UsageError(f"Expected one bin or more, but got {bins}.")
    confidence = 1 / np.exp(logits).sum(axis=1)  # the largest logit is 0
    inner = np.arange(1, bins) / bins
    ends = np.quantile(confidence, inner, method="inverted_cdf") if equal_mass else inner
    table = pd.DataFrame({"confidence": confidence, "accuracy": logits.argmax(axis=1) == labels})
    grouped = table.groupby(np.searchsorted(ends, confidence))
    return pd.concat([grouped.size().rename("rows"), grouped.mean()], axis=1).reset_index(drop=True)


def plot_reliability(
    sets: Mapping[str, tuple[ArrayLike, ArrayLike]],
    ax: Axes | None = None,
    *,
    bins: int = 15,
    order: Sequence[str] | None = None,
) -> Axes:
    """Draw a reliability diagram: accuracy against confidence; a calibrated model lies on the diagonal.

    The area of a marker is the share of rows in its bin. For a diagram after scaling, pass scaled logits.

    Args:
        sets: Logits (N, C) and labels (N,) by the name of their method.
        ax: Axis to draw on; by default the current one.
        bins: Number of bins of equal width in (0, 1].
        order: All methods in the order of the study, which determines their styles; by default that of `sets`.

    Raises:
        UsageError: If the arrays are not logits and class ids, or there is no bin.
    """
    tables = {name: reliability_table(*one, bins=bins) for name, one in sets.items()}
    ax = draw_reliability(tables, ax, order=order)
    classes = max((np.shape(logits)[1] for logits, _ in sets.values()), default=2)
    ax.set_xlim(1 / classes - 0.03, 1.03)  # no confidence is lower
    return ax


def draw_reliability(
    tables: Mapping[str, pd.DataFrame], ax: Axes | None = None, *, order: Sequence[str] | None = None
) -> Axes:
    """Draw reliability tables as a reliability diagram.

    Args:
        tables: From `reliability_table`, by the name of their method.
        ax: Axis to draw on; by default the current one.
        order: As in `plot_reliability`.
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
    """Convert logits to float64, shift them so that the largest in each row is 0, and check them and the class ids."""
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    check_class_labels(labels, logits.shape)
    if not labels.size:
        raise UsageError(f"Expected one row or more, but got logits {logits.shape}.")
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits)).any(axis=1).sum())
        raise UsageError(f"Expected finite logits, but {rows} of {len(logits)} rows have nan or infinity.")
    with np.errstate(over="ignore"):
        return np.maximum(logits - logits.max(axis=1, keepdims=True), LOWEST), labels


def _nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _calibration_error(table: pd.DataFrame) -> float:
    return float(((table["confidence"] - table["accuracy"]).abs() * table["rows"]).sum() / table["rows"].sum())
