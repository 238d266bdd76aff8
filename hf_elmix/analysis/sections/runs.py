"""Report section: every run with its settings and cost."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.numbers import counted
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import Section
from hf_elmix.plotting import method_label

__all__ = ["runs_section", "shared_settings"]

MANY = 2000  # rows in a table of the page, at most; a browser needs a second for as many
LISTED = ("score", "seconds", "steps_trained", "steps_inherited", "error")


def runs_section(results: StudyResults) -> Section:
    """Make the section that lists the runs, what they cost and their settings."""
    runs_df, curves_df = results.runs_df, results.curves_df
    settings, shared = _settings(runs_df), shared_settings(runs_df)
    names = dict.fromkeys(name for values in settings.values() for name in values if name not in shared)
    tables = [_runs(runs_df, {text: k for k, text in enumerate(settings, start=1)}, linked=bool(names))]
    if names:
        rows = [
            [Cell(str(k), k, anchor=f"settings-{k}"), *(Cell(values.get(name, "")) for name in names)]
            for k, values in enumerate(list(settings.values())[:MANY], start=1)
        ]
        caption = f"Settings that differ between runs. number: as in the list of runs.{_first(len(settings), 'set')}"
        tables.append(Table("settings", "Settings that differ", caption, ["number", *names], rows, page_only=True))
    if shared:
        rows = [[Cell(name), Cell(value)] for name, value in shared.items()]
        caption = "Settings that are the same for all runs."
        tables.append(Table("shared-settings", "Settings of all runs", caption, ["setting", "value"], rows, True))
    data = {"runs": runs_df} if curves_df is None else {"runs": runs_df, "curves": curves_df}
    return Section("runs", "Runs", _cost(runs_df), tables=tables, data=data)


def shared_settings(runs_df: pd.DataFrame) -> dict[str, str]:
    """Find the settings that are the same for all runs, by full name, such as ``arguments.learning_rate``."""
    found = list(_settings(runs_df).values())
    names = dict.fromkeys(name for values in found for name in values)
    return {name: found[0][name] for name in names if len({values.get(name) for values in found}) == 1}


def _settings(runs_df: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Parse each distinct settings text of the runs into values by full name."""
    return {text: _flat(text) for text in runs_df["settings"].dropna().unique()} if "settings" in runs_df else {}


def _flat(text: str) -> dict[str, str]:
    try:
        values = json.loads(str(text))
    except (ValueError, RecursionError):  # a file of scores may have a column of that name
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


def _runs(runs_df: pd.DataFrame, numbers: dict[str, int], *, linked: bool) -> Table:
    total = len(runs_df)
    if total > MANY:
        runs_df = pd.concat([runs_df[runs_df["score"].isna()], runs_df[runs_df["score"].notna()]])[:MANY]
    columns = [name for name in LISTED if name in runs_df and runs_df[name].notna().any()]
    parts = {
        "task": runs_df["task"].astype(str).map(Cell),
        "method": runs_df["method"].map(lambda name: Cell(method_label(name))),
        "seed": _cells(runs_df["seed"]),
        "status": runs_df["status"].map(Cell),
        **{name.replace("_", " "): _cells(runs_df[name]) for name in columns},
    }
    if numbers:
        cells = {text: Cell(str(k), k, f"settings-{k}" if linked and k <= MANY else "") for text, k in numbers.items()}
        parts["settings"] = [cells.get(text, Cell("")) for text in runs_df["settings"]]
    caption = "All runs. If a run has no score, its status says why. Other metrics are in data/runs.csv."
    caption += _first(total, "run", ", those without a score first")
    return Table("runs", "List of runs", caption, list(parts), list(zip(*parts.values(), strict=True)), page_only=True)


def _first(total: int, noun: str, order: str = "") -> str:
    """A sentence that says which rows are shown, with a space before it; empty if all are."""
    return f" Shown: {MANY:,} of {counted(total, noun)}{order}; data/runs.csv has all." if total > MANY else ""


def _cells(column: pd.Series) -> pd.Series:
    """Numbers with up to six digits, or texts; empty if missing."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.map(lambda value: Cell("" if pd.isna(value) else str(value)))
    look = "{:.6g}" if pd.api.types.is_float_dtype(column) else "{}"
    return column.map(lambda value: Cell("") if pd.isna(value) else Cell(look.format(value), value))


def _cost(runs_df: pd.DataFrame) -> str:
    texts = {
        "seconds": "{:,.0f} seconds of work",
        "steps_trained": "{:,.0f} steps trained",
        "steps_inherited": "{:,.0f} steps inherited from shared prefixes",
    }
    sums = {name: pd.to_numeric(runs_df[name], errors="coerce").sum() for name in texts if name in runs_df}
    parts = [texts[name].format(value) for name, value in sums.items() if value]
    return f"All runs together: {', '.join(parts)}." if parts else ""
