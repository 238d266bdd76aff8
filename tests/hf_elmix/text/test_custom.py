from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from hf_elmix import UsageError
from hf_elmix.text.custom import custom_task, find_splits

MATCHED = ("validation_matched", "validation_mismatched")


def splits(**parts):
    return DatasetDict({name: Dataset.from_dict(columns) for name, columns in parts.items()})


def task_of(rows, **options):
    return custom_task(rows, "mine", **options)


def test_the_task_is_inferred_from_the_columns():
    rows = splits(
        train={"idx": [7, 8], "text": ["a", "b"], "label": ["no", "yes"], "label_text": ["n", "y"]},
        validation={"idx": [9], "text": ["c"], "label": ["yes"], "label_text": ["y"]},
        test={"idx": [10], "text": ["d"]},
    )
    task, used = task_of(rows)
    assert (task.name, task.columns, task.labels, task.metrics) == ("mine", ("text",), ("no", "yes"), ("accuracy",))
    assert used["train"]["label"][:] == [0, 1]
    assert used["validation"]["label"][:] == [1]
    assert "label" not in used["test"].column_names


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("sentence2", "title", "sentence1"), ("sentence1", "sentence2")),
        (("premise", "hypothesis", "genre"), ("premise", "hypothesis")),
        (("title", "body"), ("title", "body")),
    ],
)
def test_pairs(columns, expected):
    rows = splits(train={**{column: ["a", "b"] for column in columns}, "label": [0, 1]})
    assert task_of(rows)[0].columns == expected


def test_columns_that_are_named():
    rows = splits(train={"a": ["x", "y"], "b": ["x", "y"], "c": ["x", "y"], "mood": ["m", "n"], "label": [0, 1]})
    task, used = task_of(rows, text_columns="c", label_column="mood")
    assert (task.columns, task.labels) == (("c",), ("m", "n"))
    assert used["train"]["label"][:] == [0, 1]


def test_a_regression():
    task, used = task_of(splits(train={"text": ["a", "b"], "label": [0.5, -1.25]}))
    assert task.regression
    assert task.metrics == ("mse",)
    assert used["train"]["label"][:] == [0.5, -1.25]


def test_test_rows_keep_labels_that_are_all_known():
    rows = splits(train={"text": ["a", "b"], "label": [3, 5]}, test={"text": ["c", "d"], "label": [5, 3]})
    assert task_of(rows)[1]["test"]["label"][:] == [1, 0]
    rows["test"] = Dataset.from_dict({"text": ["c", "d"], "label": [5, 4]})
    with pytest.warns(UserWarning, match="labels of split 'test' of mine are not used: row 1 has '4' .1 such rows"):
        assert "label" not in task_of(rows)[1]["test"].column_names


def test_rows_to_predict_alone_get_the_models_labels():
    task, used = task_of(splits(test={"text": ["a"]}), labels=("bad", "good"))
    assert task.labels == ("bad", "good")
    assert used["test"].column_names == ["text"]


def test_only_the_splits_that_are_used_are_kept_and_checked():
    rows = splits(train={"text": ["a", "b", "c"], "label": [0, 1, 1]}, validation={"text": ["a"], "label": [9]})
    _, used = task_of(rows, limits={"train": 2})
    assert {split: len(part) for split, part in used.items()} == {"train": 2}


@pytest.mark.parametrize(
    ("names", "given", "test", "found"),
    [
        (("train", "validation"), None, False, ("validation",)),
        (
            ("validation_matched", "validation_mismatched"),
            None,
            False,
            ("validation_matched", "validation_mismatched"),
        ),
        (("train", "test"), None, False, ("validation",)),
        (("train", "test"), "test", False, ("test",)),
        (("train", "test"), None, True, ("test",)),
        (("test_matched", "test_mismatched"), None, True, ("test_matched", "test_mismatched")),
    ],
)
def test_splits(names, given, test, found):
    assert find_splits(DatasetDict(dict.fromkeys(names)), given, test=test) == found


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            {"train": {"text": ["a", "b"], "y": [0, 1]}},
            {},
            "'label' or 'labels' or 'fine_label' in mine, but it has text, y",
        ),
        ({"train": {"text": ["a", "b"], "y": [0, 1]}}, {"label_column": "z"}, "a column 'z' in mine"),
        ({"train": {"a": ["a"], "b": ["b"], "c": ["c"], "label": [1]}}, {}, "has a, b, c .*--text_column_names"),
        ({"train": {"n": [1, 2], "label": [0, 1]}}, {}, "has none .all columns: n, label"),
        ({"train": {"text": ["a", "b"], "label": [0, 1]}}, {"text_columns": "x"}, "has no x"),
        (
            {"train": {"text": ["a", "b"], "label": [0, 1]}},
            {"text_columns": "text,label"},
            "'label' is given for both",
        ),
        ({"train": {"text": ["a", None], "label": [0, 1]}}, {}, "row 1 has none"),
        ({"train": {"id": ["t1", "t2"], "text": ["a", "b"], "Label_Name": ["no", "yes"]}}, {}, "a column 'label'"),
        (
            {"train": {"text": ["a", "b"], "label": [0, 1]}},
            {"text_delimiter": " "},
            "put between columns of text, but there is only 'text'. Leave it out",
        ),
        (
            {"train": {"text": ["a", "b"], "label": [0.5, float("nan")]}},
            {},
            "a label in each row of split 'train' of mine, but row 1 has none",
        ),
        (
            {"train": {"text": ["a", "b"], "label": [0, 1]}, "validation": {"text": ["a"], "label": [2]}},
            {},
            "split 'validation' of mine to be among 0, 1, but row 0 has '2'",
        ),
        (
            {"train": {"text": ["a", "b"], "label": [0, 1]}},
            {"limits": {"train": None, "validation": None}},
            "only train. Name one of them with --validation_split_name",
        ),
        ({"test": {"text": ["a"]}}, {"limits": {"train": None}}, "the split 'train', but it has only test"),
    ],
)
def test_mistakes(rows, options, message):
    with pytest.raises(UsageError, match=message):
        task_of(splits(**rows), **options)


@pytest.mark.parametrize(
    ("columns", "delimiter", "found", "texts"),
    [
        ("title, body,tail", None, ("title + body + tail",), ["a c e", "b d f"]),
        ("tail,title,body", " / ", ("tail + title + body",), ["e / a / c", "f / b / d"]),
        ("title,body", "", ("title + body",), ["ac", "bd"]),
        ("title,body", None, ("title", "body"), ["a", "b"]),
    ],
)
def test_three_columns_are_joined_as_run_classification_does(columns, delimiter, found, texts):
    data = {"title": ["a", "b"], "body": ["c", "d"], "tail": ["e", "f"], "label": [0, 1]}
    task, used = task_of(splits(train=data), text_columns=columns, text_delimiter=delimiter)
    assert task.columns == found
    assert used["train"][found[0]][:] == texts


def test_a_column_of_numbers_or_without_a_name_is_read_as_text_if_it_is_named_only():
    data = {"Unnamed: 0": ["x", "y"], "n": ["1", "2.5"], "text": ["7", "a"], "label": ["0", "1"]}
    assert task_of(splits(train=data))[0].columns == ("text",)
    task, used = task_of(splits(train={**data, "n": [1, 2]}), text_columns="n")
    assert (task.columns, used["train"]["n"][:]) == (("n",), ["1", "2"])


def test_rows_for_a_model_may_have_one_of_its_classes():
    task, used = task_of(splits(train={"text": ["a", "b"], "label": ["Good", "good"]}), labels=("bad", "good"))
    assert (task.labels, used["train"]["label"][:]) == (("bad", "good"), [1, 1])
