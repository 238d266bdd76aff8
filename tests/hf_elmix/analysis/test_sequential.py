from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from hf_elmix.analysis.sequential import (
    BETTER,
    EQUAL,
    OPEN,
    PRECISION,
    WORSE,
    Rules,
    confidence_sequence,
    looks,
    verdicts,
)
from hf_elmix.errors import UsageError

STUDIES, SEEDS = 2000, 20


def first_verdicts(x: np.ndarray, rules: Rules, resolution: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The first verdict of each study other than "not yet", and the seeds it took."""
    ends = zip(*(part.ravel() for part in confidence_sequence(x, rules.alpha, resolution)), strict=True)
    states = np.array([rules.state(*pair) for pair in ends]).reshape(x.shape)
    decided = states != OPEN
    place = np.where(decided.any(axis=1), decided.argmax(axis=1), SEEDS - 1)
    return states[np.arange(len(x)), place], place + 1


def share(states: np.ndarray, *wanted: str) -> float:
    return float(np.isin(states, wanted).mean())


@pytest.fixture(scope="module")
def null_studies() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (STUDIES, SEEDS))


@pytest.mark.parametrize("methods", [("new",), ("new", "other", "third")])
@pytest.mark.parametrize("margin", [0.05, 0.5, 1.0])
def test_null_studies_get_a_false_verdict_in_at_most_five_percent(null_studies, methods, margin):
    states, _ = first_verdicts(null_studies, Rules("ce", methods, margin))
    assert share(states, BETTER, WORSE) <= 0.05


def test_a_t_interval_at_every_look_gives_far_more(null_studies):
    n = np.arange(2, SEEDS + 1)
    sds = np.array([null_studies[:, :k].std(axis=1, ddof=1) for k in n])
    means = np.array([null_studies[:, :k].mean(axis=1) for k in n])
    reach = stats.t.ppf(0.975, n - 1)[:, None] * sds / np.sqrt(n)[:, None]
    assert (np.abs(means) > reach).any(axis=0).mean() > 0.2  # not 5 %


@pytest.mark.parametrize(
    ("gain", "found", "median"), [(1.0, 0.75, 15), (1.5, 0.98, 9), (2.0, 0.99, 7), (-2.0, 0.99, 7)]
)
def test_a_true_gain_stops_in_the_right_state(null_studies, gain, found, median):
    """The gain is in standard deviations of the differences."""
    states, seeds = first_verdicts(null_studies + gain, Rules("ce", ("new",), 0.2))
    right, wrong = (BETTER, WORSE) if gain > 0 else (WORSE, BETTER)
    assert share(states, right) >= found
    assert share(states, wrong, EQUAL) <= 0.01
    assert np.median(seeds) <= median


def test_differences_within_the_margin_are_practically_equal_and_those_at_it_are_not(null_studies):
    rules = Rules("ce", ("new",), 2.0)
    states, seeds = first_verdicts(null_studies, rules)
    assert share(states, EQUAL) >= 0.98
    assert np.median(seeds) <= 8
    states, _ = first_verdicts(null_studies + 2.0, rules)
    assert share(states, EQUAL) <= 0.05


@pytest.mark.parametrize("step", [0.3, 1.0, 2.0, 4.0])
def test_rounded_scores_do_not_give_more_false_verdicts(null_studies, step):
    """Scores of few rows often tie; a study of ties must be neither better nor, at a small margin, equal."""
    base = np.random.default_rng(2).normal(0, 3, null_studies.shape)
    x = step * (np.round((base + null_studies) / step) - np.round(base / step))
    states, _ = first_verdicts(x, Rules("ce", ("new",), 0.05), step)
    assert share(states, BETTER, WORSE, EQUAL) <= 0.05


def test_an_interval_is_what_the_mixture_of_likelihood_ratios_does_not_reject():
    """The ratio is integrated numerically over effect sizes and, with the Haar measure, over standard deviations."""
    x, alpha = np.array([0.3, 1.1, 0.7, 1.4, 0.2, 0.9]), 0.05
    _, highs = confidence_sequence(x, alpha)
    mean = x.mean()
    free = highs[-1] < np.minimum.accumulate(highs)[-2]  # the last interval is the narrowest: nothing was intersected
    assert free

    def marginal(data: np.ndarray, sd_of_effect: float | None) -> float:
        def over_sigma(log_sigma: float) -> float:
            sigma = np.exp(log_sigma)
            covariance = np.eye(len(data)) + (0 if sd_of_effect is None else sd_of_effect**2)
            return float(stats.multivariate_normal.pdf(data / sigma, np.zeros(len(data)), covariance)) / sigma ** len(
                data
            )

        return integrate.quad(over_sigma, -6, 8, limit=400)[0]

    data = x - highs[-1]
    ratio = marginal(data, PRECISION**-0.5) / marginal(data, None)
    assert ratio == pytest.approx(1 / alpha, rel=1e-4)
    assert highs[-1] - mean == pytest.approx(mean - confidence_sequence(x, alpha)[0][-1])


def test_equal_differences_count_once_ties_are_unlikely():
    low, high = confidence_sequence(np.zeros(8), 0.05)
    assert np.isinf(high[:5]).all()  # half of all observations equal: 1/2^4 > 0.05
    assert (low[5:] == 0).all()
    assert (high[5:] == 0).all()


def table(**columns: list[float]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.RangeIndex(len(next(iter(columns.values()))), name="seed"))


def test_looks_are_in_points_and_leave_out_what_is_missing():
    ce = [0.70, 0.71, 0.72, 0.70, 0.71, 0.705]
    scores = table(
        ce=ce, new=[c + 0.05 + k / 1000 for k, c in enumerate(ce)], other=[0.7, np.nan, 0.7, *ce[3:]], un=ce
    )
    rules = Rules("ce", ("other", "new", "absent"), 0.2)
    found = looks(scores, rules)
    assert set(found["method"]) == {"other", "new"}
    assert found[found["method"] == "other"]["seed"].to_list() == [0, 2, 3, 4, 5]
    last = verdicts(found, rules)
    assert last.index.to_list() == ["other", "new", "absent"]
    assert last.loc["new", "difference"] == pytest.approx(5.25)
    assert last["verdict"].to_list() == [OPEN, BETTER, OPEN]
    assert last["seeds"].to_list() == [5, 6, 0]
    # What was said at an earlier look is what the same look says later.
    early = looks(scores.iloc[:4], rules)
    late = found[found["seed"] < 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(early, late)


@pytest.mark.parametrize(
    "rules", [{"margin": 0}, {"margin": float("nan")}, {"margin": -1}, {"level": 1}, {"level": 95}]
)
def test_rules_out_of_range(rules):
    with pytest.raises(UsageError, match="^Expected a"):
        Rules("ce", ("new",), **rules)


def test_rules_travel_as_json():
    rules = Rules("ce", ("a", "b"), 0.5, 0.9)
    assert Rules.of({**rules.to_dict(), "more": 1}) == rules
    assert rules.alpha == pytest.approx(0.05)
