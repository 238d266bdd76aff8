from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from hf_elmix.analysis.calibrated import (
    BINS,
    MEASURES,
    add_reliability,
    calibration_means,
    calibration_pairs,
    run_calibration,
)
from hf_elmix.diagnostics.calibration import WHEN, calibration_table, reliability_table, temperature_scaled
from hf_elmix.errors import UsageError


def joined(*sets):
    return np.concatenate([one.logits for one in sets]), np.concatenate([one.labels for one in sets])


def test_a_run_is_judged_on_the_rows_of_all_its_sets(predictions):
    sets = {"x": predictions(70), "y": predictions(50, seed=1)}
    table, reliability = run_calibration(sets)
    logits, labels = joined(*sets.values())
    assert_frame_equal(table, calibration_table(logits, labels, bins=BINS))
    assert tuple(table.index) == tuple(reliability) == WHEN
    scaled = temperature_scaled(logits, labels)[0]
    for when, seen in zip(WHEN, (logits, scaled), strict=True):
        expected = reliability_table(seen, labels, bins=BINS)
        assert_frame_equal(reliability[when].reset_index(drop=True), expected)
        ends = reliability[when].index.to_numpy() / BINS
        assert ((ends < expected["confidence"]) & (expected["confidence"] <= ends + 1 / BINS + 1e-12)).all()


def test_sums_of_reliability_are_those_of_all_rows(predictions):
    runs = [predictions(60 + 30 * k, seed=k, learned=k) for k in range(3)]
    total = None
    for one in runs:
        total = add_reliability(run_calibration({"": one})[1][WHEN[0]], total)
    expected = reliability_table(*joined(*runs), bins=BINS)
    assert_frame_equal(total.reset_index(drop=True), expected)


def test_logits_that_are_no_numbers_say_nothing(predictions):
    one = predictions(9)
    one.logits[3, 1] = np.nan
    assert run_calibration({"": one, "x": predictions(5)}) is None


def test_labels_that_are_none_are_refused(predictions):
    with pytest.raises(ValueError, match="class ids from 0 to 2"):
        run_calibration({"": replace(predictions(5), labels=[0, 1, 2, 3, 0])})


def test_sets_of_other_classes_are_refused(predictions):
    one = predictions(5)
    with pytest.raises(UsageError, match=r"same classes on all evaluation sets, but got \[2, 3\]"):
        run_calibration({"x": one, "y": replace(one, logits=one.logits[:, :2])})


def study(values: dict[str, list[float]]) -> pd.DataFrame:
    """The same number for each measure and both times; seeds of one task."""
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
    pairs = calibration_pairs(study({"0": [0.25, 0.5], "ce": [0.0, 0.25, 1.0]}), ["ce", "0"], "ce")
    assert set(pairs) == {(measure, when) for measure in MEASURES for when in WHEN}
    for table in pairs.values():
        row = table.loc["0"]
        assert row[["pairs", "difference", "low", "high", "value", "base_value"]].tolist() == [
            2,
            0.25,
            0.25,
            0.25,
            0.375,
            0.125,
        ]


@pytest.mark.parametrize("values", [{"ce": [1.0]}, {"0": [1.0], "el": [2.0]}])
def test_nothing_to_compare(values):
    assert calibration_pairs(study(values), ["ce", "0", "el"], "ce") == {}
