from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import pytest

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


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture
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
