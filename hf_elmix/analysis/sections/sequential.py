"""Report section: a comparison that was looked at after every seed, and stopped when it knew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.numbers import counted, gain_text, interval_text, number
from hf_elmix.analysis.plots import plot_looks
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import FigureSpec, Section
from hf_elmix.analysis.sections.runs import shared_settings
from hf_elmix.analysis.sequential import BETTER, EQUAL, OPEN, WORSE, Rules, verdicts
from hf_elmix.plotting import legend_rows, method_label

__all__ = ["interval_of", "sequential_section", "sequential_verdict"]

# What a comparison says of other data, by what differs between its seeds.
SAME_ROWS = "Seeds differ in initialisation and order of rows: the verdict is on training again on the same rows."
NEW_ROWS = (
    "Seeds differ in initialisation, order of rows and the division into training and validation rows: the verdict is "
    "on training on rows like these."
)


def sequential_section(results: StudyResults) -> Section | None:
    """Make the section with the path of the intervals over seeds; None for a study that was not looked at."""
    looks_df, rules = results.looks_df, results.rules
    if looks_df is None or rules is None:
        return None
    base, found, test_df = method_label(rules.baseline), verdicts(looks_df, rules), results.test_df
    scores = {} if test_df is None else test_df["score"].to_dict()

    def tested(method: str) -> list[Cell]:
        return [Cell(number(score := scores.get(method, np.nan)), score)] if scores else []

    rows = [
        [
            Cell(method_label(str(row.Index))),
            Cell(str(row.verdict)),
            Cell(gain_text(row.difference, 1), row.difference),
            Cell(interval_of(row.low, row.high) or "n/a", row.low),
            Cell(str(row.seeds), row.seeds),
            *tested(str(row.Index)),
        ]
        for row in found.itertuples()
    ]
    if test_df is not None:
        seeds = test_df["seeds"].get(rules.baseline, 0)
        none = [Cell("", np.nan), Cell("", np.nan)]
        rows.insert(0, [Cell(base), Cell("baseline"), *none, Cell(f"{seeds:.0f}", seeds), *tested(rules.baseline)])
    caption = (
        f"Each method compared with {base}: mean difference in points, with an interval that holds at every look. "
        f"Practically equal: the interval lies within ±{number(rules.margin)} points."
    )
    if scores:
        caption += " Test score: the mean over these seeds, in points; it played no part in the verdict."
    header = ["method", "verdict", "difference", "interval", "seeds", *["test score"] * bool(scores)]
    table = Table("looks", "Verdict", caption, header, rows)
    drawn = (
        f"Mean difference from {base} after every seed, with the interval that holds at all looks together. A method "
        "is better or worse once its interval excludes 0, and practically equal once it lies in the grey band."
    )
    height = 3.2 + 0.2 * legend_rows([*rules.methods, "practically equal"])
    figure = FigureSpec(
        "looks", drawn, lambda ax: plot_looks(looks_df, rules.margin, ax, order=results.methods), height
    )
    resampled = "resample" in shared_settings(results.runs_df)
    about = (
        f"{NEW_ROWS if resampled else SAME_ROWS} Other intervals and p-values in this report assume a number of seeds "
        "that was fixed in advance; here it depended on the scores, so use those of this section."
    )
    data = {"looks": looks_df}
    return Section("looks", "Verdict, seed by seed", about, tables=[table], pictures=[("", [figure])], data=data)


def sequential_verdict(
    looks_df: pd.DataFrame, rules: Rules, known: pd.DataFrame | None = None, test_df: pd.DataFrame | None = None
) -> list[str]:
    """Say what to do, what is known of each method, the best first, and with what confidence.

    Args:
        looks_df: From `looks`.
        rules: The rules.
        known: How many runs of each method have learned anything (see `hf_elmix.analysis.results.learned`).
        test_df: The test scores (see `read_comparison`).
    """
    base = method_label(rules.baseline)
    found = verdicts(looks_df, rules).sort_values("difference", ascending=False, kind="stable", na_position="last")
    sentences = [_advice(found, base, known)]
    for row in found.itertuples():
        label, interval = method_label(str(row.Index)), interval_of(row.low, row.high)
        evidence = f"{gain_text(row.difference, 1)} points {interval}".rstrip() + f" over {counted(row.seeds, 'seed')}"
        if row.verdict == EQUAL:
            said = f"{label} and {base} are practically equal: they differ by less than {rules.margin:g} points"
        elif row.verdict in (BETTER, WORSE):
            said = f"{label} is {row.verdict} than {base}"
        elif not row.seeds:
            sentences.append(f"{label} cannot be compared with {base}: no seed has a score of both.")
            continue
        else:
            said = f"It is not known yet whether {label} is better or worse than {base}"
        sentences.append(f"{said} ({evidence}).")
    if known is not None and known["trivial"].any():
        share = f", which gives {number(known['constant'].max(), 1)} %"
        sentences.append(_doubt(known, "trivial", f"are no more accurate than always predicting one class{share}"))
    elif known is not None and known["one_class"].any():
        sentences.append(_doubt(known, "one_class", "predict one class only"))
    if known is not None and known["lost"].any():
        named = ", ".join(f"{method_label(str(name))} {count}" for name, count in known["lost"].items() if count)
        sentences.append(
            f"{counted(int(known['lost'].sum()), 'run')} failed or diverged and got no score ({named}): their seeds "
            "do not count."
        )
    each = f", {100 * (1 - rules.alpha):.4g} % for each of {len(rules.methods)} methods" if len(found) > 1 else ""
    sentences.append(
        f"Everything above holds with {100 * rules.level:g} % confidence{each}, although the scores were looked at "
        "after every seed."
    )
    if test_df is not None:
        rows = f"{test_df['rows'].iloc[0]:,.0f} " if test_df["rows"].notna().all() else ""
        scores = ", ".join(_tested(str(row.Index), row, rules.baseline) for row in test_df.itertuples())
        sentences.append(
            f"All verdicts are on the validation rows. On the {rows}test rows, which played no part in them: {scores}."
        )
    return sentences


def _tested(method: str, row: Any, baseline: str) -> str:
    """A method with its test score and, with the same seeds, its difference from the baseline."""
    known = method != baseline and np.isfinite(row.difference)
    gain = f" ({gain_text(row.difference, 1)} with the same {counted(int(row.seeds), 'seed')})" if known else ""
    return f"{method_label(method)} {number(row.score)}{gain}"


def _advice(found: pd.DataFrame, base: str, known: pd.DataFrame | None) -> str:
    """What to do, for someone who reads nothing else; `found` is from `verdicts`, the best first."""
    better = found[found["verdict"] == BETTER]
    if len(better):
        best = better.iloc[0]
        if known is not None and known.loc[best.name, "trivial"] > known.loc[best.name, "runs"] / 2:
            return (
                f"Use none of these models yet: {method_label(str(best.name))} is better than {base}, but always "
                "predicting one class is at least as accurate."
            )
        if known is not None and known.loc[best.name, "lost"] > known.loc[best.name, "runs"] / 10:
            return (
                f"Stay with {base} for now: {method_label(str(best.name))} is better where it trains, but "
                f"{known.loc[best.name, 'lost']} of its runs got no score."
            )
        gain = (
            f"{number(best['difference'], 1)} points (between {number(best['low'], 1)} and {number(best['high'], 1)})"
        )
        return f"Use {method_label(str(better.index[0]))}: it is better than {base} by about {gain}."
    if (found["verdict"] == OPEN).any():
        return f"Stay with {base} for now: no other method is known to be better yet."
    return f"Stay with {base}: no other method is better."


def _doubt(known: pd.DataFrame, kind: str, what: str) -> str:
    """Say how many runs of each method are of a kind that has learned nothing."""
    named = [f"{method_label(str(name))} {count}" for name, count in known[kind].items() if count]
    return (
        f"{known[kind].sum()} of {counted(int(known['runs'].sum()), 'run')} {what} ({', '.join(named)}), as if they "
        "had learned nothing: do not rely on the verdict. Try other learning rates, as with --sweep learning_rate=…, "
        "or more epochs."
    )


def interval_of(low: float, high: float) -> str:
    """``[low, high]`` in points; empty while there is no interval."""
    return interval_text(low, high, 1) if np.isfinite(high) else ""
