"""The numbers of a report, each computed once, when first needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
import pandas as pd

from hf_elmix.analysis.comparison import compare, mean_gain, minimum_detectable_effect, task_gains
from hf_elmix.analysis.frames import scale_of, scores_table, study_tables, summary_table
from hf_elmix.analysis.numbers import counted
from hf_elmix.analysis.predictions import PredictionReaders, PredictionSummary, summarise_predictions
from hf_elmix.analysis.profile import performance_profile, profile_area, profile_bands, ratios
from hf_elmix.analysis.ranks import FriedmanResult, conover, friedman, groups, independent_blocks, mean_rank, wins
from hf_elmix.analysis.sequential import Rules, looks, read_comparison
from hf_elmix.errors import UsageError, not_one_of
from hf_elmix.plotting import method_label
from hf_elmix.predictions.class_counts import PREDICTED_CLASSES, constant_accuracy_of
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import DECLARATION, Store

__all__ = ["StudyResults", "learned", "read_study"]
THRESHOLDS = 200  # of the profile, at most, at which the bands are computed
MANY = 20  # methods in a figure, or with a column in a table, at most
LARGE = 2_000_000  # numbers in a performance profile, at most


TAKEN = frozenset(("task", "seed", "method", "tau"))


class StudyResults:
    """The results of a study. All sections of a report read them, so they cannot contradict each other.

    Args:
        runs_df: One row per run, from `runs_table` or `read_scores`.
        curves_df: From `curves_table`, if anything was logged during training.
        baseline: Method that the others are compared with, by its name or its label, such as ``F = 0-0.5``; by default
            ``ce``, else the first.
        seed: Seed of the bootstrap and the simulations.
        predictions: A function for each run with predictions that reads them; called when first needed.
        rules: The rules of a comparison that was looked at after every seed (see `hf_elmix.analysis.sequential`).
        test_df: Its test scores, once they may be seen (see `read_comparison`).

    Attributes:
        scores: One row per block, indexed by (task, seed), and one column per method.
        methods: The columns of `scores`, in their order.
        baseline: The method that the others are compared with.

    Raises:
        UsageError: If no run has a score, a method is called like a column, or the baseline is not one of the methods.
    """

    def __init__(
        self,
        runs_df: pd.DataFrame,
        curves_df: pd.DataFrame | None = None,
        *,
        baseline: str | None = None,
        seed: int = 0,
        predictions: PredictionReaders | None = None,
        rules: Rules | None = None,
        test_df: pd.DataFrame | None = None,
    ) -> None:
        if runs_df["score"].isna().all():
            raise UsageError(f"Expected runs with a score, but got {counted(len(runs_df), 'run')} without one.")
        self.runs_df, self.curves_df, self.seed = runs_df, curves_df, seed
        self._readers = predictions or {}
        self.scores = scores_table(runs_df)
        self.methods: list[str] = list(self.scores)
        if taken := sorted(TAKEN.intersection(self.methods)):
            raise UsageError(
                f"Expected a method to have another name than {taken[0]!r}, which is that of a column in the tables "
                "of a report. Rename it."
            )
        self.rules = rules if rules and rules.baseline in self.methods and runs_df["task"].nunique() == 1 else None
        self.test_df = test_df if self.rules else None
        default = self.rules.baseline if self.rules else "ce" if "ce" in self.methods else self.methods[0]
        self.baseline = default if baseline is None else _find_method(baseline, self.methods)

    @property
    def others(self) -> list[str]:
        """All methods except the baseline."""
        return [method for method in self.methods if method != self.baseline]

    @cached_property
    def shown(self) -> list[str]:
        """The methods in figures, and with a column in tables: all, or the baseline and the best 19 others."""
        best = self.others if len(self.methods) <= MANY else self.best_first[: MANY - 1]
        return [method for method in self.methods if method in {self.baseline, *best}]

    @property
    def selection(self) -> str:
        """A sentence that says which methods are shown, with a space before it; empty if all are."""
        if len(self.shown) == len(self.methods):
            return ""
        return (
            f" Shown: {method_label(self.baseline)} and the {len(self.shown) - 1} best of "
            f"{counted(len(self.others), 'other method')} by mean difference."
        )

    @cached_property
    def best_first(self) -> list[str]:
        """The other methods by their mean difference from the baseline; those without one last."""
        return self.pairs_df["difference"].sort_values(ascending=False, kind="stable").index.to_list()

    @property
    def has_seeds(self) -> bool:
        """Whether some task has more than one block."""
        return bool(self.scores.index.get_level_values(0).duplicated().any())

    @cached_property
    def scale(self) -> float:
        """Factor by which scores are multiplied for display (see `scale_of`)."""
        return scale_of(self.scores)

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """The scores that are ranked: means over seeds, one row per task (see `independent_blocks`)."""
        return independent_blocks(self.scores)

    @cached_property
    def ranked_blocks(self) -> str:
        """Their number, in words: ``7 tasks``, or ``4 seeds`` of a single task."""
        return counted(len(self.ranked), "task" if self.scores.index.get_level_values(0).nunique() > 1 else "seed")

    @cached_property
    def collapsed(self) -> pd.Series:
        """Whether each run predicts the same class for all rows, indexed by (task, seed, method)."""
        return _one_class(self.runs_df.set_index(["task", "seed", "method"]))

    @cached_property
    def profile(self) -> pd.DataFrame:
        """The performance profile, with all its steps unless they would be too many."""
        steps = np.unique(ratios(self.scores).clip(lower=0).to_numpy())
        few = LARGE // len(self.methods)
        return performance_profile(self.scores, _evenly(steps, few).tolist() if len(steps) > few else None)

    @cached_property
    def bands(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Lower and upper ends of the profile's bands, at up to 200 of its steps."""
        return profile_bands(self.scores, self.seed, _evenly(self.profile.index.to_numpy(), THRESHOLDS).tolist())

    @cached_property
    def tau_min(self) -> float:
        """Left end of the profile area: the lowest ratio, rounded down to a multiple of 0.05, in [0, 0.95]."""
        return min(max(math.floor(self.profile.index[0] * 20) / 20, 0.0), 0.95)

    @cached_property
    def methods_df(self) -> pd.DataFrame:
        """One row per method: runs with a score, wins, mean difference (``gain``) and rank (Table 4), profile area."""
        columns = {
            "runs": self.scores.count(),
            "expected": len(self.scores),
            "wins": wins(self.scores),
            "gain": mean_gain(self.scores, self.baseline),
            "rank": mean_rank(self.ranked),
            "area": profile_area(self.scores, self.tau_min),
        }
        return pd.DataFrame(columns).rename_axis("method")

    @cached_property
    def pairs_df(self) -> pd.DataFrame:
        """Comparison of each method with the baseline, with its ``minimum_detectable_effect``."""
        effect = minimum_detectable_effect(self.scores, self.baseline, self.seed)
        return compare(self.scores, self.baseline).assign(minimum_detectable_effect=effect)

    @cached_property
    def gains_df(self) -> pd.DataFrame:
        """Comparison of each method with the baseline on each task."""
        return task_gains(self.scores, self.baseline)

    @cached_property
    def looks_df(self) -> pd.DataFrame | None:
        """The comparison after every seed, for a study that stopped when it knew; else None."""
        return looks(self.scores.droplevel("task"), self.rules) if self.rules else None

    @cached_property
    def summary_df(self) -> pd.DataFrame:
        """Mean and standard deviation over seeds, for each task and method."""
        return summary_table(self.runs_df)

    @cached_property
    def prediction_summary(self) -> PredictionSummary | None:
        """Cohorts and calibration of completed runs; None if no run has predictions."""
        done = self.runs_df[self.runs_df["status"] == "done"] if self._readers else self.runs_df[:0]
        keys = map(RunKey, done["task"], done["method"], done["seed"])
        readers = {key: self._readers[key] for key in keys if key in self._readers}
        return summarise_predictions(readers, self.methods, self.baseline) if readers else None

    @cached_property
    def friedman(self) -> FriedmanResult:
        """Friedman's test of whether any method differs in rank."""
        return friedman(self.ranked)

    @cached_property
    def conover(self) -> pd.DataFrame:
        """P-values of the differences in rank of each pair of methods."""
        return conover(self.ranked)

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """Groups of methods without a significant difference in rank: all, unless Friedman's test is significant."""
        ranked = self.methods_df["rank"].dropna().sort_values(kind="stable").index.to_list()
        if not ranked:
            return []
        return groups(self.conover, ranked) if self.friedman.pvalue < 0.05 else [tuple(ranked)]

    def without_collapsed(self) -> pd.DataFrame:
        """The scores of the blocks in which no run predicts the same class for all rows."""
        return self.scores[~self.collapsed.groupby(level=[0, 1]).any().reindex(self.scores.index)]

    def with_metric(self, metric: str) -> StudyResults:
        """The results of the same runs with another column of ``runs_df`` as the score of those that are done."""
        values = self.runs_df[metric].where(self.runs_df["status"] == "done")
        return StudyResults(self.runs_df.assign(score=values), self.curves_df, baseline=self.baseline, seed=self.seed)


def learned(runs_df: pd.DataFrame) -> pd.DataFrame:
    """How many runs of a comparison have learned anything, by method.

    Args:
        runs_df: From `runs_table`, of a single task.

    Returns:
        Indexed by ``method``: ``runs`` that are done, those that predict ``one_class`` only for all rows of an
        evaluation set, the ``trivial`` ones, which are no more accurate than always predicting the most frequent
        class, and the ``lost`` ones, which failed or diverged; ``constant`` is the accuracy of always predicting that
        class, in percent, and missing if the score is another metric.
    """
    done = runs_df[runs_df["status"] == "done"].set_index("method")
    lost = runs_df.loc[runs_df["status"].isin(("failed", "diverged")), "method"].value_counts()
    metric = next(iter(runs_df.attrs.get("score_metrics", {}).values()), "")
    constant = done.get(constant_accuracy_of(metric), pd.Series(np.nan, done.index))
    kinds = {
        "runs": 1,
        "one_class": _one_class(done),
        "trivial": done["score"] <= constant,
        "constant": 100 * constant,
    }
    of_method = pd.DataFrame(kinds, done.index).groupby(level=0, sort=False)
    counted = of_method.agg({"runs": "sum", "one_class": "sum", "trivial": "sum", "constant": "mean"})
    counted = counted.reindex(dict.fromkeys(runs_df["method"])).rename_axis("method")
    counts = {name: counted[name].fillna(0).astype(int) for name in ("runs", "one_class", "trivial")}
    return counted.assign(**counts, lost=lost.reindex(counted.index, fill_value=0).astype(int))


def _one_class(runs_df: pd.DataFrame) -> pd.Series:
    """Whether each run predicts a single class for all rows of an evaluation set."""
    return runs_df[[name for name in runs_df if str(name).endswith(PREDICTED_CLASSES)]].eq(1).any(axis=1)


def read_study(store: Store, baseline: str | None = None) -> StudyResults:
    """The results of the study in a folder.

    Args:
        store: The folder.
        baseline: See `StudyResults`.

    Raises:
        UsageError: If the folder has no record or no score, or one of its files is damaged.
    """
    tables = study_tables(store.records(), store.asked())
    if not tables.chosen:
        studies = sorted(str(path.parent) for path in store.folder.glob(f"*/{DECLARATION}"))
        hint = f"one of its studies: {', '.join(studies)}" if studies else "the --output_dir of a study"
        raise UsageError(f"Expected a folder of runs, but {str(store.folder)!r} has no records. Give {hint}.")
    recorded = set(store.with_predictions(tables.chosen.values()))
    readers = {key: partial(store.read_predictions, run) for key, run in tables.chosen.items() if run in recorded}
    rules, test_df = read_comparison(store)
    return StudyResults(
        tables.runs, tables.curves, baseline=baseline, predictions=readers, rules=rules, test_df=test_df
    )


def _evenly(values: np.ndarray, count: int) -> np.ndarray:
    """About as many of the values, from the first to the last."""
    return values[np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]


def _find_method(name: str, methods: Sequence[str]) -> str:
    """The method with this name or, if there is none, with this label."""
    labels = {method: method_label(method) for method in methods}
    found = [method for method, label in labels.items() if name in (method, label, label.partition(" (")[0])]
    if not found:
        raise not_one_of("the baseline", dict.fromkeys(one for pair in labels.items() for one in pair), name)
    return name if name in found else found[0]
