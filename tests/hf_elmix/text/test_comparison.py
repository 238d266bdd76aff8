from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from hf_elmix.errors import UsageError
from hf_elmix.text.comparison import comparison_task


def rows(count: int, labels: tuple = ("up", "down")) -> Dataset:
    return Dataset.from_dict({"review": ["very charming", "very awful"] * count, "label": list(labels) * count})


def test_a_fifth_is_held_out_without_validation_rows(encoder):
    task, about = comparison_task(DatasetDict(train=rows(20)), "mood", encoder, origin={"dataset": "mood"})
    made = task.inputs(0)
    assert len(made.trainer["eval_dataset"]) == 8
    assert made.trainer["eval_dataset"]["label"][:].count(0) == 4
    assert (task.select.scored_metric, task.select.chosen_metric) == ("accuracy", "accuracy")
    assert about.startswith("mood: 32 train, 8 validation rows (held out); text from review; label: down, up; model ")


def test_a_test_split_is_evaluated_and_never_chosen_on(encoder):
    splits = DatasetDict(train=rows(4), dev=rows(2), final=rows(3))
    named = {"validation_split": "dev", "test_split": "final", "epoch": "best", "resample": True}
    task, about = comparison_task(splits, "mood", encoder, origin={}, max_train_samples=6, **named)
    assert {name: len(part) for name, part in task.inputs(0).trainer["eval_dataset"].items()} == {
        "validation": 4,
        "test": 6,
    }
    assert (task.select.epoch, task.select.chosen_metric) == ("best", "validation_accuracy")
    assert "6 train, 4 validation, 6 test rows; divided anew for every seed" in about


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ({"train": rows(4)}, {"test_split": "final"}, "to have the split 'final', but it has train"),
        ({"dev": rows(4)}, {}, "to have the split 'train', but it has dev"),
        ({"train": rows(4, (0.5, 1.5))}, {}, "Expected classes as labels of mood, but got numbers"),
    ],
)
def test_rows_that_cannot_be_compared_on(encoder, splits, options, message):
    with pytest.raises(UsageError, match=message):
        comparison_task(DatasetDict(splits), "mood", encoder, origin={}, **options)
