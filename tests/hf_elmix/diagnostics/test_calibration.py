from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss

from hf_elmix.diagnostics.calibration import (
    calibration_table,
    fit_temperature,
    plot_reliability,
    reliability_table,
    temperature_scaled,
)
from hf_elmix.errors import UsageError
from hf_elmix.plotting import style_of

COLUMNS = ["accuracy", "ece", "ece_adaptive", "brier", "nll", "temperature"]


def calibrated(rows: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: a calibrated model."""
    random = np.random.default_rng(seed)
    logits = 1.5 * random.normal(size=(rows, classes))
    return logits, (softmax(logits).cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def as_trained(logits: Any, labels: Any, **options: int) -> dict[str, float]:
    return dict(calibration_table(logits, labels, **options).loc["as trained"])


def by_loops(logits: np.ndarray, labels: np.ndarray, bins: int) -> dict[str, float]:
    """All scores, one row after the other. Bins of equally many rows are cut from the sorted rows."""
    rows, brier, nll = [], 0.0, 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        p = [math.exp(value) / total for value in row]
        rows.append((max(p), p.index(max(p)) == label))
        brier += sum((p_j - (j == label)) ** 2 for j, p_j in enumerate(p))
        nll -= math.log(p[label])
    n, rows = len(rows), sorted(rows)
    wide = [[row for row in rows if k / bins < row[0] <= (k + 1) / bins] for k in range(bins)]
    even = [rows[-(-n * k // bins) : -(-n * (k + 1) // bins)] for k in range(bins)]

    def error(groups):
        return sum(abs(sum(c for c, _ in group) - sum(hit for _, hit in group)) for group in groups) / n

    accuracy = sum(hit for _, hit in rows) / n
    return {"accuracy": accuracy, "ece": error(wide), "ece_adaptive": error(even), "brier": brier / n, "nll": nll / n}


class Logits(ClassifierMixin, BaseEstimator):
    """A classifier of scikit-learn whose rows are logits already."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        return X

    def predict(self, X):
        return self.classes_[X.argmax(axis=1)]


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


@pytest.mark.parametrize(("rows", "classes", "bins"), [(100, 2, 15), (101, 3, 7), (37, 7, 1), (10, 3, 25), (1, 2, 15)])
def test_the_scores_are_those_of_plain_loops(rows, classes, bins):
    logits, labels = calibrated(rows, classes, seed=rows)
    table = calibration_table(3 * logits, labels, bins=bins)
    assert list(table.columns) == COLUMNS
    assert list(table.index) == ["as trained", "temperature scaled"]
    assert dict(table.loc["as trained"]) == pytest.approx({**by_loops(3 * logits, labels, bins), "temperature": 1})
    scaled, temperature = temperature_scaled(3 * logits, labels)
    expected = {**by_loops(scaled, labels, bins), "temperature": temperature}
    assert dict(table.loc["temperature scaled"]) == pytest.approx(expected)


def test_the_scores_are_those_of_scikit_learn():
    for classes in (2, 4):
        logits, labels = calibrated(200, classes)
        p, found = softmax(2 * logits), as_trained(2 * logits, labels)
        assert found["nll"] == pytest.approx(log_loss(labels, p))
        assert found["brier"] == pytest.approx(brier_score_loss(labels, p, scale_by_half=False))
    logits, labels = calibrated(200, 2)
    one_class = brier_score_loss(labels, softmax(logits)[:, 1])
    assert as_trained(logits, labels)["brier"] == pytest.approx(2 * one_class)


def test_the_diagram_is_that_of_scikit_learn():
    logits, labels = calibrated(300)
    p = softmax(2 * logits)
    accuracy, confidence = calibration_curve(p.argmax(axis=1) == labels, p.max(axis=1), n_bins=12)
    table = reliability_table(2 * logits, labels, bins=12)
    np.testing.assert_allclose(table["accuracy"], accuracy)
    np.testing.assert_allclose(table["confidence"], confidence)
    assert table["rows"].sum() == 300
    assert len(table) < 12  # none in (0, 1/4]


def test_the_temperature_is_that_of_scikit_learn():
    logits, labels = calibrated(300)
    theirs = CalibratedClassifierCV(FrozenEstimator(Logits().fit(logits, labels)), method="temperature")
    expected = theirs.fit(2 * logits, labels).predict_proba(2 * logits)
    np.testing.assert_allclose(softmax(2 * logits / fit_temperature(2 * logits, labels)), expected, rtol=1e-6)


def test_a_calibrated_and_an_overconfident_model():
    logits, labels = calibrated(20000)
    table = calibration_table(logits, labels)
    assert table["temperature"].tolist() == pytest.approx([1, 1], abs=0.02)
    assert table[["ece", "ece_adaptive"]].to_numpy().max() < 0.015
    sure = calibration_table(3 * logits, labels)
    assert sure.loc["as trained", "ece"] > 0.15
    assert sure.loc["temperature scaled", "temperature"] == pytest.approx(3, abs=0.06)
    assert sure.loc["temperature scaled"].drop("temperature").tolist() == pytest.approx(
        table.loc["temperature scaled"].drop("temperature").tolist(), rel=1e-5
    )
    assert sure["accuracy"].nunique() == 1


def test_a_constant_model():
    """With 60 % of one class and logits of log 9: confidence is 90 %, and log 1.5 would be calibrated."""
    logits, labels = np.tile([math.log(9), 0], (100, 1)), np.repeat([0, 1], [60, 40])
    expected = {"accuracy": 0.6, "ece": 0.3, "ece_adaptive": 0.3, "brier": 0.6 * 0.02 + 0.4 * 1.62}
    found = as_trained(logits, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert fit_temperature(logits, labels) == pytest.approx(math.log(9) / math.log(1.5))


def test_a_uniform_model():
    table = calibration_table(np.zeros((30, 3)), np.arange(30) % 3)
    row = [1 / 3, 0, 0, 2 / 3, math.log(3), 1]
    np.testing.assert_allclose(table.to_numpy(), [row, row], atol=1e-12)


def test_a_row_does_not_affect_its_own_temperature():
    logits, labels = calibrated(12)
    before = temperature_scaled(logits, labels, seed=5)[0]
    for row in range(12):
        changed = labels.copy()
        changed[row] = (labels[row] + 1) % 3
        after = temperature_scaled(logits, changed, seed=5)[0]
        other = ~np.isclose(before, after).all(axis=1)
        assert not other[row]
        assert other.sum() == 6  # the other half


def test_each_half_has_the_temperature_of_the_other():
    logits, labels = calibrated(41)
    centred = logits - logits.max(axis=1, keepdims=True)
    scaled, mean = temperature_scaled(logits, labels)
    by = centred.min(axis=1) / scaled.min(axis=1)
    (first, second) = (np.isclose(by, value) for value in (by.min(), by.max()))
    assert (first ^ second).all()
    assert sorted([first.sum(), second.sum()]) == [20, 21]
    assert by.min() == pytest.approx(fit_temperature(logits[second], labels[second]))
    assert by.max() == pytest.approx(fit_temperature(logits[first], labels[first]))
    assert mean == pytest.approx(math.exp(np.log(by).mean()))


def test_the_seed_decides_who_is_in_which_half():
    logits, labels = calibrated(40)
    one, again, other = (calibration_table(logits, labels, seed=seed) for seed in (0, 0, 1))
    assert one.equals(again)
    assert one.loc["as trained"].equals(other.loc["as trained"])
    assert one.loc["temperature scaled", "temperature"] != other.loc["temperature scaled", "temperature"]


@pytest.mark.parametrize("rows", [1, 2, 3, 30])
def test_rows_that_are_all_correct_do_not_determine_the_temperature(rows):
    logits = calibrated(rows)[0]
    table = calibration_table(logits, logits.argmax(axis=1))
    assert table.loc["as trained"].tolist() == pytest.approx(table.loc["temperature scaled"].tolist())
    assert fit_temperature(logits, logits.argmax(axis=1)) == 1


@pytest.mark.parametrize("rows", [2, 3, 30])
def test_uniform_probabilities_are_best_for_rows_that_are_all_incorrect(rows):
    logits = calibrated(rows)[0]
    table = calibration_table(logits, logits.argmin(axis=1))
    assert table.loc["temperature scaled", "nll"] == pytest.approx(math.log(3), rel=0.02)
    assert table["accuracy"].tolist() == [0, 0]


def test_one_incorrect_row():
    """One of two rows is incorrect, and each half is one row: 1 for the correct one, uniform for the other."""
    table = calibration_table([[2, 0], [1, 0]], [0, 1])
    assert np.isfinite(table.to_numpy()).all()
    assert table["accuracy"].tolist() == [0.5, 0.5]


def test_the_temperature_of_many_classes_is_that_of_a_fine_grid():
    """Half of the rows are incorrect: the best temperature is well below their mean shortfall, 1."""
    logits = np.where(np.eye(1000)[:10], 0.0, -2.0)
    labels = np.arange(10) + np.arange(10) % 2 * 500
    grid = np.linspace(0.2, 1, 161)
    best = grid[np.argmin([log_loss(labels, softmax(logits / t), labels=range(1000)) for t in grid])]
    assert fit_temperature(logits, labels) == pytest.approx(best, abs=0.005)
    assert best < 0.8


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_the_unit_of_logits_is_the_temperatures(scale):
    logits, labels = calibrated(50)
    assert fit_temperature(scale * logits, labels) == pytest.approx(scale * fit_temperature(logits, labels), rel=1e-5)


def test_what_all_logits_have_in_common_does_not_matter():
    logits, labels = calibrated(50)
    expected = calibration_table(logits, labels).to_numpy()
    shifted = logits + 1e3 * np.arange(50)[:, None]
    np.testing.assert_allclose(calibration_table(shifted, labels).to_numpy(), expected, rtol=1e-6)


def test_the_order_of_rows_does_not_matter_as_trained():
    """Not even if many rows have the same confidence, which bins of equally many rows must not separate."""
    logits, labels = np.repeat([[2.0, 0], [0, 0.5]], 30, axis=0), np.arange(60) % 3 % 2
    order = np.lexsort((labels, logits[:, 0]))
    found, sorted_ = as_trained(logits, labels), as_trained(logits[order], labels[order])
    assert found == pytest.approx(sorted_)
    assert found["ece_adaptive"] == pytest.approx(found["ece"])


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_all_is_computed_in_float64(kind):
    logits, labels = calibrated(60)
    narrow = (4 * logits).astype(kind)
    assert calibration_table(narrow, labels).equals(calibration_table(narrow.astype(np.float64), labels))


@pytest.mark.parametrize("largest", [np.finfo(kind).max for kind in (np.float16, np.float32, np.float64)])
def test_extreme_logits_do_not_overflow(largest):
    logits = np.array(
        [[largest, 0, -largest], [-largest, largest, 0], [0, -largest, largest], [0, 1, 2]], largest.dtype
    )
    found = as_trained(logits, [0, 1, 2, 2])
    assert found["nll"] == pytest.approx(-math.log(softmax(np.array([[0.0, 1, 2]]))[0, 2]) / 4)
    for labels in ([0, 1, 2, 2], [1, 2, 0, 0], [0, 1, 1, 2]):
        assert np.isfinite(calibration_table(logits, labels).to_numpy()).all()


def test_an_extreme_row_divided_by_the_temperature_of_tiny_ones():
    logits, labels = calibrated(20)
    logits *= 1e-20
    logits[3], labels[3] = [1e300, 0, 1], 0
    assert np.isfinite(calibration_table(logits, labels).to_numpy()).all()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0, 1], [1, np.nan]], [0, 1], "finite logits, but 1 of 2 rows"),
        ([[0, 1], [np.inf, 0]], [0, 1], "finite logits, but 1 of 2 rows"),
        ([[0, 1], [1, 0]], [0, -100], "from 0 to 1, but got -100 .* Leave out rows .*-100"),
        ([[0, 1], [1, 0]], [0, 2], "from 0 to 1, but got 2"),
        ([[0, 1], [1, 0]], [0.0, 1.0], "integer class ids, but got float64"),
        ([[0, 1], [1, 0]], ["a", "b"], "integer class ids, but got <U1"),
        ([[0, 1], [1, 0]], [0, 1, 1], r"logits \(2, 2\) and labels \(3,\)"),
        ([0, 1], [0, 1], r"logits \(2,\)"),
        ([[0], [1]], [0, 0], "two classes or more"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), r"logits \(0, 2\)"),
    ],
)
def test_refused_arrays(logits, labels, message):
    for function in (calibration_table, fit_temperature, temperature_scaled, reliability_table):
        with pytest.raises(UsageError, match=message):
            function(logits, labels)


def test_no_bin_is_refused():
    with pytest.raises(UsageError, match="one bin or more, but got 0"):
        calibration_table([[0, 1]], [1], bins=0)


def test_a_bin_holds_its_upper_end():
    logits = np.array([[0, 0], [1e-6, 0], [800.0, 0]])
    assert reliability_table(logits, [0, 0, 0], bins=2)["rows"].tolist() == [1, 2]
    assert reliability_table(np.zeros((1, 3)), [0], bins=3)["confidence"].tolist() == [1 / 3]


def test_the_diagram_shows_the_table(ax):
    sets = {"0-0.5": calibrated(400), "ce": (3 * calibrated(400)[0], calibrated(400)[1])}
    assert plot_reliability(sets, ax, bins=10, order=["ce", "0", "0-0.5"]) is ax
    diagonal, *lines = ax.get_lines()
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    for line, marks, name, place in zip(lines, ax.collections, sets, (2, 0), strict=True):
        table = reliability_table(*sets[name], bins=10)
        for drawn in (line.get_xydata(), marks.get_offsets()):
            np.testing.assert_allclose(drawn, table[["confidence", "accuracy"]])
        areas = marks.get_sizes()
        np.testing.assert_allclose(areas / areas.sum(), table["rows"] / 400)
        assert to_rgb(line.get_color()) == to_rgb(style_of(place).colour)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["F = 0-0.5 (ramp)", "CE"]
    assert 0.25 < ax.get_xlim()[0] < 1 / 3


def test_the_current_axis_is_drawn_on():
    figure, ax = plt.subplots()
    assert plot_reliability({"_mine": calibrated(5)}) is ax
    assert len(ax.get_legend().get_texts()) == 1
    plt.close(figure)
