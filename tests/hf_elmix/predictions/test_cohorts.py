from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from hf_elmix.errors import UsageError
from hf_elmix.predictions.cohorts import (
    COHORTS,
    PAPER,
    cohorts_of,
    flow_table,
    histogram_table,
    share_table,
    start_of,
    transition_table,
)
from hf_elmix.predictions.records import Predictions


def of_rows(p_true: list[list[float]], correct: list[list[bool]], epochs: list[float] | None = None) -> Predictions:
    points, rows = np.shape(p_true)
    epochs = list(range(1, points + 1)) if epochs is None else epochs
    steps = [round(10 * epoch) for epoch in epochs]
    return Predictions(steps, epochs, np.zeros(rows), p_true, correct, np.zeros((rows, 2)))


def paper_rows() -> Predictions:
    """The paper's 10,000 images, as far as it describes them."""
    counts = PAPER.iloc[0]
    p_true, before, after = [], [], []
    for name, p in (("correct", 0.9), ("near", 0.4), ("far", 0.1)):
        p_true += [p] * counts[name]
        before += [name == "correct"] * counts[name]
        after += [k < counts[f"{name}_end"] for k in range(counts[name])]
    return of_rows([p_true, p_true], [before, after], [70, 90])


def test_the_table_of_the_paper():
    """Section "A Motivating Example"; its 95.58 % cannot be 6,482 of 6,766, its other shares are as printed."""
    table = transition_table(paper_rows())
    assert table[PAPER.columns].to_numpy().tolist() == PAPER.to_numpy().tolist()
    assert table["epoch"].tolist() == [70]
    assert table[list(COHORTS)].sum(axis=1).tolist() == [10_000]
    shares = share_table(table).iloc[0]
    assert round(100 * shares["near_share"], 2) == 38.46
    assert int(10_000 * shares["far_share"]) / 100 == 3.35
    assert round(100 * shares["correct_share"], 2) == 95.80


@pytest.mark.parametrize("threshold", [0.2, 0.35])
def test_it_is_what_a_plain_loop_counts(predictions, threshold):
    seen = predictions(80, points=4)
    table = transition_table(seen, threshold)
    for point in range(3):
        counts = dict.fromkeys([f"{name}{end}" for name in COHORTS for end in ("", "_end")], 0)
        for row in range(80):
            p, correct = float(seen.p_true[point, row]), bool(seen.correct[point, row])
            name = "correct" if correct else "near" if p > float(np.float16(threshold)) else "far"
            counts[name] += 1
            counts[f"{name}_end"] += bool(seen.correct[3, row])
        assert table.drop(columns="epoch").iloc[point].to_dict() == counts
    assert (table.drop(columns="epoch") > 0).to_numpy().any(axis=0).all()  # each cohort has rows at some point
    assert table.index.tolist() == [10, 20, 30]


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.7])
def test_half_precision_misplaces_nothing_at_the_threshold(threshold):
    """In half precision 0.3 is above 0.3 and 0.2 below 0.2."""
    above = float(np.nextafter(np.float16(threshold), np.float16(1)))
    seen = of_rows([[threshold, above, 0.0, np.nan]] * 2, [[False] * 4] * 2)
    assert cohorts_of(seen, threshold)[0].tolist() == [2, 1, 2, 2]


def test_a_correct_row_is_correct_whatever_its_probability():
    seen = of_rows([[0.05, 0.4]] * 2, [[True, True]] * 2)
    assert cohorts_of(seen).tolist() == [[0, 0]] * 2


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_thresholds_outside_the_range(predictions, threshold):
    with pytest.raises(UsageError, match="between 0 and 1"):
        transition_table(predictions(5), threshold)


@pytest.mark.parametrize(("count", "rows"), [(0, 1), (1, 1), (0, 50), (235, 611), (88, 2623), (6482, 6766)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_are_those_of_statsmodels(count, rows, level):
    expected = proportion_confint(count, rows, alpha=1 - level, method="wilson")
    counts = {f"{name}{end}": number for name in COHORTS for end, number in (("", rows), ("_end", count))}
    shares = share_table(pd.DataFrame([counts]), level).iloc[0]
    assert (shares["far_low"], shares["far_high"]) == pytest.approx(expected, abs=1e-12)


def test_a_cohort_without_rows_has_no_share():
    shares = share_table(transition_table(of_rows([[0.9], [0.9]], [[True], [True]]))).iloc[0]
    assert shares["correct_share"] == 1
    assert shares[["near_share", "near_low", "near_high", "far_share"]].isna().all()


def test_the_start_is_the_papers_share_of_the_training(predictions):
    assert start_of(predictions(5, points=90)) == 69  # epoch 70
    assert start_of(predictions(5, points=6)) == 4  # 4.67 epochs: epoch 5
    assert start_of(predictions(5, points=2)) == 0
    assert start_of(predictions(5, points=6), 2.4) == 1
    assert start_of(predictions(5, points=6), 5.9) == 4  # never the end itself
    with pytest.raises(UsageError, match="an epoch before the last, 6, but got 100"):
        start_of(predictions(5, points=6), 100)
    with pytest.raises(UsageError, match="at two points"):
        start_of(predictions(5, points=1))


def test_flows_by_a_plain_loop(predictions):
    seen = predictions(90, points=4)
    cohorts = cohorts_of(seen)
    flow = flow_table(seen, start=2)
    for before, after in itertools.product(range(3), repeat=2):
        rows = [row for row in range(90) if cohorts[1, row] == before and cohorts[3, row] == after]
        assert flow.loc[COHORTS[before], COHORTS[after]] == len(rows)
    table = transition_table(seen).loc[20]
    for name in COHORTS:
        assert (flow.loc[name].sum(), flow.loc[name, "correct"]) == (table[name], table[f"{name}_end"])


def test_one_point_has_no_transitions_but_a_histogram(predictions):
    seen = predictions(7, points=1)
    assert transition_table(seen).empty
    assert histogram_table(seen).sum(axis=1).tolist() == [7]


def test_histograms_by_a_plain_loop(predictions):
    seen = predictions(50, points=3)
    seen.p_true[0, :4] = [0.0, 1.0, np.nan, 0.5]
    table = histogram_table(seen, 8)
    for point in range(3):
        counts = [0] * 8
        for p in seen.p_true[point]:
            if not np.isnan(p):
                counts[min(7, int(8 * float(p)))] += 1
        assert table.iloc[point].tolist() == counts
    assert table.index.tolist() == [1, 2, 3]
    assert table.columns.tolist() == [k / 8 for k in range(8)]
