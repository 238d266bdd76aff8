"""GLUE-like folders with rows of a test's own choosing, and the generated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from glue_runs.pocket.dataset import write_dataset
from glue_runs.pocket.encoder import encoder_path
from glue_runs.tasks import TASKS


def good_rows(task: str, count: int = 12) -> list[dict[str, Any]]:
    """Rows that can be trained on."""
    columns, labels = TASKS[task].columns, len(TASKS[task].labels)
    words = ["the dog sleeps", "a cat sees the bird", "every child likes music"]
    return [
        {**{column: words[(row + k) % 3] for k, column in enumerate(columns)}, "label": row % labels, "idx": row}
        for row in range(count)
    ]


def write_glue(folder: Path, task: str, **splits: list[dict[str, Any]] | Dataset) -> str:
    """A folder like the Hub's dataset with one task; returns its name for `load_dataset`."""
    if not splits:
        splits = {split: good_rows(task) for split in ("train", *TASKS[task].splits)}
    lines = ["---", "configs:", f"- config_name: {task}", "  data_files:"]
    for split, rows in splits.items():
        path = folder / task / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        (rows if isinstance(rows, Dataset) else Dataset.from_list(rows)).to_parquet(path)
        lines += [f"  - split: {split}", f"    path: {task}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(folder)


@pytest.fixture(scope="session")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The generated rows."""
    folder = tmp_path_factory.mktemp("pocket")
    write_dataset(folder)
    return str(folder)


@pytest.fixture(scope="session")
def encoder() -> str:
    """The small encoder of the package."""
    return str(encoder_path())


@pytest.fixture(name="good_rows")
def good_rows_fixture():
    return good_rows


@pytest.fixture
def glue(tmp_path):
    """Writes a GLUE-like folder: ``glue("cola", train=[...], validation=[...])``."""
    return lambda task, **splits: write_glue(tmp_path / "glue", task, **splits)
