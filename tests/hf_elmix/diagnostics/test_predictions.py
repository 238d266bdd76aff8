from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from hf_elmix.diagnostics.predictions import FILE, Predictions, read_predictions, write_predictions
from hf_elmix.errors import UsageError


def some(rows: int = 4, classes: int = 3) -> Predictions:
    return Predictions(
        steps=[5, 10],
        epochs=[1.0, 2.0],
        labels=np.arange(rows) % classes,
        p_true=np.linspace(0, 1, 2 * rows).reshape(2, rows),
        right=np.arange(2 * rows).reshape(2, rows) % 2 == 0,
        logits=np.arange(rows * classes).reshape(rows, classes) / 7,
    )


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
