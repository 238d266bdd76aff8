from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hf_elmix.study.spec import RunKey, RunRecord


def make_record(
    key: RunKey, score: float = 0.5, *, settings: dict[str, Any] | None = None, **fields: Any
) -> RunRecord:
    """A record as a run leaves it; any field can be given."""
    accuracy = {"last": score, "best": score, "epochs": [score]}
    values: dict[str, Any] = {
        "status": "done",
        "scores": {"accuracy": accuracy},
        "training": [{"step": 3, "epoch": 1.0, "loss": 0.7, "alpha": 1.0, "beta": 0.0}],
        "settings": {"score": "accuracy"} if settings is None else settings,
        "provenance": {"versions": {"python": "3.11"}, "device": "cpu"},
        "cost": {"seconds": 1.5, "steps_trained": 3, "steps_inherited": 0},
    }
    return RunRecord(key, **{**values, **fields})


@pytest.fixture
def record_of() -> Callable[..., RunRecord]:
    return make_record
