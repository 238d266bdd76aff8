"""From runs to a page, its figures and its tables."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_elmix.analysis.formats import Table, to_latex, to_markdown
from hf_elmix.analysis.plots import (
    CROWD,
    plot_differences,
    plot_losses,
    plot_means,
    plot_profile,
    plot_ranks,
    plot_scores,
    plot_weights,
)
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.secondary_metrics import SecondaryMetric
from hf_elmix.analysis.sections.base import Section
from hf_elmix.analysis.sections.calibration import calibration_section
from hf_elmix.analysis.sections.cohorts import cohort_section
from hf_elmix.analysis.tables import report_tables, runs_view, settings_view
from hf_elmix.analysis.words import secondary_sentence, verdict
from hf_elmix.plotting import legend_rows

__all__ = ["PAGE", "render_page", "write_report"]

PAGE = "report.html"
LOOK = {"svg.fonttype": "none", "font.size": 10, "axes.titlesize": 11, "legend.fontsize": 9}
WIDTH = 4.7  # inches: on a phone's width letters are still read
SHOWN = 40  # rows of the table of scores that a terminal gets
CURVES = 8  # tasks whose curves are drawn


def write_report(
    results: StudyResults, folder: str | Path, *, title: str = "Report of a study", commands: Sequence[str] = ()
) -> str:
    """Write the page, its figures and its tables, and return the verdict and the scores as text.

    Args:
        results: The study.
        folder: Where ``report.html``, ``tables.md``, ``tables.tex``, ``figures/`` (SVG and PNG) and ``data/`` (CSV and
            Parquet) go; made if need be.
        title: Heading of the page.
        commands: What to type to make all of this again.

    Returns:
        The verdict, a sentence a line, and the table of scores as Markdown where it has no more than 40 rows.

    Raises:
        OSError: If something cannot be written.
    """
    folder = Path(folder)
    for part in ("figures", "data"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    sections = _sections(results)
    figures, tables = _figures(results, sections), _tables(results, sections)
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            (folder / "figures" / f"{name}.{kind}").write_bytes(_drawn(figure, name, kind))
    for name, table in _data(results, sections).items():
        data = pa.Table.from_pandas(table, preserve_index=False)
        pa.csv.write_csv(data, folder / "data" / f"{name}.csv")  # pandas' own takes ten times as long
        pa.parquet.write_table(data, folder / "data" / f"{name}.parquet")
    (folder / "tables.md").write_text("\n".join(map(to_markdown, tables)), encoding="utf-8")
    (folder / "tables.tex").write_text("\n".join(map(to_latex, tables)), encoding="utf-8")
    page = _page(results, sections, figures, tables, title, commands)
    (folder / PAGE).write_text(page, encoding="utf-8")
    scores = next(table for table in tables if table.name == "scores")
    long = f"Scores of {len(scores.rows)} tasks: tables.md\n"
    said = [*verdict(results), *_beside(results), *(said for section in sections for said in section.sentences)]
    return "\n".join([*said, "", to_markdown(scores) if len(scores.rows) <= SHOWN else long])


def render_page(results: StudyResults, *, title: str = "Report of a study", commands: Sequence[str] = ()) -> str:
    """The page as HTML: everything it shows is in it, and nothing is loaded from elsewhere.

    Args:
        results: The study.
        title: Its heading.
        commands: What to type to make all of this again.
    """
    sections = _sections(results)
    figures, tables = _figures(results, sections), _tables(results, sections)
    return _page(results, sections, figures, tables, title, commands)


def _sections(results: StudyResults) -> list[Section]:
    """The parts that only studies with predictions have."""
    return [section for section in (cohort_section(results), calibration_section(results)) if section]


def _tables(results: StudyResults, sections: Sequence[Section]) -> list[Table]:
    return [*report_tables(results), *(table for section in sections for table in section.tables)]


def _page(
    results: StudyResults,
    sections: Sequence[Section],
    figures: Mapping[str, Figure],
    tables: Sequence[Table],
    title: str,
    commands: Sequence[str],
) -> str:
    loader = jinja2.PackageLoader("hf_elmix.analysis", ".")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page.filters["unbroken"] = _unbroken
    shared, settings = settings_view(results.runs_df)
    return page.get_template("page.html").render(
        title=title,
        verdict=verdict(results),
        results=results,
        figures={name: _inline(figure, name) for name, figure in figures.items()},
        curves=_curve_figures(results),
        weights=_weights_figure(results) if _tasks(results) else "",
        undrawn=max(0, len(_tasks(results)) - CURVES),
        tables={table.name: table for table in tables},
        beside=_beside(results),
        sections=sections,
        runs=runs_view(results),
        shared=shared,
        settings=settings,
        cost=_cost(results.runs_df),
        commands=commands,
    )


def _unbroken(text: str) -> str:
    """A sentence in which no line ends within ``F = 0`` or ``12 %``."""
    return text.replace(" = ", "\u00a0=\u00a0").replace(" %", "\u00a0%")


def _figures(results: StudyResults, sections: Sequence[Section]) -> dict[str, Figure]:
    """Fig. 2, what is told beside the score, and where there is something to compare Fig. 3 and the differences."""
    pictures = [picture for section in sections for group in section.pictures.values() for picture in group]
    legend = 0.2 * legend_rows(results.methods)
    figures = {"profile": _figure(_profile(results), 3.9 + (legend if len(results.methods) > CROWD else 0))}
    figures |= _secondary_figures(results)
    figures |= {picture.name: _figure(picture.draw, picture.height) for picture in pictures}
    if not results.others:
        return figures
    if results.groups:
        ranks = results.methods_df["rank"].dropna()
        height = 0.9 + 0.28 * len(ranks) + 0.12 * len(results.groups)
        figures["ranks"] = _figure(lambda ax: plot_ranks(ranks, results.groups, ax), height)
    look: dict[str, Any] = {"order": results.methods, "scale": results.scale}
    rows = min(40, results.gains_df.index.get_level_values(0).nunique()) * max(0.32, 0.12 * len(results.others))
    figures["differences"] = _figure(
        lambda ax: plot_differences(results.gains_df, results.baseline, ax, **look), 0.9 + legend + rows
    )
    return figures


def _profile(results: StudyResults) -> Callable[[Axes], Axes]:
    return lambda ax: plot_profile(results.profile, ax, experiments=len(results.scores), bands=results.bands)


def _secondary_figures(results: StudyResults) -> dict[str, Figure]:
    """Each metric that is told beside the score, by epoch."""
    curves, height = results.curves_df, 2.8 + 0.2 * legend_rows(results.methods)
    if curves is None:
        return {}
    return {
        f"secondary-{place}": _figure(partial(_draw_secondary, curves, metric, results.methods), height)
        for place, metric in enumerate(results.secondary_metrics, start=1)
    }


def _draw_secondary(curves: pd.DataFrame, metric: SecondaryMetric, order: Sequence[str], ax: Axes) -> Axes:
    return plot_means(curves, metric.metric, ax, order=order, scale=metric.scale, label=metric.label)


def _beside(results: StudyResults) -> list[str]:
    """What is told beside the score, a sentence for each metric."""
    return [secondary_sentence(metric, results.baseline) for metric in results.secondary_metrics]


def _curve_figures(results: StudyResults) -> dict[str, list[str]]:
    """For each task, as far as they are drawn, its score by epoch and the terms of its loss."""
    return {task: _curves(results, task, k) for k, task in enumerate(_tasks(results)[:CURVES])}


def _curves(results: StudyResults, task: str, place: int) -> list[str]:
    part, order = _curves_of(results, task), results.methods
    scores = _small_figure(lambda ax: plot_scores(part, ax, order=order, scale=results.scale), order)
    losses = _small_figure(lambda ax: plot_losses(part, ax, order=order), order)
    return [_inline(scores, f"score-{place}"), _inline(losses, f"loss-{place}")]


def _weights_figure(results: StudyResults) -> str:
    """The weights of the loss, from the first task: schedules are those of the methods."""
    part, order = _curves_of(results, _tasks(results)[0]), results.methods
    return _inline(_small_figure(lambda ax: plot_weights(part, ax, order=order), order), "weights")


def _curves_of(results: StudyResults, task: str) -> pd.DataFrame:
    assert results.curves_df is not None
    return results.curves_df[results.curves_df["task"] == task]


def _tasks(results: StudyResults) -> list[str]:
    """Tasks of which something was logged."""
    return [] if results.curves_df is None else sorted(results.curves_df["task"].unique())


def _figure(draw: Callable[[Axes], Axes], height: float, width: float = WIDTH) -> Figure:
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
    return figure


def _small_figure(draw: Callable[[Axes], Axes], methods: Sequence[str]) -> Figure:
    """One of several in a row, with margins of fixed size: finding them out would take as long as drawing does."""
    legend = 0.2 + 0.2 * legend_rows(methods)
    height, width = 2.8 + legend, 4.4
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width, height))
        margins = {"left": 0.75 / width, "right": 1 - 0.15 / width, "bottom": 0.5 / height, "top": 1 - legend / height}
        draw(figure.subplots(gridspec_kw=margins))
    return figure


def _drawn(figure: Figure, name: str, kind: str) -> bytes:
    """The file of a figure: the same numbers give the same bytes."""
    out = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Type", "Format")) if kind == "svg" else None
    # The salt is of this figure, so that what it refers to has a name of its own in a page of several.
    with matplotlib.rc_context({**LOOK, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a browser has fonts that Matplotlib has not
        figure.savefig(out, format=kind, dpi=160, metadata=nothing)
    return out.getvalue()


def _inline(figure: Figure, name: str) -> str:
    """A figure as part of a page: its black is the colour of the text, its ground that of the page."""
    figure.patch.set_alpha(0)
    for ax in figure.axes:
        ax.patch.set_alpha(0)
    svg = _drawn(figure, name, "svg").decode()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*" width="[^"]*"', r"\1\2", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(name)}" ', 1)


def _cost(runs_df: pd.DataFrame) -> dict[str, float]:
    """Sums over runs: seconds, steps that were trained, and steps taken over from runs that share them."""
    names = [name for name in ("seconds", "steps_trained", "steps_inherited") if name in runs_df]
    return {name: float(pd.to_numeric(runs_df[name], errors="coerce").sum()) for name in names}


def _data(results: StudyResults, sections: Sequence[Section]) -> dict[str, pd.DataFrame]:
    """Every number of the page, under the names of its tables."""
    tables = {
        "runs": results.runs_df,
        "scores": results.scores.reset_index(),
        "summary": results.summary_df,
        "profile": results.profile.reset_index(),
        "profile_low": results.bands[0].reset_index(),
        "profile_high": results.bands[1].reset_index(),
        "methods": results.methods_df.reset_index(),
    }
    if results.others:
        tables |= {"pairs": results.pairs_df.reset_index(), "gains": results.gains_df.reset_index()}
        tables |= {"conover": results.conover.rename_axis("method").reset_index()}
        tables |= {"friedman": pd.DataFrame([results.friedman._asdict()])}
    if results.secondary_metrics:
        tables["secondary_metrics"] = _stacked(
            {metric.metric: metric.summary_df for metric in results.secondary_metrics}
        )
    if results.secondary_metrics and results.others:
        tables["secondary_pairs"] = _stacked(
            {metric.metric: metric.pairs_df.reset_index() for metric in results.secondary_metrics}
        )
    for section in sections:
        tables |= section.data
    return tables if results.curves_df is None else {**tables, "curves": results.curves_df}


def _stacked(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of several metrics, one below the other."""
    return pd.concat(tables, names=["metric"]).reset_index(level="metric").reset_index(drop=True)
