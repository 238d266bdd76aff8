"""CSV and TSV files as they are written: each cell is text, and a line that does not fit is an error."""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import fsspec

__all__ = ["decoded", "read_table", "unnamed"]

BYTE_ORDER_MARKS = {  # the longer ones first: that of UTF-16 is the start of one of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LINE_END = re.compile(r"\r\n|\r|\n")  # str.splitlines would also split at characters that occur in texts
QUOTE = '"'
LONGEST_CELL = 2**31 - 1  # the limit of the module csv is 131,072 characters: less than many a document


@dataclass(frozen=True)
class _Record:
    """The cells of a row, and its first and last line, from 1."""

    cells: list[str]
    first: int
    last: int


def read_table(path: str | Path, delimiter: str = ",") -> tuple[list[str], list[list[str]]]:
    r"""Read a CSV or TSV file, which may be compressed.

    Cells with a comma, a quotation mark or a line break in them stand in quotation marks. In TSV files of text these
    marks are often part of the text instead, so with the delimiter ``"\t"`` both readings are tried.

    Args:
        path: The file.
        delimiter: Between the cells of a line.

    Returns:
        The names of the columns (see `unnamed`), and the cells of each row as text; blank lines are no rows.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it has no header, a name is given twice, it is not text, or a line does not fit.
    """
    with fsspec.open(str(path), "rb", compression="infer") as file:
        text = decoded(file.read())
    lines = LINE_END.split(text)
    records = _quoted_or_not(text, lines) if delimiter == "\t" else _quoted(text, lines, delimiter)
    if not records:
        raise ValueError("it is empty. Its first line must name the columns.")
    if len(records[0].cells) == 1 and any(mark in records[0].cells[0] for mark in ";\t|,"):
        first, (cell,) = records[0].first, records[0].cells
        raise ValueError(f"line {first} has a single cell, {cell!r}. Expected {delimiter!r} between cells.")
    gap = next((a.last + 1 for a, b in zip(records, records[1:], strict=False) if b.first > a.last + 1), None)
    if gap is not None and len(records[0].cells) == 1:
        raise ValueError(f"line {gap} is blank, and with one column it may be a row. Fill or delete the line.")
    header = [name or unnamed(place) for place, name in enumerate(records[0].cells)]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"line {records[0].first} names the column {twice!r} twice. Give each column its own name.")
    return header, [record.cells for record in records[1:]]


def unnamed(place: int) -> str:
    """The name of a column without one, such as an index that pandas wrote, given its place from 0."""
    return f"Unnamed: {place}"


def decoded(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        ValueError: If it is in another encoding; the message names the line.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(LINE_END.split(data[: error.start].decode(encoding, "ignore")))
        raise ValueError(f"line {line} is not in {encoding.removesuffix('-sig').upper()}. Save it as UTF-8.") from None
    if "\0" in text:
        line = len(LINE_END.split(text[: text.index("\0")]))
        raise ValueError(f"line {line} has a NUL character, so it is no text in UTF-8. Save it as UTF-8.")
    return text


def _quoted(text: str, lines: list[str], delimiter: str) -> list[_Record]:
    """The records where quotation marks enclose cells."""
    records: list[_Record] = []
    csv.field_size_limit(LONGEST_CELL)
    reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    try:
        for cells in reader:
            records += [_Record(cells, line, reader.line_num)] if cells else []
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"the quotation marks of the row in line {line} do not match ({error}). Inside a cell in quotation marks, "
            "double them."
        ) from None
    _check_widths(records, delimiter)
    swallowed = _swallowed(records, lines, delimiter)
    if swallowed is not None:
        raise ValueError(
            f"the cell in quotation marks that begins in line {swallowed.first} ends in line {swallowed.last}, and "
            "these lines look like rows. Double a quotation mark that is part of a text, and put the text in marks."
        )
    return records


def _as_written(lines: list[str], delimiter: str) -> list[_Record]:
    """The records where each line is a row, and a quotation mark is a character like any other."""
    records = [_Record(line.split(delimiter), k, k) for k, line in enumerate(lines, start=1) if line]
    _check_widths(records, delimiter)
    return records


def _quoted_or_not(text: str, lines: list[str]) -> list[_Record]:
    """The records of a TSV file in the reading that fits, or in the one for which there is evidence if both fit.

    Raises:
        ValueError: If none fits, or both do and nothing tells which is meant.
    """
    try:
        plain = _as_written(lines, "\t")
    except ValueError:
        return _quoted(text, lines, "\t")
    marked = [record for record in plain if any(cell.startswith(QUOTE) for cell in record.cells)]
    if not marked:
        return plain
    if _written_by_program(plain):
        return _quoted(text, lines, "\t")
    try:
        quoted = _quoted(text, lines, "\t")
    except ValueError:
        return plain
    if len(quoted) != len(plain):  # a mark in one row, and the next in another
        return plain
    raise ValueError(
        f"line {marked[0].first} has a cell in quotation marks, which may be part of the text or may enclose it. Save "
        "the rows as CSV or JSON."
    )


def _written_by_program(plain: list[_Record]) -> bool:
    """Whether marks enclose cells: those of a whole column, but for a last row that may be cut, or around others."""
    columns = list(zip(*(record.cells for record in plain), strict=True))
    whole = any(len(column) > 3 and all(map(_enclosed, column[1:-1])) for column in columns)
    doubled = any(_enclosed(cell) and QUOTE * 2 in cell[1:-1] for column in columns for cell in column)
    return whole or doubled or any(map(_enclosed, plain[0].cells))


def _enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell.startswith(QUOTE) and cell.endswith(QUOTE)


def _check_widths(records: list[_Record], delimiter: str) -> None:
    width = len(records[0].cells) if records else 0
    wrong = next((record for record in records if len(record.cells) != width), None)
    if wrong is not None:
        count, mark = len(wrong.cells), "tab" if delimiter == "\t" else "comma"
        raise ValueError(
            f"line {wrong.first} has {count} cell{'' if count == 1 else 's'}, and the header {width}. Look for a "
            f"trailing {mark}, or a {mark} in a text without quotes."
        )


def _swallowed(records: list[_Record], lines: list[str], delimiter: str) -> _Record | None:
    """A record of several lines each of which would be a row, with a value that other rows have in that column."""
    several = [record for record in records[1:] if record.first < record.last]
    if not several:
        return None
    known = [set(column) for column in zip(*(r.cells for r in records[1:] if r.first == r.last), strict=True)]
    for record in several:
        inside = [line.split(delimiter) for line in lines[record.first - 1 : record.last]]
        if all(len(cells) == len(record.cells) for cells in inside) and any(
            all(cells[place] in seen for cells in inside) for place, seen in enumerate(known)
        ):
            return record
    return None
