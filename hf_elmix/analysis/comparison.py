"""Paired comparison with the baseline: differences with their intervals, and what a study is able to detect.

``scores`` has one row per block, indexed by (task, seed), and one column per method. Larger is better. A run without
a score is missing (NaN) and never imputed: a method is compared in the blocks in which it and the baseline have one.
"""

from __future__ import annotations

import bisect

import numpy as np
import pandas as pd
from scipy import stats

from hf_elmix.analysis.profile import strata
from hf_elmix.errors import UsageError, not_one_of

__all__ = ["compare", "differences", "mean_gain", "minimum_detectable_effect", "seeds_needed", "task_gains"]

DRAWS = 2000  # simulated studies per number of seeds


def differences(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Subtract the baseline's score in the same block from each method's; missing if either is.

    Args:
        scores: One row per block, one column per method.
        baseline: One of the methods.

    Returns:
        The same shape, in the unit of the scores.

    Raises:
        UsageError: If the baseline is not one of the methods.
    """
    if baseline not in scores:
        raise not_one_of("the baseline", scores, baseline)
    return scores.sub(scores[baseline], axis=0)


def mean_gain(scores: pd.DataFrame, baseline: str) -> pd.Series:
    """Mean of `differences` over blocks, per method (Table 4), in the unit of the scores; 0 for the baseline."""
    return differences(scores, baseline).mean()


def compare(scores: pd.DataFrame, baseline: str, level: float = 0.95) -> pd.DataFrame:
    """Compare each method with the baseline within blocks.

    Args:
        scores: One row per block, one column per method.
        baseline: One of the methods.
        level: Confidence level of the intervals, in (0, 1).

    Returns:
        One row per method but the baseline, with

        - ``pairs``: blocks in which both have a score;
        - ``better``, ``equal``, ``worse``: on how many tasks its mean over seeds is higher, equal and lower (in a
          study of a single task: in how many blocks);
        - ``difference``: mean of method minus baseline, and ``low``, ``high``: its t interval. The variance is that
          between the seeds of a task, so the interval covers other seeds on the same tasks, with the degrees of
          freedom of Welch and Satterthwaite. If no task has a second seed, it is the variance between tasks. If fewer
          than six gains are equal, and not 0, there is no interval: rounding may have made them so;
        - ``task_low``, ``task_high``: t interval of the mean over tasks, which covers other tasks like these; missing
          for a single task. With equally many seeds per task, it is that of a mixed model with random effects of
          tasks and of seeds within them;
        - ``sign_p``, ``wilcoxon_p``: two-sided p-values of the sign test and of Wilcoxon's signed-rank test over the
          means of tasks, because seeds of one task are not independent (over blocks, for a single task); without
          ties, not adjusted for the number of methods;
        - ``improvement``: probability that the method's score is the higher one; ties count half.

    Raises:
        UsageError: If the baseline is not one of the methods.
    """
    gains = differences(scores, baseline).drop(columns=baseline)
    rows = {method: _compare_pairs(gains[method].dropna(), level) for method in gains}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def task_gains(scores: pd.DataFrame, baseline: str, level: float = 0.95) -> pd.DataFrame:
    """Compare each method with the baseline on each task, over the seeds that both have.

    Args:
        scores: One row per block, one column per method.
        baseline: One of the methods.
        level: As in `compare`.

    Returns:
        One row per task and method but the baseline: ``pairs``, ``difference`` (mean of method minus baseline), and
        ``low``, ``high``: its paired t interval, missing for fewer than two pairs.

    Raises:
        UsageError: If the baseline is not one of the methods.
    """
    gains = differences(scores, baseline).drop(columns=baseline)
    tasks = pd.Index(gains.index.get_level_values(0), name="task")
    by_task = gains.set_axis(tasks).rename_axis(columns="method").stack().groupby(level=[0, 1], sort=False)
    table = by_task.agg(pairs="count", difference="mean", sd="std")
    reach = stats.t.ppf((1 + level) / 2, table["pairs"] - 1) * table["sd"] / np.sqrt(table["pairs"])
    table["low"], table["high"] = table["difference"] - reach, table["difference"] + reach
    return table.drop(columns="sd")


def minimum_detectable_effect(
    scores: pd.DataFrame,
    baseline: str | None = None,
    rng: np.random.Generator | int = 0,
    *,
    seeds: int | None = None,
    power: float = 0.8,
) -> pd.Series:
    """Estimate the smallest true gain over the baseline that a study of this size would detect; see `seeds_needed`.

    Args:
        scores: One row per block, one column per method.
        baseline: One of the methods; left out, the first.
        rng: Generator of the simulations, or its seed.
        seeds: Seeds per task; left out, the median number of seeds that were paired.
        power: Share of the simulated studies that must detect the gain.

    Returns:
        A gain per method but the baseline, in the unit of the scores; missing if no variance could be measured.

    Raises:
        UsageError: If the baseline is not one of the methods.
    """
    baseline, rng = scores.columns[0] if baseline is None else baseline, np.random.default_rng(rng)
    effects = {}
    for method, gains in differences(scores, baseline).drop(columns=baseline).items():
        paired = gains.dropna()
        size = seeds or int(np.median(np.bincount(strata(paired.to_frame())))) if len(paired) else 0
        effects[method] = _detectable(_task_variances(paired)[1], size, rng, power)
    return pd.Series(effects, dtype=float)


def seeds_needed(
    scores: pd.DataFrame,
    effect: float,
    baseline: str | None = None,
    rng: np.random.Generator | int = 0,
    *,
    power: float = 0.8,
    most: int = 256,
) -> pd.Series:
    """Estimate the smallest number of seeds per task with which a given gain over the baseline would be detected.

    Studies are simulated with normal differences that have the variance measured on each task. A gain is detected if
    the interval of `compare` lies above 0. If no task has a second seed, the result is a number of tasks.

    Args:
        scores: One row per block, one column per method.
        effect: True gain, above 0, in the unit of the scores.
        baseline: One of the methods; left out, the first.
        rng: Generator of the simulations, or its seed.
        power: Share of the simulated studies that must detect the gain.
        most: Largest number of seeds that is tried.

    Returns:
        A number (2 or more) per method but the baseline; missing if `most` seeds are not enough or no variance could
        be measured.

    Raises:
        UsageError: If the baseline is not one of the methods, or the effect is not above 0.
    """
    if not effect > 0:
        raise UsageError(f"Expected an effect above 0, but got {effect}.")
    baseline, rng = scores.columns[0] if baseline is None else baseline, np.random.default_rng(rng)
    needed: dict[str, int | None] = {}
    for method, gains in differences(scores, baseline).drop(columns=baseline).items():
        variances = _task_variances(gains.dropna())[1]

        def detects(seeds: int, variances: np.ndarray = variances) -> bool:
            return _detectable(variances, seeds, rng, power) <= effect

        # More seeds never detect less, so bisection finds the first number that is enough.
        needed[method] = 2 + bisect.bisect_left(range(2, most), True, key=detects) if detects(most) else None
    return pd.Series(needed, dtype="Int64")


def _compare_pairs(gains: pd.Series, level: float) -> dict[str, float]:
    # 0.3 - 0.2 and 0.8 - 0.7 are the same difference, but not in floating point: rounded, they are equal and their
    # ranks tie.
    means = gains.groupby(strata(gains.to_frame())).mean().round(12)
    several = len(means) > 1
    units = means if several else gains.round(12)
    better, worse = int((units > 0).sum()), int((units < 0).sum())
    spread = stats.t.ppf((1 + level) / 2, len(means) - 1) * means.sem() if several else np.nan
    sizes, variances = _task_variances(gains)
    reach = np.nan
    if not np.isnan(variances).any():
        error, freedom = _standard_error(variances, sizes)
        reach = error * stats.t.ppf((1 + level) / 2, freedom) if error else 0.0
        # A few gains can be equal because scores are rounded: this often, if half of all pairs of gains are.
        if not error and gains.any() and 0.5 ** (int((sizes - 1).sum()) or len(sizes) - 1) > 1 - level:
            reach = np.nan
    unequal = units[units != 0]
    return {
        "pairs": len(gains),
        "better": better,
        "equal": len(units) - better - worse,
        "worse": worse,
        "difference": gains.mean(),
        "low": float(gains.mean() - reach),
        "high": float(gains.mean() + reach),
        "task_low": means.mean() - spread,
        "task_high": means.mean() + spread,
        "sign_p": stats.binomtest(better, better + worse).pvalue if len(unequal) else 1.0,
        "wilcoxon_p": float(stats.wilcoxon(unequal).pvalue) if len(unequal) else 1.0,
        "improvement": float((gains > 0).mean() + (gains == 0).mean() / 2),
    }


def _task_variances(gains: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Count the blocks of each task and compute the variance of their differences (n - 1), shapes (tasks,).

    A task with a single block gets the mean variance of the others; nan if no task has two.
    """
    by_task = gains.groupby(strata(gains.to_frame()))
    sizes, variances = by_task.size().to_numpy(), by_task.var().to_numpy()
    known = ~np.isnan(variances)
    return sizes, np.where(known, variances, variances[known].mean() if known.any() else np.nan)


def _standard_error(variances: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of the mean over all blocks, and its degrees of freedom (Welch and Satterthwaite).

    Variances of tasks have the shape (..., tasks), numbers of their blocks (tasks,).
    """
    weights, several = sizes / sizes.sum() ** 2, sizes > 1
    if several.any():  # a task with one block has the mean variance of these, which so count for it, too
        weights = np.where(several, weights + weights[~several].sum() / several.sum(), 0.0)
    parts = variances * weights
    total = parts.sum(axis=-1)
    lost = (parts**2 / np.maximum(sizes - 1, 1)).sum(axis=-1)
    return np.sqrt(total), np.divide(total**2, lost, out=np.full_like(total, np.inf), where=lost > 0)


def _detectable(variances: np.ndarray, seeds: int, rng: np.random.Generator, power: float) -> float:
    """Smallest gain that a share `power` of simulated studies with this number of seeds detects.

    A true gain shifts all means and no variance, so a study detects gains above its half-width minus its mean.
    """
    if seeds < 2 or not len(variances) or np.isnan(variances).any():
        return np.nan
    tasks = len(variances)
    # Mean and variance of a normal sample are independent: a normal and a chi-squared draw.
    means = rng.normal(size=(DRAWS, tasks)) * np.sqrt(variances / seeds)
    drawn = rng.chisquare(seeds - 1, size=(DRAWS, tasks)) * variances / (seeds - 1)
    error, freedom = _standard_error(drawn, np.full(tasks, seeds))
    return float(np.quantile(error * stats.t.ppf(0.975, freedom) - means.mean(axis=1), power))
