"""Report section: does a method help, by how much, how certain is that, and on which tasks?"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pandas as pd

from hf_elmix.analysis.comparison import compare, seeds_needed
from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.numbers import counted, difference_text, gain_text, interval_text, number, p_equals, pvalue_text
from hf_elmix.analysis.plots import CROWD, ROWS, plot_differences, plot_profile, plot_ranks
from hf_elmix.analysis.profile import performance_profile, profile_bands
from hf_elmix.analysis.results import StudyResults, learned
from hf_elmix.analysis.sections.base import PERCENT, FigureSpec, Section
from hf_elmix.analysis.sections.sequential import sequential_verdict
from hf_elmix.errors import UsageError
from hf_elmix.losses.schedules import MixingSchedule
from hf_elmix.losses.weights import weights_to_text
from hf_elmix.plotting import legend_rows, method_label

__all__ = ["describe_labels", "describe_loss", "summary_section", "verdict"]

ACROSS = (
    "interval over tasks: the same for tasks drawn at random, as in a mixed model with random effects of tasks and "
    "seeds; the first is about these tasks, this one about others like them. "
)
TAUS = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5)
LOSSES = {
    "focal": "focal loss",
    "mae": "mean absolute error",
    "gce": "generalised cross entropy",
    "tce": "tamed cross entropy",
    "mpce": "maximum-probability cross entropy",
    "cot": "complement objective training",
    "mmc": "Max-Mahalanobis centre loss",
    "ce-rescaled": "cross entropy with the learning rate rescaled to the gradients of the mixed loss",
}


def summary_section(results: StudyResults) -> Section:
    """Make the section with the verdict, the figures of the paper and the tables behind them."""
    tables = [_methods(results), _profile(results)]
    data = {
        "profile": results.profile.reset_index(),
        "profile_low": results.bands[0].reset_index(),
        "profile_high": results.bands[1].reset_index(),
        "methods": results.methods_df.reset_index(),
    }
    if results.others:
        tables[1:1] = [_pairs(results), _conover(results)]
        data |= {
            "pairs": results.pairs_df.reset_index(),
            "conover": results.conover.rename_axis("method").reset_index(),
            "friedman": pd.DataFrame([results.friedman._asdict()]),
        }
    figures = [("", _pictures(results))]
    return Section("summary", "Summary", describe_labels(results), tables=tables, pictures=figures, data=data)


def describe_labels(results: StudyResults) -> str:
    """Say what the labels of the methods mean, how to write them on command lines, and what the score is."""
    losses, sentences = _losses(results.runs_df), []
    labels = {method: method_label(method) for method in results.shown}
    for method, label in labels.items():
        # In a file of scores only the names are known: "mae" may be anything, "ce" is cross entropy.
        loss = describe_loss(losses.get(method, method if label != method else ""))
        if method == results.baseline:
            loss = f"{loss} (the baseline)" if loss else "the baseline"
        sentences += [f"{label}: {loss}."] if loss else []
    if any(label.startswith("F = ") for label in labels.values()):
        sentences.append(
            "The focus F is the probability of the correct class at which the gradient of the mixed loss is largest."
        )
    if renamed := [method for method, label in labels.items() if label != method]:
        sentences.append(f"On command lines: {'; '.join(renamed)}.")
    tasks: dict[str, list[str]] = {}
    for task, metric in results.runs_df.attrs.get("score_metrics", {}).items():
        tasks.setdefault(metric.replace("_", " "), []).append(task)
    if tasks:
        named = [f"{metric} ({', '.join(names)})" if len(tasks) > 1 else metric for metric, names in tasks.items()]
        sentences.append(f"Score: {', '.join(named)}.")
    return " ".join(sentences)


def describe_loss(loss: str) -> str:
    """Name a loss in words, from its string, such as ``mix:0-0.5``; empty for a custom one."""
    name = loss.partition(":")[0]
    if name in LOSSES:
        return LOSSES[name]
    try:
        schedule = MixingSchedule.parse(loss)
    except UsageError:
        return ""
    if schedule.mixing in ("ce", "el"):
        return "cross entropy" if schedule.mixing == "ce" else "expectation loss, 1 − p(y|x)"
    phases = schedule.phases
    weights = [weights_to_text(phase.alpha, phase.beta) for phase in phases]
    values = [f"α:β = {text}" if ":" in text else f"focus {text}" for text in weights]
    focuses = [] if any(":" in text for text in weights) else [(1 - p.alpha / p.beta) / 2 for p in phases]
    if len(focuses) > 2 and all(one < two for one, two in pairwise(focuses)):
        return f"the mixed loss with its focus rising from {weights[0]} to {weights[-1]} in {len(weights)} steps"
    if len(phases) > 4:
        return f"the mixed loss on a schedule of {len(phases)} phases"
    later = [
        f", then {one} from {PERCENT * phase.start:g} % of the training"
        for one, phase in zip(values, phases, strict=True)
    ]
    return f"the mixed loss with {values[0]}{''.join(later[1:])}"


def _losses(runs_df: pd.DataFrame) -> dict[str, str]:
    """The string of each method's loss, if the runs have settings; a file of scores may have other ones."""
    try:
        known = runs_df.dropna(subset="settings").groupby("method")["settings"].first()
        found = {str(method): json.loads(settings)["loss"] for method, settings in known.items()}
        return {method: loss for method, loss in found.items() if isinstance(loss, str)}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def verdict(results: StudyResults) -> list[str]:
    """Say what the study found, in a sentence for each method, the best first, and sentences on the whole."""
    if not results.others:
        return [f"{method_label(results.baseline)} is the only method: there is nothing to compare.", _runs(results)]
    if results.looks_df is not None and results.rules is not None:
        known = learned(results.runs_df)
        return [*sequential_verdict(results.looks_df, results.rules, known, results.test_df), _runs(results)]
    best = [method for method in results.best_first if method in results.shown]
    sentences = [*(_comparison(results, method) for method in best), *_left_out(results), *_chance(results)]
    sentences += [_detectable(results, best[0]), _ranks(results), _runs(results), *_collapsed(results)]
    if undefined := results.profile.attrs["undefined"]:
        sentences.append(
            f"In {counted(undefined, 'block')} the best score is zero or negative, so ratios to it are undefined: "
            "only the best method counts as solving it."
        )
    return sentences


def _left_out(results: StudyResults) -> list[str]:
    """Count how the methods differ from the baseline that have no sentence of their own."""
    rest = results.pairs_df.drop(index=[method for method in results.shown if method != results.baseline])
    if rest.empty:
        return []
    better, worse = int((rest["low"] > 0).sum()), int((rest["high"] < 0).sum())
    return [
        f"Of {counted(len(rest), 'other method')}, {better} are significantly better and {worse} significantly worse "
        f"than {method_label(results.baseline)}; data/pairs.csv has them all."
    ]


def _chance(results: StudyResults) -> list[str]:
    """Say, where a difference is significant, how often one of so many intervals is wrong (Bonferroni's bound)."""
    pairs_df = results.pairs_df
    many = len(pairs_df)
    if many == 1 or not ((pairs_df["low"] > 0) | (pairs_df["high"] < 0)).any():
        return []
    return [
        f"Each of these {many} intervals misses the true difference in 5 % of studies, so at least one of them does "
        f"in up to {min(5 * many, 100)} %: they are not adjusted for their number."
    ]


def _comparison(results: StudyResults, method: str) -> str:
    row, label, base = results.pairs_df.loc[method], method_label(method), method_label(results.baseline)
    if not row["pairs"]:
        return f"{label} and {base} have no block in common."
    if row["low"] > 0:
        start = f"{label} is significantly better than {base}"
    elif row["high"] < 0:
        start = f"{label} is significantly worse than {base}"
    elif pd.isna(row["low"]) and row["pairs"] == 1:
        start = f"{label} and {base} have only one block in common"
    elif pd.isna(row["low"]):
        start = f"The difference between {label} and {base} does not vary, in too few blocks for an interval"
    else:
        start = f"{label} is not significantly different from {base}"
    gain = difference_text(row, results.scale, unit=" points")
    # Rounded, so that means are equal which differ only in the order of additions.
    gains = results.gains_df.xs(method, level="method")["difference"].dropna().round(12)
    ties = f", equal on {equal}" if (equal := int((gains == 0).sum())) else ""
    higher = f"{int((gains > 0).sum())} of {counted(len(gains), 'task')}"
    return f"{start}: {gain}, higher on {higher}{ties}."


def _detectable(results: StudyResults, method: str) -> str:
    """Say which difference the study could have detected, and how many seeds would detect that of the best method."""
    row, scale = results.pairs_df.loc[method], results.scale
    effect = row["minimum_detectable_effect"]
    if pd.isna(effect) or not effect:
        return "The minimum detectable effect is unknown, because no variance could be measured."
    pair = results.scores[[results.baseline, method]]
    per_task = pair.dropna().groupby(level=0).size()
    seeds = f"{counted(int(per_task.median()), 'seed')} per task"
    size = seeds if results.has_seeds else counted(len(per_task), "task")
    text = (
        f"With {size}, this study had an 80 % chance of detecting a true difference of {number(scale * effect)} "
        f"points between {method_label(method)} and {method_label(results.baseline)}; smaller differences could "
        "easily be missed"
    )
    if row["low"] > 0 or not row["difference"] > 0:
        return f"{text}."
    needed = seeds_needed(pair, row["difference"], results.baseline, results.seed)[method]
    enough = "more than 256" if pd.isna(needed) else f"about {needed}"
    unit = "seeds per task" if results.has_seeds else "tasks"
    gain = gain_text(row["difference"], scale)
    return f"{text}. Detecting a difference of {gain} points would take {enough} {unit}."


def _ranks(results: StudyResults) -> str:
    statistic, pvalue = results.friedman
    if pd.isna(pvalue):
        return "No block has a score for every method, so the methods cannot be ranked."
    if len(results.ranked) == 1:
        return "Ranks cannot be tested, because only one task has scores for every method."
    test = f"Friedman χ² = {number(statistic)}, {p_equals(pvalue)}, {results.ranked_blocks}"
    if pvalue >= 0.05:
        return f"The test of mean ranks finds no significant difference between the methods ({test})."
    if len(results.shown) < len(results.methods):
        return f"The mean ranks of the methods differ significantly ({test}); data/conover.csv says which."
    labels = [[method_label(name) for name in group] for group in results.groups if len(group) > 1]
    alike = "; ".join(f"{', '.join(names[:-1])} and {names[-1]}" for names in labels)
    found = f"no significant difference between {alike}" if alike else "significant differences between all of them"
    return f"The mean ranks of the methods differ significantly ({test}); Conover's test finds {found}."


def _runs(results: StudyResults) -> str:
    runs_df = results.runs_df
    without = runs_df[runs_df["score"].isna()]
    if without.empty:
        return f"All {len(runs_df)} runs have a score." if len(runs_df) > 1 else "The only run has a score."
    counts = without["status"].value_counts()
    kinds = ", ".join(f"{count} {status if status != 'done' else 'without one'}" for status, count in counts.items())
    return (
        f"{len(runs_df) - len(without)} of {len(runs_df)} runs have a score ({kinds}). Missing scores are never "
        "imputed: such a run counts as not solved in the performance profile, and its block is left out of "
        "differences and ranks."
    )


def _collapsed(results: StudyResults) -> list[str]:
    """Say which runs predict a single class, and what remains of each difference without their blocks."""
    counts = results.collapsed.groupby(level="method").sum()
    if not counts.any():
        return []
    named = [f"{counts[method]} of {method_label(method)}" for method in results.shown if counts[method]]
    start = f"{counted(int(counts.sum()), 'run')} predict a single class for all rows ({', '.join(named)})"
    rest = results.without_collapsed()
    if rest.empty:
        return [f"{start}; no block is free of such runs."]
    compared = compare(rest[results.shown], results.baseline)
    gains = [f"{method_label(str(row.Index))} {difference_text(row, results.scale)}" for row in compared.itertuples()]
    return [f"{start}. Without their blocks ({len(rest)} of {len(results.scores)} remain): {'; '.join(gains)}."]


def _pictures(results: StudyResults) -> list[FigureSpec]:
    """The performance profile (Fig. 2) and, with several methods, their differences and ranks (Fig. 3)."""
    shown = results.shown
    legend = 0.2 * legend_rows(shown)
    profile, bands = results.profile[shown], (results.bands[0][shown], results.bands[1][shown])
    pictures = [
        FigureSpec(
            "profile",
            "Performance profile: for each threshold τ, the share of blocks in which a method reaches at least τ "
            "times the best score. Higher is better; at τ = 1 it is the share of wins. Shaded: 95 % bootstrap bands."
            f"{results.selection}",
            lambda ax: plot_profile(profile, ax, bands=bands),
            3.9 + (legend if len(shown) > CROWD else 0),
        )
    ]
    if results.others:
        look: dict[str, Any] = {"order": shown, "scale": results.scale}
        gains = results.gains_df[results.gains_df.index.get_level_values("method").isin(shown)]
        tasks = min(ROWS, results.gains_df.index.get_level_values(0).nunique())
        caption = (
            f"Difference from {method_label(results.baseline)} on each task: mean over seeds with its 95 % interval. "
            "An interval that excludes 0 is a significant difference on that task, not adjusted for multiple tests."
            f"{results.selection}"
        )
        height = 0.9 + legend + tasks * max(0.32, 0.12 * (len(shown) - 1))
        draw = lambda ax: plot_differences(gains, results.baseline, ax, **look)  # noqa: E731
        pictures.append(FigureSpec("differences", caption, draw, height))
    if results.others and results.groups:
        ranks = results.methods_df["rank"][shown].dropna()
        tested = (
            "Bars join methods without a significant difference at 0.05 (Friedman's test, then Conover's with "
            "Benjamini and Hochberg's adjustment), which does not mean that they are equal."
        )
        testable = len(results.ranked) > 1
        caption = (
            f"Mean ranks over {results.ranked_blocks} in which every method has a score. "
            f"{tested if testable else 'Ranks cannot be tested with one task.'}{results.selection}"
        )
        parts = dict.fromkeys(tuple(name for name in group if name in shown) for group in results.groups)
        joined = [one for one in parts if not any(set(one) < set(other) for other in parts)]
        groups = joined if testable else []
        height = 1.05 + 0.28 * len(ranks) + 0.12 * len(groups)
        pictures.append(FigureSpec("ranks", caption, lambda ax: plot_ranks(ranks, groups, ax), height))
    return pictures


def _methods(results: StudyResults) -> Table:
    rows = [
        [
            Cell(method_label(str(row.Index))),
            Cell(f"{row.runs:.0f}/{row.expected:.0f}", row.runs),
            Cell(f"{row.wins:.0f}", row.wins),
            Cell(gain_text(row.gain, results.scale), row.gain),
            Cell(number(row.rank), row.rank),
            Cell(number(row.area, 3), row.area),
        ]
        for row in results.methods_df.itertuples()
    ]
    caption = (
        "runs: runs with a score, of all. wins: blocks in which the method is best (a tie is a win for each). "
        f"difference: mean difference from {method_label(results.baseline)}, in points. mean rank: over "
        f"{results.ranked_blocks} in which every method has a score; 1 is best. profile area: mean "
        f"height of the performance profile for τ from {results.tau_min:g} to 1."
    )
    header = ["method", "runs", "wins", "difference", "mean rank", "profile area"]
    return Table("methods", "Methods", caption, header, rows)


def _pairs(results: StudyResults) -> Table:
    scale, both = results.scale, bool(results.pairs_df["task_low"].notna().any())
    rows = [
        [
            Cell(method_label(str(row.Index))),
            Cell(gain_text(row.difference, scale), row.difference),
            Cell(interval_text(row.low, row.high, scale) or "n/a", row.low),
            *([Cell(interval_text(row.task_low, row.task_high, scale) or "n/a", row.task_low)] if both else []),
            Cell(f"{row.better:.0f}/{row.equal:.0f}/{row.worse:.0f}", row.better),
            Cell(number(row.improvement), row.improvement),
            Cell(pvalue_text(row.sign_p), row.sign_p),
            Cell(pvalue_text(row.wilcoxon_p), row.wilcoxon_p),
            Cell(number(scale * row.minimum_detectable_effect), row.minimum_detectable_effect),
        ]
        for row in results.pairs_df.itertuples()
    ]
    units = "tasks, by their means over seeds" if both else "blocks"
    caption = (
        f"Each method compared with {method_label(results.baseline)} in the same blocks. difference: mean difference, "
        f"in points. 95 % interval: of that mean, over {'the seeds of each task' if results.has_seeds else 'tasks'}. "
        f"{ACROSS if both else ''}better/equal/worse: number of {units}. share better: share of blocks in which the "
        "method is better, ties counted half. sign p, Wilcoxon p: two-sided p-values of the sign test and of "
        f"Wilcoxon's signed-rank test over {units}. Neither these nor the intervals are adjusted for the number of "
        "methods. MDE: minimum detectable effect, the true difference in points that 80 % of studies of this size "
        "would detect."
    )
    header = [
        "method",
        "difference",
        "95 % interval",
        *(["interval over tasks"] if both else []),
        "better/equal/worse",
        "share better",
        "sign p",
        "Wilcoxon p",
        "MDE",
    ]
    return Table("pairs", "Differences", caption, header, rows)


def _conover(results: StudyResults) -> Table:
    rows = [
        [
            Cell(method_label(one)),
            *(Cell("·", 1.0) if one == other else Cell(pvalue_text(p), p) for other, p in pvalues.items()),
        ]
        for one, pvalues in results.conover.loc[results.shown, results.shown].iterrows()
    ]
    caption = (
        f"p-values of Conover's test for each pair of mean ranks over {results.ranked_blocks}, adjusted for multiple "
        "comparisons (Benjamini and Hochberg). "
    )
    if len(results.ranked) > 1:
        friedman = p_equals(results.friedman.pvalue)
        caption += f"They are meaningful only if Friedman's test is significant (here {friedman})."
    else:
        caption += f"Ranks cannot be tested over {results.ranked_blocks}."
    caption += results.selection
    return Table("conover", "Pairwise tests of ranks", caption, ["method", *map(method_label, results.shown)], rows)


def _profile(results: StudyResults) -> Table:
    taus = [tau for tau in TAUS if tau == 1 or tau >= results.tau_min]
    profile = performance_profile(results.scores, taus)
    low, high = profile_bands(results.scores, results.seed, taus)
    rows = []
    for name in results.methods:
        shares = zip(profile.loc[taus, name], low.loc[taus, name], high.loc[taus, name], strict=True)
        bands = [Cell(f"{share:.2f} [{start:.2f}, {end:.2f}]", share) for share, start, end in shares]
        rows.append([Cell(method_label(name)), *bands])
    caption = (
        f"For each τ, the share of {counted(len(results.scores), 'block')} in which the method reaches at least τ "
        "times the best score. In brackets: 95 % bootstrap bands, for which "
        f"{'seeds within tasks' if results.has_seeds else 'tasks'} are resampled."
    )
    return Table("profile", "Performance profile", caption, ["method", *(f"τ = {tau:g}" for tau in taus)], rows)
