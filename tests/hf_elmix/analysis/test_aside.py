from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pandas as pd
import pytest
from scipy import stats

from hf_elmix.analysis.aside import ALL, find_asides
from hf_elmix.analysis.tables import runs_table
from hf_elmix.study.spec import RunRecord

LABEL = "rows made wrong that are memorised"
WRONG = {"a": {"ce": [0.5, 0.75], "0": [0.25, 0.25]}, "b": {"ce": [0.5, 0.25], "0": [0.0, 0.125]}}


@pytest.fixture
def records(record: Callable[..., RunRecord]) -> list[RunRecord]:
    """Two problems, two methods, two seeds; a better score goes with fewer wrong rows."""
    made = [
        record(problem, method, seed, 1 - value, wrong=value)
        for problem, methods in WRONG.items()
        for method, values in methods.items()
        for seed, value in enumerate(values)
    ]
    for one in made:
        one.settings["aside"] = {"wrong": LABEL}
    return made


def test_it_is_the_declared_metric_and_not_the_score(records):
    (aside,) = find_asides(runs_table(records), "ce")
    assert (aside.metric, aside.label, aside.scale) == ("wrong", LABEL, 100)
    for (problem, seed), row in aside.values.iterrows():
        assert row.to_dict() == {method: values[seed] for method, values in WRONG[problem].items()}


def test_summaries_are_those_of_the_standard_library(records):
    (aside,) = find_asides(runs_table(records), "ce")
    summary = aside.summary_df.set_index(["problem", "method"])
    assert list(aside.summary_df["problem"].unique()) == ["a", "b", ALL]
    for method in ("ce", "0"):
        parts = {**{problem: methods[method] for problem, methods in WRONG.items()}, ALL: []}
        parts[ALL] = [value for problem in WRONG for value in parts[problem]]
        for problem, values in parts.items():
            row = summary.loc[problem, method]
            assert row["mean"] == pytest.approx(statistics.mean(values))
            assert row["sd"] == pytest.approx(statistics.stdev(values), abs=1e-12)
            assert row["runs"] == row["expected"] == len(values)


def test_beside_the_baseline_by_hand(records):
    (aside,) = find_asides(runs_table(records), "ce")
    row = aside.pairs_df.loc["0"]
    # Differences -1/4, -1/2 and -1/2, -1/8: the variance of the mean is (1/32 + 9/128) / 2 / 4, freedom by Welch.
    parts = [statistics.variance(pair) / 2 / 4 for pair in ([-0.25, -0.5], [-0.5, -0.125])]
    freedom = sum(parts) ** 2 / sum(part**2 for part in parts)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert row["difference"] == pytest.approx(-0.34375)
    assert (row["low"], row["high"]) == pytest.approx((-0.34375 - reach, -0.34375 + reach))


def test_a_run_that_is_not_done_has_none(records):
    diverged = RunRecord(**{**vars(records[0]), "status": "diverged"})
    (aside,) = find_asides(runs_table([diverged, *records[1:]]), "ce")
    assert aside.values["ce"].isna().tolist() == [True, False, False, False]
    row = aside.summary_df.set_index(["problem", "method"]).loc[ALL, "ce"]
    assert (row["runs"], row["expected"]) == (3, 4)


def test_one_problem_needs_no_row_of_all_and_one_method_no_comparison(records):
    (aside,) = find_asides(runs_table(records[:2]), "ce")
    assert list(aside.summary_df["problem"]) == ["a"]
    assert aside.pairs_df.empty


def test_what_nothing_declares_or_no_run_has_is_not_there(records, small_study):
    assert find_asides(runs_table(small_study), "ce") == []
    assert find_asides(pd.DataFrame({"problem": ["a"], "method": "ce", "seed": 0, "score": 0.5}), "ce") == []
    failed = [RunRecord(**{**vars(one), "status": "failed", "scores": {}}) for one in records]
    assert find_asides(runs_table(failed), "ce") == []
