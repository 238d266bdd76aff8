"""Dolan-Moré performance profiles (Fig. 2), the area under them, and how sure they are.

``scores`` has one row for each experiment, indexed by (task, seed), and one column for each method. Larger is
better; a run without a score is missing (NaN) and counts as an experiment that its method did not solve.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["performance_profile", "profile_area", "profile_bands", "ratios", "strata"]


def ratios(scores: pd.DataFrame) -> pd.DataFrame:
    """Each score divided by the best of its experiment: 1 for the best method, less for the others.

    Scores that are zero or negative, which an MCC can be, need a rule, since half of a negative best is above it:

    - where the best score of an experiment is positive, a score of zero has the ratio 0 and a negative one a negative
      ratio: it is solved at no threshold above 0;
    - where the best score is zero or negative, a ratio says nothing. The best methods then count as solved at every
      threshold (1), the others at none (-inf). ``performance_profile(...).attrs["undefined"]`` counts these.

    Args:
        scores: One row for each experiment, one column for each method; missing where a run has no score.

    Returns:
        The same shape. A missing run has the ratio -inf: it solves no experiment at any threshold.
    """
    best = scores.max(axis=1)
    ratio = scores.div(best, axis=0)
    undefined = ~(best > 0)
    winners = scores.eq(best, axis=0)
    ratio[undefined] = np.where(winners[undefined], 1.0, -np.inf)
    return ratio.mask(winners, 1.0).fillna(-np.inf)


def performance_profile(scores: pd.DataFrame, taus: Sequence[float] | None = None) -> pd.DataFrame:
    """Share of experiments in which a method's score is at least `tau` times the best one's (Fig. 2).

    With s(m, e) the score of method m in experiment e of E,

        ρ_m(τ) = |{ e : s(m, e) ≥ τ · max_k s(k, e) }| / E

    (Dolan and Moré 2002, turned from times, where less is better, to scores).

    Args:
        scores: One row for each experiment, one column for each method; missing where a run has no score. A missing
            run counts as an experiment that the method did not solve. See `ratios` for scores that are not positive.
        taus: Thresholds. Left out: every ratio that occurs, and 1, so that the steps of the profile are exact.

    Returns:
        One row for each threshold in rising order, one column for each method, values in [0, 1]. Its ``attrs`` say
        whether it has all steps (``complete``; below the first of them nothing changes then), of how many
        ``experiments`` each method has a score (``runs``), and in how many the best is not positive (``undefined``).

    Raises:
        ValueError: If there are no scores.
    """
    _check(scores)
    values = np.sort(ratios(scores).to_numpy(), axis=0)
    grid = np.unique(np.append(values[np.isfinite(values)], 1.0) if taus is None else np.asarray(taus, dtype=float))
    shares = {name: _share_above(values[:, k], grid) for k, name in enumerate(scores)}
    profile = pd.DataFrame(shares, index=pd.Index(grid, name="tau"))
    best = scores.max(axis=1)
    profile.attrs |= {"complete": taus is None, "experiments": len(scores)}
    profile.attrs |= {"runs": scores.count().to_dict(), "undefined": int((best <= 0).sum())}
    return profile


def profile_area(scores: pd.DataFrame, tau_min: float = 0.9) -> pd.Series:
    """Mean height of the profile on [tau_min, 1]: the area under it, divided by ``1 - tau_min``.

    The profile is a mean of steps that end at the ratios, so the area is the mean of how far each ratio reaches into
    the interval, exactly.

    Args:
        scores: As in `performance_profile`.
        tau_min: Left end, below 1; no unit, as thresholds have none.

    Returns:
        A number in [0, 1] for each method: 1 for one that is always best, 0 for one that never reaches `tau_min`.

    Raises:
        ValueError: If there are no scores, or `tau_min` is not below 1.
    """
    _check(scores)
    if not tau_min < 1:
        raise ValueError(f"Expected tau_min < 1, but got {tau_min}.")
    return ((ratios(scores).clip(lower=tau_min) - tau_min) / (1 - tau_min)).mean()


def profile_bands(
    scores: pd.DataFrame,
    rng: np.random.Generator | int = 0,
    taus: Sequence[float] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bootstrap bands of the profile: what other seeds on the same tasks could have shown.

    Seeds are resampled within their task, the same ones for all methods, as they share them (the stratified
    bootstrap of Agarwal et al. 2021, arXiv 2108.13264). Where no task has a second seed, experiments are resampled:
    the bands then say what other experiments could have shown. With few seeds they are somewhat too narrow, and
    where all seeds of a task agree they have no width, as nothing is known of what varies.

    Args:
        scores: As in `performance_profile`.
        rng: Where chance comes from, or a seed; nothing else is random.
        taus: As in `performance_profile`.
        level: Share of the resamples within the band, at each threshold by itself.
        resamples: How many.

    Returns:
        Lower and upper ends, each in the shape of the profile.

    Raises:
        ValueError: If there are no scores.
    """
    profile = performance_profile(scores, taus)
    ratio = ratios(scores)
    weights = _resample(strata(scores), np.random.default_rng(rng), resamples) / len(scores)
    ends = {}
    for method in scores:
        solved = ratio[method].to_numpy()[:, None] >= profile.index.to_numpy()
        ends[method] = np.quantile(weights @ solved.astype(float), [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = (pd.DataFrame({name: end[k] for name, end in ends.items()}, index=profile.index) for k in (0, 1))
    return low.clip(0, 1), high.clip(0, 1)


def strata(scores: pd.DataFrame) -> np.ndarray:
    """Number of the group within which each experiment is one draw of several, shape (experiments,).

    Args:
        scores: One row for each experiment, indexed by (task, seed).

    Returns:
        The number of its task (first level of the index) where some task has two experiments or more; else 0
        for all, as the experiments themselves are then the only sample there is.
    """
    tasks = scores.index.get_level_values(0)
    codes = pd.factorize(tasks)[0]
    return codes if len(np.unique(codes)) < len(codes) else np.zeros(len(codes), dtype=int)


def _share_above(rising: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """Share of sorted values that are at least each threshold."""
    return (len(rising) - np.searchsorted(rising, taus, side="left")) / len(rising)


def _resample(groups: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """How often each experiment is drawn, shape (resamples, experiments): as many of each group as it has."""
    counts = np.zeros((resamples, len(groups)))
    for group in np.unique(groups):
        (members,) = np.nonzero(groups == group)
        size = len(members)
        counts[:, members] = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
    return counts


def _check(scores: pd.DataFrame) -> None:
    if not scores.size or scores.isna().all(axis=None):
        raise ValueError("Expected scores of at least one run, but there are none.")
