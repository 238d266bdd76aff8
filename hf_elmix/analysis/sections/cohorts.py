"""The part of a report on the rows that a training changes: which, how many, and whether a method changes more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.moves import flow_of, moves_table, pooled_transitions
from hf_elmix.analysis.numbers import gain_text, interval_text, number, pvalue_text
from hf_elmix.analysis.predictions import SIXTHS, Predicted
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import DRAWN, HUNDRED, Picture, Section
from hf_elmix.diagnostics.cohort_plots import draw_flow, draw_histograms
from hf_elmix.plotting import method_label
from hf_elmix.predictions.cohorts import COHORTS, PAPER, share_table
from hf_elmix.predictions.records import THRESHOLD

__all__ = ["cohort_section"]

PAPER_ROW = "the paper: CE, ResNet32 on CIFAR-100"


def cohort_section(results: StudyResults) -> Section | None:
    """What became of rows that were right, wrong but near the boundary, and far from it; None if no run tells.

    Args:
        results: The study.
    """
    predicted = results.predicted
    if predicted is None or predicted.flows.empty:
        return None
    pooled = pooled_transitions(predicted, results.methods)
    moves = moves_table(predicted, results.methods, results.baseline, results.seed)
    when = _when(predicted)
    return Section(
        "cohorts",
        "Which rows change",
        f"A row is right; or wrong and near the boundary, its label having a probability above {THRESHOLD:g}; or "
        f"wrong and far from it. What became, by the end, of the rows of each kind at {when}?",
        [*_answers(moves, results.baseline), _shares(pooled)],
        [_transitions(pooled, when), *([_moves(moves, results.baseline)] if len(moves) else [])],
        {
            f"From {when} to the end": _flows(predicted, pooled, when),
            "Probability of the true label, over the training": _histograms(predicted, pooled),
        },
        _data(predicted, pooled, moves),
    )


def _when(predicted: Predicted) -> str:
    """``83 % of the training``, or where runs differ, from where to where."""
    low, high = (round(HUNDRED * end) for end in predicted.flows["start"].agg(["min", "max"]))
    return f"{low} % of the training" if low == high else f"{low} to {high} % of the training"


def _answers(moves: pd.DataFrame, baseline: str) -> list[str]:
    """Whether each method moves more rows than the baseline, of those near the boundary for both."""
    if moves.empty or "both" not in moves.index.get_level_values(0):
        return []
    return [
        _answer(row, method_label(str(row.Index)), method_label(baseline)) for row in moves.loc["both"].itertuples()
    ]


def _answer(row: Any, label: str, base: str) -> str:
    if row.equal == row.pairs:
        start = f"{label} moves as many of the rows near the boundary as {base} does"
    elif row.low > 0:
        start = f"{label} moves more of the rows near the boundary than {base} does"
    elif row.high < 0:
        start = f"{label} moves fewer of the rows near the boundary than {base} does"
    else:
        start = f"Whether {label} moves more of the rows near the boundary than {base} does cannot be told"
    gain = f"{gain_text(row.difference, HUNDRED)} points {interval_text(row.low, row.high, HUNDRED)}".rstrip()
    of_them = f" (more in {row.better:.0f}, fewer in {row.worse:.0f})" if row.pairs > 1 else ""
    over = f"{row.pairs:.0f} experiment{'s' if row.pairs != 1 else ''}{of_them}"
    text = f"{start}: of those near it for both, {number(HUNDRED * row.share)} % end right beside "
    text += f"{number(HUNDRED * row.base_share)} %, {gain} over {over} and {row.rows:,} rows"
    if not row.minimum_detectable_effect > 0 or row.low > 0 or row.high < 0:
        return f"{text}."
    missed = (
        f"A true difference under {number(HUNDRED * row.minimum_detectable_effect)} points"
        if row.minimum_detectable_effect < 1
        else "Any true one"
    )
    return f"{text}. {missed} could easily have been missed."


def _shares(pooled: pd.DataFrame) -> str:
    """The shares of the paper's example, over all rows of each method."""
    parts = {"near": "wrong rows near the boundary end right", "far": "wrong rows far from it", "right": "right rows"}
    said = []
    for name, words in parts.items():
        column = pooled[f"{name}_share"].dropna()
        shares = [f"{method_label(str(method))} {number(HUNDRED * share)} %" for method, share in column.items()]
        said.append(f"{words}: {', '.join(shares) or 'there were none'}")
    return f"Of all {'; of all '.join(said)}."


def _transitions(pooled: pd.DataFrame, when: str) -> Table:
    rows = [
        [Cell(method_label(str(row["method"]))), Cell(f"{row['runs']:.0f}", row["runs"]), *_share_cells(row)]
        for _, row in pooled.reset_index().iterrows()
    ]
    paper = PAPER.join(share_table(PAPER)).iloc[0]
    rows.append([Cell(PAPER_ROW), Cell("1", 1), *_share_cells(paper)])
    caption = (
        f"Rows at {when}, over all runs and evaluation sets, and how many of them are right at the "
        f"end, in percent: near are wrong ones whose label has a probability above {THRESHOLD:g}, far the other wrong "
        "ones. Wilson's 95 % intervals take all rows as independent, though the same rows come again with each seed: "
        "with several seeds they are too narrow."
    )
    header = ["method", "runs"]
    for name in COHORTS:
        header += [name, f"{name}: end right"]
    return Table("transitions", "Right, near and far", caption, header, rows)


def _share_cells(row: pd.Series) -> list[Cell]:
    cells = []
    for name in COHORTS:
        share, low, high = (row[f"{name}_{part}"] for part in ("share", "low", "high"))
        text = f"{number(HUNDRED * share)} {interval_text(low, high, HUNDRED)}".rstrip()
        cells += [Cell(f"{row[name]:,.0f}", row[name]), Cell(text, share)]
    return cells


def _moves(moves: pd.DataFrame, baseline: str) -> Table:
    base = method_label(baseline)
    whose = {"both": "near for both", "own": "near for each, its own", "baseline": f"near for {base}"}
    rows = [
        [
            Cell(method_label(row.method)),
            Cell(whose[row.whose]),
            Cell(f"{row.pairs}", row.pairs),
            Cell(f"{row.rows:,}", row.rows),
            Cell(number(HUNDRED * row.share), row.share),
            Cell(number(HUNDRED * row.base_share), row.base_share),
            Cell(gain_text(row.difference, HUNDRED), row.difference),
            Cell(interval_text(row.low, row.high, HUNDRED) or "n/a", row.low),
            Cell(f"{row.better}/{row.equal}/{row.worse}", row.better),
            Cell(pvalue_text(row.sign_p), row.sign_p),
        ]
        for row in moves.reset_index().itertuples()
    ]
    caption = (
        f"Rows near the boundary that are right at the end, in percent: each method beside {base} in the same "
        "experiments (means over those in which both have such rows), with the 95 % interval of the difference and "
        "the two-sided p-value of the sign test. Rows near for both are chosen alike for the two. With each its own, "
        f"one may have had the easier rows. Rows chosen for being wrong under {base} favour any other method."
    )
    header = ["method", "rows", "experiments", "number", "end right", f"under {base}", "difference"]
    return Table(
        "moves", "Rows near the boundary", caption, [*header, "95 % interval", "more/equal/fewer", "sign p"], rows
    )


def _drawn(pooled: pd.DataFrame) -> list[tuple[int, str]]:
    return list(enumerate(map(str, pooled.index[:DRAWN]), start=1))


def _flows(predicted: Predicted, pooled: pd.DataFrame, when: str) -> Sequence[Picture]:
    names = (when.replace(" of the", "\nof the"), "end")
    return [
        Picture(f"flow-{k}", method_label(method), partial(draw_flow, flow_of(predicted, method), names=names), 3.6)
        for k, method in _drawn(pooled)
    ]


def _histograms(predicted: Predicted, pooled: pd.DataFrame) -> Sequence[Picture]:
    pictures = []
    for k, method in _drawn(pooled):
        table = predicted.histograms.loc[method]
        table = table.set_axis([f"{HUNDRED * sixth / SIXTHS:.0f} %" for sixth in table.index])
        pictures.append(
            Picture(f"histograms-{k}", method_label(method), partial(draw_histograms, table, label="training"), 3.6)
        )
    return pictures


def _data(predicted: Predicted, pooled: pd.DataFrame, moves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    data = {
        "transitions": predicted.transitions,
        "cohorts": pooled.reset_index(),
        "cohort_flows": predicted.flows,
        "histograms": predicted.histograms.rename(columns=lambda edge: f"from_{edge:g}").reset_index(),
    }
    return {**data, "cohort_moves": predicted.moves, "cohort_pairs": moves.reset_index()} if len(moves) else data
