"""Which method is better, by how much, and how sure that is: Table 4, Fig. 3, and the paired comparison.

``scores`` has one row for each experiment, indexed by (task, seed), and one column for each method. Larger is
better; a run without a score is missing (NaN) and never filled in. Gains use the experiments in which both runs have a
score; ranks, and the tests on them, those in which every run has one (`complete`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hf_elmix.analysis.profile import strata
from hf_elmix.errors import UsageError

__all__ = [
    "FriedmanResult",
    "compare",
    "complete",
    "conover",
    "differences",
    "friedman",
    "groups",
    "mean_gain",
    "mean_rank",
    "seeds_needed",
    "task_gains",
    "visible_effect",
    "wins",
]

DRAWS = 2000  # simulated studies for each number of seeds


class FriedmanResult(NamedTuple):
    """Whether any method differs.

    Attributes:
        statistic: Chi-square with (methods - 1) degrees of freedom, where none differs.
        pvalue: Its p-value, in [0, 1].
    """

    statistic: float
    pvalue: float


def wins(scores: pd.DataFrame) -> pd.Series:
    """In how many experiments each method has the best score (Table 4); ties count for every winner.

    Args:
        scores: One row for each experiment, one column for each method.

    Returns:
        A number for each method.
    """
    return scores.eq(scores.max(axis=1), axis=0).sum()


def mean_gain(scores: pd.DataFrame, baseline: str) -> pd.Series:
    """Mean over experiments of the score minus the baseline's (Table 4), where both runs have a score.

    Args:
        scores: One row for each experiment, one column for each method.
        baseline: One of the methods.

    Returns:
        A number for each method, in the unit of the scores; 0 for the baseline.

    Raises:
        UsageError: If the baseline is none of the methods.
    """
    return differences(scores, baseline).mean()


def mean_rank(scores: pd.DataFrame) -> pd.Series:
    """Mean rank over the complete experiments (Table 4): 1 is best, ties share the average of their places.

    Args:
        scores: One row for each experiment, one column for each method.

    Returns:
        A number for each method; missing where no experiment is complete.
    """
    return pd.Series(_ranks(scores).mean(axis=0) if len(complete(scores)) else np.nan, scores.columns)


def friedman(scores: pd.DataFrame) -> FriedmanResult:
    """Friedman's test, corrected for ties (Conover 1999, section 5.8, eq. 4), over the complete experiments.

    ``scipy.stats.friedmanchisquare`` is the same for three methods and more, and refuses two; with all scores equal
    it has no answer, where this one says that nothing differs.

    Args:
        scores: One row for each experiment, one column for each method.

    Returns:
        Statistic and p-value; (nan, nan) for fewer than two methods or no complete experiment.
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
    """Conover's test of each pair of methods after Friedman's (Fig. 3), adjusted by Benjamini and Hochberg.

    With ranks R of b experiments and k methods, R_j their sums, A the sum of their squares, |R_i - R_j| over the root
    of ``2 (b A - sum R_j^2) / ((b - 1)(k - 1))`` is a t with (b - 1)(k - 1) degrees of freedom (Conover 1999, section
    5.8, eq. 6). Written out, since ``scikit_posthocs.posthoc_conover_friedman`` (0.17), the same elsewhere, gives nan
    where every experiment ranks the methods alike or all tie.

    Args:
        scores: One row for each experiment, one column for each method.

    Returns:
        Methods x methods, symmetric, 1 on the diagonal; nan with fewer than two complete experiments.
    """
    ranks = _ranks(scores)
    blocks, methods = ranks.shape
    pvalues = np.full((methods, methods), np.nan)
    if blocks > 1 and methods > 1:
        sums, freedom = ranks.sum(axis=0), (blocks - 1) * (methods - 1)
        # Ranks are halves: the difference is exact, and exactly 0 where all experiments agree.
        error = np.sqrt(2 * (blocks * (ranks**2).sum() - (sums**2).sum()) / freedom)
        gaps = np.abs(sums[:, None] - sums)
        pvalues = _adjusted(2 * stats.t.sf(_ratio(gaps, error), freedom))
    np.fill_diagonal(pvalues, 1.0)
    return pd.DataFrame(pvalues, scores.columns, scores.columns)


def groups(pvalues: pd.DataFrame, order: Sequence[str], alpha: float = 0.05) -> list[tuple[str, ...]]:
    """Largest groups of methods of which no two differ: what the bars of Fig. 3 join.

    Args:
        pvalues: From `conover`.
        order: The methods by mean rank; a group is a stretch of it.
        alpha: Two methods differ where their p-value is below it. Without a p-value nothing was shown to differ.

    Returns:
        Groups in that order; a method that differs from all others is a group by itself.
    """
    found: list[tuple[str, ...]] = []
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and not (pvalues.loc[list(order[start:stop]), order[stop]] < alpha).any():
            stop += 1
        if not found or order[stop - 1] not in found[-1]:
            found.append(tuple(order[start:stop]))
    return found


def differences(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Score of each method minus the baseline's in the same experiment, missing where one of the two is.

    Args:
        scores: One row for each experiment, one column for each method.
        baseline: One of the methods.

    Returns:
        The same shape, in the unit of the scores.

    Raises:
        UsageError: If the baseline is none of the methods.
    """
    if baseline not in scores:
        names = ", ".join(repr(str(name)) for name in scores)
        raise UsageError(f"Expected the baseline to be one of the methods ({names}), but got {baseline!r}.")
    return scores.sub(scores[baseline], axis=0)


def compare(scores: pd.DataFrame, baseline: str, level: float = 0.95) -> pd.DataFrame:
    """Each method beside the baseline in the same experiments: same task, same seed.

    Args:
        scores: One row for each experiment, one column for each method.
        baseline: One of the methods.
        level: Share of studies whose interval holds the true difference, in (0, 1).

    Returns:
        One row for each method but the baseline, with

        - ``pairs``: experiments in which both runs have a score;
        - ``better``, ``equal``, ``worse``: in how many of them the method's score is so;
        - ``difference``: the mean of method minus baseline, and ``low``, ``high``: its t interval. The spread is that
          over the seeds of each task, so it says what other seeds on the same tasks would give, with the degrees
          of freedom of Welch and Satterthwaite; where no task has a second seed, the spread over experiments;
        - ``sign_p``, ``wilcoxon_p``: two-sided p-values of the sign test and of Wilcoxon's signed-rank test, without
          pairs that are equal, not adjusted for the number of methods;
        - ``improvement``: probability that the method's score is the higher one, equal ones counting half.

    Raises:
        UsageError: If the baseline is none of the methods.
    """
    gains = differences(scores, baseline).drop(columns=baseline)
    rows = {method: _comparison(gains[method].dropna(), level) for method in gains}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def task_gains(scores: pd.DataFrame, baseline: str, level: float = 0.95) -> pd.DataFrame:
    """How far each method is from the baseline on each task, over the seeds that both have.

    Args:
        scores: One row for each experiment, one column for each method.
        baseline: One of the methods.
        level: As in `compare`.

    Returns:
        One row for each (task, method) but the baseline: ``pairs``, ``difference`` (mean of method minus baseline),
        and ``low``, ``high``: its paired t interval, missing for fewer than two pairs.

    Raises:
        UsageError: If the baseline is none of the methods.
    """
    gains = differences(scores, baseline).drop(columns=baseline)
    tasks = pd.Index(gains.index.get_level_values(0), name="task")
    by_task = gains.set_axis(tasks).rename_axis(columns="method").stack().groupby(level=[0, 1], sort=False)
    table = by_task.agg(pairs="count", difference="mean", sd="std")
    reach = stats.t.ppf((1 + level) / 2, table["pairs"] - 1) * table["sd"] / np.sqrt(table["pairs"])
    table["low"], table["high"] = table["difference"] - reach, table["difference"] + reach
    return table.drop(columns="sd")


def seeds_needed(
    scores: pd.DataFrame,
    effect: float,
    baseline: str | None = None,
    rng: np.random.Generator | int = 0,
    *,
    power: float = 0.8,
    most: int = 256,
) -> pd.Series:
    """Smallest number of seeds with which a given gain over the baseline would be seen.

    Studies are simulated with normal differences of the spread that was measured on each task; a gain is seen where
    the interval of `compare` lies above 0. Where no task has a second seed, it is the number of experiments.

    Args:
        scores: As elsewhere here.
        effect: True gain, above 0, in the unit of the scores.
        baseline: What it is a gain over; left out, the first method.
        rng: Where chance comes from, or a seed; nothing else is random.
        power: Share of the simulated studies that must see it.
        most: Give up beyond so many seeds.

    Returns:
        A number (2 or more) for each method but the baseline; missing where `most` seeds are not enough or no spread
        could be measured.

    Raises:
        UsageError: If the baseline is none of the methods, or the effect is not above 0.
    """
    if not effect > 0:
        raise UsageError(f"Expected an effect above 0, but got {effect}.")
    baseline, rng = scores.columns[0] if baseline is None else baseline, np.random.default_rng(rng)
    spreads = _spreads(scores, baseline)
    needed = {name: _fewest(spread, effect, rng, power, most) for name, spread in spreads.items()}
    return pd.Series(needed, dtype="Int64")


def visible_effect(
    scores: pd.DataFrame,
    baseline: str | None = None,
    rng: np.random.Generator | int = 0,
    *,
    seeds: int | None = None,
    power: float = 0.8,
) -> pd.Series:
    """Smallest true gain over the baseline that a study of this size would see; see `seeds_needed`.

    Args:
        scores: As elsewhere here.
        baseline: What it is a gain over; left out, the first method.
        rng: Where chance comes from, or a seed; nothing else is random.
        seeds: Seeds of each task; left out, the median of those that were paired.
        power: Share of the simulated studies that must see it.

    Returns:
        A gain for each method but the baseline, in the unit of the scores; missing where no spread could be measured.

    Raises:
        UsageError: If the baseline is none of the methods.
    """
    baseline, rng = scores.columns[0] if baseline is None else baseline, np.random.default_rng(rng)
    gains = differences(scores, baseline)
    effects = {}
    for method, spread in _spreads(scores, baseline).items():
        paired = gains[method].dropna()
        size = seeds or int(np.median(np.bincount(strata(paired.to_frame())))) if len(paired) else 0
        effects[method] = _visible(spread, size, rng, power)
    return pd.Series(effects, dtype=float)


def complete(scores: pd.DataFrame) -> pd.DataFrame:
    """The experiments in which every method has a score.

    Args:
        scores: One row for each experiment, one column for each method.
    """
    return scores.dropna()


def _ranks(scores: pd.DataFrame) -> np.ndarray:
    return stats.rankdata(-complete(scores).to_numpy(dtype=float), axis=1)


def _ratio(gap: np.ndarray, error: float) -> np.ndarray:
    """Gap over its standard error; without any error a gap is infinitely clear, and no gap is none."""
    return gap / error if error else np.where(gap > 0, np.inf, 0.0)


def _adjusted(pvalues: np.ndarray) -> np.ndarray:
    """The pairs above the diagonal adjusted together, and mirrored."""
    upper = np.triu_indices_from(pvalues, k=1)
    adjusted = np.zeros_like(pvalues)
    adjusted[upper] = stats.false_discovery_control(np.minimum(pvalues[upper], 1))
    return adjusted + adjusted.T


def _comparison(gains: pd.Series, level: float) -> dict[str, float]:
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    equal = len(gains) - better - worse
    low, high = _interval(gains, level)
    counts = {"pairs": len(gains), "better": better, "equal": equal, "worse": worse}
    # 0.3 - 0.2 and 0.8 - 0.7 are one difference twice, but not to a computer: rounded, their ranks tie.
    unequal = gains[gains != 0].round(12)
    return {
        **counts,
        "difference": gains.mean(),
        "low": low,
        "high": high,
        "sign_p": stats.binomtest(better, better + worse).pvalue if len(unequal) else 1.0,
        "wilcoxon_p": float(stats.wilcoxon(unequal).pvalue) if len(unequal) else 1.0,
        "improvement": (better + equal / 2) / len(gains) if len(gains) else np.nan,
    }


def _interval(gains: pd.Series, level: float) -> tuple[float, float]:
    """Ends of the t interval of the mean, (nan, nan) where nothing varies within any group."""
    sizes, variances = _variances(gains)
    if np.isnan(variances).any():
        return np.nan, np.nan
    error, freedom = _standard_error(variances, sizes)
    reach = error * stats.t.ppf((1 + level) / 2, freedom) if error else 0.0
    return float(gains.mean() - reach), float(gains.mean() + reach)


def _variances(gains: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Number of experiments and variance of the differences (n - 1) in each task, shapes (tasks,).

    A task with a single pair gets the mean variance of the others; nan where no task has two.
    """
    by_task = gains.groupby(strata(gains.to_frame()))
    sizes, variances = by_task.size().to_numpy(), by_task.var().to_numpy()
    known = ~np.isnan(variances)
    return sizes, np.where(known, variances, variances[known].mean() if known.any() else np.nan)


def _standard_error(variances: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of the mean over all experiments, and its degrees of freedom (Welch and Satterthwaite).

    Args:
        variances: Of each task, shape (..., tasks).
        sizes: Experiments of each task, shape (tasks,).
    """
    parts = variances * sizes / sizes.sum() ** 2
    total = parts.sum(axis=-1)
    # A task with one experiment tells nothing of the spread, and adds no freedom.
    lost = np.where(sizes > 1, parts**2 / np.maximum(sizes - 1, 1), 0.0).sum(axis=-1)
    return np.sqrt(total), np.divide(total**2, lost, out=np.full_like(total, np.inf), where=lost > 0)


def _spreads(scores: pd.DataFrame, baseline: str) -> dict[str, np.ndarray]:
    """Variance of the differences in each task, for each method but the baseline."""
    gains = differences(scores, baseline).drop(columns=baseline)
    return {method: _variances(gains[method].dropna())[1] for method in gains}


def _visible(variances: np.ndarray, seeds: int, rng: np.random.Generator, power: float) -> float:
    """Smallest gain that a share `power` of simulated studies with so many seeds sees.

    A true gain shifts every mean and no interval, so a study sees all gains above its reach minus its mean.
    """
    if seeds < 2 or not len(variances) or np.isnan(variances).any():
        return np.nan
    tasks = len(variances)
    # Mean and variance of a normal sample are independent: a normal and a chi-square draw.
    means = rng.normal(size=(DRAWS, tasks)) * np.sqrt(variances / seeds)
    drawn = rng.chisquare(seeds - 1, size=(DRAWS, tasks)) * variances / (seeds - 1)
    error, freedom = _standard_error(drawn, np.full(tasks, seeds))
    return float(np.quantile(error * stats.t.ppf(0.975, freedom) - means.mean(axis=1), power))


def _fewest(variances: np.ndarray, effect: float, rng: np.random.Generator, power: float, most: int) -> int | None:
    """Bisection: more seeds never see less."""
    low, high = 2, most
    if not _visible(variances, most, rng, power) <= effect:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _visible(variances, middle, rng, power) <= effect else (middle + 1, high)
    return low
