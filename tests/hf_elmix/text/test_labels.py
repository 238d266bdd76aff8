from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.metrics import f1_score
from transformers import BertConfig

from glue_runs.tasks import GLUE_TASKS, TASKS
from hf_elmix import UsageError
from hf_elmix.text.labels import class_names, for_model, model_classes, with_ids
from hf_elmix.text.metrics import measure
from hf_elmix.text.tasks import TextTask


def rows(labels, **columns):
    return Dataset.from_dict({"text": ["a"] * len(labels), "label": labels, **columns})


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        ([10, 2, 2], ("2", "10")),  # numbers are sorted as numbers
        ([True, False], ("false", "true")),  # as in JSON, and as words in CSV
        (["2", "10"], ("2", "10")),
        (["2", "1.5"], ()),
        (["007", "042"], ("007", "042")),
        (["None", "NA"], ("NA", "None")),
        (["LABEL_1", "LABEL_0"], ("LABEL_0", "LABEL_1")),
        ([0.5, 2.0], ()),
    ],
)
def test_names_of_classes(labels, names):
    assert class_names(rows(labels), "label", "rows") == names


@pytest.mark.parametrize("labels", [["0.0", "1.0", "0.0"], [0.0, 1.0, 0.0], ["0.0", "1", "0"]])
def test_class_ids_written_as_floats_are_numbers_but_not_without_a_word(labels):
    with pytest.warns(UserWarning, match=r"\(0.*, 1.*\) are taken for numbers .* write them without"):
        assert class_names(rows(labels), "label", "rows") == ()


@pytest.mark.parametrize(("one", "other"), [("caf\u00e9", "cafe\u0301"), ("01", "1"), ("+1", "1"), ("a", "\uff41")])
def test_two_spellings_of_a_class_are_refused(one, other):
    with pytest.raises(UsageError, match="of one kind and spelling"):
        class_names(rows([one, other, "b", one, "b"]), "label", "rows")


def test_declared_names_keep_their_order():
    features = Features({"label": ClassLabel(names=["neutral", "bad", "unused"])})
    assert class_names(Dataset.from_dict({"label": [0, 1]}, features), "label", "rows") == ("neutral", "bad", "unused")


@pytest.mark.parametrize("other", [" pos", "Pos", "pos\u00a0"])
def test_declared_classes_that_nobody_can_tell_apart_are_refused(other):
    features = Features({"label": ClassLabel(names=["pos", "neg", other])})
    with pytest.raises(UsageError, match="one spelling of each class of rows, but got 'pos' and"):
        class_names(Dataset.from_dict({"label": [0, 2]}, features), "label", "rows")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["caf\u00e9", "cafe\u0301", "tea"], "row 1 has 'cafe\u0301'|row 0 has 'caf\u00e9'"),
        (["a", None, "b"], "row 1 has none .1 rows"),
        ([[0], [1, 2]], "multi-label"),
        (["a", "a"], "two classes or more"),
        (["a", " ", "b"], "row 1 has none .1 rows"),
        (["0", "1", "n/a", "0"], "row 2 has 'n/a', and other rows have '0'"),
        (["a", "b", "a", "3", "b"], "row 3 has '3', and other rows have 'a'"),
        (["1.5", "2", "nan"], "row 2 has 'nan', and other rows have"),
        (["good", "bad", "Good", "good"], "row 2 has 'Good', and other rows have 'good'"),
        (["bad ", "good", "bad", "bad"], "row 0 has 'bad ', and other rows have 'bad'"),
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
    with pytest.warns(UserWarning, match="not used: row 1 has 'c'"):
        assert with_ids(dataset, "label", ("a", "b"), "rows", strict=False)["label"][:] == [0, -1, -1]


def test_unknown_class_ids():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict({"text": ["x", "y"], "label": [-1, 1]}, features)
    with pytest.warns(UserWarning, match="not used: row 0 has '-1'"):
        assert with_ids(dataset, "label", ("a", "b"), "rows", strict=False)["label"][:] == [-1, 1]


def test_a_class_of_a_single_row_is_named():
    with pytest.warns(UserWarning, match="Row 60 of rows is the only one with the label 'bda'"):
        assert class_names(rows([*["bad", "good"] * 30, "bda"]), "label", "rows") == ("bad", "bda", "good")


@pytest.mark.parametrize(
    ("labels", "classes", "ids"),
    [
        (["Good", "BAD "], ("bad", "good"), [1, 0]),
        (["a", "A"], ("A", "a"), [1, 0]),  # both are names
        ([1, 0], ("bad", "good"), [1, 0]),
        (["1", "0"], ("bad", "good"), [1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        ([1.0, 0.0], ("0", "1"), [1, 0]),  # whole numbers, beside which pandas had a missing one
        ([3, 3], ("1", "2", "3"), [2, 2]),
        (["LABEL_1"], ("LABEL_0", "LABEL_1"), [1]),
    ],
)
def test_names_or_class_ids(labels, classes, ids):
    assert with_ids(rows(labels), "label", classes, "rows", ids=True)["label"][:] == ids


@pytest.mark.parametrize(
    ("labels", "classes", "found"),
    [
        ([1, 0], ("bad", "good"), "row 0 has '1' .2 such"),  # only the classes of a loaded model have ids
        (["a", "A", "b"], ("a", "b"), None),
        (["Ab"], ("AB", "ab"), "row 0 has 'Ab'"),
        (["2.5", "x"], (), "to be numbers, but row 1 has 'x'"),
        (["2.5", None], (), "to be numbers, but row 1 has no label"),
    ],
)
def test_labels_that_are_no_names(labels, classes, found):
    if found is None:
        assert with_ids(rows(labels), "label", classes, "rows")["label"][:] == [0, 0, 1]
        return
    with pytest.raises(UsageError, match=found):
        with_ids(rows(labels), "label", classes, "rows")


@pytest.mark.parametrize("classes", [("1 star", "2 stars", "3 stars"), ("LABEL_2", "LABEL_0", "LABEL_1")])
def test_numbers_that_may_mean_a_name_are_not_class_ids(classes):
    with pytest.raises(UsageError, match=r"Write the labels as the model does\.$"):
        with_ids(rows([1, 2]), "label", classes, "rows", ids=True)


ODD_CLASSES = [
    {"id2label": {0: "a", 1: "b", 3: "c"}},
    {"id2label": {1: "a", 2: "b"}},
    {"id2label": {0: "a", 1: "a", 2: "b"}},
    {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
]


@pytest.mark.parametrize("settings", ODD_CLASSES)
def test_classes_of_which_a_model_does_not_say_the_logit(settings):
    config = BertConfig(architectures=["BertForSequenceClassification"], **settings)
    with pytest.raises(UsageError, match="name each class once, from 0, but it has the id2label "):
        model_classes(config)
    with pytest.warns(UserWarning, match="trained further"):  # their order no longer counts
        assert for_model(config, MNLI, DatasetDict(train=rows([0, 1, 2])), trains=True)[0] is MNLI


def test_declared_ids_stand_for_themselves_where_a_model_has_no_names():
    dataset = rows([0, 1]).cast_column("label", ClassLabel(names=["bad", "good"]))
    assert with_ids(dataset, "label", ("LABEL_0", "LABEL_1"), "rows", ids=True)["label"][:] == [0, 1]
    with pytest.raises(UsageError, match="row 0 has 'bad'"):
        with_ids(dataset, "label", ("no", "yes"), "rows", ids=True)


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ({}, None),
        ({"architectures": ["BertForMaskedLM"]}, None),
        ({"id2label": {0: "b", 1: "a"}}, ("b", "a")),
        ({"architectures": ["BertForSequenceClassification"]}, ("LABEL_0", "LABEL_1")),
        ({"architectures": ["BertForSequenceClassification"], "num_labels": 1}, ()),
    ],
)
def test_classes_of_a_model(config, classes):
    assert model_classes(BertConfig(**config)) == classes


MNLI = TASKS["mnli"]
CAPITALS = BertConfig(id2label={0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"})
WIDE = BertConfig(id2label={0: "other", 1: "equivalent", 2: "not_equivalent"})


@pytest.mark.parametrize("trains", [True, False])
def test_the_models_order(trains):
    """A model that has the task's classes in another order and case keeps its head."""
    splits = DatasetDict(train=rows([0, 1, 2, 0]), test=Dataset.from_dict({"text": ["a"]}))
    task, ordered = for_model(CAPITALS, MNLI, splits, trains=trains)
    names = ("contradiction", "entailment", "neutral")
    assert task.labels == (names if trains else tuple(name.upper() for name in names))
    assert [task.labels[label].lower() for label in ordered["train"]["label"]] == [
        MNLI.labels[label] for label in splits["train"]["label"]
    ]
    assert ordered["train"]["label"][:] == [1, 2, 0, 1]
    assert ordered["test"].column_names == ["text"]


def test_f1_is_of_the_same_class_in_any_order():
    """sklearn measures it of class 1, which a model may use for another class."""
    answers, truth = np.array([1, 1, 0, 1, 0]), np.array([1, 0, 0, 1, 1])
    expected = f1_score(truth, answers)
    config = BertConfig(id2label={0: "equivalent", 1: "not_equivalent"})
    task, ordered = for_model(config, TASKS["mrpc"], DatasetDict(train=rows(truth.tolist())), trains=False)
    references = np.array(ordered["train"]["label"])
    assert references.tolist() == (1 - truth).tolist()
    assert measure(task, 1 - answers, references)["f1"] == pytest.approx(expected)
    assert TextTask.from_settings(task.to_settings()) == task
    assert "positive" not in TASKS["mrpc"].to_settings()  # as in all records so far


def test_a_model_may_have_classes_that_the_rows_lack():
    task, ordered = for_model(WIDE, TASKS["mrpc"], DatasetDict(train=rows([0, 1])), trains=False)
    assert (task.labels, task.positive, ordered["train"]["label"][:]) == (
        ("other", "equivalent", "not_equivalent"), "equivalent", [2, 1],
    )  # fmt: skip


UNNAMED = BertConfig(num_labels=3, architectures=["BertForSequenceClassification"])
OTHERS = BertConfig(id2label={0: "good", 1: "bad", 2: "so-so"})


@pytest.mark.parametrize(
    ("config", "trains"),
    [(WIDE, True), (UNNAMED, True), (UNNAMED, False), (BertConfig(id2label=dict(enumerate(MNLI.labels))), False)],
)
def test_rows_that_stay_as_they_are(config, trains):
    splits = DatasetDict(train=rows([0, 1, 2]))
    task, same = for_model(config, MNLI, splits, trains=trains)
    assert task is MNLI
    assert same is splits


def test_a_head_that_is_trained_for_other_classes_is_named():
    with pytest.warns(UserWarning, match="head that the model has for good, bad, so-so is trained further, for ent"):
        assert for_model(OTHERS, MNLI, DatasetDict(train=rows([0, 1, 2])), trains=True)[0] is MNLI


def test_a_model_of_several_labels_at_once_is_not_scored():
    config = BertConfig(id2label=dict(enumerate(MNLI.labels)), problem_type="multi_label_classification")
    with pytest.raises(UsageError, match="one class for each row"):
        for_model(config, MNLI, DatasetDict(train=rows([0, 1, 2])), trains=False)


def test_labels_of_rows_to_predict_that_are_no_classes_are_named():
    with pytest.warns(UserWarning, match="labels of rows are not used: row 0 has 'great'"):
        with_ids(rows(["great", "awful"]), "label", ("bad", "good"), "rows", strict=False)
    assert with_ids(rows([None, "-1"]), "label", ("bad", "good"), "rows", strict=False)["label"][:] == [-1, -1]


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (OTHERS, MNLI),
        (CAPITALS, TASKS["rte"]),
        (UNNAMED, TASKS["rte"]),
        (CAPITALS, GLUE_TASKS["stsb"]),
        (BertConfig(num_labels=1, id2label={0: "score"}), MNLI),
    ],
)
def test_a_model_of_other_classes_is_not_scored_on_them(config, task):
    with pytest.raises(UsageError, match="rows of the model's classes .* Write the labels as the model does"):
        for_model(config, task, DatasetDict(train=rows([0, 1])), trains=False)
