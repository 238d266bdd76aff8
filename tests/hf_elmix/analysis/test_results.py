from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

from hf_elmix.analysis import comparison, ranks
from hf_elmix.analysis.frames import runs_table, summary_table
from hf_elmix.analysis.profile import performance_profile, profile_area, profile_bands
from hf_elmix.analysis.results import StudyResults
from hf_elmix.errors import UsageError


def runs(scores: dict[str, list[float]], seeds: int = 2) -> pd.DataFrame:
    rows = [
        (f"p{k // seeds}", method, k % seeds, "done", score)
        for method, values in scores.items()
        for k, score in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "status", "score"])


def test_each_number_is_that_of_its_function(small_study):
    runs_df = runs_table(small_study)
    results = StudyResults(runs_df, seed=3)
    scores = results.scores
    assert results.methods == ["ce", "0-0.5", "0.3"]
    assert results.others == ["0-0.5", "0.3"]
    by_task = ranks.independent_blocks(scores)
    assert_frame_equal(results.profile, performance_profile(scores))
    assert_frame_equal(results.bands[0], profile_bands(scores, 3)[0])
    assert_frame_equal(results.pairs_df.drop(columns="minimum_detectable_effect"), comparison.compare(scores, "ce"))
    effect = comparison.minimum_detectable_effect(scores, "ce", 3)
    assert_series_equal(results.pairs_df["minimum_detectable_effect"], effect, check_names=False)
    assert_frame_equal(results.gains_df, comparison.task_gains(scores, "ce"))
    assert_frame_equal(results.conover, ranks.conover(by_task))
    assert_frame_equal(results.summary_df, summary_table(runs_df))
    assert results.friedman == ranks.friedman(by_task)
    table = results.methods_df
    assert table["wins"].tolist() == ranks.wins(scores).tolist()
    assert table["gain"].tolist() == comparison.mean_gain(scores, "ce").tolist()
    assert table["rank"].tolist() == ranks.mean_rank(by_task).tolist()
    assert table["area"].tolist() == profile_area(scores, results.tau_min).tolist()
    assert table["runs"].tolist() == [3, 4, 2]
    assert (table["expected"] == 4).all()


def test_the_seeds_of_a_single_task_are_its_blocks():
    one = StudyResults(runs({"ce": [1, 2, 3], "a": [2, 3, 1]}, seeds=3))
    assert (len(one.ranked), one.ranked_blocks) == (3, "3 seeds")


def test_runs_that_predict_one_class_are_found_in_any_evaluation_set():
    runs_df = runs({"ce": [1, 2], "a": [0, 1]}).assign(
        eval_predicted_classes=[2, 2, 2, 3], predicted_classes=[2, 1, 2, 2]
    )
    results = StudyResults(runs_df)
    assert results.collapsed.tolist() == [False, True, False, False]
    assert len(results.without_collapsed()) == 1
    assert not StudyResults(runs({"ce": [1, 2]})).collapsed.any()


def test_the_baseline_is_ce_or_else_the_first_or_the_one_named():
    assert StudyResults(runs({"b": [1, 2], "ce": [1, 2], "a": [0, 1]})).baseline == "ce"
    assert StudyResults(runs({"b": [1, 2], "a": [0, 1]})).baseline == "a"
    assert StudyResults(runs({"b": [1, 2], "a": [0, 1]}), baseline="b").others == ["a"]
    with pytest.raises(UsageError, match=r"the baseline to be one of a, b, but got 'c'"):
        StudyResults(runs({"b": [1, 2], "a": [0, 1]}), baseline="c")


def test_runs_without_a_score_are_refused():
    with pytest.raises(UsageError, match="got 2 runs without one"):
        StudyResults(runs({"ce": [np.nan, np.nan]}))


@pytest.mark.parametrize(
    ("scores", "scale"),
    [([0.5, 1.0], 100), ([-0.5, 0.2], 100), ([0.5, 1.01], 1), ([-50, 0.1], 1), ([np.nan, 0.3], 100)],
)
def test_shares_are_shown_in_percent_and_other_scores_as_they_are(scores, scale):
    assert StudyResults(runs({"ce": scores})).scale == scale


@pytest.mark.parametrize(
    ("worst", "start"), [(0.97, 0.95), (0.93, 0.9), (0.9, 0.9), (0.31, 0.3), (-0.5, 0.0), (1, 0.95)]
)
def test_the_area_starts_at_the_lowest_ratio_rounded_down(worst, start):
    assert StudyResults(runs({"ce": [worst, 1], "0": [1, 1]})).tau_min == pytest.approx(start)


def test_bands_have_no_more_thresholds_than_are_drawn():
    values = np.random.default_rng(0).uniform(size=(2, 600))
    results = StudyResults(runs({"ce": list(values[0]), "0": list(values[1])}))
    low, _ = results.bands
    assert len(results.profile) > 500
    assert len(low) == 200
    assert (low.index[0], low.index[-1]) == (results.profile.index[0], 1)


def test_if_friedmans_test_is_not_significant_all_are_one_group():
    # Conover's test alone may find differences where Friedman's does not.
    rng = np.random.default_rng(12)
    for _ in range(200):
        scores = dict(zip(["ce", "0", "el", "a"], rng.normal(size=(4, 8)), strict=True))
        results = StudyResults(runs(scores))
        if results.friedman.pvalue >= 0.05 and (results.conover < 0.05).any(axis=None):
            break
    else:
        pytest.fail("no such study among 200")
    assert [set(group) for group in results.groups] == [set(results.methods)]


def test_if_friedmans_test_is_significant_groups_are_conovers():
    results = StudyResults(
        runs({"ce": list(range(8)), "0": [k + 0.5 for k in range(8)], "el": [k - 1 for k in range(8)]})
    )
    assert results.groups == [("0",), ("ce",), ("el",)]


def test_no_complete_block_no_groups():
    assert StudyResults(runs({"ce": [1, np.nan], "0": [np.nan, 1]})).groups == []


def test_whether_tasks_have_several_seeds():
    assert StudyResults(runs({"ce": [0.5] * 4, "0": [0.5, 0.6, 0.55, 0.65]})).has_seeds
    assert not StudyResults(runs({"ce": [0.5] * 4, "0": [0.5, 0.6, 0.55, 0.65]}, seeds=1)).has_seeds


def test_another_metric_in_place_of_the_score():
    runs_df = runs({"ce": [0.5, 0.25], "0": [0.5, 0.75]}).assign(f1=[1, 2, 3, 4], status=["done", "diverged"] * 2)
    results = StudyResults(runs_df, baseline="0", seed=3).with_metric("f1")
    assert (results.baseline, results.seed) == ("0", 3)
    assert results.scores["ce"].tolist() == [1, pytest.approx(np.nan, nan_ok=True)]
    assert results.scores["0"].tolist() == [3, pytest.approx(np.nan, nan_ok=True)]


def test_the_baseline_may_be_given_by_its_label(small_study):
    runs_df = runs_table(small_study)
    assert [
        StudyResults(runs_df, baseline=name).baseline for name in ("F = 0-0.5 (ramp)", "F = 0-0.5", "0-0.5", "CE")
    ] == ["0-0.5"] * 3 + ["ce"]
    with pytest.raises(
        UsageError,
        match=r"one of ce, CE, .*0.3, F = 0.3 \(constant\), but got 'F = 0'",
    ):
        StudyResults(runs_df, baseline="F = 0")


def test_a_profile_with_too_many_steps_has_some_of_them(monkeypatch):
    monkeypatch.setattr("hf_elmix.analysis.results.LARGE", 20)
    rng = np.random.default_rng(0)
    results = StudyResults(runs({"ce": rng.uniform(size=40).tolist(), "el": rng.uniform(size=40).tolist()}))
    every = performance_profile(results.scores)
    assert len(every) > 30
    assert len(results.profile) == 10
    assert_frame_equal(results.profile, every.loc[results.profile.index])
    assert results.profile.index[[0, -1]].tolist() == every.index[[0, -1]].tolist()
