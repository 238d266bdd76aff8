from __future__ import annotations

import itertools
import math
from statistics import mean, variance

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.power import TTestPower

from hf_elmix.analysis.comparison import compare, mean_gain, minimum_detectable_effect, seeds_needed, task_gains
from hf_elmix.errors import UsageError

NAN = math.nan


def grid(gains: dict[str, list[float]], base: float = 0.5) -> pd.DataFrame:
    """Scores of ce, all `base`, and of a method with the given gains over it, by task."""
    index = [(task, seed) for task, values in gains.items() for seed in range(len(values))]
    values = [base + gain for values in gains.values() for gain in values]
    return pd.DataFrame({"ce": base, "a": values}, pd.MultiIndex.from_tuples(index, names=["task", "seed"]))


def test_a_baseline_that_is_not_a_method_is_refused():
    scores = pd.DataFrame({"ce": [0.5], "a": [0.75]})
    for use in (mean_gain, compare, lambda s, b: seeds_needed(s, 0.1, b, np.random.default_rng(0))):
        with pytest.raises(UsageError, match=r"one of ce, a, but got 'el'"):
            use(scores, "el")


def test_a_comparison_by_hand():
    row = compare(grid({"x": [0.25, 0.125, 0.0], "y": [-0.125, 0.25]}), "ce").loc["a"]
    assert (row["pairs"], row["better"], row["equal"], row["worse"]) == (5, 2, 0, 0)
    assert row["difference"] == pytest.approx(0.1)
    assert row["improvement"] == pytest.approx(3.5 / 5)
    assert row["sign_p"] == row["wilcoxon_p"] == pytest.approx(2 / 2**2)  # both tasks gain: one of four signs, twice
    # The tasks' means are 1/8 and 1/16: t with one degree of freedom.
    assert (row["task_low"] + row["task_high"]) / 2 == pytest.approx(3 / 32)
    assert row["task_high"] - 3 / 32 == pytest.approx(math.tan(0.475 * math.pi) / 32)
    # Task x has the variance 1/64 of 3 seeds, y 9/128 of 2.
    parts = [1 / 64 * 3 / 25, 9 / 128 * 2 / 25]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert (row["low"], row["high"]) == pytest.approx((0.1 - reach, 0.1 + reach))


def test_the_interval_over_tasks_is_that_of_a_mixed_model():
    rng = np.random.default_rng(4)
    gains = rng.normal(0.01, 0.02, size=(12, 1)) + rng.normal(0, 0.01, size=(12, 4))
    row = compare(grid({f"t{k}": list(values) for k, values in enumerate(gains)}), "ce").loc["a"]
    fit = MixedLM(gains.ravel(), np.ones(48), groups=np.repeat(range(12), 4)).fit(reml=True)
    reach = stats.t.ppf(0.975, 11) * fit.bse_fe[0]
    assert (row["task_low"], row["task_high"]) == pytest.approx(
        (fit.fe_params[0] - reach, fit.fe_params[0] + reach), rel=1e-3
    )


def sign_flips(gains: list[float]) -> float:
    """Wilcoxon's two-sided p-value: the share of all signs whose rank sum is as far from the middle, or farther."""
    ranks = stats.rankdata(np.abs(gains))
    middle = sum(ranks) / 2
    observed = abs(sum(rank for rank, gain in zip(ranks, gains, strict=True) if gain > 0) - middle)
    signs = itertools.product([0, 1], repeat=len(gains))
    return np.mean([abs(np.dot(sign, ranks) - middle) >= observed - 1e-9 for sign in signs])


@settings(deadline=None, max_examples=60)  # time says nothing on a busy machine
@given(st.lists(st.integers(-4, 6), min_size=1, max_size=8))
def test_sign_and_signed_rank_tests_count_all_signs(eighths):
    row = compare(grid({"x": [value / 8 for value in eighths]}), "ce").loc["a"]
    unequal = [value for value in eighths if value]
    better = sum(value > 0 for value in unequal)
    tail = sum(math.comb(len(unequal), k) for k in range(max(better, len(unequal) - better), len(unequal) + 1))
    assert row["sign_p"] == pytest.approx(min(1, 2 * tail / 2 ** len(unequal)))
    assert row["wilcoxon_p"] == pytest.approx(sign_flips(unequal) if unequal else 1)


def test_equal_differences_tie_whatever_their_last_bits_are():
    scores = pd.DataFrame({"ce": [0.2, 0.7, 0.6, 0.5], "a": [0.3, 0.8, 0.5, 0.9]})
    assert len(set((scores["a"] - scores["ce"]).abs())) == 3  # 0.1 is two numbers
    assert compare(scores, "ce").loc["a", "wilcoxon_p"] == pytest.approx(sign_flips([1, 1, -1, 3]))


@pytest.mark.parametrize("gains", [[0.1, 0.2, 0.4], [0.1, -0.3, 0.2, 0.2, 0.05]])
def test_one_task_has_the_interval_of_the_paired_t_test(gains):
    row = compare(grid({"x": gains}), "ce", level=0.9).loc["a"]
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.9)
    assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_the_gains_of_each_task_have_the_interval_of_its_paired_t_test():
    gains = {"x": [0.1, 0.2, 0.4], "y": [0.1, -0.3, 0.2, 0.2], "z": [0.3]}
    scores = grid(gains).assign(b=NAN)
    scores.loc[("y", 1), "b"] = 0.75
    table = task_gains(scores, "ce")
    assert table.index.tolist() == [(task, method) for task in "xyz" for method in "ab"]
    for task, values in gains.items():
        row = table.loc[(task, "a")]
        assert (row["pairs"], row["difference"]) == (len(values), pytest.approx(mean(values)))
        interval = stats.ttest_1samp(values, 0).confidence_interval() if len(values) > 1 else (NAN, NAN)
        assert (row["low"], row["high"]) == pytest.approx(tuple(interval), nan_ok=True)
    assert table["pairs"].tolist() == [3, 0, 4, 1, 1, 0]
    assert table.loc[("y", "b"), "difference"] == 0.25
    assert math.isnan(table.loc[("x", "b"), "difference"])


def test_without_seeds_the_interval_is_over_tasks(paper_tables):
    table = paper_tables[1]
    row = compare(table, "ce").loc["0-0.5"]
    low, high = stats.ttest_rel(table["0-0.5"], table["ce"]).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert (row["better"], row["worse"], row["improvement"]) == (7, 0, 1)
    assert row["sign_p"] == row["wilcoxon_p"] == pytest.approx(2 / 2**7)


def test_a_task_with_one_seed_gets_the_mean_variance_of_the_others():
    gains = {"x": [0.1, 0.2, 0.3], "y": [0.5, 0.1], "z": [0.3]}
    row = compare(grid(gains), "ce").loc["a"]
    parts = [(3 + 1 / 2) * variance(gains["x"]) / 36, (2 + 1 / 2) * variance(gains["y"]) / 36]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2)
    assert row["high"] - row["low"] == pytest.approx(2 * stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts)))


def test_two_seeds_of_one_task_have_one_degree_of_freedom():
    """Six further tasks have a single seed: one variance was estimated, from two numbers."""
    gains = {"x": [0.1, 0.2], **{name: [0.15] for name in "abcdef"}}
    row = compare(grid(gains), "ce").loc["a"]
    error = math.sqrt((2 + 6) * variance(gains["x"]) / 64)
    assert row["high"] - row["low"] == pytest.approx(2 * stats.t.ppf(0.975, 1) * error)


def test_no_variance_to_measure():
    row = compare(grid({"x": [0.1]}), "ce").loc["a"]
    assert row["difference"] == pytest.approx(0.1)
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])
    for gains, interval in (
        ({"x": [0.25, 0.25], "y": [0.25, 0.25]}, (NAN, NAN)),
        ({"x": [0.25] * 5}, (NAN, NAN)),
        ({"x": [0.25] * 6}, (0.25, 0.25)),
        ({"x": [0.0, 0.0], "y": [0.0, 0.0]}, (0, 0)),
    ):
        constant = compare(grid(gains), "ce").loc["a"]
        np.testing.assert_array_equal((constant["low"], constant["high"]), interval)
    nothing = compare(pd.DataFrame({"ce": [0.5, NAN], "a": [NAN, 0.5]}), "ce").loc["a"]
    assert nothing["pairs"] == 0
    assert all(math.isnan(nothing[name]) for name in ("difference", "low", "high", "improvement"))


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        gains = {f"p{k}": list(0.1 + rng.normal(scale=0.01 * (k + 1), size=4)) for k in range(7)}
        row = compare(grid(gains), "ce").loc["a"]
        covered.append(row["low"] <= 0.1 <= row["high"])
    assert 0.92 <= np.mean(covered) <= 0.98


# Power.


def test_one_task_needs_the_seeds_of_the_power_of_the_t_test():
    gains = [0.0, 0.02, -0.01, 0.03]
    scores, sd = grid({"x": gains}), math.sqrt(variance(gains))
    for effect in (0.01, 0.02, 0.05):
        exact = TTestPower().solve_power(effect / sd, power=0.8, alpha=0.05)
        (found,) = seeds_needed(scores, effect, "ce", np.random.default_rng(0))
        assert abs(found - math.ceil(exact)) <= max(1, 0.06 * exact)


@pytest.mark.parametrize("seeds", [3, 4, 8])
def test_one_task_detects_the_effect_of_the_power_of_the_t_test(seeds):
    gains = [0.0, 0.02, -0.01, 0.03]
    exact = TTestPower().solve_power(nobs=seeds, power=0.8, alpha=0.05) * math.sqrt(variance(gains))
    found = minimum_detectable_effect(grid({"x": gains}), "ce", np.random.default_rng(0), seeds=seeds)["a"]
    assert found == pytest.approx(exact, rel=0.06)


def test_the_minimum_detectable_effect_is_detected_by_four_studies_of_five():
    rng = np.random.default_rng(3)
    gains = {f"p{k}": list(rng.normal(scale=0.01 * (k + 1), size=4)) for k in range(5)}
    effect = minimum_detectable_effect(grid(gains), "ce", rng)["a"]
    sds = [math.sqrt(variance(values)) for values in gains.values()]
    detected = 0
    for _ in range(200):
        study = grid({f"p{k}": list(rng.normal(effect, sd, size=4)) for k, sd in enumerate(sds)})
        detected += compare(study, "ce").loc["a", "low"] > 0
    assert 0.74 <= detected / 200 <= 0.86


def test_detecting_the_minimum_detectable_effect_takes_the_seeds_there_are():
    rng = np.random.default_rng(4)
    scores = grid({f"p{k}": list(rng.normal(scale=0.01, size=6)) for k in range(4)})
    effect = minimum_detectable_effect(scores, "ce", np.random.default_rng(0))["a"]
    assert seeds_needed(scores, effect * 1.02, "ce", np.random.default_rng(1))["a"] == 6
    assert seeds_needed(scores, 2 * effect, "ce", np.random.default_rng(1))["a"] < 6


def test_no_number_of_seeds_if_none_is_enough_or_no_variance_is_known():
    rng = np.random.default_rng(0)
    noisy = grid({"x": [0.0, 1.0, -1.0]})
    assert seeds_needed(noisy, 1e-6, "ce", rng).isna().all()
    assert seeds_needed(grid({"x": [0.1]}), 0.1, "ce", rng).isna().all()
    assert minimum_detectable_effect(grid({"x": [0.1]}), "ce", rng).isna().all()
    assert seeds_needed(grid({"x": [0.1, 0.1]}), 1e-6, "ce", rng)["a"] == 2
    missing = noisy.assign(b=NAN)
    assert math.isnan(minimum_detectable_effect(missing, "ce", rng)["b"])
    assert pd.isna(seeds_needed(missing, 5, "ce", rng)["b"])


@pytest.mark.parametrize("effect", [0, -0.1, NAN])
def test_an_effect_that_is_not_positive_is_refused(effect):
    with pytest.raises(UsageError, match="effect above 0, but got"):
        seeds_needed(grid({"x": [0.1, 0.2]}), effect, "ce", np.random.default_rng(0))


def test_simulations_depend_on_their_generator_and_on_nothing_else():
    scores = grid({"x": [0.0, 0.02, -0.01, 0.03]})
    effects = []
    for state, seed in ((1, 7), (2, 7), (2, 8)):
        np.random.seed(state)  # noqa: NPY002
        effects.append(minimum_detectable_effect(scores, "ce", np.random.default_rng(seed))["a"])
    assert effects[0] == effects[1] != effects[2]
    assert effects[0] == minimum_detectable_effect(scores, rng=7)["a"]  # ce is the first method
    assert seeds_needed(scores, 0.02).equals(seeds_needed(scores, 0.02, "ce", np.random.default_rng(0)))
