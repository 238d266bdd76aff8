"""Write a report: page, figures, tables and data of a study's sections."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib.font_manager
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from hf_elmix.analysis.exchange import replaced
from hf_elmix.analysis.formats import to_cells, to_latex, to_markdown
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections import sections_of
from hf_elmix.analysis.sections.base import FigureSpec, Section
from hf_elmix.analysis.sections.scores import score_table
from hf_elmix.analysis.sections.summary import verdict
from hf_elmix.terminal import printable

__all__ = ["PAGE", "write_report"]

PAGE = "report.html"
MISSING_FONT = "□: characters that no installed font can show; the SVG file has them"
# Fonts of other scripts on Linux, macOS and Windows: Matplotlib takes a character from the first that has it.
FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI"),
)
RC_PARAMS = {"svg.fonttype": "none", "font.size": 10, "axes.titlesize": 11, "legend.fontsize": 9}
WIDTH = 4.7  # inches; text remains legible on a phone
MAX_PRINTED_ROWS = 40  # tables of scores with more rows are not part of the returned text


def write_report(
    results: StudyResults, folder: str | Path, *, title: str = "Report of a study", commands: Sequence[str] = ()
) -> str:
    """Write the report of a study.

    Args:
        results: The study.
        folder: Receives ``report.html``, ``tables.md``, ``tables.tex``, ``figures/`` (SVG and PNG) and ``data/`` (CSV
            and Parquet); see `replaced`. In the CSV files, texts are as `cell_of` makes them.
        title: Heading of the page.
        commands: Command lines that reproduce the study and its report.

    Returns:
        The findings, one sentence per line, and the table of scores as Markdown if it has at most 40 rows.

    Raises:
        UsageError: If the folder is not for a report alone.
        OSError: If a file cannot be written; an earlier report is then as it was.
    """
    sections, found = sections_of(results), verdict(results)
    pictures = [picture for section in sections for _, group in section.pictures for picture in group]
    figures = {picture.name: _figure(picture) for picture in pictures}
    with replaced(Path(folder), PAGE) as new:
        _write(new, sections, figures)
        page = _page(sections, figures, title=title, verdict=found, commands=commands)
        (new / PAGE).write_text(page, encoding="utf-8")
    table = score_table(results)
    rows = len(table.rows)
    scores = to_markdown(table) if rows <= MAX_PRINTED_ROWS else f"Scores of {rows} tasks: tables.md\n"
    sentences = [*found, *(sentence for section in sections for sentence in section.sentences)]
    return "\n".join([*map(printable, sentences), "", scores])


def _write(folder: Path, sections: Sequence[Section], figures: Mapping[str, Figure]) -> None:
    """Write everything but the page."""
    for part in ("figures", "data"):
        (folder / part).mkdir()
    pictures = [picture for section in sections for _, group in section.pictures for picture in group]
    for picture in (picture for picture in pictures if not picture.page_only):
        for kind in ("svg", "png"):
            image = _image(figures[picture.name], picture.name, kind)
            (folder / "figures" / f"{picture.name}.{kind}").write_bytes(image)
    for name, table in (item for section in sections for item in section.data.items()):
        data = pa.Table.from_pandas(table, preserve_index=False)
        pa.csv.write_csv(to_cells(data), folder / "data" / f"{name}.csv")  # ten times as fast as pandas
        # Without the schema, categories are plain text to every reader.
        pa.parquet.write_table(data, folder / "data" / f"{name}.parquet", store_schema=False)
    tables = {table.name: table for section in sections for table in section.tables if not table.page_only}
    (folder / "tables.md").write_text("\n".join(map(to_markdown, tables.values())), encoding="utf-8")
    (folder / "tables.tex").write_text("\n".join(map(to_latex, tables.values())), encoding="utf-8")


def _page(sections: Sequence[Section], figures: Mapping[str, Figure], **texts: str | Sequence[str]) -> str:
    """The page as HTML, self-contained; `texts` are the title, the verdict and the commands."""
    loader = jinja2.PackageLoader("hf_elmix.analysis", ".")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    # No line ends within "F = 0", "12 %" or "[0.1, 0.2]".
    page.filters["digest"] = lambda script: base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page.filters["unbroken"] = lambda text: re.sub(r" (?=[=<%])|(?<=[=<]) |(?<=\d,) (?=[−\d.]+\])", "\u00a0", text)
    drawn = {
        picture.name: _inline(figures[picture.name], picture.name, ": ".join(filter(None, (heading, picture.caption))))
        for section in sections
        for heading, group in section.pictures
        for picture in group
    }
    return page.get_template("page.html").render(sections=sections, figures=drawn, **texts)


def _figure(picture: FigureSpec) -> Figure:
    with matplotlib.rc_context(_rc_params()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = Figure(figsize=(WIDTH, picture.height))
        picture.draw(figure.subplots())
        ConstrainedLayoutEngine().execute(figure)  # once: as the figure's own engine it would run again for each file
    return figure


def _rc_params() -> dict[str, object]:
    installed = set(matplotlib.font_manager.get_font_names())
    return {**RC_PARAMS, "font.family": ["DejaVu Sans", *(name for name in FONTS if name in installed)]}


def _image(figure: Figure, name: str, kind: str) -> bytes:
    """A figure as SVG or PNG, the same bytes for the same numbers."""
    out = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Type", "Format")) if kind == "svg" else None
    # The salt makes ids in the SVG unique in a page of several figures.
    with matplotlib.rc_context({**_rc_params(), "svg.hashsalt": name}), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing")
        figure.savefig(out, format=kind, dpi=160, metadata=metadata)
        if caught and kind == "png":  # an SVG keeps its text, and browsers have more fonts than Matplotlib
            out = io.BytesIO()
            note = figure.text(0.5, -0.02, MISSING_FONT, ha="center", va="top", size="small")
            figure.savefig(out, format=kind, dpi=160, metadata=metadata, bbox_inches="tight")
            note.remove()
    return out.getvalue()


def _inline(figure: Figure, name: str, label: str) -> str:
    """A figure as part of a page: black becomes the colour of the text, the background transparent."""
    for patch in (figure.patch, *(ax.patch for ax in figure.axes)):
        patch.set_alpha(0)
    svg = _image(figure, name, "svg").decode()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*" width="[^"]*"', r"\1\2", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
