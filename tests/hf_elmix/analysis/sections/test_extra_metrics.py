from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from hf_elmix.analysis.frames import curves_table, runs_table
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.extra_metrics import (
    ALL,
    extra_metrics_section,
    metric_sentence,
    metric_summary,
    secondary_metrics,
)
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


def metric_of(records: list[RunRecord]) -> StudyResults:
    metrics = secondary_metrics(StudyResults(runs_table(records)))
    assert list(metrics) == ["wrong"]
    return metrics["wrong"]


def test_it_is_the_declared_metric_and_not_the_score(records):
    metric = metric_of(records)
    assert metric.scale == 100
    for (task, seed), row in metric.scores.iterrows():
        assert row.to_dict() == {method: values[seed] for method, values in WRONG[task].items()}


def test_summaries_are_those_of_the_standard_library(records):
    summary = metric_summary(metric_of(records)).set_index(["task", "method"])
    assert list(summary.index.unique("task")) == ["a", "b", ALL]
    for method in ("ce", "0"):
        parts = {**{task: methods[method] for task, methods in WRONG.items()}, ALL: []}
        parts[ALL] = [value for task in WRONG for value in parts[task]]
        for task, values in parts.items():
            row = summary.loc[task, method]
            assert row["mean"] == pytest.approx(statistics.mean(values))
            assert row["sd"] == pytest.approx(statistics.stdev(values), abs=1e-12)
            assert row["runs"] == row["expected"] == len(values)


def test_comparison_with_the_baseline_by_hand(records):
    row = metric_of(records).pairs_df.loc["0"]
    # Differences -1/4, -1/2 and -1/2, -1/8: the variance of the mean is (1/32 + 9/128) / 2 / 4, freedom by Welch.
    parts = [statistics.variance(pair) / 2 / 4 for pair in ([-0.25, -0.5], [-0.5, -0.125])]
    freedom = sum(parts) ** 2 / sum(part**2 for part in parts)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert row["difference"] == pytest.approx(-0.34375)
    assert (row["low"], row["high"]) == pytest.approx((-0.34375 - reach, -0.34375 + reach))


def test_a_run_that_is_not_done_has_none(records):
    diverged = RunRecord(**{**vars(records[0]), "status": "diverged"})
    metric = metric_of([diverged, *records[1:]])
    assert metric.scores["ce"].isna().tolist() == [True, False, False, False]
    row = metric_summary(metric).set_index(["task", "method"]).loc[ALL, "ce"]
    assert (row["runs"], row["expected"]) == (3, 4)


def test_the_section(records):
    results = StudyResults(runs_table(records), curves_table(records))
    section = extra_metrics_section(results)
    assert section.sentences == [metric_sentence(metric_of(records), LABEL)]
    (table,) = section.tables
    assert table.title == "Rows made wrong that are memorised"
    assert table.texts() == [
        ["a", "62.50 ± 17.68 (2)", "25.00 ± 0.00 (2)"],
        ["b", "37.50 ± 17.68 (2)", "6.25 ± 8.84 (2)"],
        ["all tasks", "50.00 ± 20.41 (4)", "15.62 ± 11.97 (4)"],
    ]
    ((_, (picture,)),) = section.pictures
    lines = picture.draw(Figure().subplots()).get_lines()
    assert lines[0].get_ydata().tolist() == [62.5, 50.0]
    summary = section.data["secondary_metrics"].set_index(["metric", "task", "method"])
    assert summary.loc[("wrong", ALL, "0"), "mean"] == 0.15625
    pairs = section.data["secondary_pairs"].set_index(["metric", "method"])
    assert pairs.loc[("wrong", "0"), "difference"] == -0.34375


def test_one_task_needs_no_row_of_all_and_one_method_no_comparison(records):
    section = extra_metrics_section(StudyResults(runs_table(records[:2])))
    assert list(section.data["secondary_metrics"]["task"]) == ["a"]
    assert "secondary_pairs" not in section.data
    assert not section.pictures


def test_metrics_that_nothing_declares_or_no_run_has(records, small_study):
    assert extra_metrics_section(StudyResults(runs_table(small_study))) is None
    scores = pd.DataFrame({"task": ["a"], "method": "ce", "seed": 0, "score": 0.5, "status": "done"})
    assert extra_metrics_section(StudyResults(scores)) is None
    failed = [RunRecord(**{**vars(one), "scores": {"accuracy": one.scores["accuracy"]}}) for one in records]
    assert extra_metrics_section(StudyResults(runs_table(failed))) is None


# The sentence.


def values_of(*values: list[float]) -> StudyResults:
    """A metric of CE, F = 0 (constant) and F = 0-0.5 (ramp) on one task, by seed."""
    rows = [
        ("a", method, seed, "done", value)
        for method, column in zip(("ce", "0", "0-0.5"), values, strict=False)
        for seed, value in enumerate(column)
    ]
    return StudyResults(pd.DataFrame(rows, columns=["task", "method", "seed", "status", "score"]))


def test_which_methods_are_significantly_different():
    far, near = [0.1, 0.11, 0.12], [0.4, 0.44, 0.45]
    # Differences of 31, 32 and 33 points: a standard error of 1 / sqrt(3), and t = 4.303 with 2 degrees of freedom.
    assert metric_sentence(values_of([0.41, 0.43, 0.45], far, near), "wrong rows memorised") == (
        "Wrong rows memorised: CE 43.00 %, F = 0 (constant) 11.00 %, F = 0-0.5 (ramp) 43.00 % (means "
        "of 3 runs). Significantly "
        "different from CE, in points: F = 0 (constant) −32.00 [−34.48, −29.52]; the other methods are not."
    )
    text = metric_sentence(values_of([0.4, 0.5, math.nan], [0.5, 0.4, 0.3]), "x")
    assert text.endswith(
        "F = 0 (constant) 40.00 % (means of 2 to 3 runs). No method is significantly different from CE."
    )
    assert metric_sentence(values_of([40.0, 50.0]), "x") == "X: CE 45.00 (means of 2 runs)."
