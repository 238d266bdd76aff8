from __future__ import annotations

import pytest
from datasets import Dataset

from glue_runs.problems import glue_problem, glue_study
from glue_runs.protocol import ARGUMENTS, MIXINGS, SEEDS, TASK_NAMES
from glue_runs.tasks import TASKS
from hf_elmix import UsageError


def test_the_papers_grid(pocket, encoder):
    study = glue_study(model=encoder, dataset=pocket)
    assert len(study.runs()) == 7 * 4 * 4
    assert [problem.name for problem in study.problems] == list(TASK_NAMES)
    assert [method.name for method in study.methods] == list(MIXINGS)
    assert study.seeds == SEEDS
    assert study.arguments == ARGUMENTS


def test_a_part_of_it_with_other_arguments(glue, encoder):
    arguments = {"learning_rate": 1e-3, "max_steps": 2}
    study = glue_study(["cola"], [7], ["0 0.5"], model=encoder, dataset=glue("cola"), arguments=arguments)
    (key,) = study.runs()
    assert (key.problem, key.method, key.seed) == ("cola", "0 0.5", 7)
    settings = study.settings(study.problems[0], study.methods[0])
    assert settings["arguments"] == {**ARGUMENTS, **arguments}
    assert settings["model"] == encoder


@pytest.mark.parametrize(
    "mistake", [{"tasks": ["cloa"]}, {"mixings": ["0-0.6"]}, {"model": "./nowhere"}, {"dataset": "./nowhere"}]
)
def test_mistakes_show_before_anything_is_trained(glue, encoder, mistake):
    given = {"tasks": ["cola"], "mixings": ["ce"], "model": encoder, "dataset": glue("cola"), **mistake}
    with pytest.raises(UsageError):
        glue_study(**given)


def test_materials(glue, encoder):
    problem = glue_problem(TASKS["mnli"], encoder, glue("mnli"), 16)
    assert problem.score == "matched_accuracy"
    one, two = problem.materials(0), problem.materials(0)
    assert one.trainer["model"] is not two.trainer["model"]
    assert list(one.trainer["eval_dataset"]) == ["matched", "mismatched"]
    assert one.provenance == two.provenance
    assert one.provenance["data_rows"] == {"train": 12, "validation_matched": 12, "validation_mismatched": 12}
    single = glue_problem(TASKS["cola"], encoder, glue("cola"), 16)
    assert single.score == "accuracy"
    assert isinstance(single.materials(0).trainer["eval_dataset"], Dataset)


def test_batches_are_padded_to_their_longest_row(glue, encoder, good_rows):
    trainer = glue_problem(TASKS["cola"], encoder, glue("cola"), 64).materials(0).trainer
    rows = trainer["train_dataset"]
    batch = trainer["data_collator"]([rows[0], rows[1]])
    assert batch["input_ids"].shape[1] == max(len(rows[k]["input_ids"]) for k in (0, 1)) < 64
    assert batch["labels"].tolist() == [0, 1]
