from __future__ import annotations

from collections import Counter
from datetime import datetime

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from hf_elmix.errors import UsageError
from hf_elmix.tables.comparison import comparison_task


def rows(count: int, seed: int = 0, **columns) -> Dataset:
    """Cells as a CSV file has them: text."""
    draw = np.random.default_rng(seed)
    made = {
        "id": [str(k) for k in range(count)],
        "age": [str(k) for k in draw.integers(18, 80, count)],
        "colour": draw.choice(["red", "dark blue"], count).tolist(),
        "bought": ["yes", "no"] * (count // 2),
    }
    return Dataset.from_dict({**made, **columns})


def task_of(splits: dict[str, Dataset], model: str | None = None, **options):
    return comparison_task(DatasetDict(splits), "mine", model, origin={}, label_column="bought", **options)


def test_a_table_of_numbers_and_categories():
    colours = ["red", "dark blue", "green"] + ["red"] * 17  # green is not among the training rows
    task, about = task_of({"train": rows(50), "test": rows(20, 1, colour=colours)})
    assert about.startswith(
        "mine: a table of 3 features (age, colour as categories; not used: id); 40 train, 10 validation (held out), "
        "20 test rows; bought: no, yes; model hidden (20 parameters); score: accuracy, last epoch"
    )
    given = task.inputs(0).trainer
    train, sets = given["train_dataset"], given["eval_dataset"]
    assert train.features.mean(0).numpy() == pytest.approx(np.zeros(3), abs=1e-6)
    assert train.features.std(0, unbiased=False).numpy() == pytest.approx(np.ones(3), abs=1e-6)
    red, blue, green = sets["test"].features[:3, 1:].flip(1)  # sorted: dark blue comes first
    assert (red > 0).tolist() == [True, False]
    assert (blue > 0).tolist() == [False, True]
    assert (green > 0).tolist() == [False, False]
    assert Counter(sets["validation"].labels.tolist()) == {0: 5, 1: 5}
    assert (task.select.scored_metric, task.select.chosen_metric) == ("validation_accuracy", "validation_accuracy")


def test_rows_are_divided_and_scaled_anew_for_every_seed():
    task, about = task_of({"train": rows(50)}, "linear", resample=True, epoch="best")
    assert "(held out, divided anew for every seed) rows" in about
    assert "model linear (8 parameters); score: accuracy, best epoch" in about
    one, two = (task.inputs(seed).trainer["train_dataset"] for seed in (0, 1))
    assert not np.array_equal(one.labels, two.labels) or not np.array_equal(one.features, two.features)
    for part in (one, two):
        assert part.features.mean(0).numpy() == pytest.approx(np.zeros(3), abs=1e-6)
    assert task.settings["resample"] is True


def test_columns_are_scaled_before_they_are_rounded():
    """A float32 has steps of 128 at 1.7e9, and the deviation of a constant column is not always 0."""
    times = [str(1_700_000_000 + k) for k in range(50)]
    late = {"time": [str(1_700_000_000 + 25)] * 4, "constant": ["0.2"] * 4}
    task, _ = task_of({"train": rows(50, time=times, constant=["0.1"] * 50), "validation": rows(4, 1, **late)})
    given = task.inputs(0).trainer
    time = given["train_dataset"].features[:, 1].double().numpy()
    assert time == pytest.approx((np.arange(50) - 24.5) / np.std(np.arange(50)), abs=1e-6)
    assert given["eval_dataset"].features[:, 2].numpy() == pytest.approx(0.1, abs=1e-6)


def test_a_category_does_not_replace_a_number_of_its_name():
    odd = {"colour=red": ["7"] * 49 + ["8"]}
    task, about = task_of({"train": rows(50, **odd)})
    assert about.startswith("mine: a table of 4 features (age, colour=red, colour as categories; not used: id)")
    features = [part.features for part in (task.inputs(0).trainer[name] for name in ("train_dataset", "eval_dataset"))]
    assert sorted(torch.cat(features)[:, 1].unique().tolist())[0] == pytest.approx(-1 / 7, abs=0.02)


def test_columns_of_lists_are_not_used_and_dates_are_classes():
    days = [datetime(2020, 1, 1), datetime(2020, 1, 2)] * 10
    odd = {"pairs": [[1, 2]] * 20, "made": [{"a": 1}] * 20, "bought": days}
    _, about = task_of({"train": rows(20, **odd)})
    assert "not used: id, pairs, made)" in about
    assert "bought: 2020-01-01T00:00:00" in about


def test_the_training_rows_decide_what_a_column_holds():
    """Of codes such as 01 other rows may happen to have only those that look like numbers."""
    codes = {"code": ["01", "02", "A1", "A2"] * 5, "bought": ["01", "A1"] * 10}
    few = {"code": ["01", "02", "01", "02"], "bought": ["01"] * 4}
    task, _ = task_of({"train": rows(20, **codes), "validation": rows(4, 1, **few)})
    features = task.inputs(0).trainer["eval_dataset"].features[:, 3:]
    assert (features > 0).int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]] * 2
    with pytest.raises(UsageError, match=r"Expected a label in each row of mine \(validation\), but row 2 has none"):
        task_of({"train": rows(20, bought=["0", "1"] * 10), "validation": rows(4, bought=["0", "1", None, "1"])})


@pytest.mark.parametrize(
    ("splits", "model", "message"),
    [
        ({"train": rows(20)}, "bert-base-uncased", "to be linear or hidden for a table, but got 'bert-base-uncased'"),
        (
            {"train": rows(20, age=["30"] * 19 + ["?"])},
            None,
            r"Expected numbers in the column 'age' of mine \(train\)",
        ),
        ({"train": rows(20, age=["30"] * 19 + [None])}, None, "row 19 has nan in the column 'age'"),
        ({"train": rows(20, bought=["yes"] * 20)}, None, r"Expected two classes or more in mine \(train\), but got 1"),
        ({"train": rows(20, bought=["0.5", "1.5"] * 10)}, None, "row 0 has the number 0.5"),
        ({"train": rows(20, bought=["1", "01"] * 10)}, None, "row 1 has '01', and other rows have '1'"),
        ({"train": rows(20, bought=[[1], [2]] * 10)}, None, "one class as the label of each row of mine"),
        (
            {"train": rows(20), "test": rows(4, bought=["yes", "no", "perhaps", "no"])},
            None,
            r"the labels of mine \(test\) to be among no, yes, but row 2 has 'perhaps' \(1 such rows\)",
        ),
        (
            {"train": rows(20), "validation": rows(4).remove_columns("age")},
            None,
            r"Expected the columns of mine \(train\) in mine \(validation\), but it has no 'age'",
        ),
    ],
)
def test_a_table_that_cannot_be_compared_on(splits, model, message):
    with pytest.raises(UsageError, match=message):
        task_of(splits, model)
