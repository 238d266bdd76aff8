"""Report section: do the predicted probabilities of each method match observed frequencies?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from hf_elmix.analysis.comparison import compare
from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.frames import BLOCK
from hf_elmix.analysis.numbers import difference_text, first_upper, number
from hf_elmix.analysis.predictions import BINS, PredictionSummary
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import MAX_DRAWN, PERCENT, FigureSpec, Section
from hf_elmix.diagnostics.calibration import WHEN, draw_reliability
from hf_elmix.plotting import legend_rows, method_label

__all__ = ["MEASURES", "calibration_means", "calibration_pairs", "calibration_section"]

Pairs = Mapping[tuple[str, str], pd.DataFrame]
# Measures, all of which are better when smaller: heading, factor and digits.
MEASURES = {
    "ece": ("ECE", PERCENT, 2),
    "ece_adaptive": ("adaptive ECE", PERCENT, 2),
    "brier": ("Brier score", 1.0, 4),
    "nll": ("NLL", 1.0, 4),
}


def calibration_section(results: StudyResults) -> Section | None:
    """Make the section of calibration before and after temperature scaling; None if no run has predictions."""
    summary = results.prediction_summary
    if summary is None or summary.calibration.empty:
        return None
    pairs = calibration_pairs(summary.calibration, results.methods, results.baseline)
    tables = [_means(calibration_means(summary.calibration, results.methods))]
    reliability = pd.concat(summary.reliability, names=["when", "method", "bin"]).reset_index()
    data = {"calibration": summary.calibration, "reliability": reliability}
    if pairs:
        tables.append(_pairs(pairs, results.baseline))
        data["calibration_pairs"] = pd.concat(pairs, names=["measure", "when", "method"]).reset_index()
    return Section(
        "calibration",
        "Calibration",
        "Do predicted probabilities match observed frequencies? The mixed loss trades likelihood for accuracy, so "
        "calibration may be its price. Temperature scaling divides all logits by one number, fitted on one half of "
        "the evaluation rows and used on the other.",
        _answers(pairs, results.baseline, results.shown),
        tables,
        [("Accuracy by confidence, over all rows of all runs", _pictures(summary, results.shown))],
        data,
    )


def calibration_means(calibration: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Average the columns of `calibration_table` over runs (temperatures geometrically), and count the ``runs``.

    Returns:
        A row for each of `WHEN` and method.
    """
    logs = calibration.assign(temperature=np.log(calibration["temperature"]))
    groups = logs.groupby(["when", "method"])
    means = groups[["accuracy", *MEASURES, "temperature"]].mean().assign(runs=groups.size())
    means["temperature"] = np.exp(means["temperature"])
    return means.reindex([(when, method) for when in WHEN for method in methods if (when, method) in means.index])


def calibration_pairs(
    calibration: pd.DataFrame, methods: Sequence[str], baseline: str
) -> dict[tuple[str, str], pd.DataFrame]:
    """Compare each method with the baseline in the same blocks; a difference below 0 is the better calibration.

    Returns:
        For each of `MEASURES` and `WHEN`, the columns of `compare`, and the means over the same blocks, ``value`` and
        ``base_value``; empty without runs of the baseline and of another method.
    """
    known = [method for method in methods if method in set(calibration["method"])]
    if baseline not in known or len(known) < 2:
        return {}
    pairs = {}
    for measure in MEASURES:
        for when in WHEN:
            rows = calibration[calibration["when"] == when]
            values = rows.pivot(index=BLOCK, columns="method", values=measure)[known]
            means = {
                method: values[[method, baseline]].dropna().mean().set_axis(["value", "base_value"])
                for method in known
                if method != baseline
            }
            pairs[measure, when] = compare(values, baseline).join(pd.DataFrame(means).T)
    return pairs


def _answers(pairs: Pairs, baseline: str, shown: Sequence[str]) -> list[str]:
    """Say of each method whether its ECE is better or worse than the baseline's."""
    base, sentences = method_label(baseline), []
    for method in pairs["ece", WHEN[0]].index.intersection(shown) if pairs else ():
        label, verdicts = method_label(str(method)), []
        for when, name in zip(WHEN, ("as trained", "after temperature scaling"), strict=True):
            row = pairs["ece", when].loc[method]
            unknown = (
                "measured in too few runs to compare with"
                if np.isnan(row["low"])
                else "not significantly different from"
            )
            better = "better than" if row["high"] < 0 else unknown
            gain = difference_text(row, PERCENT, unit=" points")
            verdicts.append(
                f"{'worse than' if row['low'] > 0 else better} {base} {name} (ECE {number(PERCENT * row['value'])} % "
                f"versus {number(PERCENT * row['base_value'])} %, {gain})"
            )
        said = f"In calibration, {label} is {' and '.join(verdicts)}."
        sentences.append(said if row["pairs"] else f"{label} and {base} have no block in common.")
    return sentences


def _means(means: pd.DataFrame) -> Table:
    columns = {"accuracy": ("accuracy", PERCENT, 2), **MEASURES, "temperature": ("temperature", 1.0, 2)}
    rows = []
    for (when, method), row in means.iterrows():
        rows.append([Cell(method_label(method)), Cell(when), Cell(f"{row['runs']:.0f}", row["runs"])])
        rows[-1] += [Cell(number(scale * row[k], digits), row[k]) for k, (_, scale, digits) in columns.items()]
    caption = (
        "Means over runs at the end of training; smaller ECE, Brier score and NLL are better. accuracy: in percent. "
        f"ECE: mean absolute difference between confidence and accuracy over {BINS} bins of equal width, in percent; "
        "adaptive ECE: over bins with equal numbers of rows. Brier score, NLL (negative log-likelihood, in nats): of "
        "all classes. temperature: geometric mean. With few rows, ECE is above 0 even for a calibrated model: compare "
        "it only with that of another method on the same rows."
    )
    header = ["method", "logits", "runs", *(heading for heading, _, _ in columns.values())]
    return Table("calibration", "Calibration before and after temperature scaling", caption, header, rows)


def _pairs(pairs: Pairs, baseline: str) -> Table:
    rows = []
    for when in WHEN:
        for method in pairs["ece", when].index:
            rows.append([Cell(method_label(method)), Cell(when)])
            for measure, (_, scale, digits) in MEASURES.items():
                row = pairs[measure, when].loc[method]
                rows[-1].append(Cell(difference_text(row, scale, digits), row["difference"]))
    base = method_label(baseline)
    caption = (
        f"Mean difference of each method from {base} in the same blocks, with its 95 % interval. Above 0, the method "
        "is worse. ECE: in percentage points."
    )
    header = ["method", "logits", *(heading for heading, _, _ in MEASURES.values())]
    return Table("calibration-pairs", f"Calibration compared with {base}", caption, header, rows)


def _pictures(summary: PredictionSummary, methods: Sequence[str]) -> list[FigureSpec]:
    known = [method for method in methods if (WHEN[0], method) in summary.reliability][:MAX_DRAWN]
    height = 4.2 + 0.2 * legend_rows(known)
    pictures = []
    for k, when in enumerate(WHEN, start=1):
        tables = {method: summary.reliability[when, method] for method in known}
        draw = partial(draw_reliability, tables, order=methods)
        pictures.append(FigureSpec(f"reliability-{k}", first_upper(when), draw, height))
    return pictures
