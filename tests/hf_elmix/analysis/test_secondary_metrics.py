from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pandas as pd
import pytest
from scipy import stats

from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.secondary_metrics import ALL, find_secondary_metrics
from hf_elmix.study.spec import RunRecord

LABEL = "rows made wrong that are memorised"
WRONG = {"a": {"ce": [0.5, 0.75], "0": [0.25, 0.25]}, "b": {"ce": [0.5, 0.25], "0": [0.0, 0.125]}}


@pytest.fixture
def records(record: Callable[..., RunRecord]) -> list[RunRecord]:
    """Two tasks, two methods, two seeds; a better score goes with fewer wrong rows."""
    made = [
        record(task, method, seed, 1 - value, wrong=value)
        for task, methods in WRONG.items()
        for method, values in methods.items()
        for seed, value in enumerate(values)
    ]
    for one in made:
        one.settings["secondary_metrics"] = {"wrong": LABEL}
    return made


def test_it_is_the_declared_metric_and_not_the_score(records):
    (metric,) = find_secondary_metrics(runs_table(records), "ce")
    assert (metric.metric, metric.label, metric.scale) == ("wrong", LABEL, 100)
    for (task, seed), row in metric.values.iterrows():
        assert row.to_dict() == {method: values[seed] for method, values in WRONG[task].items()}


def test_summaries_are_those_of_the_standard_library(records):
    (metric,) = find_secondary_metrics(runs_table(records), "ce")
    summary = metric.summary_df.set_index(["task", "method"])
    assert list(metric.summary_df["task"].unique()) == ["a", "b", ALL]
    for method in ("ce", "0"):
        parts = {**{task: methods[method] for task, methods in WRONG.items()}, ALL: []}
        parts[ALL] = [value for task in WRONG for value in parts[task]]
        for task, values in parts.items():
            row = summary.loc[task, method]
            assert row["mean"] == pytest.approx(statistics.mean(values))
            assert row["sd"] == pytest.approx(statistics.stdev(values), abs=1e-12)
            assert row["runs"] == row["expected"] == len(values)


def test_beside_the_baseline_by_hand(records):
    (metric,) = find_secondary_metrics(runs_table(records), "ce")
    row = metric.pairs_df.loc["0"]
    # Differences -1/4, -1/2 and -1/2, -1/8: the variance of the mean is (1/32 + 9/128) / 2 / 4, freedom by Welch.
    parts = [statistics.variance(pair) / 2 / 4 for pair in ([-0.25, -0.5], [-0.5, -0.125])]
    freedom = sum(parts) ** 2 / sum(part**2 for part in parts)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert row["difference"] == pytest.approx(-0.34375)
    assert (row["low"], row["high"]) == pytest.approx((-0.34375 - reach, -0.34375 + reach))


def test_a_run_that_is_not_done_has_none(records):
    diverged = RunRecord(**{**vars(records[0]), "status": "diverged"})
    (metric,) = find_secondary_metrics(runs_table([diverged, *records[1:]]), "ce")
    assert metric.values["ce"].isna().tolist() == [True, False, False, False]
    row = metric.summary_df.set_index(["task", "method"]).loc[ALL, "ce"]
    assert (row["runs"], row["expected"]) == (3, 4)


def test_one_task_needs_no_row_of_all_and_one_method_no_comparison(records):
    (metric,) = find_secondary_metrics(runs_table(records[:2]), "ce")
    assert list(metric.summary_df["task"]) == ["a"]
    assert metric.pairs_df.empty


def test_what_nothing_declares_or_no_run_has_is_not_there(records, small_study):
    assert find_secondary_metrics(runs_table(small_study), "ce") == []
    assert find_secondary_metrics(pd.DataFrame({"task": ["a"], "method": "ce", "seed": 0, "score": 0.5}), "ce") == []
    failed = [RunRecord(**{**vars(one), "status": "failed", "scores": {}}) for one in records]
    assert find_secondary_metrics(runs_table(failed), "ce") == []
