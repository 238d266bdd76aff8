"""The tables of a report, from its results."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.profile import performance_profile, profile_bands
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.secondary_metrics import ALL, SecondaryMetric
from hf_elmix.analysis.words import first_upper, gain_text, interval_text, number, pvalue_text
from hf_elmix.plotting import method_label

__all__ = ["report_tables", "runs_view", "settings_view"]

TAUS = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5)


def report_tables(results: StudyResults) -> list[Table]:
    """The tables of a paper, in the order of the page.

    Args:
        results: The study.
    """
    tables = [_methods(results), _scores(results), _profile(results)]
    if results.others:
        tables[1:1] = [_pairs(results), _gains(results), _conover(results)]
    return [*tables, *(_secondary(results, metric, k) for k, metric in enumerate(results.secondary_metrics, start=1))]


def settings_view(runs_df: pd.DataFrame) -> tuple[dict[str, str], Table]:
    """The settings that all runs share, by name, and a table of those in which they differ, numbered from 1.

    Args:
        runs_df: From `runs_table`.
    """
    found = [_flat(text) for text in _distinct(runs_df)]
    names = list(dict.fromkeys(name for settings in found for name in settings))
    shared = [name for name in names if len({settings.get(name) for settings in found}) == 1]
    others = [name for name in names if name not in shared]
    rows = [
        [Cell(str(k), k), *(Cell(settings.get(name, "")) for name in others)]
        for k, settings in enumerate(found, start=1)
    ]
    caption = "Settings in which runs differ; the runs above have their number."
    return {name: found[0][name] for name in shared}, Table("settings", "Settings", caption, ["number", *others], rows)


def runs_view(results: StudyResults) -> Table:
    """Every run: its score, what it cost, and the number of its settings.

    Args:
        results: The study.
    """
    runs_df = results.runs_df
    numbers = {text: k for k, text in enumerate(_distinct(runs_df), start=1)}
    settings = runs_df["settings"].map(numbers).fillna(0).astype(int) if numbers else pd.Series(0, runs_df.index)
    shown = {"score": "score", "seconds": "seconds", "steps_trained": "steps trained"}
    shown |= {"steps_inherited": "steps inherited", "error": "error"}
    columns = [name for name in shown if name in runs_df and runs_df[name].notna().any()]
    header = ["task", "method", "seed", "status", *(shown[name] for name in columns)]
    parts = [runs_df["task"].astype(str).map(Cell), runs_df["method"].map(lambda name: Cell(method_label(name)))]
    parts += [_plain(runs_df["seed"]), runs_df["status"].map(Cell), *(_plain(runs_df[name]) for name in columns)]
    if numbers:
        header.append("settings")
        parts.append(settings.map(lambda k: Cell(str(k), k) if k else Cell("")))
    rows = list(zip(*parts, strict=True))
    caption = "Every run. Other metrics are in data/runs.csv; a run without a score says why in its status."
    return Table("runs", "Runs", caption, header, rows)


def _distinct(runs_df: pd.DataFrame) -> list[str]:
    """The settings of the runs, each once."""
    return [] if "settings" not in runs_df else runs_df["settings"].dropna().drop_duplicates().to_list()


def _flat(text: str) -> dict[str, str]:
    """Settings by their full names, such as ``arguments.learning_rate``."""
    try:
        values = json.loads(text)
    except ValueError:  # a column of that name in a file of scores
        values = text
    flat: dict[str, str] = {}
    pending: list[tuple[str, Any]] = [("settings", values)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{name}.{part}", value[part]) for part in reversed(value)]
        else:
            flat[name.removeprefix("settings.")] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _methods(results: StudyResults) -> Table:
    rows = [
        [
            Cell(method_label(str(row.Index))),
            Cell(f"{row.runs:.0f}/{row.expected:.0f}", row.runs),
            Cell(f"{row.wins:.0f}", row.wins),
            _signed(row.gain, results.scale),
            Cell(number(row.rank), row.rank),
            Cell(number(row.area, 3), row.area),
        ]
        for row in results.methods_df.itertuples()
    ]
    caption = (
        "Runs with a score; experiments in which the method is best, ties counting for every winner; mean gain over "
        f"{method_label(results.baseline)} in points; mean rank over the {results.complete} experiments in which "
        "every method has a score (1 is best); mean height of the performance profile for τ from "
        f"{results.tau_min:g} to 1."
    )
    header = ["method", "runs", "wins", "gain", "mean rank", "profile area"]
    return Table("methods", "Methods", caption, header, rows)


def _pairs(results: StudyResults) -> Table:
    rows = [
        [
            Cell(method_label(str(row.Index))),
            _signed(row.difference, results.scale),
            Cell(interval_text(row.low, row.high, results.scale) or "n/a", row.low),
            Cell(f"{row.better:.0f}/{row.equal:.0f}/{row.worse:.0f}", row.better),
            Cell(number(row.improvement), row.improvement),
            Cell(pvalue_text(row.sign_p), row.sign_p),
            Cell(pvalue_text(row.wilcoxon_p), row.wilcoxon_p),
            Cell(number(results.scale * row.visible), row.visible),
        ]
        for row in results.pairs_df.itertuples()
    ]
    over = "over the seeds of each task" if results.has_seeds else "over experiments"
    caption = (
        f"Each method beside {method_label(results.baseline)} in the same experiments (same task, same seed): mean "
        f"difference in points with its 95 % interval {over}; experiments in which it is better, equal and worse; "
        "probability of improvement; two-sided p-values of the sign test and of Wilcoxon's signed-rank test, each for "
        "one comparison alone; smallest true gain that 4 in 5 studies of this size would see."
    )
    header = ["method", "difference", "95 % interval", "better/equal/worse", "P(better)", "sign p", "Wilcoxon p"]
    return Table("pairs", "Differences", caption, [*header, "visible gain"], rows)


def _gains(results: StudyResults) -> Table:
    found: dict[str, dict[str, Cell]] = {}
    for row in results.gains_df.reset_index().itertuples():
        found.setdefault(str(row.task), {})[str(row.method)] = _gain_cell(row, results.scale)
    rows = [[Cell(task), *(cells[method] for method in results.others)] for task, cells in found.items()]
    caption = f"Difference from {method_label(results.baseline)} on each task, in points, with its 95 % interval."
    header = ["task", *map(method_label, results.others)]
    return Table("gains", "Differences by task", caption, header, rows)


def _gain_cell(row: Any, scale: float) -> Cell:
    text = f"{gain_text(row.difference, scale)} {interval_text(row.low, row.high, scale)}".rstrip()
    return Cell(text, row.difference)


def _scores(results: StudyResults) -> Table:
    unit = " in percent" if results.scale == 100 else ""
    caption = f"Mean score{unit} ± standard deviation over seeds (n − 1), with the number of runs."
    rows = _score_rows(results.summary_df, results.methods, results.scale)
    return Table("scores", "Scores", caption, ["task", *map(method_label, results.methods)], rows)


def _secondary(results: StudyResults, metric: SecondaryMetric, place: int) -> Table:
    unit = ", in percent" if metric.scale == 100 else ""
    over = f" ({ALL}: over their runs)" if ALL in set(metric.summary_df["task"]) else ""
    caption = f"{metric.label}{unit}: mean ± standard deviation over seeds (n − 1){over}, with the number of runs."
    rows = _score_rows(metric.summary_df, results.methods, metric.scale)
    header = ["task", *map(method_label, results.methods)]
    return Table(f"secondary-{place}", first_upper(metric.label), first_upper(caption), header, rows)


def _score_rows(summary_df: pd.DataFrame, methods: list[str], scale: float) -> list[list[Cell]]:
    """A row for each task, a cell for each method."""
    summary = summary_df.set_index(["task", "method"])
    found = {key: _score_cell(row, scale) for key, row in zip(summary.index, summary.itertuples(), strict=True)}
    return [
        [Cell(str(task)), *(found.get((task, method), Cell("no run")) for method in methods)]
        for task in dict.fromkeys(summary_df["task"])
    ]


def _score_cell(row: Any, scale: float) -> Cell:
    mean, sd, runs, expected = (getattr(row, name) for name in ("mean", "sd", "runs", "expected"))
    count = f"({runs})" if runs == expected else f"({runs}/{expected})"
    if not runs:
        return Cell(f"no score {count}")
    spread = "" if pd.isna(sd) else f" ± {number(scale * sd)}"
    return Cell(f"{number(scale * mean)}{spread} {count}", mean)


def _profile(results: StudyResults) -> Table:
    taus = [tau for tau in TAUS if tau == 1 or tau >= results.tau_min]
    profile = performance_profile(results.scores, taus)
    low, high = profile_bands(results.scores, results.seed, taus)
    rows = [
        [
            Cell(method_label(name)),
            *(
                Cell(
                    f"{profile.loc[tau, name]:.2f} [{low.loc[tau, name]:.2f}, {high.loc[tau, name]:.2f}]",
                    profile.loc[tau, name],
                )
                for tau in taus
            ),
        ]
        for name in results.methods
    ]
    over = "seeds within their task" if results.has_seeds else "experiments"
    caption = (
        f"Share of the {len(results.scores)} experiments in which a method reaches at least τ times the best score, "
        f"with 95 % bootstrap bands that resample {over}."
    )
    return Table("profile", "Performance profile", caption, ["method", *(f"τ = {tau:g}" for tau in taus)], rows)


def _conover(results: StudyResults) -> Table:
    pvalues = results.conover
    rows = [
        [Cell(method_label(one)), *(_pvalue_cell(pvalues.loc[one, other], one == other) for other in results.methods)]
        for one in results.methods
    ]
    caption = (
        f"Conover's test of each pair of methods after Friedman's, over {results.complete} experiments: p-values "
        "adjusted by Benjamini and Hochberg. They count only where Friedman's test shows that some methods differ "
        f"(here p: {pvalue_text(results.friedman.pvalue)})."
    )
    return Table("conover", "Which methods differ", caption, ["method", *map(method_label, results.methods)], rows)


def _pvalue_cell(value: float, same: bool) -> Cell:
    return Cell("·", 1.0) if same else Cell(pvalue_text(value), value)


def _signed(value: float, scale: float) -> Cell:
    return Cell(gain_text(value, scale), value)


def _plain(column: pd.Series) -> pd.Series:
    """Cells of numbers or texts as they are, empty where there is none."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.map(lambda value: Cell("" if pd.isna(value) else str(value)))
    look = "{:.6g}" if pd.api.types.is_float_dtype(column) else "{}"
    return column.map(lambda value: Cell("") if pd.isna(value) else Cell(look.format(value), value))
