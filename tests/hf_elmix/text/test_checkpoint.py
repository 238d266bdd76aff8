"""Which model and which rows a diagnostic examines."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset
from transformers import AutoModelForSequenceClassification

from glue_runs.tasks import TASKS
from hf_elmix.errors import UsageError
from hf_elmix.predictions.predict import predict
from hf_elmix.study.store import MODEL, RECORD
from hf_elmix.text.checkpoint import Rows, open_checkpoint
from hf_elmix.text.rows import load_task


def labels_of(checkpoint) -> list[int]:
    return torch.cat([batch["labels"] for batch in checkpoint.loader]).tolist()


def test_a_run_is_examined_on_the_rows_that_it_was_scored_on(kept_run):
    found = open_checkpoint(str(kept_run), Rows(), batch_size=4)
    record = json.loads((kept_run / RECORD).read_text())
    seen = predict(found.model, found.loader, progress=False)
    assert seen.correct.mean() == record["scores"]["matched_accuracy"]["last"]
    assert len(seen.labels) == 6
    assert max(batch["input_ids"].shape[1] for batch in found.loader) == 7
    assert found.batch_size == 4
    assert (
        "6 rows of mnli (validation_matched); text from premise and hypothesis; classes: 0 entailment, 1 neu"
        in found.about
    )


def test_the_rows_follow_the_selection_of_the_task(kept_run, tmp_path):
    run = shutil.copytree(kept_run, tmp_path / "seed0")
    record = json.loads((run / RECORD).read_text())
    record["settings"]["select"]["scored_on"] = "mismatched"
    (run / RECORD).write_text(json.dumps(record))
    assert len(labels_of(open_checkpoint(str(run), Rows(), batch_size=4))) == 3


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [({"split": "validation_mismatched"}, 3), ({"split": "train"}, 12), ({"split": "train", "max_samples": 5}, 5)],
)
def test_another_split_of_a_run(kept_run, wanted, rows):
    assert len(labels_of(open_checkpoint(str(kept_run), Rows(**wanted), batch_size=4))) == rows


def test_a_model_with_rows_of_a_task(kept_run):
    data = str(kept_run.parents[3] / "glue")
    found = open_checkpoint(str(kept_run / MODEL), Rows(dataset_name=data, dataset_config_name="mnli"), batch_size=4)
    assert labels_of(found) == load_task(TASKS["mnli"], data)["validation_matched"]["label"][:]
    assert found.batch_size == 32


def test_rows_of_a_file_may_lack_a_class_and_have_another_order(kept_run, tmp_path):
    rows = {
        "one": ["a doctor", "a dog", "music"],
        "two": ["a boat", "a car", "a bike"],
        "y": ["Neutral", "entailment", "Neutral"],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    wanted = Rows(file=str(tmp_path / "mine.csv"), label_column_name="y", text_column_names="two,one")
    found = open_checkpoint(str(kept_run / MODEL), wanted, batch_size=4)
    assert labels_of(found) == [1, 0, 1]  # ids of the model: entailment, neutral, contradiction
    assert "mine (rows); text from two and one" in found.about


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"dataset_config_name": "mnli", "split": "test"}, "has only train, .*Name one of them with --split"),
        ({"dataset_config_name": "rte", "split": "train"}, "Cannot load"),
        ({"dataset_config_name": "mnli", "max_seq_length": 0}, "--max_seq_length to be 4 or more"),
        ({"dataset_config_name": "mnli", "max_samples": 0}, "keep 1 row or more"),
        ({"dataset_config_name": "mnli", "file": "rows.csv"}, "one of --dataset_name and --file"),
        ({"dataset_name": None, "file": "rows.csv", "split": "train"}, "one of --split and --file"),
    ],
)
def test_mistakes_in_naming_rows(kept_run, wanted, words):
    given = {"dataset_name": str(kept_run.parents[3] / "glue"), **wanted}
    with pytest.raises(UsageError, match=words):
        open_checkpoint(str(kept_run / MODEL), Rows(**given), batch_size=4)


def test_a_model_needs_rows_and_a_head(kept_run, encoder, glue):
    with pytest.raises(UsageError, match="rows to examine: --dataset_name or --file"):
        open_checkpoint(str(kept_run / MODEL), Rows(), batch_size=4)
    with pytest.raises(UsageError, match="never trained as a classifier: it has no classifier.bias"):
        open_checkpoint(encoder, Rows(dataset_name=glue("mrpc")), batch_size=4)
    with pytest.raises(UsageError, match="--batch_size to be 1 or more"):
        open_checkpoint(encoder, Rows(), batch_size=0)


def test_classes_that_the_model_does_not_know(kept_run, glue, good_rows):
    labels = ClassLabel(names=["negative", "positive"])
    rows = Dataset.from_list(good_rows("sst2")).cast_column("label", labels)
    with pytest.raises(UsageError, match="among entailment, neutral, contradiction, but row 0 has 'negative'"):
        open_checkpoint(str(kept_run / MODEL), Rows(dataset_name=glue("sst2", validation=rows)), batch_size=4)


def test_a_run_without_its_model_or_whose_rows_have_changed(kept_run, tmp_path, glue):
    moved = tmp_path / "runs" / "mnli" / "ce" / "seed0"
    shutil.copytree(kept_run, moved)
    record = json.loads((moved / RECORD).read_text())
    record["settings"]["dataset"] = glue("mnli")
    (moved / RECORD).write_text(json.dumps(record))
    with pytest.raises(UsageError, match="have changed since mnli"):
        open_checkpoint(str(moved), Rows(), batch_size=4)
    shutil.rmtree(moved / MODEL)
    with pytest.raises(UsageError, match="--keep models"):
        open_checkpoint(str(moved), Rows(), batch_size=4)


def with_names(folder, tmp_path, **config):
    """A copy of a model whose configuration says something else."""
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return str(tmp_path / "copy")


def rows_with(labels, tmp_path) -> Rows:
    texts = ["a doctor", "a dog", "music", "a nurse"][: len(labels)]
    pd.DataFrame({"sentence": texts, "label": labels}).to_csv(tmp_path / "rows.csv", index=False)
    return Rows(file=str(tmp_path / "rows.csv"))


NUMBERED = {"id2label": {"0": "1", "1": "2", "2": "3"}, "label2id": {"1": 0, "2": 1, "3": 2}}
UNNAMED = {"id2label": {str(k): f"LABEL_{k}" for k in range(3)}, "label2id": {f"LABEL_{k}": k for k in range(3)}}


@pytest.mark.parametrize(
    ("config", "labels", "ids"),
    [
        ({}, [2, 0, 2], [2, 0, 2]),
        ({}, ["CONTRADICTION", "neutral", "neutral"], [2, 1, 1]),
        (UNNAMED, [2, 0, 2], [2, 0, 2]),
        (UNNAMED, ["LABEL_2", "LABEL_1"], [2, 1]),
        ({}, ["neutral", "neutral"], [1, 1]),
        (NUMBERED, [3, 1], [2, 0]),
    ],
)
def test_labels_are_the_models_names_or_its_class_ids(kept_run, tmp_path, config, labels, ids):
    model = with_names(kept_run / MODEL, tmp_path, **config)
    assert labels_of(open_checkpoint(model, rows_with(labels, tmp_path), batch_size=4)) == ids


@pytest.mark.parametrize(
    ("config", "labels", "row"),
    [
        ({}, ["neutral", "contra", "entails"], "among entailment, neutral, contradiction, but row 1 has 'contra'"),
        ({}, ["neutral", None], "row 1 has no label"),
        ({}, [0, 1, 3], "row 2 has '3'"),
        ({}, [0, "neutral"], "row 0 has '0'"),
        (UNNAMED, ["b", "c", "a"], "row 0 has 'b'"),
        (UNNAMED, [1, 2, 3], "row 2 has '3'"),
        (NUMBERED, [0, 1, 2], "row 0 has '0'"),
    ],
)
def test_names_that_the_model_does_not_have_are_not_guessed(kept_run, tmp_path, config, labels, row):
    model = with_names(kept_run / MODEL, tmp_path, **config)
    with pytest.raises(UsageError, match=f"{row}.*Write the labels as the model does"):
        open_checkpoint(model, rows_with(labels, tmp_path), batch_size=4)


def test_a_model_of_numbers_is_no_classifier(kept_run, tmp_path):
    model = with_names(kept_run / MODEL, tmp_path, id2label={"0": "score"}, problem_type="regression")
    with pytest.raises(UsageError, match="Expected a classifier, but .* predicts numbers"):
        open_checkpoint(model, rows_with([0.5, 1.5], tmp_path), batch_size=4)


def test_custom_rows_are_truncated_as_those_of_the_run(kept_run, tmp_path):
    wanted = rows_with(["neutral", "entailment"], tmp_path)
    pd.DataFrame({"sentence": ["the dog sleeps " * 9] * 2, "label": ["neutral", "entailment"]}).to_csv(
        wanted.file, index=False
    )
    (batch,) = open_checkpoint(str(kept_run), wanted, batch_size=4).loader
    assert batch["input_ids"].shape == (2, 7)


def test_a_copied_run_and_a_half_precision_model(kept_run, tmp_path):
    shutil.copytree(kept_run, tmp_path / "best")
    model = AutoModelForSequenceClassification.from_pretrained(kept_run / MODEL).half()
    model.save_pretrained(tmp_path / "best" / MODEL)
    found = open_checkpoint(str(tmp_path / "best"), Rows(), batch_size=4)
    assert next(found.model.parameters()).dtype == torch.float32
    (tmp_path / "best" / RECORD).write_text("{}")
    with pytest.raises(UsageError, match="is not a run record"):
        open_checkpoint(str(tmp_path / "best"), Rows(), batch_size=4)


def test_a_run_whose_record_names_no_rows_needs_rows(kept_run, tmp_path):
    shutil.copytree(kept_run, tmp_path / "own")
    record = json.loads((tmp_path / "own" / RECORD).read_text())
    record["settings"] = {"select": "matched_accuracy"}
    (tmp_path / "own" / RECORD).write_text(json.dumps(record))
    with pytest.raises(UsageError, match="does not say where its rows are. Name them with --file"):
        open_checkpoint(str(tmp_path / "own"), Rows(), batch_size=4)
    found = open_checkpoint(str(tmp_path / "own"), rows_with(["neutral", "entailment"], tmp_path), batch_size=4)
    assert found.batch_size == 8  # the Trainer's, as the study says nothing


def test_a_tokenizer_without_padding(kept_run, tmp_path):
    model = with_names(kept_run / MODEL, tmp_path)
    path = tmp_path / "copy" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": None}))
    with pytest.raises(UsageError, match="to have a padding token"):
        open_checkpoint(model, rows_with(["neutral", "entailment"], tmp_path), batch_size=4)


def test_another_split_of_a_task(kept_run, glue, good_rows):
    data = glue("mnli", train=good_rows("mnli"), dev=good_rows("mnli")[:5])
    wanted = Rows(dataset_name=data, split="dev")
    assert len(labels_of(open_checkpoint(str(kept_run / MODEL), wanted, batch_size=4))) == 5
