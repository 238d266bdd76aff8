"""Dolan-Moré performance profiles (Fig. 2), the area under them, and their bootstrap bands.

``scores`` has one row per block, indexed by (task, seed), and one column per method. Larger is better. A run without
a score is missing (NaN) and counts as a block that its method did not solve.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["performance_profile", "profile_area", "profile_bands", "ratios", "strata"]


def ratios(scores: pd.DataFrame) -> pd.DataFrame:
    """Divide each score by the best of its block: 1 for the best method, less for the others.

    Scores that are zero or negative, as an MCC can be, need a rule, since half of a negative best is above it:

    - if the best score of a block is positive, a score of zero has the ratio 0 and a negative one a negative ratio:
      it solves the block at no threshold above 0;
    - if the best score is zero or negative, ratios are undefined. The best methods then solve the block at every
      threshold (1), the others at none (-inf). ``performance_profile(...).attrs["undefined"]`` counts such blocks.

    Returns:
        The same shape. A missing run has the ratio -inf: it solves no block at any threshold.
    """
    best = scores.max(axis=1)
    ratio = scores.div(best, axis=0)
    undefined = ~(best > 0)
    winners = scores.eq(best, axis=0)
    ratio[undefined] = np.where(winners[undefined], 1.0, -np.inf)
    return ratio.mask(winners, 1.0).fillna(-np.inf)


def performance_profile(scores: pd.DataFrame, taus: Sequence[float] | None = None) -> pd.DataFrame:
    """Compute the share of blocks in which a method's score is at least τ times the best one (Fig. 2).

    With s(m, e) the score of method m in block e of E,

        ρ_m(τ) = |{ e : s(m, e) ≥ τ · max_k s(k, e) }| / E

    (Dolan and Moré 2002, adapted from times, where less is better, to scores).

    Args:
        scores: One row per block, one column per method; missing if a run has no score. A missing run counts as a
            block that the method did not solve. See `ratios` for scores that are not positive.
        taus: Thresholds. Left out: every ratio that occurs, and 1, so that the steps of the profile are exact.

    Returns:
        One row per threshold in increasing order, one column per method, values in [0, 1]. Its ``attrs``: whether it
        has all steps (``complete``; it is constant below the first of them), the number of ``blocks``, in how many
        each method has a score (``runs``), and in how many the best is not positive (``undefined``).

    Raises:
        ValueError: If there are no scores.
    """
    values = np.sort(_checked_ratios(scores).to_numpy(), axis=0)
    grid = np.unique(np.append(values[np.isfinite(values)], 1.0) if taus is None else np.asarray(taus, dtype=float))
    shares = {name: (len(values) - np.searchsorted(values[:, k], grid)) / len(values) for k, name in enumerate(scores)}
    profile = pd.DataFrame(shares, index=pd.Index(grid, name="tau"))
    profile.attrs |= {"complete": taus is None, "blocks": len(scores), "runs": scores.count().to_dict()}
    profile.attrs["undefined"] = int((scores.max(axis=1) <= 0).sum())
    return profile


def profile_area(scores: pd.DataFrame, tau_min: float = 0.9) -> pd.Series:
    """Compute the mean height of the profile on [tau_min, 1]: the area under it, divided by ``1 - tau_min``.

    The profile is a mean of steps that end at the ratios, so the area is exactly the mean of how far each ratio
    reaches into the interval.

    Args:
        scores: As in `performance_profile`.
        tau_min: Left end, below 1.

    Returns:
        A number in [0, 1] per method: 1 if it is always best, 0 if it never reaches `tau_min`.

    Raises:
        ValueError: If there are no scores, or `tau_min` is not below 1.
    """
    if not tau_min < 1:
        raise ValueError(f"Expected tau_min < 1, but got {tau_min}.")
    return ((_checked_ratios(scores).clip(lower=tau_min) - tau_min) / (1 - tau_min)).mean()


def profile_bands(
    scores: pd.DataFrame,
    rng: np.random.Generator | int = 0,
    taus: Sequence[float] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute bootstrap bands of the profile: how it could vary with other seeds on the same tasks.

    Seeds are resampled within their task, the same ones for all methods, as methods share them (the stratified
    bootstrap of Agarwal et al. 2021, arXiv 2108.13264). If no task has a second seed, tasks are resampled, and the
    bands show how the profile could vary with other tasks. With few seeds the bands are somewhat too narrow, and if
    all seeds of a task agree they have no width.

    Args:
        scores: As in `performance_profile`.
        rng: Generator of the resamples, or its seed.
        taus: As in `performance_profile`.
        level: Share of the resamples within the band, at each threshold separately.
        resamples: Number of resamples.

    Returns:
        Lower and upper ends, each in the shape of the profile.

    Raises:
        ValueError: If there are no scores.
    """
    profile = performance_profile(scores, taus)
    ratio = ratios(scores)
    rng, groups = np.random.default_rng(rng), strata(scores)
    # How often each block is drawn: as many of each group as it has. Their sums are exact in single precision.
    counts = np.zeros((resamples, len(scores)), dtype=np.float32)
    for group in np.unique(groups):
        (members,) = np.nonzero(groups == group)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    ends = {}
    for method in scores:
        solved = ratio[method].to_numpy()[:, None] >= profile.index.to_numpy()
        shares = (counts @ solved.astype(np.float32)).astype(float) / len(scores)
        ends[method] = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = (pd.DataFrame({name: end[k] for name, end in ends.items()}, index=profile.index) for k in (0, 1))
    return low.clip(0, 1), high.clip(0, 1)


def strata(scores: pd.DataFrame) -> np.ndarray:
    """Number the strata of blocks, shape (blocks,); the blocks of a stratum are draws from one population.

    A stratum is a task (first level of the index) if some task has two blocks or more. Otherwise all blocks are
    stratum 0, since the tasks themselves are then the only sample.
    """
    tasks = scores.index.get_level_values(0)
    codes = pd.factorize(tasks)[0]
    return codes if len(np.unique(codes)) < len(codes) else np.zeros(len(codes), dtype=int)


def _checked_ratios(scores: pd.DataFrame) -> pd.DataFrame:
    if not scores.size or scores.isna().all(axis=None):
        raise ValueError("Expected scores of at least one run, but got none.")
    return ratios(scores)
