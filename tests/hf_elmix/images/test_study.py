"""Studies of images: the same bits with shared training, after a kill, in COT; the learning rate; sizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from hf_elmix.images import data
from hf_elmix.images.data import read_images
from hf_elmix.images.recipes import RECIPES, Recipe, recipe_of
from hf_elmix.images.study import Rows, image_task, images_study
from hf_elmix.study.executors.local import run_in_process
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import build_trainer, run_branch
from hf_elmix.study.store import Store
from hf_elmix.text.rows import read_dataset

ALL = Recipe(("resnet20",), epochs=6, drops=(3, 5), batch=8, rotation=15.0, erasing=0.5, jitter=0.4, dropout=0.2)
LOSSES = ("0", "0,0.5")  # of 4 x 5 steps, the last differs: inside an epoch that is not the first


@pytest.fixture(scope="module")
def images(dataset):
    return read_images(dataset, "generated")


def trained(images, folder: Path, *, sharing: bool = True, losses=LOSSES, **arguments) -> dict[str, dict]:
    """The weights of each method, after a study of them."""
    study = images_study(images, ALL, (0,), losses, arguments={"use_cpu": True, **arguments})
    store = Store(str(folder))
    counts = run_grid(study, store, run_branch, executor=run_in_process, sharing=sharing, keep="models")
    assert counts["done"] == len(losses), [record.error for record in store.records()]
    task = study.tasks[0].name
    return {name: load_file(folder / task / name / "seed0" / "model" / "model.safetensors") for name in losses}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_shared_and_killed_training_gives_the_bits_of_training_alone(images, tmp_path):
    """Every random change of an image goes on as if nothing was."""
    done = []

    def killed_after_one(*args, **kwargs):
        if done:
            raise KeyboardInterrupt
        done.append(outcome := run_branch(*args, **kwargs))
        return outcome

    study = images_study(images, ALL, (0,), LOSSES, arguments={"use_cpu": True, "num_train_epochs": 4})
    with pytest.raises(KeyboardInterrupt):
        run_grid(study, Store(str(tmp_path / "shared")), killed_after_one, executor=run_in_process, keep="models")
    assert done[0].checkpoint == "step19-" + done[0].checkpoint[-16:]
    assert not list((tmp_path / "shared").rglob("record.json"))
    shared = trained(images, tmp_path / "shared", num_train_epochs=4)
    alone = trained(images, tmp_path / "alone", num_train_epochs=4, sharing=False)
    assert all(same(shared[name], alone[name]) for name in LOSSES)
    assert not same(alone["0"], alone["0,0.5"])


def test_complement_objective_training_runs_in_the_same_study(images, tmp_path):
    found = trained(images, tmp_path, losses=("ce", "cot"), num_train_epochs=1)
    assert not same(found["ce"], found["cot"])
    (record,) = [record for record in Store(str(tmp_path)).records() if record.key.method == "cot"]
    assert record.training[-1]["complement_entropy"] > 0


def test_the_learning_rate_drops_at_shares_of_all_steps(images, tmp_path):
    """As `MultiStepLR` of PyTorch does, whose milestones are the recipe's, moved from 6 epochs to 4."""
    study = images_study(images, ALL, (0,), ("ce",), arguments={"use_cpu": True, "num_train_epochs": 4})
    trainer, _ = build_trainer(study, study.tasks[0], study.methods[0], 0, tmp_path)
    trainer.args.logging_strategy, trainer.args.logging_steps = "steps", 1
    trainer.train()
    assert int(trainer.train_dataset.epoch) == 3  # the last of 4
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    steps = 4 * 5
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, -(-steps * 5 // 6)], 0.1)
    wanted = []
    for _ in range(steps):
        wanted += expected.get_last_lr()
        optimizer.step()
        expected.step()
    np.testing.assert_allclose(rates, wanted)


def test_a_schedule_of_ones_own_replaces_the_drops(images):
    study = images_study(images, ALL, (0,), ("ce",), arguments={"lr_scheduler_type": "cosine"})
    assert study.settings(study.tasks[0], study.methods[0])["learning_rate_drops"] == []
    default = images_study(images, ALL, (0,), ("ce",))
    assert default.settings(default.tasks[0], default.methods[0])["learning_rate_drops"] == ["1/2", "5/6"]


def test_images_change_with_seed_epoch_and_row_only(images):
    make = partial(Rows, images.train, ALL, ((0.5,) * 3, (0.25,) * 3))
    rows, again, other = make(0), make(0), make(1)
    alone = [again[row]["pixel_values"] for row in (5, 2)]
    assert all(torch.equal(x["pixel_values"], y) for x, y in zip(rows.__getitems__([5, 2]), alone, strict=True))
    assert not torch.equal(rows[5]["pixel_values"], other[5]["pixel_values"])
    rows.epoch.fill_(1)
    assert not torch.equal(rows[5]["pixel_values"], again[5]["pixel_values"])
    evaluated = make(None)
    image = images.train.pixels[5] / 255
    torch.testing.assert_close(evaluated[5]["pixel_values"], (image - 0.5) / 0.25)


def test_images_that_are_decoded_when_needed_are_changed_alike(images, dataset, monkeypatch):
    monkeypatch.setattr(data, "MEMORY", 1000)
    parts = [{"train": each.train, "test": each.evaluation} for each in (images, read_images(dataset, "generated"))]
    for recipe in (ALL, Recipe(("resnet20",), epochs=1, drops=(), size=32, resized_crop=True)):
        kept, decoded = (image_task("task", part, 3, "resnet20", recipe).inputs(0).trainer for part in parts)
        for rows in ("train_dataset", "eval_dataset"):
            pairs = zip(kept[rows].__getitems__([5, 2]), decoded[rows].__getitems__([5, 2]), strict=True)
            assert all(torch.equal(one["pixel_values"], other["pixel_values"]) for one, other in pairs)


def test_images_are_normalized(images):
    parts = {"train": images.train, "test": images.train}
    rows = image_task("task", parts, 3, "resnet20", ALL).inputs(0).trainer["eval_dataset"]
    normal = torch.stack([rows[row]["pixel_values"] for row in range(len(rows))])
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.slow
def test_processes_that_load_rows_learn_the_epoch(images):
    rows = Rows(images.train, ALL, ((0.5,) * 3, (0.25,) * 3), 0)
    loader = DataLoader(rows, batch_size=8, num_workers=1, persistent_workers=True)
    first, second = [], []
    for epoch, seen in enumerate((first, second)):
        rows.epoch.fill_(epoch)
        seen += [batch["pixel_values"] for batch in loader]
    expected = torch.stack([row["pixel_values"] for row in rows.__getitems__(list(range(8)))])
    assert torch.equal(second[0], expected)
    assert not torch.equal(first[0], second[0])


def test_only_large_models_turn_images(images):
    parts = {"train": images.train, "test": images.evaluation}
    turned = {
        model: image_task("task", parts, 3, model, recipe_of("cinic10")).settings["images"]["rotation"]
        for model in ("resnet20", "resnet18")
    }
    assert turned == {"resnet20": 0.0, "resnet18": 15.0}


def test_work_is_that_of_the_networks(images):
    """He et al. (2016), Table 6: 20, 32 and 44 layers; the published 40.8, 69.1 and 97.5 million multiplications."""
    parts = {"train": images.train, "test": images.evaluation}
    works = [image_task("task", parts, 100, f"resnet{layers}", ALL).work for layers in (20, 32, 44)]
    scale = (32 / 16) ** 2 / (2 * len(images.train))
    np.testing.assert_allclose([work * scale / 1e6 for work in works], [40.8, 69.1, 97.5], rtol=0.02)


@pytest.mark.hub
def test_a_step_of_the_imagenet_recipe_on_tiny_imagenet(hub, tmp_path):
    """Some of its rows are grey, and all are enlarged to 224 pixels."""
    rows = read_dataset(str(hub / "datasets" / "zh-plus" / "tiny-imagenet"))
    few = DatasetDict({"train": rows["train"].select(range(0, 5000, 100)), "valid": rows["valid"].select(range(4))})
    images, recipe = read_images(few, "tiny"), recipe_of("imagenet")
    assert {len(images.classes), len(images.train)} == {200, 50}
    arguments = {"use_cpu": True, "max_steps": 1, "per_device_train_batch_size": 4}
    study = images_study(images, recipe, (0,), ("0-0.5",), ("shufflenetv2",), arguments)
    counts = run_grid(study, Store(str(tmp_path)), run_branch, executor=run_in_process)
    (record,) = Store(str(tmp_path)).records()
    assert counts["done"] == 1, record.error
    assert record.settings["images"]["shape"] == [3, 224, 224]
    assert study.arguments["per_device_train_batch_size"] == 4
    assert recipe.arguments["per_device_train_batch_size"] == 256


@pytest.mark.slow
def test_every_recipe_makes_a_study(images):
    for name, recipe in RECIPES.items():
        study = images_study(images, recipe, (0,), LOSSES)
        assert {task.name for task in study.tasks} == {f"generated-{model}" for model in recipe.models}, name
        assert [task.work for task in study.tasks] == sorted(task.work for task in study.tasks)
