from __future__ import annotations

import pytest
from datasets import Dataset

from glue_runs.data import digest, find_task, load_task, tokenise
from glue_runs.models import load_tokenizer
from glue_runs.tasks import TASKS
from hf_elmix import UsageError


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cloa", "Did you mean 'cola'?"), ("SST-2", "Did you mean 'sst2'?"), ("stsb", "one of cola, sst2")],
)
def test_unknown_task(name, hint):
    with pytest.raises(UsageError) as error:
        find_task(name)
    assert f"Unknown task {name!r}" in str(error.value)
    assert hint in str(error.value)


@pytest.mark.parametrize("name", TASKS)
def test_loads_every_generated_task(pocket, name):
    rows = load_task(TASKS[name], pocket, max_train_samples=7, max_eval_samples=5)
    assert {split: len(dataset) for split, dataset in rows.items()} == {
        "train": 7,
        **dict.fromkeys(TASKS[name].splits, 5),
    }
    whole = load_task(TASKS[name], pocket)
    assert rows["train"].to_list() == whole["train"].to_list()[:7]


def test_a_limit_above_the_rows_keeps_all(glue):
    assert len(load_task(TASKS["cola"], glue("cola"), max_train_samples=1000)["train"]) == 12


@pytest.mark.parametrize("task", ["cola", "mnli"])
def test_tokenise(glue, encoder, task):
    tokenizer, rows = load_tokenizer(encoder), load_task(TASKS[task], glue(task))
    tokens = tokenise(rows, TASKS[task], tokenizer, max_length=6)
    row, text = tokens["train"][0], rows["train"][0]
    expected = tokenizer(*(text[column] for column in TASKS[task].columns), truncation=True, max_length=6)
    assert row == {**expected, "label": text["label"]}
    assert max(map(len, tokens["train"]["input_ids"])) <= 6
    assert len({len(ids) for ids in tokenise(rows, TASKS[task], tokenizer, 64)["train"]["input_ids"]}) > 1  # unpadded


def refusal(task: str, folder: str) -> str:
    with pytest.raises(UsageError) as error:
        load_task(TASKS[task], folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_column(glue, good_rows):
    rows = [{**row, "text": row["sentence1"]} for row in good_rows("mrpc")]
    for row in rows:
        del row["sentence1"]
    message = refusal("mrpc", glue("mrpc", train=rows, validation=rows))
    assert "no sentence1" in message
    assert "it has " in message
    assert "'train' of task mrpc" in message


def test_splits_that_disagree(glue, good_rows):
    rows = [{"text": row["sentence"], "label": row["label"]} for row in good_rows("cola")]
    assert "Couldn't cast sentence: string" in refusal("cola", glue("cola", train=rows, validation=good_rows("cola")))


def test_a_folder_that_changed_is_read_again(glue, good_rows):
    """`datasets` would answer from its cache, which does not know what is in the files."""
    rows = good_rows("cola")
    first = load_task(TASKS["cola"], glue("cola", train=rows, validation=rows))
    turned = [{**row, "label": 1 - row["label"]} for row in rows]
    second = load_task(TASKS["cola"], glue("cola", train=turned, validation=rows))
    assert [1 - label for label in first["train"]["label"]] == list(second["train"]["label"])
    assert digest(first["train"], TASKS["cola"]) != digest(second["train"], TASKS["cola"])
    assert digest(first["validation"], TASKS["cola"]) == digest(second["validation"], TASKS["cola"])


@pytest.mark.parametrize("label", [2, -1])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_label_out_of_range(glue, good_rows, label, split):
    splits = {"train": good_rows("cola"), "validation": good_rows("cola")}
    splits[split][5]["label"] = label
    message = refusal("cola", glue("cola", **splits))
    assert f"split {split!r}" in message
    assert f"row 5 has {label}" in message
    assert "0 to 1 (unacceptable, acceptable)" in message


@pytest.mark.parametrize(("value", "message"), [(None, "got string, 1 rows empty"), (7, "got int64")])
def test_text_that_is_none(glue, good_rows, value, message):
    rows = good_rows("cola")
    for row in rows[3:4] if value is None else rows:
        row["sentence"] = value
    assert message in refusal("cola", glue("cola", train=rows, validation=rows))


def test_labels_that_are_no_numbers(glue, good_rows):
    rows = [{**row, "label": str(row["label"])} for row in good_rows("cola")]
    assert "whole numbers as labels" in refusal("cola", glue("cola", train=rows, validation=rows))


def test_empty_split(glue, good_rows):
    empty = Dataset.from_list(good_rows("cola")).select([])
    assert '"validation" corresponds to no data!' in refusal(
        "cola", glue("cola", train=good_rows("cola"), validation=empty)
    )


def test_missing_split(glue, good_rows):
    message = refusal("mnli", glue("mnli", train=good_rows("mnli"), validation_matched=good_rows("mnli")))
    assert "to have the split 'validation_mismatched'" in message
    assert "train, validation_matched" in message


def test_wrong_folder(tmp_path, glue):
    assert "is no folder" in refusal("cola", str(tmp_path / "nowhere"))
    assert "is no folder" in refusal("cola", "./nowhere")
    (tmp_path / "empty").mkdir()
    assert "Cannot load task cola" in refusal("cola", str(tmp_path / "empty"))
    assert "Cannot load task rte" in refusal("rte", glue("cola"))


def test_unreadable_file(glue, tmp_path):
    folder = glue("cola")
    (tmp_path / "glue/cola/train-00000-of-00001.parquet").write_bytes(b"PAR1 but not really")
    assert "Cannot load task cola" in refusal("cola", folder)


def test_unknown_dataset_without_a_network():
    assert "Cannot load task cola from 'nobody/nothing'" in refusal("cola", "nobody/nothing")
