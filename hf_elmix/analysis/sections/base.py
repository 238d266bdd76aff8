"""A part of a report that only some studies have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from hf_elmix.analysis.formats import Table

__all__ = ["DRAWN", "HUNDRED", "Picture", "Section"]

DRAWN = 8  # methods of which pictures are drawn
HUNDRED = 100.0  # shares are shown in percent


class Picture(NamedTuple):
    """A figure: the name of its files, what it shows, what draws it, and its height in inches."""

    name: str
    caption: str
    draw: Callable[[Axes], Axes]
    height: float


@dataclass(frozen=True)
class Section:
    """A part of the page, of the tables and of the data.

    Attributes:
        name: Short, of letters and dashes.
        title: Its heading.
        about: What it is about.
        sentences: What was found, the most important first.
        tables: Its tables.
        pictures: Its figures, by heading.
        data: Its numbers, by the name of their files.
    """

    name: str
    title: str
    about: str
    sentences: Sequence[str]
    tables: Sequence[Table]
    pictures: Mapping[str, Sequence[Picture]]
    data: Mapping[str, pd.DataFrame]
