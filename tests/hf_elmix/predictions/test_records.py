from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import FILE, Predictions, at_one_point, read_predictions, write_predictions


def some(rows: int = 4, classes: int = 3) -> Predictions:
    return Predictions(
        steps=[5, 10],
        epochs=[1.0, 2.0],
        labels=np.arange(rows) % classes,
        p_true=np.linspace(0, 1, 2 * rows).reshape(2, rows),
        right=np.arange(2 * rows).reshape(2, rows) % 2 == 0,
        logits=np.arange(rows * classes).reshape(rows, classes) / 7,
    )


def test_probabilities_of_logits_of_any_size():
    logits = np.array([[1e4, 1e4, 0.0], [0.0, 1.0, 2.0], [np.log(2), 0.0, 0.0]], dtype=np.float32)
    one = at_one_point(logits, np.array([1, 2, 0]), step=7, epoch=1.5)
    np.testing.assert_allclose(one.p_true, [[0.5, 1 / (1 + np.exp(-1) + np.exp(-2)), 0.5]], rtol=1e-3)
    assert one.right.tolist() == [[False, True, True]]  # of two that are as large, the first is the prediction
    assert (one.steps.tolist(), one.epochs.tolist()) == ([7], [1.5])


def test_what_is_written_is_read(tmp_path):
    sets = {"matched": some(), "mismatched": some(5)}
    write_predictions(tmp_path / "new" / FILE, sets)
    read = read_predictions(tmp_path / "new")
    assert list(read) == ["matched", "mismatched"]
    for name, one in sets.items():
        for field in ("steps", "epochs", "labels", "p_true", "right", "logits"):
            np.testing.assert_array_equal(getattr(read[name], field), getattr(one, field))
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]


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


def test_no_file_and_no_predictions(tmp_path):
    with pytest.raises(UsageError, match="there is no .*predictions.safetensors"):
        read_predictions(tmp_path)
    (tmp_path / FILE).write_bytes(b"text")
    with pytest.raises(UsageError, match="to hold predictions"):
        read_predictions(tmp_path)
    write_predictions(tmp_path / FILE, {})
    with pytest.raises(UsageError, match="it is empty"):
        read_predictions(tmp_path)
