from __future__ import annotations

import itertools
import math
import warnings
from statistics import mean

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hf_elmix.analysis.comparison import compare, differences, mean_gain, minimum_detectable_effect
from hf_elmix.analysis.ranks import conover, friedman, groups, independent_blocks, mean_rank, wins

NAN = math.nan

unhurried = settings(deadline=None, max_examples=30)

# Twelve homeowners rank four grasses, with ties: Conover, Practical Nonparametric Statistics, 3rd ed. 1999, section
# 5.8, example 1. The book gives the statistic 8.097 and, at 0.05, the critical difference 11.49 of two rank sums.
GRASSES = [
    [4, 3, 2, 1],
    [4, 2, 3, 1],
    [3, 1.5, 1.5, 4],
    [3, 1, 2, 4],
    [4, 2, 1, 3],
    [2, 2, 2, 4],
    [1, 3, 2, 4],
    [2, 4, 1, 3],
    [3.5, 1, 2, 3.5],
    [4, 1, 3, 2],
    [4, 2, 3, 1],
    [3.5, 1, 2, 3.5],
]
# The example of scikit-posthocs' documentation of the test.
DOCUMENTED = [[31, 27, 24], [31, 28, 31], [45, 29, 46], [21, 18, 48], [42, 36, 46], [32, 17, 40]]

# Few values, so that there are ties.
SCORE = st.integers(0, 5).map(lambda k: k / 8)


def test_seeds_of_a_task_are_averaged_and_do_not_count_as_blocks():
    index = pd.MultiIndex.from_product([["x", "y", "z"], range(4)], names=["task", "seed"])
    scores = pd.DataFrame({"a": np.repeat([0.5, 0.25, 0.75], 4), "b": np.repeat([0.75, 0.5, 1.0], 4)}, index)
    scores.loc[("x", 0), "a"] = NAN  # an incomplete block is left out of the mean
    assert independent_blocks(scores).to_dict("list") == {"a": [0.5, 0.25, 0.75], "b": [0.75, 0.5, 1.0]}
    # Three tasks say the same: χ² = 3. Counted as blocks, their seeds would multiply it.
    assert friedman(independent_blocks(scores)).statistic == pytest.approx(3)
    assert friedman(scores).statistic == pytest.approx(11)


@st.composite
def score_tables(draw: st.DrawFn, missing: bool = False, methods: int | None = None) -> pd.DataFrame:
    count = methods or draw(st.integers(2, 5))
    score = SCORE | st.just(NAN) if missing else SCORE
    rows = draw(st.lists(st.lists(score, min_size=count, max_size=count), min_size=2, max_size=8))
    return pd.DataFrame(rows, columns=list("abcde"[:count]), dtype=float)


def plain_ranks(row: list[float]) -> list[float]:
    """1 for the best; equal ones share the average of their places."""
    return [sum(other > score for other in row) + (1 + row.count(score)) / 2 for score in row]


def textbook_friedman(rows: list[list[float]]) -> float:
    """T1 of Conover 1999, section 5.8, eq. 4."""
    ranks = [plain_ranks(row) for row in rows]
    b, k = len(ranks), len(ranks[0])
    a1 = sum(rank**2 for row in ranks for rank in row)
    c1 = b * k * (k + 1) ** 2 / 4
    sums = [sum(column) for column in zip(*ranks, strict=True)]
    return (k - 1) * (sum(total**2 for total in sums) - b * c1) / (a1 - c1)


def textbook_conover(rows: list[list[float]]) -> np.ndarray:
    """Unadjusted p-values of Conover 1999, section 5.8, eq. 6."""
    ranks = [plain_ranks(row) for row in rows]
    b, k = len(ranks), len(ranks[0])
    a1 = sum(rank**2 for row in ranks for rank in row)
    sums = [sum(column) for column in zip(*ranks, strict=True)]
    error = math.sqrt(2 * (b * a1 - sum(total**2 for total in sums)) / ((b - 1) * (k - 1)))
    return np.array([[2 * stats.t.sf(abs(x - y) / error, (b - 1) * (k - 1)) for y in sums] for x in sums])


def adjusted(pvalues: np.ndarray) -> np.ndarray:
    upper = np.triu_indices_from(pvalues, 1)
    result = np.zeros_like(pvalues)
    result[upper] = multipletests(pvalues[upper], method="fdr_bh")[1]
    return result + result.T + np.eye(len(pvalues))


def spread(scores: pd.DataFrame) -> bool:
    """Whether some block ranks methods differently, and not all blocks agree."""
    ranks = [plain_ranks(row) for row in scores.to_numpy().tolist()]
    return any(len(set(row)) > 1 for row in ranks) and any(row != ranks[0] for row in ranks)


# Wins, gains, ranks.


def test_tables_2_and_3_by_hand(paper_tables):
    _, imagenet, reviews = paper_tables
    assert wins(imagenet).tolist() == [0, 0, 0, 7]
    assert wins(reviews).tolist() == [0, 2, 2, 3]
    assert mean_gain(imagenet, "ce").tolist() == pytest.approx([0, 2.41 / 7, 3.65 / 7, 5.47 / 7])
    assert mean_gain(reviews, "ce").tolist() == pytest.approx([0, 2.43 / 5, 2.57 / 5, 3.42 / 5])
    assert mean_rank(imagenet).tolist() == pytest.approx([4, 20 / 7, 15 / 7, 1])
    assert mean_rank(reviews).tolist() == pytest.approx([16 / 5, 13 / 5, 12 / 5, 9 / 5])
    # 12 / (7 * 4 * 5) * (28^2 + 20^2 + 15^2 + 7^2) - 3 * 7 * 5, and with ties 3 (650 - 625) / (148 - 125).
    assert friedman(imagenet).statistic == pytest.approx(12 / 140 * 1458 - 105)
    assert friedman(reviews).statistic == pytest.approx(75 / 23)
    # Rank sums 28, 20, 15, 7; 2 (7 * 210 - 1458) / (6 * 3) = 4 / 3. CE and F=0 are 8 apart.
    pvalues = sorted(2 * stats.t.sf(gap / math.sqrt(4 / 3), 18) for gap in (8, 13, 21, 5, 13, 8))
    assert conover(imagenet).loc["ce", "0"] == pytest.approx(pvalues[4] * 6 / 5)
    assert conover(imagenet).loc["0", "0,0.5"] == pytest.approx(pvalues[5])


def test_all_three_tables_by_an_independent_implementation(paper_tables):
    for table in [*paper_tables, pd.concat(paper_tables)]:
        rows = table.to_numpy().tolist()
        ranks = list(zip(*map(plain_ranks, rows), strict=True))
        assert mean_rank(table).tolist() == pytest.approx([mean(column) for column in ranks])
        assert wins(table).tolist() == [sum(row[k] == max(row) for row in rows) for k in range(4)]
        assert mean_gain(table, "ce").tolist() == pytest.approx([mean(r[k] - r[0] for r in rows) for k in range(4)])
        assert friedman(table).statistic == pytest.approx(textbook_friedman(rows))
        assert conover(table).to_numpy() == pytest.approx(adjusted(textbook_conover(rows)))


def test_ties_count_for_every_winner_and_a_missing_run_wins_nothing():
    scores = pd.DataFrame({"a": [1, 0.5, NAN, NAN], "b": [1, 0.25, 0.5, NAN], "c": [0, 0.5, 0.25, NAN]})
    assert wins(scores).to_dict() == {"a": 2, "b": 2, "c": 1}


def test_gains_use_pairs_and_ranks_use_complete_blocks():
    scores = pd.DataFrame({"ce": [0.5, NAN, 0.25], "a": [0.75, 0.9, NAN], "b": [0.25, 1, 0.5]})
    assert differences(scores, "ce")["a"].tolist() == pytest.approx([0.25, NAN, NAN], nan_ok=True)
    assert mean_gain(scores, "ce").tolist() == [0, 0.25, 0]
    assert mean_rank(scores).tolist() == [2, 1, 3]


# Friedman and Conover.


def test_the_grasses_of_the_book():
    scores = pd.DataFrame(GRASSES)
    assert friedman(scores).statistic == pytest.approx(8.097, abs=5e-4)
    assert friedman(scores).pvalue == pytest.approx(0.0440, abs=5e-5)
    sums = [sum(column) for column in zip(*GRASSES, strict=True)]
    assert sums == [38, 23.5, 24.5, 34]
    expected = adjusted(textbook_conover(GRASSES))
    assert conover(scores).to_numpy() == pytest.approx(expected, rel=1e-12)
    # Unadjusted, two grasses differ at 0.05 where their rank sums are more than 11.49 apart: 1-2 and 1-3.
    raw = textbook_conover(GRASSES)
    apart = [(i, j) for i, j in itertools.combinations(range(4), 2) if abs(sums[i] - sums[j]) > 11.49]
    assert apart == [(i, j) for i, j in itertools.combinations(range(4), 2) if raw[i, j] < 0.05] == [(0, 1), (0, 2)]


def test_the_documented_example_of_another_library():
    scores = pd.DataFrame(DOCUMENTED)
    expected = scikit_posthocs.posthoc_conover_friedman(np.array(DOCUMENTED), p_adjust="fdr_bh")
    assert_frame_equal(conover(scores), expected, check_names=False, rtol=1e-9)
    statistic, pvalue = stats.friedmanchisquare(*np.array(DOCUMENTED).T)
    assert friedman(scores) == pytest.approx((statistic, pvalue))


@unhurried
@given(score_tables())
def test_friedman_and_conover_are_those_of_the_textbook_and_of_other_libraries(scores):
    assume(spread(scores))
    rows = scores.to_numpy().tolist()
    assert friedman(scores).statistic == pytest.approx(textbook_friedman(rows), abs=1e-9)
    assert conover(scores).to_numpy() == pytest.approx(adjusted(textbook_conover(rows)), rel=1e-7, abs=1e-12)
    if len(scores.columns) > 2:
        assert friedman(scores) == pytest.approx(tuple(stats.friedmanchisquare(*scores.to_numpy().T)), abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = scikit_posthocs.posthoc_conover_friedman(scores.to_numpy(), p_adjust="fdr_bh").to_numpy()
    assert conover(scores).to_numpy() == pytest.approx(theirs, rel=1e-6, abs=1e-12)


def test_two_methods_are_the_sign_test_as_a_chi_square():
    # With two methods Friedman's statistic is (wins - losses)^2 / blocks without ties.
    scores = pd.DataFrame({"a": [1, 1, 1, 0, 1, 0.5], "b": [0, 0, 0, 1, 0, 0.5]})
    assert friedman(scores).statistic == pytest.approx((4 - 1) ** 2 / 5)


@pytest.mark.parametrize("blocks", [2, 3, 7, 29])
@pytest.mark.parametrize("methods", [2, 3, 4, 6])
def test_blocks_that_all_agree(blocks, methods):
    scores = pd.DataFrame(np.tile(np.arange(methods) / 8, (blocks, 1)))
    expected = np.eye(methods)
    assert conover(scores).to_numpy().tolist() == expected.tolist()
    assert friedman(scores).statistic == pytest.approx(blocks * (methods - 1))


@pytest.mark.parametrize("shape", [(2, 2), (5, 3)])
def test_equal_scores_differ_nowhere(shape):
    scores = pd.DataFrame(np.full(shape, 0.5))
    assert friedman(scores) == (0, 1)
    assert (conover(scores) == 1).all(axis=None)
    assert groups(conover(scores), list(scores)) == [tuple(scores)]
    assert wins(scores).tolist() == [shape[0]] * shape[1]


def test_one_block_shows_no_difference():
    scores = pd.DataFrame({"a": [0.5], "b": [0.25], "c": [NAN]})
    assert wins(scores).to_dict() == {"a": 1, "b": 0, "c": 0}
    assert mean_rank(scores).isna().all()
    assert all(map(math.isnan, friedman(scores)))
    pvalues = conover(scores[["a", "b"]])
    assert math.isnan(pvalues.loc["a", "b"])
    assert pvalues.loc["a", "a"] == 1
    assert groups(pvalues, ["a", "b"]) == [("a", "b")]


def test_one_method_is_compared_with_nobody():
    scores = pd.DataFrame({"a": [0.5, 0.25]})
    assert math.isnan(friedman(scores).pvalue)
    assert conover(scores).to_numpy().tolist() == [[1]]
    assert mean_rank(scores).tolist() == [1]
    assert compare(scores, "a").empty
    assert minimum_detectable_effect(scores, "a", np.random.default_rng(0)).empty


# Properties.


@unhurried
@given(score_tables(missing=True), st.data())
def test_the_order_of_blocks_and_methods_does_not_matter(scores, data):
    rows, columns = data.draw(st.permutations(range(len(scores)))), data.draw(st.permutations(list(scores)))
    shuffled = scores.iloc[rows][columns]
    for numbers in (wins, mean_rank, lambda s: mean_gain(s, "a")):
        assert_series_equal(numbers(shuffled), numbers(scores)[columns], rtol=1e-9, check_index_type=False)
    assert friedman(shuffled) == pytest.approx(friedman(scores), nan_ok=True)
    assert_frame_equal(conover(shuffled), conover(scores).loc[columns, columns], rtol=1e-9)
    assert_frame_equal(compare(shuffled, "a").sort_index(), compare(scores, "a").sort_index(), rtol=1e-9)


@unhurried
@given(score_tables(missing=True))
def test_a_method_twice_has_the_same_numbers_and_does_not_differ(scores):
    after = scores.assign(twin=scores["a"])
    for numbers in (wins, mean_rank, lambda s: mean_gain(s, "b")):
        assert numbers(after)["twin"] == pytest.approx(numbers(after)["a"], nan_ok=True)
    assert_series_equal(wins(after)[list(scores)], wins(scores))
    assert_frame_equal(compare(after, "b").loc[list(scores.columns.drop("b"))], compare(scores, "b"))
    assert not conover(after).loc["a", "twin"] < 1
    twins = compare(after, "a").loc["twin"]
    assert twins["improvement"] == 0.5 or twins["pairs"] == 0
    assert twins["sign_p"] == twins["wilcoxon_p"] == 1


@unhurried
@given(score_tables(missing=True))
def test_a_dominated_method_ranks_last_wins_nothing_and_leaves_the_others_as_they_are(scores):
    after = scores.assign(worst=scores.min(axis=1) - 1)
    assert wins(after)["worst"] == 0
    assert_series_equal(wins(after)[list(scores)], wins(scores))
    assert_series_equal(mean_rank(after)[list(scores)], mean_rank(scores))
    if len(scores.dropna()):
        assert mean_rank(after)["worst"] == len(scores.columns) + 1
    assert mean_gain(after, "worst")[list(scores)].min() > 0 or scores.isna().all().any()


@unhurried
@given(score_tables(missing=True))
def test_a_missing_run_is_never_imputed(scores):
    cut = scores.dropna()
    assert_series_equal(mean_rank(scores), mean_rank(cut))
    assert friedman(scores) == pytest.approx(friedman(cut), nan_ok=True)
    assert_frame_equal(conover(scores), conover(cut))
    pairs = scores[["a", "b"]].dropna()
    assert_frame_equal(compare(scores, "a").loc[["b"]], compare(pairs, "a").loc[["b"]])
    assert compare(scores, "a").loc["b", "pairs"] == len(pairs)


# Groups.


def differing(methods: str, *pairs: str) -> pd.DataFrame:
    pvalues = pd.DataFrame(1.0, list(methods), list(methods))
    for one, other in pairs:
        pvalues.loc[one, other] = pvalues.loc[other, one] = 0.01
    return pvalues


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], ["abcd"]),
        (["ad"], ["abc", "bcd"]),
        (["ac", "ad", "bd"], ["ab", "bc", "cd"]),
        (["ab", "ac", "ad"], ["a", "bcd"]),
        (["ab", "ac", "ad", "bc", "bd", "cd"], ["a", "b", "c", "d"]),
        (["ac", "bc", "ad", "bd"], ["ab", "cd"]),
        (["cd", "bd", "ad"], ["abc", "d"]),
    ],
)
def test_groups_are_the_longest_stretches_in_which_no_two_differ(pairs, expected):
    assert groups(differing("abcd", *pairs), list("abcd")) == [tuple(group) for group in expected]


def test_the_border_is_below_alpha():
    pvalues = pd.DataFrame([[1, 0.05], [0.05, 1]], list("ab"), list("ab"))
    assert groups(pvalues, ["b", "a"]) == [("b", "a")]
    assert groups(pvalues, ["b", "a"], alpha=0.06) == [("b",), ("a",)]


def test_means_that_differ_by_rounding_alone_tie():
    """0.7 and 0.1 have the mean of 0.4 and 0.4, but not to the last bit."""
    scores = pd.DataFrame(
        {"ce": [0.7, 0.1, 0.5], "0": [0.4, 0.4, 0.6]}, pd.MultiIndex.from_tuples([("a", 0), ("a", 1), ("b", 0)])
    )
    means = independent_blocks(scores)
    assert means.loc["a", "ce"] != means.loc["a", "0"]
    assert mean_rank(means).to_dict() == {"ce": 1.75, "0": 1.25}
