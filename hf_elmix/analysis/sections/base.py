"""The parts of a report: sections and their figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from hf_elmix.analysis.formats import Table

__all__ = ["MAX_DRAWN", "PERCENT", "FigureSpec", "Section"]

MAX_DRAWN = 8  # methods, or tasks, that have figures
PERCENT = 100.0  # shares are shown in percent


class FigureSpec(NamedTuple):
    """A figure of a report: its name, caption and how to draw it.

    Attributes:
        name: Name of its files.
        caption: What it shows.
        draw: Draws it on an axis.
        height: Height in inches.
        page_only: Whether it is shown on the page only, without files.
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
        pictures: Its figures in groups, each with a heading or an empty text.
        data: Its numbers, by the name of their files.
        folded: Whether the page folds all groups of figures but the first.
    """

    name: str
    title: str
    about: str = ""
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[str, Sequence[FigureSpec]]] = ()
    data: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    folded: bool = False
