from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from hf_elmix.errors import UsageError
from hf_elmix.text.comparison import comparison_task


def rows(count: int, labels: tuple = ("up", "down")) -> Dataset:
    return Dataset.from_dict({"review": ["very charming", "very awful"] * count, "label": list(labels) * count})


def test_a_fifth_is_held_out_without_validation_rows(encoder):
    given = rows(20).add_column("stars", [1, 2] * 20)
    task, about = comparison_task(DatasetDict(train=given), "mood", encoder, origin={"dataset": "mood"})
    made = task.inputs(0)
    assert len(made.trainer["eval_dataset"]) == 8
    assert made.trainer["eval_dataset"]["label"][:].count(0) == 4
    assert (task.select.scored_metric, task.select.chosen_metric) == ("accuracy", "accuracy")
    assert about.startswith(
        "mood: text from review (not used: stars); 32 train, 8 validation (held out) rows; label: down, up; model "
    )


@pytest.mark.parametrize(("compiled", "padding"), [(False, "free"), (True, "multiple_of_16")])
def test_a_compiled_model_is_padded(encoder, compiled, padding):
    task, _ = comparison_task(DatasetDict(train=rows(20)), "mood", encoder, origin={}, compiled=compiled)
    assert task.settings["padding"] == padding


def test_a_test_split_is_evaluated_and_never_chosen_on(encoder):
    splits = DatasetDict(train=rows(3), validation=rows(2), test=rows(3))
    task, about = comparison_task(splits, "mood", encoder, origin={}, epoch="best", resample=True)
    assert {name: len(part) for name, part in task.inputs(0).trainer["eval_dataset"].items()} == {
        "validation": 4,
        "test": 6,
    }
    assert (task.select.epoch, task.select.chosen_metric) == ("best", "validation_accuracy")
    assert "6 train, 4 validation (divided anew for every seed), 6 test rows" in about


def test_labels_that_are_numbers_cannot_be_compared_on(encoder):
    with pytest.raises(UsageError, match="Expected classes as labels of mood, but got numbers"):
        comparison_task(DatasetDict(train=rows(4, (0.5, 1.5))), "mood", encoder, origin={})
