from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hf_elmix.predictions.records import FILE, Predictions, write_predictions


def read_cells(text: str) -> dict[str, list[str]]:
    """The rows of the printed table by their first cell."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in lines}


@pytest.fixture
def cells() -> Callable[[str], dict[str, list[str]]]:
    return read_cells


@pytest.fixture
def training(tmp_path):
    """Predictions on four rows: at epoch 1 one is correct, one near and two are far."""
    p_true, correct = [[0.9, 0.4, 0.1, 0.1], [0.9, 0.7, 0.6, 0.2]], [[1, 0, 0, 0], [1, 1, 1, 0]]
    seen = Predictions([3, 6], [1, 2], [0, 1, 0, 1], p_true, correct, np.zeros((4, 2)))
    write_predictions(tmp_path / FILE, {"": seen})
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    return tmp_path
