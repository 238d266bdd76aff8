"""Which model and which rows an instrument gets."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch

from glue_runs.checkpoint import Rows, open_checkpoint
from glue_runs.data import load_task
from glue_runs.tasks import TASKS
from hf_elmix.diagnostics.predict import predict
from hf_elmix.errors import UsageError
from hf_elmix.study.store import MODEL, RECORD


def labels_of(checkpoint) -> list[int]:
    return torch.cat([batch["labels"] for batch in checkpoint.loader]).tolist()


def test_a_run_is_looked_at_on_the_rows_that_it_was_scored_on(kept_run):
    found = open_checkpoint(str(kept_run), Rows(), batch_size=4)
    record = json.loads((kept_run / RECORD).read_text())
    seen = predict(found.model, found.loader, progress=False)
    assert seen.right.mean() == record["scores"]["matched_accuracy"]["last"]
    assert len(seen.labels) == 6
    assert max(batch["input_ids"].shape[1] for batch in found.loader) == 7
    assert found.batch_size == 4
    assert "6 rows of mnli (validation_matched); text from premise and hypothesis; classes: entailment" in found.about


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [({"split": "validation_mismatched"}, 3), ({"split": "train"}, 12), ({"split": "train", "max_samples": 5}, 5)],
)
def test_another_split_of_a_run(kept_run, wanted, rows):
    assert len(labels_of(open_checkpoint(str(kept_run), Rows(**wanted), batch_size=4))) == rows


def test_a_model_with_rows_of_a_task(kept_run):
    data = str(kept_run.parents[3] / "glue")
    found = open_checkpoint(str(kept_run / MODEL), Rows(task_name="MNLI", dataset_name=data), batch_size=4)
    assert labels_of(found) == load_task(TASKS["mnli"], data)["validation_matched"]["label"][:]
    assert found.batch_size == 32


def test_rows_of_a_file_may_lack_a_class_and_have_another_order(kept_run, tmp_path):
    rows = {"one": ["a cat", "a dog", "music"], "two": ["b", "c", "d"], "y": ["Neutral", "entailment", "Neutral"]}
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    wanted = Rows(file=str(tmp_path / "mine.csv"), label_column_name="y", text_column_names="two,one")
    found = open_checkpoint(str(kept_run / MODEL), wanted, batch_size=4)
    assert labels_of(found) == [1, 0, 1]  # as the model has them: entailment, neutral, contradiction
    assert "mine (rows); text from two and one" in found.about


def test_a_dataset_of_ones_own(kept_run, glue):
    data = glue("mnli")
    found = open_checkpoint(
        str(kept_run / MODEL), Rows(dataset_name=data, dataset_config_name="mnli", split="train"), batch_size=4
    )
    assert len(labels_of(found)) == 12


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"dataset_config_name": "mnli", "split": "test"}, "has only train, .*Name one of them with --split"),
        ({"task_name": "rte", "split": "train"}, "Cannot load"),
        ({"task_name": "mnli", "max_seq_length": 0}, "--max_seq_length to be 1 or more"),
        ({"task_name": "mnli", "max_samples": 0}, "keep 1 row or more"),
        ({"task_name": "mnli", "file": "rows.csv"}, "one of --task_name and --file"),
    ],
)
def test_mistakes_in_naming_rows(kept_run, wanted, words):
    given = {"dataset_name": str(kept_run.parents[3] / "glue"), **wanted}
    with pytest.raises(UsageError, match=words):
        open_checkpoint(str(kept_run / MODEL), Rows(**given), batch_size=4)


def test_a_model_needs_rows_and_a_head(kept_run, encoder, glue):
    with pytest.raises(UsageError, match="--task_name, --dataset_name or --file"):
        open_checkpoint(str(kept_run / MODEL), Rows(), batch_size=4)
    with pytest.raises(UsageError, match="never trained as a classifier: it has no classifier.bias"):
        open_checkpoint(encoder, Rows(task_name="mrpc", dataset_name=glue("mrpc")), batch_size=4)
    with pytest.raises(UsageError, match="--batch_size to be 1 or more"):
        open_checkpoint(encoder, Rows(), batch_size=0)


def test_classes_that_the_model_does_not_know(kept_run, glue):
    with pytest.raises(UsageError, match=r"model's classes \(entailment, neutral, contradiction\), but got negative"):
        open_checkpoint(str(kept_run / MODEL), Rows(task_name="sst2", dataset_name=glue("sst2")), batch_size=4)


def test_a_run_without_its_model_or_whose_rows_have_changed(kept_run, tmp_path, glue):
    moved = tmp_path / "runs" / "mnli" / "ce" / "seed0"
    shutil.copytree(kept_run, moved)
    record = json.loads((moved / RECORD).read_text())
    record["settings"]["dataset"] = glue("mnli")
    (moved / RECORD).write_text(json.dumps(record))
    with pytest.raises(UsageError, match="no longer those that mnli"):
        open_checkpoint(str(moved), Rows(), batch_size=4)
    shutil.rmtree(moved / MODEL)
    with pytest.raises(UsageError, match="--keep models"):
        open_checkpoint(str(moved), Rows(), batch_size=4)
