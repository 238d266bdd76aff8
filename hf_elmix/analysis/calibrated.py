"""How well the probabilities of each method agree with what comes true, over the runs of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hf_elmix.analysis.comparison import compare
from hf_elmix.analysis.frames import BLOCK
from hf_elmix.diagnostics.calibration import WHEN, reliability_table, score_table, temperature_scaled
from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import Predictions

__all__ = ["BINS", "MEASURES", "add_reliability", "calibration_means", "calibration_pairs", "run_calibration"]

BINS = 15
MEASURES = ("ece", "ece_adaptive", "brier", "nll")  # of all of them less is better


def run_calibration(sets: Mapping[str, Predictions]) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]] | None:
    """Calibration of a run at its end, on the rows of all its evaluation sets together.

    Args:
        sets: What it said of them.

    Returns:
        `calibration_table`, and for each of `WHEN` the `reliability_table` indexed by its bins; None where some
        logits are no numbers.

    Raises:
        UsageError: If there are no rows, their labels are no class ids, or the sets have others.
    """
    classes = sorted({seen.logits.shape[1] for seen in sets.values()})
    if len(classes) > 1:
        raise UsageError(f"Expected logits of the same classes on all evaluation sets, but got {classes}.")
    logits = np.concatenate([seen.logits for seen in sets.values()])
    labels = np.concatenate([seen.labels for seen in sets.values()])
    if not np.isfinite(logits).all():
        return None
    scaled = temperature_scaled(logits, labels)
    tables = {
        when: reliability_table(one, labels, bins=BINS) for when, one in zip(WHEN, (logits, scaled[0]), strict=True)
    }
    edges = np.arange(1, BINS) / BINS
    tables = {when: table.set_index(np.searchsorted(edges, table["confidence"])) for when, table in tables.items()}
    return score_table(logits, scaled, labels, bins=BINS), tables


def add_reliability(one: pd.DataFrame, other: pd.DataFrame | None) -> pd.DataFrame:
    """The reliability table of the rows of two, bin by bin.

    Args:
        one: From `run_calibration`.
        other: Another, or None.
    """
    if other is None:
        return one
    sums = [table.mul(table["rows"], axis=0).assign(rows=table["rows"]) for table in (one, other)]
    both = sums[0].add(sums[1], fill_value=0)
    return both.div(both["rows"], axis=0).assign(rows=both["rows"].astype(int))


def calibration_means(calibration: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Mean over runs of what `calibration_table` has; of temperatures the geometric one.

    Args:
        calibration: From `reduce_predictions`.
        methods: In the order of the study.

    Returns:
        A row for each of `WHEN` and method, with the number of ``runs``.
    """
    logs = calibration.assign(temperature=np.log(calibration["temperature"]))
    groups = logs.groupby(["when", "method"])
    means = groups[["accuracy", *MEASURES, "temperature"]].mean().assign(runs=groups.size())
    means["temperature"] = np.exp(means["temperature"])
    return means.reindex([(when, method) for when in WHEN for method in methods if (when, method) in means.index])


def calibration_pairs(
    calibration: pd.DataFrame, methods: Sequence[str], baseline: str
) -> dict[tuple[str, str], pd.DataFrame]:
    """Each method beside the baseline in the same experiments; a difference below 0 is the better calibration.

    Args:
        calibration: From `reduce_predictions`.
        methods: In the order of the study.
        baseline: One of them.

    Returns:
        For each of `MEASURES` and `WHEN`, what `compare` says, and the means over the same experiments, ``value`` and
        ``base_value``; nothing without runs of the baseline and of another method.
    """
    known = [method for method in methods if method in set(calibration["method"])]
    if baseline not in known or len(known) < 2:
        return {}
    return {
        (measure, when): _beside(calibration[calibration["when"] == when], measure, known, baseline)
        for measure in MEASURES
        for when in WHEN
    }


def _beside(calibration: pd.DataFrame, measure: str, methods: list[str], baseline: str) -> pd.DataFrame:
    values = calibration.pivot(index=BLOCK, columns="method", values=measure)[methods]
    means = {
        method: values[[method, baseline]].dropna().mean().set_axis(["value", "base_value"])
        for method in methods
        if method != baseline
    }
    return compare(values, baseline).join(pd.DataFrame(means).T)
