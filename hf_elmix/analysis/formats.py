"""Tables as a reader sees them, and as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Cell", "Table", "markdown_table", "markdown_text", "to_latex", "to_markdown"]

LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "−": r"\ensuremath{-}",
    "±": r"\ensuremath{\pm}",
    "τ": r"\ensuremath{\tau}",
    "·": r"\ensuremath{\cdot}",
    "≥": r"\ensuremath{\geq}",
    "×": r"\ensuremath{\times}",
    "χ": r"\ensuremath{\chi}",
    "²": r"\ensuremath{^2}",
    "α": r"\ensuremath{\alpha}",
    "β": r"\ensuremath{\beta}",
    "[": "{[}",  # after a line break a bracket would be its argument
}
# Signs that mean something in Markdown, in a table or anywhere.
MARKDOWN = "\\`*_{}[]<>|~$#&"


class Cell(NamedTuple):
    """What is read, and the number that the column is sorted by (none: the text itself)."""

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with a name for links, a caption in words, and cells.

    Attributes:
        name: Short, of letters and dashes.
        title: Its heading.
        caption: What its numbers are.
        header: Names of the columns.
        rows: One cell for each column; a text stands for a cell.
    """

    name: str
    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]

    def texts(self) -> list[list[str]]:
        """The cells' texts, row by row."""
        return [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]


def to_markdown(table: Table) -> str:
    """The table for GitHub and others, every sign as it is meant, with its caption above.

    Args:
        table: The table.
    """
    caption = f"**{table.title}.** {markdown_text(table.caption)}"
    return f"{caption}\n\n{markdown_table(table.header, table.texts())}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for GitHub and others, every sign as it is meant.

    Args:
        header: Names of the columns.
        rows: Texts of the cells.
    """
    escaped = [[markdown_text(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in escaped]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def markdown_text(text: str) -> str:
    """Text for Markdown, in one line, every sign as it is meant."""
    return "".join(f"\\{sign}" if sign in MARKDOWN else sign for sign in _one_line(text))


def to_latex(table: Table) -> str:
    r"""The table for a paper that has ``\usepackage{booktabs}`` and ``\usepackage[T1]{fontenc}``.

    Args:
        table: The table.
    """
    rows = [" & ".join(map(_escaped_latex, row)) + r" \\" for row in [list(table.header), *table.texts()]]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escaped_latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
