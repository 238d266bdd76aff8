"""What a study found, in plain words, and how its numbers are written."""

from __future__ import annotations

import pandas as pd

from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.secondary_metrics import SecondaryMetric
from hf_elmix.plotting import method_label

__all__ = ["first_upper", "gain_text", "interval_text", "number", "pvalue_text", "secondary_sentence", "verdict"]


def verdict(results: StudyResults) -> list[str]:
    """Sentences that answer: did it help, by how much, how sure is that, on which tasks; the first one first.

    Args:
        results: The study.
    """
    if not results.others:
        return [
            f"Only {method_label(results.baseline)} has runs: there is nothing to compare it with.",
            _runs(results),
        ]
    gains = results.pairs_df["difference"].sort_values(ascending=False, kind="stable", na_position="last")
    sentences = [_comparison(results, str(method)) for method in gains.index]
    sentences += [_sight(results), _ranks(results), _runs(results), _undefined(results)]
    return [sentence for sentence in sentences if sentence]


def secondary_sentence(metric: SecondaryMetric, baseline: str) -> str:
    """What a metric beside the score is for each method, and which methods differ from the baseline in it."""
    unit = " %" if metric.scale == 100 else ""
    means = [
        f"{method_label(name)} {number(metric.scale * mean)}{unit}" for name, mean in metric.values.mean().items()
    ]
    counts = sorted(set(metric.values.count()))
    runs = " to ".join(map(str, counts[:: len(counts) - 1 or 1]))
    said = f"{first_upper(metric.label)}: {', '.join(means)} (means of {runs} runs)."
    return f"{said} {_told_apart(metric, baseline)}".rstrip()


def _told_apart(metric: SecondaryMetric, baseline: str) -> str:
    """Which methods are above or below the baseline, by their intervals."""
    if metric.pairs_df.empty:
        return ""
    known = metric.pairs_df[(metric.pairs_df["low"] > 0) | (metric.pairs_df["high"] < 0)]
    told = [
        f"{method_label(row.Index)} {gain_text(row.difference, metric.scale)} "
        f"{interval_text(row.low, row.high, metric.scale)}"
        for row in known.itertuples()
    ]
    if not told:
        return f"No method can be told from {method_label(baseline)} in this."
    rest = "; the others cannot be told from it" if len(told) < len(metric.pairs_df) else ""
    return f"Points beside {method_label(baseline)}: {', '.join(told)}{rest}."


def first_upper(text: str) -> str:
    """A text that begins like a sentence."""
    return text[:1].upper() + text[1:]


def gain_text(value: float, scale: float) -> str:
    """A difference with its sign.

    Args:
        value: The difference, in the unit of the scores.
        scale: Factor on it: 100 writes points of percent.
    """
    return "n/a" if pd.isna(value) else f"{scale * value:+.2f}".replace("-", "−")


def number(value: float, digits: int = 2) -> str:
    """A number, or n/a where there is none.

    Args:
        value: The number.
        digits: After the point.
    """
    return "n/a" if pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")


def interval_text(low: float, high: float, scale: float) -> str:
    """The ends of an interval, or nothing where it has none.

    Args:
        low: Lower end.
        high: Upper end.
        scale: Factor on both.
    """
    return "" if pd.isna(low) else f"[{number(scale * low)}, {number(scale * high)}]"


def pvalue_text(value: float) -> str:
    """A p-value to three digits.

    Args:
        value: In [0, 1], or missing.
    """
    return "n/a" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _comparison(results: StudyResults, method: str) -> str:
    row, label, base = results.pairs_df.loc[method], method_label(method), method_label(results.baseline)
    if not row["pairs"]:
        return f"{label} and {base} have no experiment in common."
    if row["low"] > 0:
        start = f"{label} beats {base}"
    elif row["high"] < 0:
        start = f"{label} falls behind {base}"
    elif pd.isna(row["low"]):
        start = f"{label} beside {base}, from a single experiment"
    else:
        start = f"{label} cannot be told from {base}"
    gain = f"{gain_text(row['difference'], results.scale)} points"
    interval = interval_text(row["low"], row["high"], results.scale)
    return f"{start}: {gain} {interval}".rstrip() + f", higher on {_share_of_tasks(results, method)}."


def _share_of_tasks(results: StudyResults, method: str) -> str:
    """``5 of 7 tasks``: those where its mean is above the baseline's."""
    gains = results.gains_df.xs(method, level="method")["difference"].dropna()
    equal = int((gains == 0).sum())
    noun = "task" if results.has_seeds else "experiment"
    ties = f", equal on {equal}" if equal else ""
    return f"{int((gains > 0).sum())} of {len(gains)} {noun}{'s' if len(gains) != 1 else ''}{ties}"


def _sight(results: StudyResults) -> str:
    """What the study was too small to see."""
    rows = results.pairs_df.sort_values("difference", ascending=False, kind="stable")
    row, method = rows.iloc[0], str(rows.index[0])
    if pd.isna(row["visible"]):
        return "How large a gain this study could have missed is not known: no spread was measured."
    if not row["visible"]:
        return "The differences do not vary at all, so any gain would have been seen."
    size = _size(results, method)
    limit = number(results.scale * row["visible"])
    text = f"With {size}, a true gain of {method_label(method)} under {limit} points could easily have been missed"
    text += " (fewer than 4 in 5 such studies would see it)"
    if row["low"] > 0 or not row["difference"] > 0:
        return f"{text}."
    needed = results.seeds_for(method, row["difference"])
    gain = gain_text(row["difference"], results.scale)
    enough = f"about {needed}" if needed else "more than 256"
    unit = "seeds of each task" if results.has_seeds else "experiments"
    return f"{text}; to see {gain} points would take {enough} {unit}."


def _size(results: StudyResults, method: str) -> str:
    paired = results.scores[[results.baseline, method]].dropna()
    if not results.has_seeds:
        return f"{len(paired)} experiments"
    seeds = int(paired.groupby(level=0).size().median())
    return f"{seeds} seed{'s' if seeds != 1 else ''}"


def _ranks(results: StudyResults) -> str:
    statistic, pvalue = results.friedman
    if pd.isna(pvalue):
        return "There is no experiment in which every method has a score, so methods cannot be ranked."
    test = f"Friedman χ² = {statistic:.2f}, p {_relation(pvalue)}, over {results.complete} experiments"
    if pvalue >= 0.05:
        return f"The ranks of the methods do not differ beyond chance ({test})."
    alike = [" = ".join(map(method_label, group)) for group in results.groups if len(group) > 1]
    what = f"these are not told apart: {'; '.join(alike)}" if alike else "all of them are told apart"
    return f"The ranks of the methods differ ({test}); by Conover's test {what}."


def _relation(pvalue: float) -> str:
    text = pvalue_text(pvalue)
    return text if text.startswith("<") else f"= {text}"


def _runs(results: StudyResults) -> str:
    runs_df = results.runs_df
    without = runs_df[runs_df["score"].isna()]
    if without.empty:
        return f"All {len(runs_df)} runs have a score."
    counts = without["status"].value_counts()
    kinds = ", ".join(f"{count} {status if status != 'done' else 'without one'}" for status, count in counts.items())
    return (
        f"{len(runs_df) - len(without)} of {len(runs_df)} runs have a score ({kinds}). A run without one counts as "
        "not solved in the profile; differences and ranks leave its experiment out. None is filled in."
    )


def _undefined(results: StudyResults) -> str:
    count = results.profile.attrs["undefined"]
    if not count:
        return ""
    of = "1 experiment" if count == 1 else f"{count} experiments"
    return f"In {of} the best score is zero or negative, where a ratio says nothing: only the best method solves it."
