from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.predictions.recorder import Recorder

ROWS = [{"x": torch.eye(3)[k % 3] * k, "labels": (k + k // 3) % 3} for k in range(10)]


class Model(nn.Module):
    """Returns its input as logits."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        return {"logits": x} if labels is None else {"loss": x.sum(), "logits": x}


@pytest.fixture
def model() -> nn.Module:
    return Model().eval()


@pytest.fixture
def recorder(model, tmp_path) -> Recorder:
    made = Recorder()
    made.attach(model, TrainingArguments(str(tmp_path), report_to="none", use_cpu=True))
    return made


def evaluate(recorder: Recorder, model: nn.Module, loader: DataLoader, *, labelled: bool = True) -> None:
    for batch in loader:
        model(**batch if labelled else {"x": batch["x"]})
        recorder.record_batch(loader)


@pytest.mark.parametrize("labelled", [True, False], ids=["given labels", "labels of the dataset"])
def test_rows_are_recorded_in_order(recorder, model, labelled):
    evaluate(recorder, model, DataLoader(ROWS, 4), labelled=labelled)
    logits, labels = recorder.collect(main=True)
    assert logits.tolist() == [row["x"].tolist() for row in ROWS]
    assert labels.tolist() == [row["labels"] for row in ROWS]
    assert logits.dtype == np.float32


def test_only_the_main_process_needs_the_result(recorder, model):
    evaluate(recorder, model, DataLoader(ROWS, 4))
    assert recorder.collect(main=False) is None


def test_collecting_and_discarding_leave_nothing(recorder, model):
    for forget in (lambda: recorder.collect(main=True), recorder.discard):
        evaluate(recorder, model, DataLoader(ROWS, 4))
        forget()
        with pytest.raises(UsageError, match="but got nothing"):
            recorder.collect(main=True)


def test_a_new_loader_starts_again(recorder, model):
    recorder.record_batch(DataLoader(ROWS, 2))
    evaluate(recorder, model, DataLoader(ROWS, 4))
    assert len(recorder.collect(main=True)[1]) == len(ROWS)


def test_passes_in_training_mode_and_of_another_model_are_not_recorded(recorder, model):
    loader = DataLoader(ROWS, 10)
    evaluate(recorder, model.train(), loader)
    evaluate(recorder, Model().eval(), loader)
    with pytest.raises(UsageError, match="but got nothing"):
        recorder.collect(main=True)


def test_only_the_model_that_was_attached_last_is_observed(recorder, model, tmp_path):
    other, loader = Model().eval(), DataLoader(ROWS, 10)
    recorder.attach(other, TrainingArguments(str(tmp_path), report_to="none", use_cpu=True))
    evaluate(recorder, other, loader)
    model(x=torch.zeros(10, 3))
    assert recorder.collect(main=True)[0].any()


@pytest.mark.parametrize(
    ("x", "labels", "found"),
    [
        ((4, 5, 3), (4,), r"logits of shape \(4, 5, 3\)"),
        ((4, 1), (4,), r"logits of shape \(4, 1\)"),
        ((4, 3), (4, 3), r"labels of shape \(4, 3\)"),
    ],
    ids=["tokens", "regression", "several labels"],
)
def test_outputs_without_one_class_for_each_row_are_named(recorder, model, x, labels, found):
    model(torch.ones(x), labels=torch.zeros(labels, dtype=torch.long))
    recorder.record_batch(DataLoader(ROWS, 4))
    with pytest.raises(UsageError, match=f"a class id for each row, but got {found}"):
        recorder.collect(main=True)


def test_evaluations_that_are_not_all_rows_in_order_are_refused(recorder, model):
    evaluate(recorder, model, DataLoader(ROWS, 4, shuffle=True))
    with pytest.raises(UsageError, match="in the order of the dataset, but they come from RandomSampler"):
        recorder.collect(main=True)
    evaluate(recorder, model, DataLoader(ROWS, 4, drop_last=True))
    with pytest.raises(UsageError, match="each of the 10 evaluation rows, but recorded 8"):
        recorder.collect(main=True)
    loader = DataLoader(ROWS, 4)
    evaluate(recorder, model, loader)
    evaluate(recorder, model, loader)
    with pytest.raises(UsageError, match="Expected 3 batches of the evaluation, but recorded 6"):
        recorder.collect(main=True)
