"""All numbers of a report, each computed once, when it is first asked for."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import pandas as pd

from hf_elmix.analysis.frames import scale_of, scores_table, summary_table
from hf_elmix.analysis.predictions import Predicted, Readers, reduce_predictions
from hf_elmix.analysis.profile import performance_profile, profile_area, profile_bands
from hf_elmix.analysis.ranks import (
    FriedmanResult,
    compare,
    complete,
    conover,
    differences,
    friedman,
    groups,
    mean_gain,
    mean_rank,
    seeds_needed,
    task_gains,
    visible_effect,
    wins,
)
from hf_elmix.analysis.secondary_metrics import SecondaryMetric, find_secondary_metrics
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunKey

__all__ = ["StudyResults"]

STEPS = 200  # thresholds at which the bands are computed


class StudyResults:
    """What a study found: figures, tables and words all read it, so that they cannot say different things.

    Args:
        runs_df: One row for each run (see `hf_elmix.analysis.frames`).
        curves_df: What was logged while runs trained; none for a study of scores alone.
        baseline: Method that the others are compared with; left out, ``ce``, or else the first.
        seed: Of the bootstrap and the simulations.
        predictions: What reads the predictions of a run, for each run that has them; read when first asked for.

    Attributes:
        scores: One row for each experiment, indexed by (task, seed), and one column for each method.
        methods: Their names, in that order.
        baseline: The one that the others are compared with.

    Raises:
        UsageError: If no run has a score, or the baseline is none of the methods.
    """

    def __init__(
        self,
        runs_df: pd.DataFrame,
        curves_df: pd.DataFrame | None = None,
        *,
        baseline: str | None = None,
        seed: int = 0,
        predictions: Readers | None = None,
    ) -> None:
        if runs_df["score"].isna().all():
            raise UsageError(f"Expected runs with a score, but there are {len(runs_df)} runs and none has one.")
        self.runs_df, self.curves_df, self.seed = runs_df, curves_df, seed
        self._readers = predictions or {}
        self.scores = scores_table(runs_df)
        self.methods: list[str] = list(self.scores)
        chosen = "ce" if "ce" in self.methods else self.methods[0]
        self.baseline: str = chosen if baseline is None else baseline
        differences(self.scores, self.baseline)  # refuses a baseline that is no method

    @property
    def others(self) -> list[str]:
        """The methods but the baseline."""
        return [method for method in self.methods if method != self.baseline]

    @property
    def has_seeds(self) -> bool:
        """Whether some task has a second experiment."""
        return bool(self.scores.index.get_level_values(0).duplicated().any())

    @cached_property
    def scale(self) -> float:
        """Factor on scores where they are shown (see `scale_of`)."""
        return scale_of(self.scores)

    @property
    def complete(self) -> int:
        """Number of experiments in which every method has a score."""
        return len(complete(self.scores))

    @cached_property
    def profile(self) -> pd.DataFrame:
        """The performance profile, with all its steps."""
        return performance_profile(self.scores)

    @cached_property
    def bands(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Lower and upper ends of its bands, at no more than some hundred of the steps."""
        places = np.unique(np.linspace(0, len(self.profile) - 1, STEPS).round().astype(int))
        return profile_bands(self.scores, self.seed, self.profile.index[places].to_list())

    @cached_property
    def tau_min(self) -> float:
        """Where the figure and the area start: the lowest ratio, rounded down to a twentieth, from 0 to 0.95."""
        return min(max(math.floor(self.profile.index[0] * 20) / 20, 0.0), 0.95)

    @cached_property
    def methods_df(self) -> pd.DataFrame:
        """One row for each method: runs with a score, wins, mean gain and rank (Table 4), area under the profile."""
        columns = {
            "runs": self.scores.count(),
            "expected": len(self.scores),
            "wins": wins(self.scores),
            "gain": mean_gain(self.scores, self.baseline),
            "rank": mean_rank(self.scores),
            "area": profile_area(self.scores, self.tau_min),
        }
        return pd.DataFrame(columns).rename_axis("method")

    @cached_property
    def pairs_df(self) -> pd.DataFrame:
        """Each method beside the baseline, and the gain that the study could see."""
        seen = visible_effect(self.scores, self.baseline, self.seed)
        return compare(self.scores, self.baseline).assign(visible=seen)

    @cached_property
    def gains_df(self) -> pd.DataFrame:
        """Each method beside the baseline on each task."""
        return task_gains(self.scores, self.baseline)

    @cached_property
    def summary_df(self) -> pd.DataFrame:
        """Mean and standard deviation over seeds, for each task and method."""
        return summary_table(self.runs_df)

    @cached_property
    def secondary_metrics(self) -> list[SecondaryMetric]:
        """What is reported beside the score."""
        return find_secondary_metrics(self.runs_df, self.baseline)

    @cached_property
    def predicted(self) -> Predicted | None:
        """What runs that are done said of each evaluation row; None if none left it."""
        done = self.runs_df[self.runs_df["status"] == "done"] if self._readers else self.runs_df[:0]
        keys = map(RunKey, done["task"], done["method"], done["seed"])
        readers = {key: self._readers[key] for key in keys if key in self._readers}
        return reduce_predictions(readers, self.methods, self.baseline) if readers else None

    @cached_property
    def friedman(self) -> FriedmanResult:
        """Whether any method differs."""
        return friedman(self.scores)

    @cached_property
    def conover(self) -> pd.DataFrame:
        """Which pairs of methods differ."""
        return conover(self.scores)

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """Groups of methods that do not differ; none without ranks. Where Friedman's test is silent, one of all."""
        ranked = self.methods_df["rank"].dropna().sort_values(kind="stable").index.to_list()
        if not ranked:
            return []
        return groups(self.conover, ranked) if self.friedman.pvalue < 0.05 else [tuple(ranked)]

    def seeds_for(self, method: str, effect: float) -> int | None:
        """Seeds that would show a gain of that size.

        Args:
            method: One of the methods but the baseline.
            effect: True gain, above 0, in the unit of the scores.

        Returns:
            A number, or None where 256 are not enough or no spread was measured.

        Raises:
            UsageError: If the effect is not above 0.
        """
        needed = seeds_needed(self.scores[[self.baseline, method]], effect, self.baseline, self.seed)[method]
        return None if pd.isna(needed) else int(needed)
