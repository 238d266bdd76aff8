from __future__ import annotations

import pytest

from glue_runs.protocol import ARGUMENTS, MIXINGS, SEEDS, TASK_NAMES
from glue_runs.study import glue_study
from hf_elmix import UsageError
from hf_elmix.losses.registry import LOSS_SETS
from hf_elmix.study.executors.local import run_in_process
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import run_branch
from hf_elmix.study.store import Store


def test_the_papers_grid(pocket, encoder):
    study = glue_study(model=encoder, dataset=pocket)
    assert len(study.runs()) == 7 * 4 * 4
    assert [task.name for task in study.tasks] == list(TASK_NAMES)
    assert [method.name for method in study.methods] == list(MIXINGS)
    assert study.seeds == SEEDS
    assert study.arguments == ARGUMENTS


def test_a_part_of_it_with_other_arguments(glue, encoder):
    arguments = {"learning_rate": 1e-3, "max_steps": 2}
    study = glue_study(["cola"], [7], ["0 0.5"], model=encoder, dataset=glue("cola"), arguments=arguments)
    (key,) = study.runs()
    assert (key.task, key.method, key.seed) == ("cola", "0 0.5", 7)
    settings = study.settings(study.tasks[0], study.methods[0])
    assert settings["arguments"] == {**ARGUMENTS, **arguments}
    assert settings["model"] == encoder
    assert len(settings["weights"]) == 16


@pytest.mark.parametrize(
    "mistake",
    [
        {"tasks": ["cloa"]},
        {"losses": ["0-0.6"]},
        {"losses": ["fokal"]},
        {"model": "./nowhere"},
        {"dataset": "./nowhere"},
    ],
)
def test_mistakes_show_before_anything_is_trained(glue, encoder, mistake):
    given = {"tasks": ["cola"], "losses": ["ce"], "model": encoder, "dataset": glue("cola"), **mistake}
    with pytest.raises(UsageError):
        glue_study(**given)


def test_a_named_set_of_losses(pocket, encoder):
    study = glue_study(["mnli"], [0], ["table4", "cot"], model=encoder, dataset=pocket)
    assert [method.name for method in study.methods] == [*LOSS_SETS["table4"], "cot"]


def test_complement_training_of_two_classes_is_refused(pocket, encoder):
    with pytest.raises(UsageError, match="cola has only one.*--tasks mnli"):
        glue_study(["mnli", "cola"], [0], ["ce", "cot"], model=encoder, dataset=pocket)


def test_compiled_models_are_padded(glue, encoder):
    study = glue_study(["cola"], model=encoder, dataset=glue("cola"), arguments={"torch_compile": True})
    assert study.tasks[0].settings["padding"] == "multiple_of_16"


@pytest.mark.slow
def test_compiled_runs_share_training(glue, encoder, tmp_path):
    """Runs of a compiled model end with the same scores, to the last bit, whether they share training or not."""
    compiled = {"torch_compile": True, "torch_compile_backend": "eager", "num_train_epochs": 2, "use_cpu": True}
    study = glue_study(["cola"], [0], ["ce", "0", "0-0.5"], model=encoder, dataset=glue("cola"), arguments=compiled)
    scores, inherited = [], []
    for sharing in (True, False):
        store = Store(tmp_path / str(sharing))
        assert run_grid(study, store, run_branch, executor=run_in_process, sharing=sharing) == {"done": 3}
        records = sorted(store.records(), key=lambda record: record.key.method)
        scores.append([record.scores["loss"]["epochs"] for record in records])
        inherited.append(sum(record.cost["steps_inherited"] for record in records))
    assert scores[0] == scores[1]
    assert inherited[0] > inherited[1] == 0
