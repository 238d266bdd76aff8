from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset, DatasetDict

from hf_elmix.comparison.split import hold_out, named_splits, resampled, with_validation
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import Select, Task, TrainerInputs


def rows(count: int, first: int = 0) -> Dataset:
    numbers = range(first, first + count)
    return Dataset.from_dict({"id": list(numbers), "label": [int(k % 4 == 0) for k in numbers]})


def ids(dataset: Dataset) -> list[int]:
    return dataset["id"][:]


def test_held_out_rows_have_the_same_share_of_each_class():
    kept, held = hold_out(rows(200), 0.2, seed=0)
    assert sorted(ids(kept) + ids(held)) == list(range(200))
    assert Counter(held["label"][:]) == {0: 30, 1: 10}
    assert ids(held) == sorted(ids(held))
    assert ids(hold_out(rows(200), 0.2, seed=0)[1]) == ids(held)
    assert ids(hold_out(rows(200), 0.2, seed=1)[1]) != ids(held)


def test_a_class_with_a_single_row_cannot_be_held_out():
    few = Dataset.from_dict({"label": [0, 0, 0, 1]})
    with pytest.raises(UsageError, match="Cannot hold out rows .* Give validation rows, or more rows."):
        hold_out(few, 0.5, 0)


@pytest.mark.parametrize("sets", ["one", "several"])
def test_rows_are_divided_anew_for_every_seed(sets):
    validation, test = rows(40, 160), rows(10, 500)
    evaluated = validation if sets == "one" else {"validation": validation, "test": test}
    select = "accuracy" if sets == "one" else Select("accuracy", scored_on="validation")
    inputs = lambda seed: TrainerInputs({"train_dataset": rows(160), "eval_dataset": evaluated})  # noqa: E731
    task = resampled(Task("mine", select, inputs, {"rows": "known"}))
    assert task.settings == {"rows": "known", "resample": True}

    def drawn(seed: int) -> tuple[list[int], list[int]]:
        given = task.inputs(seed).trainer
        held = given["eval_dataset"] if sets == "one" else given["eval_dataset"]["validation"]
        if sets == "several":
            assert ids(given["eval_dataset"]["test"]) == ids(test)
        return ids(given["train_dataset"]), ids(held)

    train, held = drawn(3)
    assert drawn(3) == (train, held)
    assert sorted(train + held) == list(range(200))
    assert len(held) == 40
    assert drawn(4)[1] != held != list(range(160, 200))


def test_splits_get_the_names_of_a_comparison():
    given = DatasetDict(train=rows(20), dev=rows(4), final=rows(8), validation=rows(6))
    named = named_splits(given, "mine", "dev", "final", 10)
    assert {split: len(part) for split, part in named.items()} == {"train": 10, "validation": 4, "test": 8}
    assert list(named_splits(given, "mine", None, None, None)) == ["train", "validation"]
    for splits, message in (
        (("dev", "last"), "to have the split 'last', but it has train, dev"),
        (("train", None), ""),
        (("dev", "dev"), "both are the split 'dev'"),
    ):
        with pytest.raises(UsageError, match=message or "Expected other rows than those of train"):
            named_splits(given, "mine", *splits, None)
    with pytest.raises(UsageError, match="Expected mine to have the split 'train', but it has dev"):
        named_splits(DatasetDict(dev=rows(4)), "mine", None, None, None)


def test_rows_are_held_out_only_where_there_are_none_for_validation():
    with_rows = DatasetDict(train=rows(20), validation=rows(4))
    assert with_validation(with_rows) is with_rows
    divided = with_validation(DatasetDict(train=rows(20), test=rows(8)))
    assert {split: len(part) for split, part in divided.items()} == {"train": 16, "validation": 4, "test": 8}
