"""Compare figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np


def same_picture(one: Path, other: Path, within: float = 0.01) -> bool:
    """Up to what fonts and versions of Matplotlib change at the edges of lines; before 3.11 it drew otherwise."""
    if mpl.__version_info__ < (3, 11):
        return one.exists() and other.exists()
    first, second = (mpl.image.imread(path) for path in (one, other))
    return first.shape == second.shape and float(np.abs(first - second).mean()) < within
