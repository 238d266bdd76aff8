from __future__ import annotations

import pytest
import yaml

from glue_runs.tasks import GLUE_TASKS, TASKS, find_task
from hf_elmix import UsageError


def test_the_seven_tasks_of_the_paper():
    assert list(TASKS) == ["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte"]
    assert {name: len(task.labels) for name, task in TASKS.items() if len(task.labels) != 2} == {"mnli": 3}
    assert {task.metrics[0] for task in TASKS.values()} == {"accuracy"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cloa", "Did you mean 'cola'?"), ("SST-2", "Did you mean 'sst2'?"), ("stsb", "one of cola, sst2")],
)
def test_unknown_task(name, hint):
    with pytest.raises(UsageError) as error:
        find_task(name)
    assert f"but got {name!r}" in str(error.value)
    assert hint in str(error.value)


def test_all_tasks_of_glue():
    assert find_task("wnli", GLUE_TASKS).labels == ("not_entailment", "entailment")
    with pytest.raises(UsageError, match="Did you mean 'stsb'"):
        find_task("sts-b", GLUE_TASKS)


@pytest.mark.hub
def test_the_table_agrees_with_the_hub(hub):
    """Columns, labels and splits, against the card of the real dataset."""
    card = (hub / "datasets/nyu-mll/glue/README.md").read_text().split("---")[1]
    configs = {config["config_name"]: config for config in yaml.safe_load(card)["dataset_info"]}
    for name, task in TASKS.items():
        features = {feature["name"]: feature["dtype"] for feature in configs[name]["features"]}
        assert tuple(features)[: len(task.columns)] == task.columns
        assert tuple(features["label"]["class_label"]["names"].values()) == task.labels
        assert ["train", *task.splits] == [split["name"] for split in configs[name]["splits"]]
