"""The part of a report on whether the methods are as often right as they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from hf_elmix.analysis.calibrated import BINS, MEASURES, calibration_means, calibration_pairs
from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.numbers import first_upper, gain_text, interval_text, number
from hf_elmix.analysis.predictions import Predicted
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import DRAWN, HUNDRED, Picture, Section
from hf_elmix.diagnostics.calibration import WHEN, draw_reliability
from hf_elmix.plotting import legend_rows, method_label

__all__ = ["calibration_section"]

Pairs = Mapping[tuple[str, str], pd.DataFrame]
LABELS = {"ece": "ECE", "ece_adaptive": "adaptive ECE", "brier": "Brier score", "nll": "NLL"}
SCALES = {"ece": HUNDRED, "ece_adaptive": HUNDRED, "brier": 1.0, "nll": 1.0}
DIGITS = {"ece": 2, "ece_adaptive": 2, "brier": 4, "nll": 4}


def calibration_section(results: StudyResults) -> Section | None:
    """Calibration of each method before and after temperature scaling; None if no run tells.

    Args:
        results: The study.
    """
    predicted = results.predicted
    if predicted is None or predicted.calibration.empty:
        return None
    means = calibration_means(predicted.calibration, results.methods)
    pairs = calibration_pairs(predicted.calibration, results.methods, results.baseline)
    data = {
        "calibration": predicted.calibration,
        "reliability": _stacked(predicted.reliability, "when", "method", "bin"),
    }
    if pairs:
        data["calibration_pairs"] = _stacked(pairs, "measure", "when", "method")
    return Section(
        "calibration",
        "Calibration",
        "Is a model as often right as it says? The mixed loss gives up likelihood for fewer errors, so this may be "
        "its price. Temperature scaling divides all logits by one number; each half of the evaluation rows is divided "
        "by that of the other half.",
        _answers(pairs, results.baseline),
        [_means(means), *([_pairs(pairs, results.baseline)] if pairs else [])],
        {"Accuracy by confidence, over all rows of all runs": _pictures(predicted, results.methods)},
        data,
    )


def _answers(pairs: Pairs, baseline: str) -> list[str]:
    """Whether each method is worse or better calibrated than the baseline, by ECE."""
    if not pairs:
        return []
    before, after = (pairs["ece", when] for when in WHEN)
    return [
        _answer(method_label(str(method)), before.loc[method], after.loc[method], method_label(baseline))
        for method in before.index
    ]


def _answer(label: str, before: pd.Series, after: pd.Series, base: str) -> str:
    if not before["pairs"]:
        return f"{label} and {base} have no experiment in common."
    trained = f"{_verdict(before, base)} as trained ({_numbers(before)})"
    scaled = f"{_verdict(after, base)} after temperature scaling ({_numbers(after)})"
    return f"In calibration, {label} {trained} and {scaled}."


def _verdict(row: pd.Series, base: str) -> str:
    if row["low"] > 0:
        return f"is worse than {base}"
    return f"is better than {base}" if row["high"] < 0 else f"cannot be told from {base}"


def _numbers(row: pd.Series) -> str:
    shares = f"ECE {number(HUNDRED * row['value'])} % beside {number(HUNDRED * row['base_value'])} %"
    interval = interval_text(row["low"], row["high"], HUNDRED)
    return f"{shares}, {gain_text(row['difference'], HUNDRED)} points {interval}".rstrip()


def _means(means: pd.DataFrame) -> Table:
    rows = [
        [
            Cell(method_label(row.method)),
            Cell(row.when),
            Cell(f"{row.runs}", row.runs),
            Cell(number(HUNDRED * row.accuracy), row.accuracy),
            *(_cell(getattr(row, measure), measure) for measure in MEASURES),
            Cell(number(row.temperature), row.temperature),
        ]
        for row in means.reset_index().itertuples()
    ]
    caption = (
        f"Means over runs at their end. ECE, in percent, is the mean distance of confidence and accuracy over {BINS} "
        "bins of confidence, of equal width or (adaptive) of equally many rows; Brier score and NLL (in nats) are "
        "those of all classes. Less is better. With few rows ECE is above 0 even where probabilities are right, "
        "so that it says something only beside another method on the same rows."
    )
    header = ["method", "logits", "runs", "accuracy", *LABELS.values(), "temperature"]
    return Table("calibration", "Calibration before and after temperature scaling", caption, header, rows)


def _pairs(pairs: Pairs, baseline: str) -> Table:
    """A row for each method, before and after; a column for each measure."""
    rows = [
        [
            Cell(method_label(str(method))),
            Cell(when),
            *(_pair_cell(pairs[measure, when].loc[method], measure) for measure in MEASURES),
        ]
        for when in WHEN
        for method in pairs["ece", when].index
    ]
    caption = (
        f"Each method minus {method_label(baseline)} in the same experiments, with the 95 % interval of the mean: "
        "above 0 the method is worse. ECE in points of percent."
    )
    header = ["method", "logits", *LABELS.values()]
    return Table("calibration-pairs", f"Calibration beside {method_label(baseline)}", caption, header, rows)


def _cell(value: float, measure: str) -> Cell:
    return Cell(number(SCALES[measure] * value, DIGITS[measure]), value)


def _pair_cell(row: pd.Series, measure: str) -> Cell:
    low, middle, high = (SCALES[measure] * row[name] for name in ("low", "difference", "high"))
    digits = DIGITS[measure]
    sign = "+" if middle >= 0 else ""
    interval = "" if pd.isna(low) else f" [{number(low, digits)}, {number(high, digits)}]"
    return Cell(f"{sign}{number(middle, digits)}{interval}", row["difference"])


def _pictures(predicted: Predicted, methods: Sequence[str]) -> list[Picture]:
    known = [method for method in methods if (WHEN[0], method) in predicted.reliability][:DRAWN]
    draws = {when: {method: predicted.reliability[when, method] for method in known} for when in WHEN}
    height = 4.2 + 0.2 * legend_rows(known)
    return [
        Picture(f"reliability-{k}", first_upper(when), partial(draw_reliability, tables, order=methods), height)
        for k, (when, tables) in enumerate(draws.items(), start=1)
    ]


def _stacked(tables: Mapping[tuple[str, str], pd.DataFrame], *names: str) -> pd.DataFrame:
    return pd.concat(tables, names=names).reset_index()
