from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.predictions import BINS
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.calibration import (
    MEASURES,
    calibration_means,
    calibration_pairs,
    calibration_section,
)
from hf_elmix.diagnostics.calibration import WHEN, calibration_table, reliability_table
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey

ROWS = 300


def of_confidence(factor: float, seed: int) -> Predictions:
    """Labels drawn from a softmax, and its logits times a factor: above 1 they are overconfident."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ROWS, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.uniform(size=(ROWS, 1)) > p.cumsum(axis=1)).sum(axis=1)
    correct = logits.argmax(axis=1) == labels
    return Predictions([9], [9], labels, p[None, np.arange(ROWS), labels], correct[None], factor * logits)


@pytest.fixture(scope="module")
def results(record) -> StudyResults:
    """CE is calibrated, el is overconfident, 0 is CE again; all on the same rows for each seed."""
    factors = {"ce": 1.0, "el": 6.0, "0": 1.0}
    runs = {RunKey("a", method, seed): factor for method, factor in factors.items() for seed in range(4)}
    readers = {
        key: lambda key=key, factor=factor: {"": of_confidence(factor, key.seed)} for key, factor in runs.items()
    }
    return StudyResults(runs_table([record(key.task, key.method, key.seed, 0.5) for key in runs]), predictions=readers)


def test_the_overconfident_method_is_worse_until_scaled(results):
    overconfident, same = calibration_section(results).sentences
    assert same.startswith("In calibration, F = 0 (constant) is not significantly different from CE as trained (ECE ")
    assert overconfident.startswith("In calibration, EL is worse than CE as trained (ECE ")
    assert " and not significantly different from CE after temperature scaling (ECE " in overconfident
    tables = {method: [table_of(results, method, seed) for seed in range(4)] for method in ("el", "ce")}
    errors = [100 * np.mean([table.loc[WHEN[0], "ece"] for table in tables[method]]) for method in ("el", "ce")]
    assert f"(ECE {errors[0]:.2f} % versus {errors[1]:.2f} %, +{errors[0] - errors[1]:.2f} points [" in overconfident


def table_of(results: StudyResults, method: str, seed: int):
    one = of_confidence({"ce": 1.0, "el": 6.0, "0": 1.0}[method], seed)
    return calibration_table(one.logits, one.labels, bins=BINS)


def test_means_are_those_of_the_runs(results):
    table = calibration_section(results).tables[0]
    assert [row[:3] for row in table.texts()] == [
        [name, when, "4"] for when in WHEN for name in ("CE", "EL", "F = 0 (constant)")
    ]
    for cells in table.texts():
        method = {"CE": "ce", "F = 0 (constant)": "0", "EL": "el"}[cells[0]]
        rows = [table_of(results, method, seed).loc[cells[1]] for seed in range(4)]
        assert cells[4] == f"{100 * np.mean([row['ece'] for row in rows]):.2f}"
        assert cells[7] == f"{np.mean([row['nll'] for row in rows]):.4f}"
        assert cells[8] == f"{np.exp(np.mean([np.log(row['temperature']) for row in rows])):.2f}"


def test_differences_have_intervals_in_their_own_units(results):
    table = calibration_section(results).tables[1]
    assert [row[:2] for row in table.texts()] == [[name, when] for when in WHEN for name in ("EL", "F = 0 (constant)")]
    assert table.texts()[1][2:] == ["+0.00 [0.00, 0.00]"] * 2 + ["+0.0000 [0.0000, 0.0000]"] * 2
    gains = [table_of(results, "el", k).loc[WHEN[0]] - table_of(results, "ce", k).loc[WHEN[0]] for k in range(4)]
    assert table.texts()[0][2].startswith(f"+{100 * np.mean([gain['ece'] for gain in gains]):.2f} [")
    assert table.texts()[0][5].startswith(f"+{np.mean([gain['nll'] for gain in gains]):.4f} [")


def test_the_diagram_is_that_of_all_rows(results):
    before, after = calibration_section(results).pictures[0][1]
    assert (before.name, after.name) == ("reliability-1", "reliability-2")
    ax = before.draw(Figure().subplots())
    lines = {line.get_label(): line for line in ax.get_lines()}
    ones = [of_confidence(6.0, seed) for seed in range(4)]
    logits, labels = (np.concatenate([getattr(one, name) for one in ones]) for name in ("logits", "labels"))
    expected = reliability_table(logits, labels, bins=BINS)
    np.testing.assert_allclose(lines["EL"].get_xdata(), expected["confidence"])
    np.testing.assert_allclose(lines["EL"].get_ydata(), expected["accuracy"])


def test_one_method_and_no_run(record):
    runs = runs_table([record("a", "ce", 0, 0.5)])
    section = calibration_section(
        StudyResults(runs, predictions={RunKey("a", "ce", 0): lambda: {"": of_confidence(1, 0)}})
    )
    assert section.sentences == []
    assert len(section.tables) == 1
    assert calibration_section(StudyResults(runs)) is None


def test_a_method_without_a_block_in_common(record):
    keys = [RunKey("a", "ce", 0), RunKey("a", "0", 1)]
    runs = runs_table([record(key.task, key.method, key.seed, 0.5) for key in keys])
    section = calibration_section(
        StudyResults(runs, predictions={key: lambda: {"": of_confidence(1, 0)} for key in keys})
    )
    assert section.sentences == ["F = 0 (constant) and CE have no block in common."]
    assert section.tables[1].texts()[0][2:] == ["n/a"] * 4


def study(values: dict[str, list[float]]) -> pd.DataFrame:
    """The same number for each measure, before and after scaling; seeds of one task."""
    return pd.DataFrame(
        [
            {"when": when, "task": "a", "method": method, "seed": seed, "temperature": 10**value, "accuracy": 0.5}
            | dict.fromkeys(MEASURES, value)
            for when in WHEN
            for method, row in values.items()
            for seed, value in enumerate(row)
        ]
    )


def test_means_by_hand():
    means = calibration_means(study({"0": [0.25, 0.5], "ce": [0.0, 0.25, 1.0]}), ["ce", "0", "el"])
    assert list(means.index) == [(when, method) for when in WHEN for method in ("ce", "0")]
    assert means.loc[WHEN[1], "runs"].tolist() == [3, 2]
    assert means.loc[WHEN[0], "nll"].tolist() == pytest.approx([1.25 / 3, 0.375])
    assert means["temperature"].tolist() == pytest.approx([10 ** (1.25 / 3), 10**0.375] * 2)


def test_pairs_by_hand():
    pairs = calibration_pairs(study({"0": [0.25, 0.75], "ce": [0.0, 0.25, 1.0]}), ["ce", "0"], "ce")
    low, high = stats.t.interval(0.95, 1, 0.375, stats.sem([0.25, 0.5]))
    assert set(pairs) == {(measure, when) for measure in MEASURES for when in WHEN}
    for table in pairs.values():
        row = table.loc["0"]
        found = row[["pairs", "difference", "low", "high", "value", "base_value"]].tolist()
        assert found == pytest.approx([2, 0.375, low, high, 0.5, 0.125])


@pytest.mark.parametrize("values", [{"ce": [1.0]}, {"0": [1.0], "el": [2.0]}])
def test_no_pairs_without_the_baseline_and_another_method(values):
    assert calibration_pairs(study(values), ["ce", "0", "el"], "ce") == {}
