"""Report section: how predictions change late in training, and whether a method corrects more rows than another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from hf_elmix.analysis.comparison import compare, minimum_detectable_effect
from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.frames import BLOCK
from hf_elmix.analysis.numbers import counted, difference_text, gain_text, interval_text, number, pvalue_text
from hf_elmix.analysis.predictions import NEAR_FOR, SIXTHS, PredictionSummary
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import MAX_DRAWN, PERCENT, FigureSpec, Section
from hf_elmix.diagnostics.cohort_plots import draw_ridgeline, draw_sankey
from hf_elmix.plotting import method_label
from hf_elmix.predictions.cohorts import COHORTS, PAPER, share_table
from hf_elmix.predictions.records import THRESHOLD

__all__ = ["cohort_section", "flow_of", "near_table", "pooled_transitions"]

PAPER_ROW = "the paper: CE, ResNet32 on CIFAR-100"


def cohort_section(results: StudyResults) -> Section | None:
    """Make the section on how rows end up, correct, near the boundary or far; None if no run has predictions."""
    summary = results.prediction_summary
    if summary is None or summary.flows.empty:
        return None
    pooled = pooled_transitions(summary, results.methods)
    near = near_table(summary, results.methods, results.baseline, results.seed)
    low, high = (round(PERCENT * end) for end in summary.flows["start"].agg(["min", "max"]))
    when = f"{low} % of the training" if low == high else f"{low} to {high} % of the training"
    both = near.loc["both"].itertuples() if "both" in near.index else ()
    answers = [row for row in both if row.Index in results.shown]
    data = {
        "transitions": summary.transitions,
        "cohorts": pooled.reset_index(),
        "cohort_flows": summary.flows,
        "histograms": summary.histograms.rename(columns=lambda edge: f"from_{edge:g}").reset_index(),
    }
    if len(near):
        data |= {"cohort_moves": summary.near, "cohort_pairs": near.reset_index()}
    return Section(
        "cohorts",
        "How predictions change during training",
        "A row is correct; or incorrect and near the boundary, if the probability of its label is above "
        f"{THRESHOLD:g}; or incorrect and far from it. How do the rows of each cohort at {when} end up?",
        [*(_answer(row, results.baseline) for row in answers), _shares(pooled[pooled.index.isin(results.shown)])],
        [_transitions(pooled, when), *([_near(near, results.baseline)] if len(near) else [])],
        _pictures(summary, pooled[pooled.index.isin(results.shown)], when),
        data,
    )


def pooled_transitions(summary: PredictionSummary, methods: Sequence[str]) -> pd.DataFrame:
    """Count rows of each cohort at the start, and those that are correct at the end, over all runs of each method.

    Returns:
        A row for each method that has any: ``runs``, the mean share of the training done at the ``start``, counts as
        in `transition_table`, and the columns of `share_table`.
    """
    rows = {}
    for method in methods:
        part = summary.flows[summary.flows["method"] == method]
        if len(part):
            rows[method] = {"runs": part.groupby(BLOCK).ngroups, "start": part["start"].mean()}
            for name, flow in flow_of(summary, method).iterrows():
                rows[method] |= {name: int(flow.sum()), f"{name}_end": int(flow["correct"])}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return table.join(share_table(table))


def flow_of(summary: PredictionSummary, method: str) -> pd.DataFrame:
    """Sum `flow_table` over all runs of a method."""
    sums = summary.flows[summary.flows["method"] == method].sum(numeric_only=True)
    counts = [[int(sums[f"{before}_{after}"]) for after in COHORTS] for before in COHORTS]
    return pd.DataFrame(counts, pd.Index(COHORTS, name="start"), pd.Index(COHORTS, name="end"))


def near_table(summary: PredictionSummary, methods: Sequence[str], baseline: str, seed: int = 0) -> pd.DataFrame:
    """Compare the share of the rows near the boundary at the start that end correct with that of the baseline.

    The selection of rows matters. Rows near for ``both`` are the same for the two methods. If each method has its own
    rows (``each``), those of one may be easier. Rows selected because the ``baseline`` was incorrect favour
    any other method: rows that are incorrect by chance under one are less often incorrect under another.

    Returns:
        A row for each of `NEAR_FOR` and each method but the baseline: the ``rows`` over all blocks; the means over
        blocks of the ``share`` of the method and that of the baseline, ``base_share``; the columns of `compare`; and
        the ``minimum_detectable_effect``. Blocks in which either of the two has no such row are left out.
    """
    parts = {}
    for who in NEAR_FOR if len(summary.near) else ():
        near = summary.near
        near = near[(near["near_for"] == who) & (near["rows"] > 0) & (near["base_rows"] > 0)]
        near = near.assign(share=near["correct"] / near["rows"], base_share=near["base_correct"] / near["base_rows"])
        others = [method for method in methods if method in set(near["method"])]
        if others:
            means = near.groupby("method").agg({"rows": "sum", "share": "mean", "base_share": "mean"})
            gains = near.assign(difference=near["share"] - near["base_share"])
            gains = gains.pivot(index=BLOCK, columns="method", values="difference")[others].assign(**{baseline: 0.0})
            effect = minimum_detectable_effect(gains, baseline, seed).rename("minimum_detectable_effect")
            parts[who] = means.loc[others].join(compare(gains, baseline)).join(effect)
    return pd.concat(parts, names=["near_for"]) if parts else pd.DataFrame()


def _answer(row: Any, baseline: str) -> str:
    """Say whether a method corrects more of the rows that are near the boundary for both than the baseline does."""
    label, base = method_label(str(row.Index)), method_label(baseline)
    than = f"of the rows near the boundary than {base} does"
    if row.better == row.worse == 0:
        start = f"{label} corrects as many of the rows near the boundary as {base} does"
    elif row.low > 0:
        start = f"{label} corrects more {than}"
    elif row.high < 0:
        start = f"{label} corrects fewer {than}"
    elif pd.isna(row.low):
        start = f"There are too few runs to say whether {label} corrects more {than}"
    else:
        start = f"{label} is not significantly different from {base} in how many rows near the boundary it corrects"
    gain = difference_text(row, PERCENT, unit=" points")
    units = int(row.better + row.equal + row.worse)  # tasks, by their means, where several have seeds
    tasks = f" of {units} tasks" if units < row.pairs else ""
    of_them = f" (more in {row.better:.0f}{tasks}, fewer in {row.worse:.0f})" if units > 1 else ""
    blocks = f"{counted(int(row.pairs), 'block')}{of_them}"
    text = (
        f"{start}: of those near it for both, {number(PERCENT * row.share)} % end correct under {label} and "
        f"{number(PERCENT * row.base_share)} % under {base}, {gain} over {blocks} and {row.rows:,} rows."
    )
    effect = row.minimum_detectable_effect
    if not effect > 0 or row.low > 0 or row.high < 0:
        return text
    least = f"{number(PERCENT * effect)} points" if effect < 1 else "above 100 points: no difference could be detected"
    return f"{text} The minimum detectable effect is {least}."


def _shares(pooled: pd.DataFrame) -> str:
    """Say the shares of the paper's example, over all rows of each method."""
    said = []
    for name, words in {"near": "near the boundary", "far": "far from it", "correct": "correct before"}.items():
        column = pooled[f"{name}_share"].dropna()
        shares = [f"{method_label(str(method))} {number(PERCENT * share)} %" for method, share in column.items()]
        said.append(f"{words}: {', '.join(shares) or 'none'}")
    return f"Rows that end correct, of those {'; '.join(said)}."


def _transitions(pooled: pd.DataFrame, when: str) -> Table:
    paper = PAPER.join(share_table(PAPER)).assign(method=PAPER_ROW, runs=1)
    rows = []
    for _, row in pd.concat([pooled.rename(method_label).reset_index(), paper]).iterrows():
        rows.append([Cell(row["method"]), Cell(f"{row['runs']:.0f}", row["runs"])])
        for name in COHORTS:
            share, low, high = (row[f"{name}_{part}"] for part in ("share", "low", "high"))
            text = f"{number(PERCENT * share)} {interval_text(low, high, PERCENT)}".rstrip()
            rows[-1] += [Cell(f"{row[name]:,.0f}", row[name]), Cell(text, share)]
    caption = (
        f"correct, near, far: rows of each cohort at {when}, over all runs and evaluation sets. near: incorrect, with "
        f"a probability of the label above {THRESHOLD:g}. far: the other incorrect rows. end correct: percentage of "
        "these rows that are correct at the end, with Wilson's 95 % interval. The intervals assume independent rows, "
        "but each seed has the same rows: with several seeds they are too narrow."
    )
    header = ["method", "runs", *(title for name in COHORTS for title in (name, f"{name}: end correct"))]
    return Table("transitions", "Correct, near and far", caption, header, rows)


def _near(near: pd.DataFrame, baseline: str) -> Table:
    base = method_label(baseline)
    near_for = {"both": "near for both", "each": "each method's own", "baseline": f"near for {base}"}
    rows = [
        [
            Cell(method_label(row.method)),
            Cell(near_for[row.near_for]),
            Cell(f"{row.pairs}", row.pairs),
            Cell(f"{row.rows:,}", row.rows),
            Cell(number(PERCENT * row.share), row.share),
            Cell(number(PERCENT * row.base_share), row.base_share),
            Cell(gain_text(row.difference, PERCENT), row.difference),
            Cell(interval_text(row.low, row.high, PERCENT) or "n/a", row.low),
            Cell(f"{row.better}/{row.equal}/{row.worse}", row.better),
            Cell(pvalue_text(row.sign_p), row.sign_p),
        ]
        for row in near.reset_index().itertuples()
    ]
    caption = (
        "rows: which rows near the boundary are compared. blocks: those in which both methods have such rows. end "
        f"correct, under {base}: percentage of these rows that are correct at the end, mean over the blocks. "
        "difference: in points, with its 95 % interval. more/equal/fewer: number of tasks, by their means over seeds, "
        "or of blocks of a single task. sign p: two-sided p-value of the sign test. Rows near for both are the same "
        "for the two methods. If each has its own, those of one may be easier. Rows selected because "
        f"{base} was incorrect favour any other method."
    )
    header = ["method", "rows", "blocks", "number", "end correct", f"under {base}", "difference", "95 % interval"]
    return Table("moves", "Rows near the boundary", caption, [*header, "more/equal/fewer", "sign p"], rows)


def _pictures(summary: PredictionSummary, pooled: pd.DataFrame, when: str) -> list[tuple[str, list[FigureSpec]]]:
    """A Sankey diagram and a ridgeline plot for each of the first methods."""
    names, sankey, ridgeline = (when.replace(" of the", "\nof the"), "end"), [], []
    for k, method in enumerate(pooled.index[:MAX_DRAWN], start=1):
        label, histograms = method_label(method), summary.histograms.loc[method]
        histograms = histograms.set_axis([f"{PERCENT * sixth / SIXTHS:.0f} %" for sixth in histograms.index])
        draw = partial(draw_sankey, flow_of(summary, method), names=names)
        sankey.append(FigureSpec(f"sankey-{k}", label, draw, 3.6))
        draw = partial(draw_ridgeline, histograms, label="training")
        ridgeline.append(FigureSpec(f"ridgeline-{k}", label, draw, 3.6))
    return [(f"From {when} to the end", sankey), ("Probability of the true label during training", ridgeline)]
