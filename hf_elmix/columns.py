"""What rows are, from their columns: text, a table of numbers and categories, or images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from datasets import Dataset, Image

from hf_elmix.csv_files import unnamed
from hf_elmix.errors import UsageError, did_you_mean

__all__ = ["IMAGES", "PANDAS_INDEX", "TABLE", "TEXT", "Columns", "columns_of", "find_label", "is_no_feature", "listed"]

TEXT, TABLE, IMAGES = "text", "a table", "images"
LABELS = ("label", "labels", "fine_label")  # the last is that of CIFAR-100
PANDAS_INDEX = "__index_level_0__"  # in Parquet
IDS = ("id", "idx", "index")  # of rows: a model could learn the order of the file from them

# A column of words is a category if it has few different values, and few words in each; otherwise it is text.
MOST_CATEGORIES, MOST_WORDS = 50, 3
TRUTH = {"true", "false"}
MOST_NAMES = 10  # in a line


@dataclass(frozen=True)
class Columns:
    """The columns of rows besides the labels.

    Attributes:
        images: Those of images.
        numbers: Those of numbers and truth values, also where a few cells are not.
        categories: Those of a few different words.
        texts: Those of other words.
        rest: Those that are no features: ids of rows, labels in words, lists.
    """

    images: tuple[str, ...]
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    texts: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What the rows are: `TEXT`, `TABLE` or `IMAGES`."""
        if self.images:
            return IMAGES
        table = self.numbers or len(self.categories) > 2  # one or two columns of words may be short texts
        return TABLE if table and not self.texts else TEXT


def find_label(dataset: Dataset, given: str | None, name: str) -> str:
    """The column of labels: the given one, otherwise ``label``, ``labels`` or ``fine_label``.

    Args:
        dataset: The rows.
        given: The column that was named, if any.
        name: What to call the rows in an error.

    Raises:
        UsageError: If there is no such column.
    """
    wanted = LABELS if given is None else (given,)
    found = [column for column in wanted if column in dataset.column_names]
    if not found:
        if dataset.column_names == ["image"]:  # so `datasets` reads a folder of images without classes
            raise UsageError(
                f"Expected a column of classes or, in a folder, a folder of images for each class, but {name} has "
                "only images."
            )
        raise UsageError(
            f"Expected a column {' or '.join(map(repr, wanted))} in {name}, but it has "
            f"{', '.join(dataset.column_names)}. Name the column of labels with --label_column_name."
            f"{did_you_mean(wanted[0], dataset.column_names)}"
        )
    return found[0]


def columns_of(dataset: Dataset, label: str) -> Columns:
    """Sort the columns of rows by what they hold.

    Args:
        dataset: The rows.
        label: The column of labels.
    """
    kinds: dict[str, list[str]] = {name: [] for name in Columns.__dataclass_fields__}
    for name, kind in _kinds(dataset, label):
        kinds[kind].append(name)
    return Columns(**{name: tuple(columns) for name, columns in kinds.items()})


def is_no_feature(dataset: Dataset, column: str, label: str) -> bool:
    """Whether a model must not read a column: the label, also in words; ids of rows; the index that pandas writes."""
    name = column.lower()
    index = column in (unnamed(dataset.column_names.index(column)), PANDAS_INDEX)
    return column == label or index or name in IDS or "label" in name


def _kinds(dataset: Dataset, label: str) -> Iterator[tuple[str, str]]:
    for name, feature in dataset.features.items():
        if name == label:
            continue
        if isinstance(feature, Image):
            yield name, "images"
        elif is_no_feature(dataset, name, label):
            yield name, "rest"
        else:
            yield name, _kind(dataset.with_format("arrow")[:][name].to_pandas())


def _kind(cells: pd.Series) -> str:
    known = cells.dropna()
    if pd.api.types.is_numeric_dtype(known) or known.map(lambda cell: isinstance(cell, bool)).all():
        return "numbers"
    if not known.map(lambda cell: isinstance(cell, str)).all():
        return "rest"
    numbers = pd.to_numeric(known, errors="coerce").notna() | known.str.lower().isin(TRUTH)
    if numbers.mean() > 0.5:  # the others are mistakes, which are reported where the numbers are read
        return "numbers"
    few = known.nunique() <= min(MOST_CATEGORIES, len(known) / 2)
    return "categories" if few and known.str.split().str.len().mean() <= MOST_WORDS else "texts"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
