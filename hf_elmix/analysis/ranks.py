"""Which methods differ in rank: wins, mean ranks (Table 4), and the tests behind Fig. 3.

``scores`` has one row per block, indexed by (task, seed), and one column per method. Larger is better. A run without
a score is missing (NaN) and never imputed: ranks and tests use the complete blocks, in which every method has a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["FriedmanResult", "conover", "friedman", "groups", "independent_blocks", "mean_rank", "wins"]


class FriedmanResult(NamedTuple):
    """Result of Friedman's test.

    Attributes:
        statistic: Chi-squared with (methods - 1) degrees of freedom under the null hypothesis.
        pvalue: Its p-value, in [0, 1].
    """

    statistic: float
    pvalue: float


def independent_blocks(scores: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each task, so that tests of ranks have independent blocks (Demšar 2006, section 3).

    Seeds of one task share its rows: with each of them as a block, p-values are too small. Only seeds with a score for
    every method are averaged.

    Args:
        scores: One row per block, indexed by (task, seed), and one column per method.

    Returns:
        One row per task; in a study of a single task, one row per seed.
    """
    complete = scores.dropna()
    if scores.index.get_level_values(0).nunique() == 1:
        return complete
    return complete.groupby(level=0, sort=False).mean()


def wins(scores: pd.DataFrame) -> pd.Series:
    """Count the blocks in which each method has the best score (Table 4); ties count for every winner."""
    return scores.eq(scores.max(axis=1), axis=0).sum()


def mean_rank(scores: pd.DataFrame) -> pd.Series:
    """Average the ranks over the complete blocks (Table 4); 1 is best, ties share the average of their ranks.

    Returns:
        A rank per method; missing if no block is complete.
    """
    ranks = _ranks(scores)
    return pd.Series(ranks.mean(axis=0) if len(ranks) else np.nan, scores.columns)


def friedman(scores: pd.DataFrame) -> FriedmanResult:
    """Friedman's test over the complete blocks, corrected for ties (Conover 1999, section 5.8, eq. 4).

    Equal to ``scipy.stats.friedmanchisquare``, which refuses two methods and is undefined if all scores are equal;
    here the statistic is then 0.

    Args:
        scores: One row per block, one column per method.

    Returns:
        Statistic and p-value; (nan, nan) for fewer than two methods or no complete block.
    """
    ranks = _ranks(scores)
    blocks, methods = ranks.shape
    if methods < 2 or not blocks:
        return FriedmanResult(np.nan, np.nan)
    centre = blocks * (methods + 1) / 2
    squares = (ranks**2).sum() - centre * methods * (methods + 1) / 2
    statistic = (methods - 1) * ((ranks.sum(axis=0) - centre) ** 2).sum() / squares if squares else 0.0
    return FriedmanResult(float(statistic), float(stats.chi2.sf(statistic, methods - 1)))


def conover(scores: pd.DataFrame) -> pd.DataFrame:
    """Conover's pairwise test after Friedman's (Fig. 3), adjusted by Benjamini and Hochberg.

    With ranks R of b blocks and k methods, R_j their sums and A the sum of their squares, |R_i - R_j| over the root
    of ``2 (b A - sum R_j^2) / ((b - 1)(k - 1))`` is a t with (b - 1)(k - 1) degrees of freedom (Conover 1999, section
    5.8, eq. 6). Not taken from ``scikit_posthocs.posthoc_conover_friedman`` (0.17), otherwise equal, because it
    returns nan if all blocks rank the methods alike or all scores tie.

    Args:
        scores: One row per block, one column per method.

    Returns:
        Methods x methods, symmetric, 1 on the diagonal; nan with fewer than two complete blocks.
    """
    ranks = _ranks(scores)
    blocks, methods = ranks.shape
    pvalues = np.full((methods, methods), np.nan)
    if blocks > 1 and methods > 1:
        sums, freedom = ranks.sum(axis=0), (blocks - 1) * (methods - 1)
        # Ranks are multiples of a half: the difference is exact, and exactly 0 where all blocks agree.
        error = np.sqrt(2 * (blocks * (ranks**2).sum() - (sums**2).sum()) / freedom)
        gaps = np.abs(sums[:, None] - sums)
        statistics = gaps / error if error else np.where(gaps > 0, np.inf, 0.0)
        upper = np.triu_indices(methods, k=1)
        raw = np.minimum(2 * stats.t.sf(statistics[upper], freedom), 1)
        pvalues[upper] = pvalues.T[upper] = stats.false_discovery_control(raw)
    np.fill_diagonal(pvalues, 1.0)
    return pd.DataFrame(pvalues, scores.columns, scores.columns)


def groups(pvalues: pd.DataFrame, order: Sequence[str], alpha: float = 0.05) -> list[tuple[str, ...]]:
    """Find the largest groups of methods of which no two differ significantly, which the bars of Fig. 3 join.

    Args:
        pvalues: From `conover`.
        order: The methods by mean rank; a group is a contiguous part of it.
        alpha: Two methods differ if their p-value is below it; a missing one counts as above.

    Returns:
        Groups in that order; a method that differs from all others is a group by itself.
    """
    found: list[tuple[str, ...]] = []
    differ = pvalues.loc[list(order), list(order)].to_numpy() < alpha
    stop = 0
    for start in range(len(order)):
        before, stop = stop, max(stop, start + 1)  # without its first method, a group may only become longer
        while stop < len(order) and not differ[start:stop, stop].any():
            stop += 1
        if stop > before:
            found.append(tuple(order[start:stop]))
    return found


def _ranks(scores: pd.DataFrame) -> np.ndarray:
    """Ranks within the complete blocks, shape (blocks, methods); means that differ by rounding alone tie."""
    return stats.rankdata(-scores.dropna().to_numpy(dtype=float).round(12), axis=1)
