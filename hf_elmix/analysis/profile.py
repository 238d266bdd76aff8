"""Dolan-Moré performance profiles (Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["performance_profile", "ratios"]


def ratios(scores: pd.DataFrame) -> pd.DataFrame:
    """Each score divided by the best of its experiment: 1 for the best method, less for the others.

    Args:
        scores: One row for each experiment, one column for each method; missing where a run has no score.

    Returns:
        The same shape. A missing run has the ratio -inf: it solves no experiment at any threshold. Where the best
        score of an experiment is not positive a ratio says nothing; the best methods then get 1, the others -inf.
    """
    best = scores.max(axis=1)
    ratio = scores.div(best, axis=0)
    undefined = ~(best > 0)
    winners = scores.eq(best, axis=0)
    ratio[undefined] = np.where(winners[undefined], 1.0, -np.inf)
    return ratio.mask(winners, 1.0).fillna(-np.inf)


def performance_profile(scores: pd.DataFrame, taus: Sequence[float] | None = None) -> pd.DataFrame:
    """Share of experiments in which a method's score is at least `tau` times the best one's (Fig. 2).

    Args:
        scores: One row for each experiment, one column for each method; missing where a run has no score. A missing
            run counts as an experiment that the method did not solve.
        taus: Thresholds. Left out: every ratio that occurs, and 1, so that the steps of the profile are exact.

    Returns:
        One row for each threshold in rising order, one column for each method, values in [0, 1]. Its
        ``attrs["complete"]`` says whether it has all steps; below the first of them nothing changes then.

    Raises:
        ValueError: If there are no scores.
    """
    if not scores.size or scores.isna().all(axis=None):
        raise ValueError("Expected scores of at least one run, but there are none.")
    ratio = ratios(scores)
    values = ratio.to_numpy()
    grid = np.unique(np.append(values[np.isfinite(values)], 1.0) if taus is None else np.asarray(taus, dtype=float))
    shares = {method: [(ratio[method] >= tau).mean() for tau in grid] for method in ratio}
    profile = pd.DataFrame(shares, index=pd.Index(grid, name="tau"))
    profile.attrs["complete"] = taus is None
    return profile
