from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from hf_elmix.analysis.profile import performance_profile, profile_area, profile_bands, ratios, strata

NAN = math.nan
METHODS = ("ce", "0", "0,0.5", "0-0.5")

# No deadline: the machine may be busy.
unhurried = settings(deadline=None, max_examples=60)

# Few values, so that there are ties, zeros and negative bests; and decimals that are no binary fractions.
SCORE = st.sampled_from([NAN, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]) | st.integers(-(10**6), 10**6).map(lambda k: k / 10**6)


@st.composite
def score_tables(draw: st.DrawFn, methods: int | None = None) -> pd.DataFrame:
    columns = METHODS[: methods or draw(st.integers(1, 4))]
    rows = draw(st.lists(st.lists(SCORE, min_size=len(columns), max_size=len(columns)), min_size=1, max_size=6))
    assume(not all(math.isnan(score) for row in rows for score in row))
    return pd.DataFrame(rows, columns=list(columns), dtype=float)


def solved(row: list[float], score: float, tau: float) -> bool:
    """Whether a score is at least tau times the best of its row, in exact arithmetic."""
    present = [Fraction(other) for other in row if not math.isnan(other)]
    if math.isnan(score):
        return False
    best = max(present)
    if best <= 0:
        return score == best and tau <= 1
    # A threshold that is the ratio itself, rounded, is the step at which this score counts: rounding up must not
    # lose it there.
    return Fraction(score) >= Fraction(tau) * best or float(Fraction(score) / best) == tau


def plain_profile(scores: pd.DataFrame, taus: list[float]) -> pd.DataFrame:
    rows = scores.to_numpy().tolist()
    shares = {
        method: [sum(solved(row, row[k], tau) for row in rows) / len(rows) for tau in taus]
        for k, method in enumerate(scores)
    }
    return pd.DataFrame(shares, index=pd.Index(taus, name="tau"))


def steps_of(scores: pd.DataFrame) -> list[float]:
    """Every ratio that occurs, and 1."""
    steps = {1.0}
    for row in scores.to_numpy().tolist():
        present = [Fraction(score) for score in row if not math.isnan(score)]
        if present and max(present) > 0:
            steps |= {float(score / max(present)) for score in present}
    return sorted(steps)


def test_a_profile_by_hand():
    scores = pd.DataFrame({"ce": [0.5, 0.5, 0.25], "0": [1.0, 0.5, 0.5], "el": [0.75, NAN, 0.5]})
    expected = pd.DataFrame(
        {"ce": [1, 1 / 3, 1 / 3], "0": [1.0, 1, 1], "el": [2 / 3, 2 / 3, 1 / 3]},
        index=pd.Index([0.5, 0.75, 1.0], name="tau"),
    )
    assert_frame_equal(performance_profile(scores), expected, check_exact=True)


@unhurried
@given(score_tables())
def test_a_profile_is_that_of_the_definition_in_exact_arithmetic(scores):
    steps = steps_of(scores)
    assert_frame_equal(performance_profile(scores), plain_profile(scores, steps), check_exact=True)


@unhurried
@given(score_tables(), st.lists(st.floats(-2, 2), min_size=1, max_size=5))
def test_a_profile_at_given_thresholds_is_that_of_the_definition(scores, taus):
    expected = plain_profile(scores, sorted(set(taus)))
    assert_frame_equal(performance_profile(scores, taus), expected, check_exact=True)


@unhurried
@given(score_tables(), st.data())
def test_the_order_of_blocks_does_not_matter(scores, data):
    order = data.draw(st.permutations(range(len(scores))))
    assert_frame_equal(performance_profile(scores.iloc[order]), performance_profile(scores), check_exact=True)


@unhurried
@given(score_tables(), st.data())
def test_the_order_of_methods_does_not_matter(scores, data):
    order = data.draw(st.permutations(list(scores)))
    assert_frame_equal(performance_profile(scores[order]), performance_profile(scores)[order], check_exact=True)


@unhurried
@given(score_tables())
def test_a_method_twice_changes_nothing_and_has_the_same_profile(scores):
    before = performance_profile(scores)
    after = performance_profile(scores.assign(twin=scores["ce"]))
    assert_frame_equal(after[list(scores)], before, check_exact=True)
    assert_series_equal(after["twin"], after["ce"], check_names=False, check_exact=True)


@unhurried
@given(score_tables(), st.lists(st.sampled_from([0.0, 0.125, 1e-6]), min_size=6, max_size=6))
def test_a_dominated_method_is_never_above(scores, losses):
    worse = scores["ce"] - losses[: len(scores)]
    profile = performance_profile(scores.assign(worse=worse))
    assert (profile["worse"] <= profile["ce"]).all()


@unhurried
@given(score_tables())
def test_shares_fall_from_the_runs_that_have_a_score_to_the_wins(scores):
    profile = performance_profile(scores)
    assert (profile.diff().dropna() <= 0).all(axis=None)
    assert profile.to_numpy().min() >= 0
    assert profile.index[-1] == 1
    wins = scores.eq(scores.max(axis=1), axis=0).sum() / len(scores)
    assert_series_equal(profile.loc[1.0], wins, check_names=False, check_exact=True)
    # Every method that has only blocks with a positive best starts at the share of its runs with a score.
    if (scores.max(axis=1) > 0).all():
        assert_series_equal(profile.iloc[0], scores.count() / len(scores), check_names=False, check_exact=True)


@unhurried
@given(score_tables(), st.integers(-3, 3))
def test_the_unit_of_the_scores_does_not_matter(scores, exponent):
    # A power of two, so that the scaled scores are exact.
    assert_frame_equal(performance_profile(scores * 2.0**exponent), performance_profile(scores), check_exact=True)


@pytest.mark.parametrize("value", [1.0, 0.5, 0.1, 0.0, -0.25])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (4, 3)])
def test_equal_scores_are_all_best_everywhere(value, shape):
    scores = pd.DataFrame(np.full(shape, value))
    profile = performance_profile(scores)
    assert profile.index.tolist() == [1.0]
    assert (profile == 1).all(axis=None)


def test_one_block():
    profile = performance_profile(pd.DataFrame({"ce": [0.25], "0": [0.5], "el": [NAN]}))
    expected = pd.DataFrame({"ce": [1.0, 0.0], "0": [1.0, 1.0], "el": [0.0, 0.0]}, index=[0.5, 1.0])
    assert_frame_equal(profile, expected, check_names=False, check_exact=True)


def test_a_missing_run_counts_as_not_solved_at_any_threshold():
    scores = pd.DataFrame({"ce": [0.5, NAN, NAN, 0.5], "0": [0.5, 0.5, NAN, NAN]})
    profile = performance_profile(scores, [-1e300, 0, 0.5, 1])
    assert (profile == 0.5).all(axis=None)


def test_a_block_whose_best_score_is_not_positive_is_solved_by_its_best_methods_only():
    scores = pd.DataFrame({"ce": [0.0, -0.5, -0.5, 0.0], "0": [0.0, -0.25, -0.5, -1.0]})
    assert ratios(scores).to_numpy().tolist() == [[1, 1], [-math.inf, 1], [1, 1], [1, -math.inf]]
    assert performance_profile(scores, [-10, 0, 1]).to_numpy().tolist() == [[0.75, 0.75]] * 3


def test_a_negative_score_below_a_positive_best_has_a_negative_ratio():
    scores = pd.DataFrame({"ce": [-0.25], "0": [0.5]})
    profile = performance_profile(scores)
    assert profile.index.tolist() == [-0.5, 1.0]
    assert profile["ce"].tolist() == [1, 0]


@pytest.mark.parametrize("size", [277, 1043])
def test_a_score_counts_at_its_own_step_however_its_ratio_is_rounded(size):
    # Accuracies on the dev sets of RTE and CoLA: for some pairs, score / best * best is above the score.
    counts = range(size // 2, size)
    pairs = [(a / size, b / size) for a, b in itertools.combinations(counts, 2)]
    awkward = [(score, best) for score, best in pairs if score / best * best > score][:20]
    assert len(awkward) == 20
    for score, best in awkward:
        profile = performance_profile(pd.DataFrame({"ce": [score], "0": [best]}))
        assert profile.index.tolist() == [score / best, 1.0]
        assert profile["ce"].tolist() == [1, 0]
        assert profile["0"].tolist() == [1, 1]


@pytest.mark.parametrize("best", [0.1, 1 / 3, 0.9, 1.0, 277.0, 1e-300])
def test_the_next_smaller_number_is_no_tie(best):
    smaller = math.nextafter(best, 0)
    profile = performance_profile(pd.DataFrame({"ce": [smaller], "0": [best]}), [1.0])
    assert profile.to_numpy().tolist() == [[0, 1]]


def test_thresholds_are_sorted_and_kept_once():
    profile = performance_profile(pd.DataFrame({"ce": [0.5], "0": [1.0]}), [1, 0.5, 0.75, 0.5])
    assert profile.index.tolist() == [0.5, 0.75, 1.0]
    assert profile.index.name == "tau"
    assert profile["ce"].tolist() == [1, 0, 0]


def test_whole_numbers_are_scores_too_and_the_table_is_left_as_it_was():
    scores = pd.DataFrame({"ce": [1, 3, 0], "0": [2, 3, 0]})
    before = scores.copy()
    assert ratios(scores).to_numpy().tolist() == [[0.5, 1], [1, 1], [1, 1]]
    assert performance_profile(scores).loc[1.0].tolist() == [2 / 3, 1]
    assert_frame_equal(scores, before)


@pytest.mark.parametrize(
    "scores",
    [
        pd.DataFrame(),
        pd.DataFrame({"ce": []}),
        pd.DataFrame({"ce": [NAN, NAN]}),
        pd.DataFrame({"ce": [None], "0": [NAN]}),
    ],
)
def test_a_table_without_scores_is_refused(scores):
    with pytest.raises(ValueError, match="at least one run"):
        performance_profile(scores)


def test_a_profile_says_how_many_runs_it_rests_on():
    scores = pd.DataFrame({"ce": [0.5, NAN, 0.0], "0": [0.25, 0.5, -1.0], "el": [NAN, NAN, NAN]})
    attrs = performance_profile(scores).attrs
    assert attrs["blocks"] == 3
    assert attrs["runs"] == {"ce": 2, "0": 3, "el": 0}
    assert attrs["undefined"] == 1


@pytest.mark.parametrize("tau", [0.95, 0.99, 1.0])
def test_the_profile_of_the_papers_tables(paper_tables, tau):
    for table in paper_tables:
        counts = [sum(row[k] >= tau * max(row) for row in table.to_numpy()) for k in range(4)]
        assert performance_profile(table, [tau]).iloc[0].tolist() == [count / len(table) for count in counts]


def test_the_wins_of_table_2_and_3_are_the_ends_of_their_profiles(paper_tables):
    assert performance_profile(paper_tables[1]).loc[1.0].tolist() == [0, 0, 0, 1]
    assert performance_profile(paper_tables[2]).loc[1.0].tolist() == [0, 0.4, 0.4, 0.6]


def area_under_steps(scores: pd.DataFrame, method: str, start: float) -> float:
    """The area under a left-continuous step function, rectangle by rectangle, as a share of the widest."""
    ends = sorted({start, 1.0} | {tau for tau in steps_of(scores) if start < tau < 1})
    heights = plain_profile(scores, ends)[method]
    steps = zip(ends, ends[1:], strict=False)
    return sum((right - left) * heights[right] for left, right in steps) / (1 - start)


@unhurried
@given(score_tables(), st.sampled_from([-0.5, 0.0, 0.25, 0.9, 0.999]))
def test_the_area_is_that_under_the_steps(scores, start):
    area = profile_area(scores, start)
    for method in scores:
        assert area[method] == pytest.approx(area_under_steps(scores, method, start), abs=1e-12)


def test_areas_by_hand():
    scores = pd.DataFrame({"ce": [0.95, 1.0], "0": [1.0, NAN], "el": [0.1, 0.9]})
    assert profile_area(scores).to_dict() == pytest.approx({"ce": 0.75, "0": 0.5, "el": 0.0})
    with pytest.raises(ValueError, match="tau_min < 1, but got 1"):
        profile_area(scores, 1)


def grid_scores(values: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Scores by method, task and seed."""
    first = next(iter(values.values()))
    index = [(f"p{p}", seed) for p, seeds in enumerate(first) for seed in range(len(seeds))]
    columns = {method: [score for seeds in tasks for score in seeds] for method, tasks in values.items()}
    return pd.DataFrame(columns, pd.MultiIndex.from_tuples(index, names=["task", "seed"]))


def test_bands_are_the_quantiles_of_every_resample():
    scores = grid_scores({"ce": [[1, 1, 0.5], [0.5, 1]], "0": [[0.5, 1, 1], [1, 1]]})
    solved = {"ce": [[1, 1, 0], [0, 1]], "0": [[0, 1, 1], [1, 1]]}  # at tau = 1
    low, high = profile_bands(scores, np.random.default_rng(0), [1.0], level=0.7, resamples=40_000)
    for method, tasks in solved.items():
        draws = [list(itertools.product(seeds, repeat=len(seeds))) for seeds in tasks]
        shares = sorted(sum(a + b) / 5 for a, b in itertools.product(*draws))
        assert len(shares) == 27 * 4
        assert low.loc[1.0, method] == pytest.approx(shares[round(0.15 * 108)])
        assert high.loc[1.0, method] == pytest.approx(shares[round(0.85 * 108)])


def test_seeds_are_resampled_within_their_task_and_tasks_if_each_has_one_seed():
    # ce solves all of p0 and nothing of p1: no other draw of seeds changes that. Experiments drawn freely would.
    scores = grid_scores({"ce": [[1, 1], [0.5, 0.5]], "0": [[0.5, 0.5], [1, 1]]})
    low, high = profile_bands(scores, np.random.default_rng(0), [1.0])
    assert low.loc[1.0].tolist() == high.loc[1.0].tolist() == [0.5, 0.5]
    for single in (scores.reset_index(drop=True), scores.set_axis(list("abcd"))):
        low, high = profile_bands(single, np.random.default_rng(0), [1.0])
        assert (low.loc[1.0] == 0).all()
        assert (high.loc[1.0] == 1).all()


def test_the_methods_of_a_block_are_drawn_together():
    scores = grid_scores({"ce": [[1, 0.5, 1, 0.5]], "0": [[0.5, 1, 0.5, 1]]})
    low, high = profile_bands(scores, np.random.default_rng(1), [1.0], resamples=7)
    assert low.loc[1.0, "ce"] == pytest.approx(1 - high.loc[1.0, "0"])
    assert high.loc[1.0, "ce"] == pytest.approx(1 - low.loc[1.0, "0"])


@unhurried
@given(score_tables())
def test_bands_have_the_shape_of_the_profile_and_lie_in_it(scores):
    profile = performance_profile(scores)
    low, high = profile_bands(scores, np.random.default_rng(0), resamples=20)
    for band in (low, high):
        assert band.index.equals(profile.index)
        assert list(band) == list(profile)
        assert ((band >= 0) & (band <= 1)).all(axis=None)
        assert (band.diff().dropna() <= 1e-12).all(axis=None)
    assert (low <= high).all(axis=None)


def test_bands_depend_on_their_generator_and_on_nothing_else():
    scores = pd.DataFrame(np.random.default_rng(5).uniform(size=(40, 3)), columns=list("abc"))
    bands = []
    for state in (1, 2):
        np.random.seed(state)  # noqa: NPY002
        bands.append(profile_bands(scores, 7 if state == 1 else np.random.default_rng(7), resamples=11)[0])
    other = profile_bands(scores, np.random.default_rng(8), resamples=11)[0]
    assert_frame_equal(*bands, check_exact=True)
    assert not bands[0].equals(other)


def test_strata():
    scores = grid_scores({"ce": [[1, 1], [1], [1, 1, 1]]})
    assert strata(scores).tolist() == [0, 0, 1, 2, 2, 2]
    assert strata(scores.set_axis(list("abcdef"))).tolist() == [0] * 6
    assert strata(scores.set_axis(list("aabbcc"))).tolist() == [0, 0, 1, 1, 2, 2]
    assert strata(scores[scores.index.get_level_values("seed") == 0]).tolist() == [0, 0, 0]
