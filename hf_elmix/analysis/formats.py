"""Tables and their text as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from hf_elmix.terminal import printable

__all__ = [
    "Cell",
    "Table",
    "cell_of",
    "markdown_table",
    "markdown_text",
    "text_of",
    "to_cells",
    "to_latex",
    "to_markdown",
]

NAMED = {
    "\\": "backslash",
    "~": "asciitilde",
    "^": "asciicircum",
    "<": "less",
    ">": "greater",
    "|": "bar",
    '"': "quotedbl",
}
MATHS = {"−": "-", "±": r"\pm", "τ": r"\tau", "·": r"\cdot", "≥": r"\geq", "×": r"\times", "²": "^2"}
MATHS |= {"χ": r"\chi", "α": r"\alpha", "β": r"\beta"}
LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    **{sign: rf"\text{name}{{}}" for sign, name in NAMED.items()},
    **{sign: rf"\ensuremath{{{name}}}" for sign, name in MATHS.items()},
    "[": "{[}",  # after a line break a bracket would be its argument
}
FORMULA = r"'*[=+\-@\t\r\n＝＋－＠]"  # what a formula begins with, in spreadsheets of any language
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
MARKDOWN = "\\`*_{}[]<>|~$#&"  # characters with a meaning in Markdown


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: The text shown.
        key: Sort key; left out, the text.
        link: Anchor of the row that it links to.
        anchor: Anchor of its row.
    """

    text: str
    key: float | None = None
    link: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a heading and a caption.

    Attributes:
        name: Short name, of letters and dashes.
        title: Heading.
        caption: What the numbers are.
        header: Names of the columns.
        rows: A cell, or its text, for each column.
        page_only: Whether it is left out of ``tables.md`` and ``tables.tex``.
    """

    name: str
    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    page_only: bool = False

    def texts(self) -> list[list[str]]:
        """The texts of the cells, row by row."""
        return [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in self.rows]


def cell_of(text: str) -> str:
    """The text of a CSV cell: with an apostrophe before what a spreadsheet would take for a formula and carry out.

    Numbers stay as they are. `text_of` returns the text. Source: OWASP, CSV Injection.
    """
    return f"'{text}" if re.match(FORMULA, text) and not re.fullmatch(NUMBER, text) else text


def text_of(cell: str) -> str:
    """The text of which `cell_of` made a cell."""
    return cell[1:] if cell.startswith("'") and re.match(FORMULA, cell) else cell


def to_cells(table: pa.Table) -> pa.Table:
    """A table with `cell_of` all texts and all names of columns."""
    table = table.rename_columns([cell_of(name) for name in table.column_names])
    for place, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type):
            chunks = [pa.DictionaryArray.from_arrays(c.indices, _quoted(c.dictionary)) for c in column.chunks]
            column = pa.chunked_array(chunks, column.type)
        table = table.set_column(place, table.column_names[place], _quoted(column))
    return table


def _quoted(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """`cell_of` each value, if they are texts."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    unsafe = pc.and_not(
        pc.match_substring_regex(column, f"^(?:{FORMULA})"), pc.match_substring_regex(column, f"^(?:{NUMBER})$")
    )
    if not pc.any(unsafe).as_py():
        return column
    quoted = pc.binary_join_element_wise(pa.scalar("'", column.type), column, pa.scalar("", column.type))
    return pc.if_else(unsafe, quoted, column)


def to_markdown(table: Table) -> str:
    """Format a table, with its title and caption, as GitHub Markdown."""
    caption = f"**{markdown_text(table.title)}.** {markdown_text(table.caption)}"
    return f"{caption}\n\n{markdown_table(table.header, table.texts())}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format the names of columns and the texts of cells as an escaped table in GitHub Markdown."""
    escaped = [[markdown_text(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in escaped]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def markdown_text(text: str) -> str:
    """Put a text in one line and escape everything that Markdown would interpret."""
    return "".join(f"\\{sign}" if sign in MARKDOWN else sign for sign in _one_line(text))


def to_latex(table: Table) -> str:
    r"""Format a table for a LaTeX document with ``\usepackage{booktabs}`` and ``\usepackage[T1]{fontenc}``."""
    rows = [" & ".join(map(_latex_text, row)) + r" \\" for row in [table.header, *table.texts()]]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(table.caption)}}}",
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


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    return printable(" ".join(str(text).split()))
