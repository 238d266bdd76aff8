"""How methods look in all figures: names, colours, lines, markers and legends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from hf_elmix.losses.registry import mixing_of
from hf_elmix.terminal import printable

__all__ = [
    "LONGEST",
    "STYLES",
    "Style",
    "drawn_name",
    "escaped",
    "finished",
    "legend_rows",
    "line_of",
    "method_label",
    "notation",
    "short_name",
    "style_of",
]


class Style(NamedTuple):
    """How a method is drawn in all figures, in Matplotlib's terms; widths are in points."""

    colour: str
    line: Any
    width: float
    marker: str


# Colours differ in lightness, too, so that figures can be read in grey. Later lines are thinner than earlier ones, so
# that coinciding lines can all be seen.
STYLES = (
    Style("#BBBBBB", "-", 6.0, "o"),
    Style("#56B4E9", "-", 4.0, "s"),
    Style("#000000", "--", 2.4, "D"),
    Style("#D55E00", "-", 1.4, "^"),
    Style("#009E73", "-.", 1.4, "v"),
    Style("#0072B2", ":", 1.4, "X"),
)
# From the seventh method on, the colours repeat with other dashes and markers.
MARKERS = ("P", "*", "h", "<", ">", "d", "p")
DASHES = ((0, (6, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 1, 1, 1, 1, 1)))
LONGEST = 28  # characters of a name in a figure, at most; tables show it in full


def method_label(method: str) -> str:
    """Write a method's name in the paper's notation and say what kind of schedule it is.

    ``CE``, ``EL``, ``F = 0 (constant)``, ``F = 0,0.5 (switch)``, ``F = 0-0.5 (ramp)``; other names stay as they are.
    """
    label = notation(method)
    if not label.startswith("F = "):
        return label
    phases = len(re.findall(r"[\d.]+", label))
    kind = "constant" if phases == 1 else "ramp" if "-" in label else "switch" if phases == 2 else "steps"
    return f"{label} ({kind})"


def notation(method: str) -> str:
    """Write a method's name in the paper's notation: ``CE``, ``EL``, ``F = 0-0.5``; other names stay as they are."""
    method = mixing_of(method) or method
    if method in ("ce", "el"):
        return method.upper()
    is_focus = re.fullmatch(r"\d*\.?\d+([-, ]\d*\.?\d+)*", method)
    if is_focus and all(float(number) <= 0.5 for number in re.findall(r"[\d.]+", method)):
        return f"F = {method}"
    return method


def drawn_name(method: str) -> str:
    """Shorten and escape the label of a method for a figure."""
    return short_name(method_label(str(method)))


def short_name(text: str) -> str:
    """Put a name in one line, shortened and escaped for a figure."""
    text = " ".join(text.split())
    return escaped(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def escaped(text: str) -> str:
    """Escape a text for Matplotlib: ``$`` starts mathematics, and a leading underscore hides a text from legends."""
    return ("\u200b" if text.startswith("_") else "") + printable(text).replace("$", r"\$")


def style_of(place: int) -> Style:
    """Style of the method at a place, from 0, in the order of the study."""
    style, again = STYLES[place % len(STYLES)], place // len(STYLES)
    if not again:
        return style
    marker = MARKERS[(place - len(STYLES)) % len(MARKERS)]
    return style._replace(line=DASHES[(again - 1) % len(DASHES)], width=1.4, marker=marker)


def line_of(place: int) -> dict[str, Any]:
    """The same style as keyword arguments of a line."""
    style = style_of(place)
    return {"color": style.colour, "ls": style.line, "lw": style.width}


def legend_rows(methods: Sequence[str]) -> int:
    """Count the rows of the methods' legend outside an axis, for the height of the figure."""
    names = [drawn_name(method) for method in methods]
    return -(-len(names) // _columns(names))


def finished(ax: Axes, *, legend: str) -> Axes:
    """Give an axis its legend, frame and grid.

    Args:
        ax: The axis, on which everything else is drawn.
        legend: ``"above"`` or ``"below"`` the axis, or one of Matplotlib's locations inside.
    """
    names = ax.get_legend_handles_labels()[1]
    columns = _columns(names)
    below = 0.42 + 0.17 * ax.get_xlabel().count("\n")  # inches, past the axis label
    shift = ax.transAxes + ScaledTranslation(0, -below, ax.figure.dpi_scale_trans)
    # Long names beside the axis push it to the right: from its middle, a legend would leave the figure.
    pushed = max((len(text.get_text()) for text in ax.get_yticklabels()), default=0) > 12
    side, anchor = ("right", 1.0) if pushed else ("center", 0.5)
    outside: dict[str, dict[str, Any]] = {
        "above": {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": columns},
        "below": {"loc": f"upper {side}", "bbox_to_anchor": (anchor, 0), "bbox_transform": shift, "ncols": columns},
    }
    if names:
        ax.legend(**outside.get(legend, {"loc": legend}), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    return ax


def _columns(names: Sequence[str]) -> int:
    """Number of legend columns that fit side by side."""
    longest = max(map(len, names), default=0)
    return 3 if longest <= 10 else 2 if longest <= 18 else 1
