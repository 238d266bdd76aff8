from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from glue_runs.tasks import TASKS
from hf_elmix import UsageError
from hf_elmix.study.spec import Task
from hf_elmix.text import study as text_study
from hf_elmix.text.custom import custom_task
from hf_elmix.text.models import find_model, load_tokenizer
from hf_elmix.text.padding_free import NAME
from hf_elmix.text.rows import load_task
from hf_elmix.text.study import collator_for, text_task
from hf_elmix.text.tasks import MAX_LENGTH, PADDINGS, TextTask


def made(task: TextTask, encoder: str, folder: str, length: int, **options: Any) -> Task:
    return text_task(task, load_task(task, folder), encoder, origin={"dataset": folder}, max_length=length, **options)


def test_custom_rows_become_a_task_of_a_study(encoder):
    rows = DatasetDict(
        train=Dataset.from_dict({"review": ["very charming", "very awful"] * 3, "label": ["up", "down"] * 3}),
        validation=Dataset.from_dict({"review": ["very charming"], "label": ["up"]}),
    )
    text, rows = custom_task(rows, "mood", limits={"train": 4, "validation": None})
    task = text_task(text, rows, Path(encoder), origin={"dataset": "org/mood"})
    assert (task.name, task.select.scored_metric) == ("mood", "accuracy")
    assert TextTask.from_settings(task.settings["text"]) == text
    named = ("model", "dataset", "max_length")
    assert [task.settings[name] for name in named] == [encoder, "org/mood", MAX_LENGTH]
    inputs = task.inputs(0)
    assert inputs.provenance["data_rows"] == {"train": 4, "validation": 1}
    assert inputs.trainer["model"].config.id2label == {0: "down", 1: "up"}
    assert inputs.trainer["train_dataset"]["label"][:] == [1, 0, 1, 0]


def test_materials(glue, encoder):
    task = made(TASKS["mnli"], encoder, glue("mnli"), 16)
    assert task.select.scored_metric == "matched_accuracy"
    one, two = task.inputs(0), task.inputs(0)
    assert one.trainer["model"] is not two.trainer["model"]
    assert list(one.trainer["eval_dataset"]) == ["matched", "mismatched"]
    assert one.provenance == two.provenance
    assert one.provenance["data_rows"] == {"train": 12, "validation_matched": 12, "validation_mismatched": 12}
    single = made(TASKS["cola"], encoder, glue("cola"), 16)
    assert single.select.scored_metric == "accuracy"
    assert isinstance(single.inputs(0).trainer["eval_dataset"], Dataset)


def rows_of_kinds(rows: list[dict[str, Any]], kinds: str) -> list[dict[str, Any]]:
    return [{**row, "kind": {"c": "clean", "w": "wrong"}[kind]} for row, kind in zip(rows, kinds, strict=True)]


@pytest.mark.parametrize(("name", "score"), [("cola", "validation_accuracy"), ("mnli", "matched_accuracy")])
def test_training_rows_of_a_kind_are_scored_by_themselves(glue, encoder, good_rows, name, score):
    def of(letters, **options):
        rows = rows_of_kinds(good_rows(name), letters)
        folder = glue(name, train=rows, **{split: good_rows(name, 5) for split in TASKS[name].splits})
        return made(TASKS[name], encoder, folder, 16, **options)

    wrong = {"wrong": "rows memorised"}
    plain, task = of("cwccwwcccccc"), of("cwccwwcccccc", kinds=wrong)
    assert (task.select.scored_metric, task.secondary_metrics) == (
        score,
        {"train_wrong_accuracy": "rows memorised"},
    )
    trainer = task.inputs(0).trainer
    *others, last = trainer["eval_dataset"]
    assert (len(others), last) == (len(TASKS[name].splits), "train_wrong")
    expected = [trainer["train_dataset"][place] for place in (1, 4, 5)]
    assert list(trainer["eval_dataset"][last]) == expected
    assert trainer["train_dataset"].to_list() == plain.inputs(0).trainer["train_dataset"].to_list()
    assert (plain.secondary_metrics, task.work) == ({}, plain.work)
    # Which rows they are is part of the settings.
    again = of("wcccwwcccccc", kinds=wrong).settings["rows"]
    assert {split for split in again if again[split] != task.settings["rows"][split]} == {"train_wrong"}


def test_a_kind_that_is_not_there_is_refused(glue, encoder, good_rows):
    some = glue("cola", train=rows_of_kinds(good_rows("cola"), 12 * "c"), validation=good_rows("cola"))
    for folder in (some, glue("cola")):
        with pytest.raises(UsageError, match="task cola with 'wrong' in a column 'kind', but got none"):
            made(TASKS["cola"], encoder, folder, 16, kinds={"wrong": ""})


def test_batches_are_padded_to_their_longest_row(glue, encoder, good_rows):
    trainer = made(TASKS["cola"], encoder, glue("cola"), 64).inputs(0).trainer
    rows = trainer["train_dataset"]
    batch = trainer["data_collator"]([rows[0], rows[1]])
    assert batch["input_ids"].shape[1] == max(len(rows[k]["input_ids"]) for k in (0, 1)) < 64
    assert batch["labels"].tolist() == [0, 1]


def test_other_weights_under_the_same_name_are_other_settings(glue, encoder, tmp_path):
    folder, rows = shutil.copytree(encoder, tmp_path / "model"), glue("cola")
    before = made(TASKS["cola"], str(folder), rows, 16).settings
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    after = made(TASKS["cola"], str(folder), rows, 16).settings
    assert {name for name in before if before[name] != after[name]} == {"weights"}


def test_a_task_in_memory_needs_no_file_of_rows(glue, encoder):
    task = made(TASKS["mnli"], encoder, glue("mnli"), 10, in_memory=True)
    kept = made(TASKS["mnli"], encoder, glue("mnli"), 10).inputs(0).trainer
    expected = kept["train_dataset"].to_list()
    shipped = pickle.dumps(task)
    parts = (kept["train_dataset"], *kept["eval_dataset"].values())
    for path in {file["filename"] for part in parts for file in part.cache_files}:
        Path(path).unlink()
    trainer = pickle.loads(shipped).inputs(0).trainer
    assert trainer["train_dataset"].to_list() == expected
    assert len(trainer["eval_dataset"]["mismatched"].to_list()) == 12


def test_work_is_the_number_of_training_tokens(glue, encoder):
    short, long = (made(TASKS["rte"], encoder, glue("rte"), length) for length in (4, 12))
    assert short.work == 12 * 4
    assert long.work > short.work


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding(glue, encoder, padding):
    task = made(TASKS["cola"], encoder, glue("cola"), 17, padding=padding)
    assert task.settings["padding"] == padding
    trainer = task.inputs(0).trainer
    assert (trainer["model"].config._attn_implementation == NAME) == (padding == "free")
    width = trainer["data_collator"]([trainer["train_dataset"][0]])["input_ids"].shape[1]
    assert (width == 17) == (padding == "max_length")


@pytest.mark.parametrize(
    ("max_length", "widths"), [(64, [16, 16, 48, 64]), (40, [8, 16, 40, 40]), (39, [5, 16, 33, 39])]
)
def test_a_compiled_model_sees_few_lengths(encoder, max_length, widths):
    collator = collator_for(load_tokenizer(find_model(encoder)), "multiple_of_16", max_length)
    rows = [{"input_ids": [1] * min(length, max_length)} for length in (5, 16, 33, 64)]
    assert [collator([rows[0], row])["input_ids"].shape[1] for row in rows] == widths


def test_padding_falls_back_where_it_must(glue, encoder, monkeypatch):
    folder = glue("cola")
    with pytest.raises(UsageError, match="one of free, longest, multiple_of_16, max_length, but got 'none'"):
        made(TASKS["cola"], encoder, folder, 17, padding="none")
    monkeypatch.setattr(text_study, "can_drop_padding", lambda config: False)
    task = made(TASKS["cola"], encoder, folder, 17)
    assert task.settings["padding"] == "longest"
    assert task.inputs(0).trainer["model"].config._attn_implementation != NAME


def test_padding_makes_no_difference_to_an_evaluation(glue, encoder):
    losses = []
    for padding in PADDINGS:
        trainer = made(TASKS["rte"], encoder, glue("rte"), 32, padding=padding).inputs(0).trainer
        model = trainer["model"].eval()
        losses.append(model(**trainer["data_collator"](list(trainer["train_dataset"]))).loss.item())
    assert losses == pytest.approx([losses[0]] * len(PADDINGS), rel=1e-5)
