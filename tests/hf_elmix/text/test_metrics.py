from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from glue_runs.tasks import GLUE_TASKS, TASKS
from hf_elmix.text.metrics import compute_metrics_for, predicted_classes, predicted_values
from hf_elmix.text.tasks import TextTask


def by_hand(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Accuracy, F1 of class 1 and Matthews correlation from the four counts."""
    tp, tn = ((predictions == c) & (references == c) for c in (1, 0))
    fp, fn = ((predictions == c) & (references == 1 - c) for c in (1, 0))
    tp, tn, fp, fn = (int(x.sum()) for x in (tp, tn, fp, fn))
    norm = np.sqrt(float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "accuracy": (tp + tn) / len(references),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "matthews_correlation": (tp * tn - fp * fn) / norm if norm else 0.0,
    }


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if len(task.labels) == 2])
@pytest.mark.parametrize("seed", range(3))
def test_two_class_metrics(name, seed):
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(50, 2)), generator.integers(0, 2, 50)
    expected = by_hand(logits.argmax(-1), labels)
    scores = compute_metrics_for(TASKS[name])(EvalPrediction(logits, labels))
    assert scores == pytest.approx({metric: expected[metric] for metric in TASKS[name].metrics})
    assert all(type(score) is float for score in scores.values())


def test_batches_that_are_not_concatenated_have_the_same_scores():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(7, 2)), generator.integers(0, 2, 7)
    compute = compute_metrics_for(TASKS["mrpc"])
    whole = compute(EvalPrediction((logits, np.zeros((7, 3))), labels))
    batches = [(logits[:4], np.zeros((4, 3))), (logits[4:], np.zeros((3, 3)))]
    assert compute(EvalPrediction(batches, [labels[:4], labels[4:]])) == whole


def test_three_class_accuracy_and_extra_outputs():
    logits = np.array([[3.0, 1, 2], [0, 1, 2], [0, 1, 0], [1, 0, 0]])
    compute = compute_metrics_for(TASKS["mnli"])
    assert compute(EvalPrediction((logits, np.zeros((4, 7))), np.array([0, 2, 1, 1]))) == {"accuracy": 0.75}
    counted = compute_metrics_for(TASKS["mnli"], count_classes=True)
    assert counted(EvalPrediction(logits, np.array([0, 2, 1, 1]))) == {
        "accuracy": 0.75,
        "predicted_classes": 3,
        "constant_accuracy": 0.5,
    }
    assert counted(EvalPrediction(np.array([1, 1]), np.array([0, 1]))) == {
        "accuracy": 0.5,
        "predicted_classes": 1,
        "constant_accuracy": 0.5,
    }


@pytest.mark.parametrize("name", TASKS)
def test_classes_score_as_their_logits_do(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, len(TASKS[name].labels), generator=generator)
    labels = torch.randint(len(TASKS[name].labels), (50,), generator=generator)
    compute = compute_metrics_for(TASKS[name])
    expected = compute(EvalPrediction(logits.numpy(), labels.numpy()))
    for outputs in (logits, (logits, torch.zeros(50, 7))):
        classes = predicted_classes(outputs, labels)
        assert classes.shape == (50,)
        assert compute(EvalPrediction(classes.numpy(), labels.numpy())) == expected


def test_a_regression():
    """Pearson's correlation by its formula, and Spearman's as that of the ranks."""
    generator = np.random.default_rng(0)
    labels = generator.normal(size=30).astype("float32")
    values = (labels + generator.normal(size=30)).astype("float32")

    def pearson(a, b):
        a, b = a - a.mean(), b - b.mean()
        return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())

    def rank(x):
        return np.array([(x < value).sum() for value in x], dtype=float)

    expected = {"pearson": pearson(values, labels), "spearmanr": pearson(rank(values), rank(labels))}
    kept = predicted_values(torch.tensor(values)[:, None], torch.tensor(labels))
    assert kept.shape == (30,)
    scores = compute_metrics_for(GLUE_TASKS["stsb"])(EvalPrediction(kept.numpy(), labels))
    assert scores == pytest.approx(expected, rel=1e-5)
    own = compute_metrics_for(TextTask("mine", ("text",), (), ("mse",)))(EvalPrediction(kept.numpy(), labels))
    assert own == pytest.approx({"mse": np.mean((values - labels) ** 2)}, rel=1e-5)
