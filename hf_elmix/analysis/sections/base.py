"""What a section of a report consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from hf_elmix.analysis.formats import Table

__all__ = ["DRAWN", "HUNDRED", "Picture", "Section"]

DRAWN = 8  # methods, or tasks, of which pictures are drawn
HUNDRED = 100.0  # shares are shown in percent


class Picture(NamedTuple):
    """A figure.

    Attributes:
        name: Of its files.
        caption: What it shows.
        draw: Draws it on an axis.
        height: In inches.
        page_only: Whether it has no files.
    """

    name: str
    caption: str
    draw: Callable[[Axes], Axes]
    height: float
    page_only: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page, with its tables, figures and data.

    Attributes:
        name: Short name, of letters and dashes.
        title: Heading.
        about: Introduction.
        sentences: Findings, the most important first.
        tables: Its tables.
        pictures: Its figures, by heading; an empty heading shows none.
        data: Its numbers, by the name of their files.
        folded: Whether the page folds all groups of figures but the first.
    """

    name: str
    title: str
    about: str = ""
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    data: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    folded: bool = False
