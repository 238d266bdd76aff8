from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save
from safetensors.torch import load_file

from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import (
    FILE,
    Predictions,
    check_class_labels,
    from_bytes,
    read_predictions,
    to_bytes,
    write_predictions,
)


def some(rows: int = 4, classes: int = 3) -> Predictions:
    logits = np.arange(2 * rows * classes).reshape(2, rows, classes) % 7 / 2
    first, second = (Predictions.from_logits(logits[k], np.arange(rows) % classes, 5 + 5 * k, 1 + k) for k in (0, 1))
    return first.followed_by(second)


def test_probabilities_of_logits_of_any_size():
    logits = np.array([[1e4, 1e4, 0.0], [0.0, 1.0, 2.0], [np.log(2), 0.0, 0.0]], dtype=np.float32)
    one = Predictions.from_logits(logits, np.array([1, 2, 0]), step=7, epoch=1.5)
    np.testing.assert_allclose(one.p_true, [[0.5, 1 / (1 + np.exp(-1) + np.exp(-2)), 0.5]], rtol=1e-3)
    assert one.correct.tolist() == [[False, True, True]]  # of two equal logits, the first is the prediction
    assert (one.steps.tolist(), one.epochs.tolist()) == ([7], [1.5])


def test_written_predictions_are_read_back(tmp_path):
    sets = {"matched": some(), "mismatched": some(5)}
    write_predictions(tmp_path / "new" / FILE, sets)
    read = read_predictions(tmp_path / "new")
    assert list(read) == ["matched", "mismatched"]
    for name, one in sets.items():
        for field in ("steps", "epochs", "labels", "p_true", "correct", "logits"):
            np.testing.assert_array_equal(getattr(read[name], field), getattr(one, field))
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]


def test_arrays_in_any_order_of_memory_are_written_as_they_are():
    one = some(rows=5)
    turned = replace(one, p_true=np.asfortranarray(one.p_true), logits=np.asfortranarray(one.logits))
    np.testing.assert_array_equal(from_bytes(to_bytes({"": turned}))[""].p_true, one.p_true)
    np.testing.assert_array_equal(from_bytes(to_bytes({"": turned}))[""].logits, one.logits)


def test_the_only_set_needs_no_name_and_any_reader_reads_it(tmp_path):
    write_predictions(tmp_path / "one.safetensors", {"": some()})
    tensors = load_file(tmp_path / "one.safetensors")
    assert tensors["p_true"].shape == (2, 4)
    assert str(tensors["p_true"].dtype) == "torch.float16"
    assert list(read_predictions(tmp_path / "one.safetensors")) == [""]


@pytest.mark.parametrize(
    "change", [{"labels": [0, 1]}, {"steps": [1]}, {"logits": np.zeros((3, 2))}, {"p_true": [0.5] * 4}]
)
def test_arrays_that_do_not_belong_together(change):
    with pytest.raises(ValueError, match="T points, N rows and C classes"):
        replace(some(), **change)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UsageError, match="predictions.safetensors' does not exist"):
        read_predictions(tmp_path)
    (tmp_path / FILE).write_bytes(b"text")
    with pytest.raises(UsageError, match="to hold predictions"):
        read_predictions(tmp_path)
    write_predictions(tmp_path / FILE, {})
    with pytest.raises(UsageError, match="it is empty"):
        read_predictions(tmp_path)


HOSTILE = {
    "labels is float64, not int64": {"labels": np.array([0.0, 1.5, 1.0, 0.0])},
    "steps is int32, not int64": {"steps": np.array([5, 10], np.int32)},
    "steps is out of range or out of order": {"steps": np.array([10, 5])},
    "epochs is out of range or out of order": {"epochs": np.array([1.0, np.inf])},
    "p_true is out of range or out of order": {"p_true": np.full((2, 4), 1.5, np.float16)},
    "Expected class ids from 0 to 2, but got 7": {"labels": np.array([0, 1, 2, 7])},
    "zzz is unknown": {"zzz": np.zeros(1)},
    "T points, N rows and C classes": {"correct": np.zeros((2, 5), bool)},
}


@pytest.mark.parametrize("words", HOSTILE)
def test_arrays_of_other_types_or_ranges_are_refused(words):
    whole = load(to_bytes({"": some()}))
    with pytest.raises(UsageError, match=words):
        from_bytes(save({**whole, **HOSTILE[words]}))


CONTRADICTIONS = {
    "logits": lambda one: {"logits": one.logits[::-1].copy()},
    "logits ": lambda one: {"labels": (one.labels + 1) % 3},
    "logits  ": lambda one: {"p_true": np.stack([one.p_true[0], one.p_true[0]])},
    "correct": lambda one: {"correct": ~one.correct},
    "correct ": lambda one: {"correct": np.stack([~one.correct[0], one.correct[1]])},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_arrays_that_cannot_all_be_true_are_refused(name):
    one = some(rows=12)
    with pytest.raises(UsageError, match=f"{name.strip()} contradicts the other tensors"):
        from_bytes(to_bytes({"": replace(one, **CONTRADICTIONS[name](one))}))
    from_bytes(to_bytes({"": one}))


def test_a_diverged_run_has_nan_among_its_predictions():
    nan = replace(some(), p_true=np.full((2, 4), np.nan), logits=np.full((4, 3), np.nan))
    assert np.isnan(from_bytes(to_bytes({"": nan}))[""].p_true).all()


def test_points_follow_each_other():
    first = Predictions.from_logits(np.eye(2), np.array([0, 0]), step=5, epoch=1)
    second = Predictions.from_logits(2 * np.eye(2), np.array([0, 0]), step=10, epoch=2)
    both = first.followed_by(second)
    assert (both.steps.tolist(), both.epochs.tolist()) == ([5, 10], [1, 2])
    np.testing.assert_array_equal(both.p_true, np.concatenate((first.p_true, second.p_true)))
    np.testing.assert_array_equal(both.logits, second.logits)
    assert both.followed_by(second).steps.tolist() == [5, 10]
    assert first.followed_by(first).steps.tolist() == [5]
    assert both.at(np.array([False, True])).steps.tolist() == [10]


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        ([0, 1, 1], (2, 2), r"logits \(2, 2\) and labels \(3,\)"),
        ([[0], [1]], (2, 2), r"labels \(2, 1\)"),
        ([0, 0], (2,), r"logits \(2,\)"),
        ([0, 0], (2, 1), "two classes or more"),
        ([0.0, 1.0], (2, 2), "integer class ids, but got float64"),
        ([0, -100], (2, 2), r"from 0 to 1, but got -100 \(1 of 2 .* Leave out rows without a class"),
        ([0, 2], (2, 2), "from 0 to 1, but got 2"),
    ],
)
def test_labels_must_be_one_class_per_row(labels, shape, message):
    check_class_labels(np.array([0, 1]), (2, 2))
    with pytest.raises(UsageError, match=message):
        check_class_labels(np.array(labels), shape)
