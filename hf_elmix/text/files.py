"""Rows of local files, as they are written: nothing is guessed from the words, and nothing is cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hf_elmix import parquet_files
from hf_elmix.csv_files import decoded, read_table
from hf_elmix.errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["READERS", "as_word", "check_file", "read_files", "read_rows"]

SCALARS = (str, bool, int, float, type(None))


def read_files(files: Mapping[str, str]) -> DatasetDict:
    """Read rows from local files.

    Args:
        files: Path by split; CSV, TSV, JSON (an object in each line, or a list of objects) or Parquet.

    Raises:
        UsageError: If a file does not exist or cannot be read.
    """
    from datasets import DatasetDict

    return DatasetDict({split: read_rows([str(check_file(path))], repr(path)) for split, path in files.items()})


def check_file(path: str) -> Path:
    """Return the path of a file of rows.

    Raises:
        UsageError: If the file does not exist, or has another format.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in READERS:
        raise UsageError(f"Expected a file that ends in {', '.join(READERS)}, but got {path!r}.")
    if not file.is_file():
        raise UsageError(f"Expected a file of rows, but {path!r} does not exist.")
    return file


def read_rows(paths: Iterable[str], what: str) -> Dataset:
    """Read the rows of the files of a split, one after the other.

    All cells of CSV and TSV are text, an empty one is missing. The other formats have types; a JSON column of several,
    such as ``true`` and ``"maybe"``, becomes text.

    Args:
        paths: The files.
        what: What to call them in an error.

    Raises:
        UsageError: If a file cannot be read.
    """
    from datasets import Dataset

    from hf_elmix.text.loading import loading

    paths = list(paths)
    suffixes = [Path(path).suffix.lower() for path in paths]
    expected = f"Expected a {suffixes[0][1:].upper()} file with a column for each text and one for the label."
    with loading(what, expected):
        tables = [READERS[suffix](path) for suffix, path in zip(suffixes, paths, strict=True)]
        return Dataset(pa.concat_tables(tables, promote_options="default"))


def as_word(value: Any) -> str | None:
    """A value as it is written in JSON, so that files of all formats mean the same; None if it is missing."""
    return json.dumps(value) if isinstance(value, bool) else None if value is None else str(value)


def _read_csv(path: str, delimiter: str = ",") -> pa.Table:
    header, rows = read_table(path, delimiter)
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    # "None" and "NA" are words.
    return pa.table(
        {
            name: pa.array([cell or None for cell in column], pa.string())
            for name, column in zip(header, columns, strict=True)
        }
    )


def _read_tsv(path: str) -> pa.Table:
    return _read_csv(path, "\t")


def _read_json(path: str) -> pa.Table:
    text = decoded(Path(path).read_bytes())
    rows = _json_list(text) if text.lstrip().startswith("[") else _json_lines(text)
    names = dict.fromkeys(name for _, row in rows for name in row)
    if not names:
        raise ValueError("it has no rows.")
    return pa.table({name: _json_column(name, [(place, row.get(name)) for place, row in rows]) for name in names})


def _json_list(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place."""
    rows = [(f"row {k}", row) for k, row in enumerate(_parsed("the list", text))]
    return [(place, _checked_object(place, row)) for place, row in rows]


def _json_lines(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of the lines, each with its place."""
    lines = [(f"line {k}", line) for k, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [(place, _checked_object(place, _parsed(place, line))) for place, line in lines]


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}).") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"an object has the name {twice!r} twice")
    return dict(pairs)


def _checked_object(place: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place} is not an object with the names of columns, but {json.dumps(row)[:40]}.")
    return row


def _json_column(name: str, cells: list[tuple[str, Any]]) -> pa.Array:
    """A column in the one type that its values have, otherwise as words."""
    values = [value for _, value in cells]
    lone = next((place for place, value in cells if isinstance(value, str) and not _encodes(value)), None)
    if lone is not None:
        raise ValueError(f"{lone} has half a character (a lone surrogate) in {name!r}.")
    kinds = {
        bool if isinstance(value, bool) else float if isinstance(value, int | float) else type(value)
        for value in values
    }
    try:
        if len(kinds - {type(None)}) < 2:
            return pa.array(values)
    except (pa.ArrowException, OverflowError):  # a number of too many digits, or objects that differ
        pass
    odd = next((place for place, value in cells if not isinstance(value, SCALARS)), None)
    if odd is not None:
        raise ValueError(f"{odd} has a list or an object in {name!r}, unlike other rows.")
    return pa.array([as_word(value) for value in values], pa.string())


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


READERS: dict[str, Callable[[str], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": parquet_files.read_table,
}
