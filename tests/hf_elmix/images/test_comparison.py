from __future__ import annotations

import pytest
import torch
from datasets import DatasetDict

from hf_elmix.errors import UsageError
from hf_elmix.images import data
from hf_elmix.images.comparison import comparison_task


def test_images_of_three_splits(dataset):
    task, about = comparison_task(dataset, "colours", origin={"dataset": "colours"})
    assert about == (
        "colours: images of 16 x 16 pixels; 32 train, 8 validation (held out), 9 test rows; label: red, green, blue; "
        "model resnet20, not pre-trained; score: accuracy, last epoch"
    )
    sets = task.inputs(0).trainer["eval_dataset"]
    assert {split: len(part) for split, part in sets.items()} == {"validation": 8, "test": 9}
    assert (task.select.scored_metric, task.settings["dataset"]) == ("validation_accuracy", "colours")


def test_images_are_divided_anew_for_every_seed_and_keep_their_labels(dataset):
    task, _ = comparison_task(DatasetDict(train=dataset["train"]), "colours", origin={}, resample=True, size=8)
    drawn = []
    for seed in (0, 1):
        given = task.inputs(seed).trainer
        held_out = given["eval_dataset"].images
        assert (len(given["train_dataset"]), len(held_out)) == (32, 8)
        assert held_out.pixels.shape[2:] == (8, 8)
        # Each class has a colour of its own.
        assert held_out.pixels.float().mean((2, 3)).argmax(1).tolist() == held_out.labels.tolist()
        drawn.append(held_out.pixels)
    assert not drawn[0].equal(drawn[1])


def test_images_that_do_not_fit_in_memory_are_divided_alike(dataset, monkeypatch):
    inputs = []
    for memory in (data.MEMORY, 1000):
        monkeypatch.setattr(data, "MEMORY", memory)
        task, _ = comparison_task(DatasetDict(train=dataset["train"]), "colours", origin={}, resample=True)
        inputs.append(task.inputs(1).trainer["train_dataset"].images)
    kept, read = inputs
    assert not isinstance(read.pixels, torch.Tensor)
    assert read.labels.equal(kept.labels)
    assert all(torch.equal(one, other) for one, other in zip(read.pixels, kept.pixels, strict=True))


def test_an_architecture_that_does_not_exist(dataset):
    with pytest.raises(UsageError, match="resnet20"):
        comparison_task(dataset, "colours", "resnet21", origin={})
