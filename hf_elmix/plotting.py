"""How methods look in every figure: names, colours, lines, markers and legends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from hf_elmix.losses.registry import mixing_of

__all__ = [
    "LONGEST",
    "STYLES",
    "Style",
    "drawn_name",
    "escaped",
    "finished",
    "legend_rows",
    "method_label",
    "short_name",
    "style_of",
]


class Style(NamedTuple):
    """How a method is drawn, in all figures."""

    colour: str
    line: Any
    width: float
    marker: str


# The colours differ in lightness too, so that figures read in grey, and later lines are thinner than earlier ones, so
# that lines which coincide are all seen.
STYLES = (
    Style("#BBBBBB", "-", 6.0, "o"),
    Style("#56B4E9", "-", 4.0, "s"),
    Style("#000000", "--", 2.4, "D"),
    Style("#D55E00", "-", 1.4, "^"),
    Style("#009E73", "-.", 1.4, "v"),
    Style("#0072B2", ":", 1.4, "X"),
)
# From the seventh method on the colours come again, each round with dashes and markers of its own.
MARKERS = ("P", "*", "h", "<", ">", "d", "p")
DASHES = ((0, (6, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 1, 1, 1, 1, 1)))
LONGEST = 28  # letters of a name in a figure; tables have the whole


def method_label(method: str) -> str:
    """A method in the paper's words: ``CE``, ``EL``, ``F = 0-0.5``; any other name as it is.

    Args:
        method: Its name in records.
    """
    method = mixing_of(method) or method
    if method in ("ce", "el"):
        return method.upper()
    focus = re.fullmatch(r"\d*\.?\d+([-, ]\d*\.?\d+)*", method)
    low = all(float(number) <= 0.5 for number in re.findall(r"[\d.]+", method)) if focus else False
    return f"F = {method}" if low else method


def drawn_name(method: str) -> str:
    """A method as figures name it: its label, cut to what fits, with nothing that Matplotlib reads as a command.

    Args:
        method: Its name in records.
    """
    return short_name(method_label(str(method)))


def legend_rows(methods: Sequence[str]) -> int:
    """Rows of a legend outside its axis, which take height of a figure.

    Args:
        methods: Their names.
    """
    names = [drawn_name(method) for method in methods]
    return -(-len(names) // _columns(names))


def style_of(place: int) -> Style:
    """Style of a method.

    Args:
        place: In the order of methods, from 0.

    Returns:
        Colour, line, width (points) and marker, as Matplotlib takes them.
    """
    style, again = STYLES[place % len(STYLES)], place // len(STYLES)
    if not again:
        return style
    marker = MARKERS[(place - len(STYLES)) % len(MARKERS)]
    return style._replace(line=DASHES[(again - 1) % len(DASHES)], width=1.4, marker=marker)


def finished(ax: Axes, *, legend: str) -> Axes:
    """Give an axis its legend, frame and grid.

    Args:
        ax: The axis, all drawn.
        legend: ``"above"`` or ``"below"`` the axis, where it hides nothing, or a place of Matplotlib's inside.

    Returns:
        The axis.
    """
    names = ax.get_legend_handles_labels()[1]
    columns = _columns(names)
    below = 0.42 + 0.17 * ax.get_xlabel().count("\n")  # inches, past the axis label
    shift = ax.transAxes + ScaledTranslation(0, -below, ax.figure.dpi_scale_trans)
    outside: dict[str, dict[str, Any]] = {
        "above": {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": columns},
        "below": {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": shift, "ncols": columns},
    }
    if names:
        ax.legend(**outside.get(legend, {"loc": legend}), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    return ax


def short_name(text: str) -> str:
    """A name that fits, without what Matplotlib reads as mathematics or as a line to hide from the legend."""
    text = " ".join(text.split())
    return escaped(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def escaped(text: str) -> str:
    """Text that Matplotlib draws as it is: no mathematics, and no leading underscore that hides it from a legend."""
    return text.replace("$", r"\$") if not text.startswith("_") else f"\u200b{text}".replace("$", r"\$")


def _columns(names: Sequence[str]) -> int:
    """As many columns of a legend as fit beside each other."""
    longest = max(map(len, names), default=0)
    return 3 if longest <= 10 else 2 if longest <= 18 else 1
