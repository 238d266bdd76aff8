from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import matplotlib
import pandas as pd
import pytest

from hf_elmix.analysis.predicted import Readers
from hf_elmix.diagnostics.predictions import Predictions
from hf_elmix.study.spec import RunKey, RunRecord

matplotlib.use("Agg")


def make_record(
    problem: str, method: str, seed: int, score: float | None = None, /, *, status: str = "done", **metrics: float
) -> RunRecord:
    """A record with the score under ``accuracy``, or without any."""
    last = {**({} if score is None else {"accuracy": score}), **metrics}
    # The best epoch is better than the last, so that a table that takes the wrong one shows it.
    scores: dict[str, Any] = {
        name: {"last": value, "best": value + 0.125, "epochs": [value + 0.125, value]} for name, value in last.items()
    }
    cost = {"seconds": 2.5 + seed, "steps_trained": 12, "steps_inherited": 0}
    return RunRecord(RunKey(problem, method, seed), status, scores, [], {"score": "accuracy"}, {}, cost)


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture(scope="session")
def small_study() -> list[RunRecord]:
    """Two problems, three methods, two seeds; one run failed, one diverged, one is missing; in no order."""
    return [
        make_record("rte", "0-0.5", 1, 0.75),
        make_record("cola", "0.3", 0, status="failed"),
        make_record("rte", "ce", 0, 0.5),
        make_record("cola", "ce", 1, 0.5, mcc=0.25),
        make_record("rte", "0-0.5", 0, 0.625),
        make_record("cola", "0-0.5", 0, 1.0, mcc=0.75),
        make_record("rte", "0.3", 0, 0.5),
        make_record("cola", "ce", 0, 0.75, mcc=0.5),
        make_record("rte", "ce", 1, 0.875, status="diverged"),
        make_record("cola", "0-0.5", 1, 0.5, mcc=0.125),
        make_record("cola", "0.3", 1, 0.25, mcc=0.0),
    ]


@pytest.fixture(scope="session")
def predicted_study(predictions: Callable[..., Predictions]) -> tuple[list[RunRecord], Readers]:
    """Two problems, three methods, two seeds, and what reads their predictions; one run failed, one left none."""
    records, readers = [], {}
    for k, (problem, method, seed) in enumerate(itertools.product(("cola", "rte"), ("ce", "0-0.5", "0.3"), range(2))):
        records.append(make_record(problem, method, seed, 0.5 + k / 100))
        one = predictions(60, points=3, seed=k)
        readers[records[-1].key] = lambda one=one: {"": one}
    records[3] = make_record("cola", "0-0.5", 1, status="failed")
    del readers[RunKey("rte", "0.3", 1)]
    return records, readers


PAPER_METHODS = ["ce", "0", "0,0.5", "0-0.5"]

# Accuracies in percent, as printed. Table 1 has CIFAR100 and CINIC10 for each of its eight models.
TABLE_1 = """
ShuffleNetV2    68.10 68.46 68.46 68.51  81.35 81.55 81.59 81.79
ResNet20        68.25 68.58 68.58 68.48  83.35 83.53 83.53 83.72
ResNet32        69.66 70.02 70.02 69.83  84.74 84.91 84.96 85.10
ResNet44        70.71 71.06 71.06 70.93  84.81 84.99 85.00 85.18
ResNet18        74.54 74.58 74.58 74.60  88.02 88.22 88.26 88.25
ResNet34        74.35 74.77 74.77 74.69  88.10 88.74 88.77 88.85
PreActResnet18  74.39 74.82 74.82 74.81  85.97 86.55 86.60 86.71
ResNext29       76.04 76.47 76.47 76.52  88.35 88.58 88.59 88.72
"""
TABLE_2 = """
ResNet18    69.82 70.19 70.25 70.50
ResNet34    73.26 73.65 73.91 74.07
ResNet50    75.74 75.86 76.06 76.35
ResNet101   77.59 77.90 78.37 78.51
SuffleNet   65.28 65.92 65.51 65.99
ResNeXt50   77.30 77.63 78.01 78.25
ResNeXt101  79.20 79.45 79.73 79.99
"""
TABLE_3 = """
Arch1  61.08 60.81 60.95 61.57
Arch2  60.46 61.52 61.52 61.36
Arch3  60.07 61.12 61.12 61.27
Arch4  63.26 63.20 63.20 63.46
Arch5  63.14 63.79 63.79 63.77
"""


def read_table(text: str) -> pd.DataFrame:
    """One row for each experiment, four columns; a line of eight numbers is two experiments."""
    rows = {}
    for name, *numbers in map(str.split, text.strip().splitlines()):
        for part in range(0, len(numbers), 4):
            rows[f"{name}.{part // 4}"] = [float(number) for number in numbers[part : part + 4]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=PAPER_METHODS)


@pytest.fixture
def paper_tables() -> list[pd.DataFrame]:
    """Tables 1 to 3 of the paper."""
    return [read_table(table) for table in (TABLE_1, TABLE_2, TABLE_3)]
