"""Read tables: a folder of files, each with numeric features, a label and, optionally, a split."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

from hf_elmix import csv_files, parquet_files
from hf_elmix.errors import UsageError, in_one_line, not_one_of
from hf_elmix.tables.protocol import SPLIT_SHARES, SPLITS

__all__ = ["Table", "as_labels", "as_numbers", "class_ids", "feature_values", "in_words", "read_table", "read_tables"]

LABEL, SPLIT = "label", "split"
TRUTH = {"true": True, "false": False}
READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": lambda path: parquet_files.read_table(path).to_pandas(),
    ".csv": lambda path: _read_csv(path),
}


@dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        name: Its name.
        features: By split, shape (rows, I), float32 and finite.
        labels: By split, class ids, shape (rows,).
        classes: Number of classes.
    """

    name: str
    features: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: int

    def digests(self) -> dict[str, str]:
        """A fingerprint of the rows of each split."""
        parts = {split: (self.features[split].tobytes(), self.labels[split].tobytes()) for split in SPLITS}
        return {split: hashlib.sha256(b"".join(part)).hexdigest()[:16] for split, part in parts.items()}


def read_tables(
    folder: str, names: Sequence[str] = (), *, split_column: str = SPLIT, standardize: bool = False
) -> list[Table]:
    """Read the tables of a folder, in the order of their names.

    Args:
        folder: A folder of Parquet or CSV files, each a table that is called like its file.
        names: The tables to read; by default all.
        split_column: See `read_table`.
        standardize: See `read_table`.

    Raises:
        UsageError: If the folder has no tables, or not one of the given names, two files are called alike, or a table
            cannot be used.
    """
    files: dict[str, Path] = {}
    for path in sorted(Path(folder).expanduser().glob("[!.]*")):  # hidden files are those of an editor or a system
        if path.suffix.lower() in READERS and path.is_file():
            if path.stem in files:
                raise UsageError(f"Expected one file for each table, but got {files[path.stem].name} and {path.name}.")
            files[path.stem] = path
    # An index of the tables may lie beside them.
    files = {name: path for name, path in files.items() if name != "index" or name in names}
    if not files:
        raise UsageError(f"Expected --data to be a folder of .parquet or .csv files, but {folder!r} has none.")
    for name in names:
        if name not in files:
            raise not_one_of(f"a table of {folder!r}", files, name)
    wanted = names or list(files)
    return [read_table(files[name], split_column=split_column, standardize=standardize) for name in wanted]


def read_table(path: Path, *, split_column: str = SPLIT, standardize: bool = False) -> Table:
    """Read one table.

    Args:
        path: A Parquet or CSV file. The column ``label`` has the classes, the column of splits has ``train``,
            ``validation`` and ``test``; every other column is a feature, except further splits (``split2``, ...).
        split_column: The column of splits. Without it, rows are divided at random, always alike, with the same shares
            of each class: 60, 15 and 25 %.
        standardize: Scale each feature to mean 0 and standard deviation 1 over the training rows.

    Raises:
        UsageError: If a column is missing, a feature is no finite number, a split is empty or has another name, or
            there is only one class.
    """
    try:
        rows = READERS[path.suffix.lower()](path)
    except Exception as error:  # of any type, from the libraries that read files
        raise UsageError(f"Cannot read the table {str(path)!r}: {in_one_line(error)}") from error
    if not rows.columns.is_unique:
        twice = rows.columns[rows.columns.duplicated()][0]
        raise UsageError(f"Expected each column of {path.name} to have its own name, but {twice!r} is given twice.")
    if LABEL not in rows.columns:
        raise UsageError(
            f"Expected a column {LABEL!r} in {path.name}, but it has {', '.join(map(str, rows.columns))}."
        )
    labels, classes = class_ids(rows[LABEL], path.name)
    splits = _splits(rows, split_column, labels, path)
    _warn_of_unseen(rows[LABEL].to_numpy(), splits == SPLITS[0], path)
    names = [name for name in rows.columns if name != LABEL and not _is_split(str(name)) and name != split_column]
    features = feature_values(rows[names], path.name)
    if standardize:
        features = scaled(features, features[splits == SPLITS[0]])
    return Table(
        path.stem,
        {split: np.ascontiguousarray(features[splits == split], np.float32) for split in SPLITS},
        {split: labels[splits == split] for split in SPLITS},
        len(classes),
    )


def scaled(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features (rows, I) scaled to mean 0 and standard deviation 1 over training rows, in float64.

    Columns that are constant there, up to rounding, are only shifted.
    """
    return StandardScaler().fit(train.astype(np.float64)).transform(features.astype(np.float64))


def _read_csv(path: Path) -> pd.DataFrame:
    """The columns of a CSV file as numbers or truth values if all cells are such; only an empty cell is missing."""
    header, rows = csv_files.read_table(path)
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    read = {name: as_labels if name == LABEL else as_numbers for name in header}
    return pd.DataFrame({name: read[name](cells) for name, cells in zip(header, columns, strict=True)})


def as_numbers(cells: Sequence[str | None]) -> pd.Series:
    """A column of text as numbers or truth values, if all of its cells that are not empty are such."""
    column = pd.Series([cell or None for cell in cells], dtype=object)
    words = {(cell or "").casefold() for cell in cells}
    if words and words <= TRUTH.keys():
        return column.map(lambda cell: TRUTH[cell.casefold()])
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def as_labels(cells: Sequence[str | None]) -> pd.Series:
    """A column of labels, as `as_numbers`, but as text if several spellings give the same number or truth value."""
    column, spellings = as_numbers(cells), {cell.strip() for cell in cells if cell}
    return column if column.nunique() == len(spellings) else pd.Series([cell or None for cell in cells], dtype=object)


def _is_split(name: str) -> bool:
    return re.fullmatch(f"{SPLIT}[0-9]*", name) is not None


def class_ids(labels: pd.Series, where: str) -> tuple[np.ndarray, list[str]]:
    """The class of each row, shape (rows,), and the names of the classes in the order of their sorted labels.

    Args:
        labels: The label of each row.
        where: What to call the rows in an error.

    Raises:
        UsageError: If a row has no label or one that is no class, or there is only one class.
    """
    check_labelled(labels, where)
    values = labels.to_numpy()
    _check_classes(values, where)
    ids, found = pd.factorize(values if values.dtype.kind in "iub" else values.astype(str), sort=True)
    if len(found) < 2:
        raise UsageError(f"Expected two classes or more in {where}, but got {len(found)}.")
    return ids.astype(np.int64), in_words(found)


def in_words(labels: np.ndarray) -> list[str]:
    """The name of the class of each label."""
    return list(map(str, labels.astype(str)))


def check_labelled(labels: pd.Series, where: str) -> None:
    """Refuse rows without a label."""
    if len(missing := np.flatnonzero(labels.isna())):
        raise UsageError(f"Expected a label in each row of {where}, but row {missing[0]} has none.")


def _check_classes(labels: np.ndarray, where: str) -> None:
    """Refuse labels that are no classes: fractions, lists, several lines, and a class in two spellings."""
    spellings: dict[str, str] = {}
    normalized = _normalized_number if _are_numbers(labels) else _normalized_text
    for row, label in enumerate(labels.tolist()):
        if isinstance(label, float) and not label.is_integer():
            raise UsageError(f"Expected classes as labels in {where}, but row {row} has the number {label}.")
        if isinstance(label, list | tuple | dict | set | np.ndarray):
            raise UsageError(f"Expected one class as the label of each row of {where}, but row {row} has {label}.")
        name = str(label)
        if "\n" in name or "\r" in name:  # a quotation mark has swallowed rows
            raise UsageError(f"Expected one class in each row of {where}, but row {row} has a line break in it.")
        other = spellings.setdefault(normalized(name), name)
        if other != name:
            raise UsageError(
                f"Expected one spelling of each class in {where}, but row {row} has {name!r}, and other rows have "
                f"{other!r}. Correct the label."
            )


def _are_numbers(labels: np.ndarray) -> bool:
    try:
        return bool([_normalized_number(str(label)) for label in labels.tolist()])
    except InvalidOperation:
        return False


def _normalized_number(name: str) -> str:
    """What all spellings of a number have in common, such as ``1`` and ``01``."""
    return str(Decimal(name).normalize())


def _normalized_text(name: str) -> str:
    """What all spellings of a class have in common, such as ``yes`` and ``Yes``."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _warn_of_unseen(labels: np.ndarray, is_training: np.ndarray, path: Path) -> None:
    """Warn of classes without a training row."""
    unseen = ~pd.Series(labels).isin(labels[is_training]).to_numpy()
    if unseen.any():
        warnings.warn(
            f"No training row of {path.name} has the label {str(labels[unseen][0])!r} ({unseen.sum()} other rows are "
            "of such classes): no model can learn it.",
            stacklevel=2,
        )


def _splits(rows: pd.DataFrame, column: str, labels: np.ndarray, path: Path) -> np.ndarray:
    """The split of each row, (rows,)."""
    if column in rows.columns:
        splits = rows[column].astype(str).to_numpy()
        unknown = sorted(set(splits) - set(SPLITS))
        if unknown:
            raise UsageError(
                f"Expected {', '.join(SPLITS)} in the column {column!r} of {path.name}, but got {unknown[0]!r}."
            )
    elif column != SPLIT:
        raise UsageError(
            f"Expected a column {column!r} in {path.name}, but it has {', '.join(map(str, rows.columns))}."
        )
    else:
        splits = _stratified(labels)
    for split in SPLITS:
        if split not in splits:
            raise UsageError(f"Expected rows of each split in {path.name}, but it has none to {split!r}.")
    return splits


def _stratified(labels: np.ndarray) -> np.ndarray:
    """A split of each row, with the same shares of each class: the same whenever the labels are the same."""
    order = np.random.default_rng(0).permutation(len(labels))
    splits = np.empty(len(labels), dtype=object)
    ends = np.cumsum(SPLIT_SHARES)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        places = (np.arange(len(own)) + 0.5) / len(own)
        splits[own] = np.array(SPLITS, dtype=object)[np.searchsorted(ends[:-1], places)]
    return splits


def feature_values(rows: pd.DataFrame, where: str) -> np.ndarray:
    """The features as numbers, shape (rows, I).

    Args:
        rows: A column for each feature.
        where: What to call the rows in an error.

    Raises:
        UsageError: If there is no feature, or one is no finite number.
    """
    if not len(rows.columns):
        raise UsageError(f"Expected a column of numbers beside the labels in {where}, but it has none.")
    for name, column in rows.items():
        if str(name).startswith("Unnamed: "):  # as pandas calls it; the numbers of rows may give the labels away
            raise UsageError(f"Expected a name for each column of {where}, but one has none. Leave an index out.")
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            raise UsageError(
                f"Expected numbers in the column {name!r} of {where}, but got {_shown(column)}. Encode it as "
                "numbers, or leave it out."
            )
    values = rows.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max))
    if len(wrong):
        row, column = wrong[0]
        raise UsageError(
            f"Expected finite numbers in {where}, but row {row} has {values[row, column]} in the column "
            f"{rows.columns[column]!r} ({len(wrong)} such values). Fill them in, or leave them out."
        )
    return values


def _shown(column: Any) -> str:
    odd = column[pd.to_numeric(column, errors="coerce").isna()] if column.dtype.kind not in "mM" else column
    return f"{column.dtype}, such as {(odd if len(odd) else column).iloc[0]!r}"
