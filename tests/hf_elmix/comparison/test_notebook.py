"""`compare` in a real notebook, with a kernel of its own."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from glue_runs.pocket.encoder import encoder_path

CELL = f"""
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
import hf_elmix

tokenizer = AutoTokenizer.from_pretrained({str(encoder_path())!r})
reviews = [{{"text": f"the film was {{word}} .", "label": k}} for k, word in enumerate(("awful", "superb"))] * 4
rows = Dataset.from_list(reviews).map(tokenizer, input_columns="text")


def make_trainer(seed):
    return Trainer(
        model=AutoModelForSequenceClassification.from_pretrained({str(encoder_path())!r}, num_labels=2),
        args=TrainingArguments("out", num_train_epochs=1, use_cpu=True),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        compute_metrics=lambda output: {{"accuracy": (output.predictions.argmax(-1) == output.label_ids).mean()}},
    )


found = hf_elmix.compare(make_trainer, ["ce", "el"], max_seeds=2)
"""


@pytest.mark.slow
def test_a_notebook_shows_one_table_that_is_kept_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (CELL, "found")])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    live, last = (cell["outputs"] for cell in notebook.cells)
    tables = [output["data"]["text/html"] for output in live if output["output_type"] == "display_data"]
    assert len(tables) == 1
    assert "It is not known yet whether EL is better or worse than CE" in tables[0]
    assert "over 2 seeds" in tables[0]
    # It was updated in place; besides it, a line for each run and for the time left.
    lines = "".join(output["text"] for output in live if output["output_type"] == "stream").splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("data ")] == [
        f"data {loss} seed {seed}: done" for seed in (0, 1) for loss in ("ce", "el")
    ]
    assert last[0]["data"]["text/html"] == tables[0]
