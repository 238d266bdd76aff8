from __future__ import annotations

import numpy as np
import pytest
from transformers import EvalPrediction

from glue_runs.metrics import GlueMetric, with_combined_score
from glue_runs.tasks import TASKS
from hf_elmix.errors import UsageError


def test_predicting_only_one_class_is_not_an_error():
    scores = GlueMetric("cola").compute(predictions=[1, 1, 1], references=[1, 0, 1])
    assert scores == pytest.approx({"accuracy": 2 / 3, "matthews_correlation": 0.0})


def test_unknown_task():
    with pytest.raises(UsageError, match="cola.*, but got 'snli'"):
        GlueMetric("snli")


@pytest.mark.parametrize(("name", "has"), [("mrpc", True), ("qqp", True), ("cola", False), ("sst2", False)])
def test_the_combined_score_of_two_metrics(name, has):
    prediction = EvalPrediction(np.array([1, 0, 1, 1]), np.array([1, 0, 0, 1]))
    scores = with_combined_score(TASKS[name])(prediction)
    assert ("combined_score" in scores) == has
    if has:
        assert scores["combined_score"] == pytest.approx((0.75 + 0.8) / 2)
