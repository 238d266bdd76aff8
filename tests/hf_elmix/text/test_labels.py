from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import BertConfig

from glue_runs.tasks import TASKS
from hf_elmix import UsageError
from hf_elmix.text.labels import class_names, in_order_of, named_labels, with_ids


def rows(labels, **columns):
    return Dataset.from_dict({"text": ["a"] * len(labels), "label": labels, **columns})


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        ([10, 2, 2], ("2", "10")),  # numbers are sorted as numbers
        ([True, False], ("False", "True")),
        ([0.5, 2.0], ()),
    ],
)
def test_names_of_classes(labels, names):
    assert class_names(rows(labels), "label", "rows") == names


def test_declared_names_keep_their_order():
    features = Features({"label": ClassLabel(names=["neutral", "bad", "unused"])})
    assert class_names(Dataset.from_dict({"label": [0, 1]}, features), "label", "rows") == ("neutral", "bad", "unused")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, "b"], "row 1 has none .1 rows"),
        ([[0], [1, 2]], "multi-label"),
        (["a", "a"], "two classes or more"),
    ],
)
def test_labels_that_are_not_classes(labels, message):
    with pytest.raises(UsageError, match=message):
        class_names(rows(labels), "label", "rows")


def test_ids():
    assert with_ids(rows(["b", "a", "b"]), "label", ("a", "b"), "rows")["label"][:] == [1, 0, 1]
    assert with_ids(rows([7, 3, 7]), "label", ("3", "7"), "rows")["label"][:] == [1, 0, 1]
    assert with_ids(rows([0.5, 1.5]), "label", (), "rows")["label"][:] == [0.5, 1.5]


def test_another_column_takes_the_place_of_label():
    mapped = with_ids(rows([0, 1], mood=["b", "a"]), "mood", ("a", "b"), "rows")
    assert mapped["label"][:] == [1, 0]
    assert set(mapped.column_names) == {"text", "label"}


def test_a_label_that_was_not_in_training():
    dataset = rows(["a", "c", "c"])
    with pytest.raises(UsageError, match=r"labels of rows to be among a, b, but row 1 has 'c' \(2 such rows\)"):
        with_ids(dataset, "label", ("a", "b"), "rows")
    assert with_ids(dataset, "label", ("a", "b"), "rows", known=False)["label"][:] == [0, -1, -1]


def test_unknown_class_ids():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict({"text": ["x", "y"], "label": [-1, 1]}, features)
    assert with_ids(dataset, "label", ("a", "b"), "rows", known=False)["label"][:] == [-1, 1]


def test_names_of_a_model():
    assert named_labels(BertConfig()) == ()
    assert named_labels(BertConfig(id2label={0: "b", 1: "a"})) == ("b", "a")


def test_the_models_order():
    """A model that has the task's classes in another order and case keeps its head."""
    config = BertConfig(id2label={0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"})
    splits = DatasetDict(train=rows([0, 1, 2, 0]), test=Dataset.from_dict({"text": ["a"]}))
    task, ordered = in_order_of(config, TASKS["mnli"], splits)
    assert task.labels == ("contradiction", "entailment", "neutral")
    names = [TASKS["mnli"].labels[label] for label in splits["train"]["label"]]
    assert [task.labels[label] for label in ordered["train"]["label"]] == names
    assert ordered["train"]["label"][:] == [1, 2, 0, 1]
    assert ordered["test"].column_names == ["text"]


@pytest.mark.parametrize("names", [None, {0: "good", 1: "bad", 2: "so-so"}, dict(enumerate(TASKS["mnli"].labels))])
def test_other_labels_leave_all_as_it_is(names):
    splits = DatasetDict(train=Dataset.from_dict({"label": [0, 1, 2]}, Features({"label": Value("int64")})))
    config = BertConfig(num_labels=3) if names is None else BertConfig(id2label=names)
    task, same = in_order_of(config, TASKS["mnli"], splits)
    assert task is TASKS["mnli"]
    assert same is splits
