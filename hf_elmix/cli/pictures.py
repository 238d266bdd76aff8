"""The flag ``--out`` and the pictures that commands save."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_out", "save_picture"]

FORMATS = (".png", ".svg", ".pdf")


def add_out(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the flag ``--out``.

    Args:
        parser: Parser of the command.
        default: Where the picture goes if the flag is not given; None to draw none.
    """
    more = "" if default else " (default: no picture)"
    text = f"save a picture in this file: {', '.join(FORMATS)}{more}"
    parser.add_argument("--out", type=_picture, default=default, metavar="FILE", help=text)


def save_picture(out: str | None, drawings: Sequence[Callable[..., Any]]) -> None:
    """Draw side by side, and save the picture under its name only when it is complete.

    Args:
        out: Where to save; None to draw nothing.
        drawings: Functions that draw on the axis ``ax`` and return it.
    """
    if out is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    places = figure.subplots(ncols=len(drawings), squeeze=False).flat
    legends = [draw(ax=ax).get_legend() for draw, ax in zip(drawings, places, strict=True)]
    lines = max(len(legend.texts) if legend else 0 for legend in legends)
    figure.set_size_inches(5.4 * len(drawings), 4.0 + 0.24 * lines)
    draft = Path(out).with_name(f".{Path(out).name}")
    try:
        figure.savefig(draft, dpi=160, format=Path(out).suffix[1:].lower())
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    print(f"Picture: {out}")


def _picture(out: str) -> str:
    if Path(out).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"expected a file that ends in {', '.join(FORMATS)}, but got {out!r}")
    if not Path(out).resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, but got {out!r}")
    return out
