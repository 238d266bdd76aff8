from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hf_elmix.analysis.moves import flow_of, moves_table, pooled_transitions
from hf_elmix.analysis.predictions import Predicted, reduce_predictions
from hf_elmix.predictions.cohorts import COHORTS, flow_table
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey

NOTHING = pd.DataFrame()


def of_moves(moves: dict[str, list[tuple[str, str, int, int, int, int, int]]]) -> Predicted:
    """From (task, method, seed, rows, right, base_rows, base_right), by whose rows they are."""
    names = ["task", "method", "seed", "rows", "right", "base_rows", "base_right"]
    rows = [dict(zip(names, row, strict=True), whose=whose) for whose, part in moves.items() for row in part]
    return Predicted(NOTHING, NOTHING, pd.DataFrame(rows), NOTHING, NOTHING, {})


def test_pooled_counts_and_shares(predictions):
    sets = {
        RunKey("a", method, seed): {"": predictions(400, seed=seed)} for method in ("ce", "0") for seed in range(3)
    }
    sets[RunKey("b", "ce", 0)] = {"x": predictions(30), "y": predictions(20, points=2)}
    predicted = reduce_predictions({key: lambda one=one: one for key, one in sets.items()}, ["ce", "0"], "ce")
    pooled = pooled_transitions(predicted, ["ce", "0", "el"])
    assert pooled.index.tolist() == ["ce", "0"]
    assert pooled["runs"].tolist() == [4, 3]
    assert pooled["start"].tolist() == pytest.approx([(4 * 5 / 6 + 1 / 2) / 5, 5 / 6])
    expected = sum(flow_table(one) for key, run in sets.items() for one in run.values() if key.method == "ce")
    pd.testing.assert_frame_equal(flow_of(predicted, "ce"), expected)
    row = pooled.loc["ce"]
    for name in COHORTS:
        assert (row[name], row[f"{name}_end"]) == (expected.loc[name].sum(), expected.loc[name, "right"])
        assert row[f"{name}_low"] < row[f"{name}_share"] == row[f"{name}_end"] / row[name] < row[f"{name}_high"]


def test_the_comparison_is_paired_and_over_experiments():
    # Shares 3/4, 1/2, 3/4 beside 1/2, 1/2, 1/4, whatever the number of rows.
    counts = [("a", "0", 0, 4, 3, 8, 4), ("a", "0", 1, 40, 20, 2, 1), ("a", "0", 2, 8, 6, 8, 2)]
    table = moves_table(of_moves({"own": counts}), ["ce", "0"], "ce")
    row = table.loc[("own", "0")]
    gains = np.array([0.25, 0, 0.5])
    reach = stats.t.ppf(0.975, 2) * gains.std(ddof=1) / np.sqrt(3)
    assert (row["rows"], row["pairs"], row["better"], row["equal"], row["worse"]) == (52, 3, 2, 1, 0)
    assert (row["share"], row["base_share"]) == pytest.approx((2 / 3, 5 / 12))
    assert (row["low"], row["difference"], row["high"]) == pytest.approx((0.25 - reach, 0.25, 0.25 + reach))
    assert row["sign_p"] == 0.5
    assert row["minimum_detectable_effect"] > 0


def test_experiments_without_such_rows_are_left_out():
    counts = [("a", "0", 0, 0, 0, 4, 2), ("a", "0", 1, 4, 2, 0, 0), ("a", "0", 2, 4, 3, 4, 2)]
    table = moves_table(of_moves({"both": counts[:2], "own": counts}), ["ce", "0"], "ce")
    assert table.index.tolist() == [("own", "0")]
    assert table.loc[("own", "0"), ["pairs", "difference"]].tolist() == [1, 0.25]
    assert np.isnan(table.loc[("own", "0"), "low"])


def test_nothing_to_compare():
    assert moves_table(of_moves({}), ["ce"], "ce").empty


def test_methods_are_in_their_order_whatever_that_of_the_runs():
    counts = [("a", method, seed, 4, 3, 4, 2) for seed in range(2) for method in ("x", "0", "0-0.5")]
    table = moves_table(of_moves({"own": counts, "both": counts}), ["ce", "0", "0-0.5", "x"], "ce")
    assert table.index.tolist() == [(whose, name) for whose in ("both", "own") for name in ("0", "0-0.5", "x")]


def alike(seed: int, rows: int = 400) -> dict[str, Predictions]:
    """A run of one of two methods that are the same but for chance."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(1).normal(0.3, 1, size=rows) + rng.normal(0, 0.5, size=rows)
    gap = own + rng.normal(0, 0.3, size=(2, rows))
    nothing = np.full((rows, 2), np.nan)  # calibration is not asked for here, and takes its time
    return {"": Predictions([7, 9], [7, 9], np.zeros(rows), 1 / (1 + np.exp(-gap)), gap > 0, nothing)}


def test_rows_chosen_by_the_baseline_favour_the_other_method_and_rows_of_both_do_not():
    """Why the answer is about the rows that are near for both: here there is nothing to be found."""
    readers = {
        RunKey("a", method, seed): lambda k=2 * seed + place: alike(10 + k)
        for place, method in enumerate(("ce", "same"))
        for seed in range(30)
    }
    table = moves_table(reduce_predictions(readers, ["ce", "same"], "ce"), ["ce", "same"], "ce").xs("same", level=1)
    assert table.loc["baseline", "low"] > 0.1
    for whose in ("both", "own"):
        assert abs(table.loc[whose, "difference"]) < 0.03
