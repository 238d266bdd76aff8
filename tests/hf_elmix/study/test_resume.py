"""Shared training is the training that shared nothing, bit for bit. The whole executor rests on it."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, TrainerCallback, TrainingArguments

from hf_elmix import MixedLossTrainer
from hf_elmix.study.grid import run_grid
from hf_elmix.study.resume import PauseCallback
from hf_elmix.study.runner import run_branch, scores_of
from hf_elmix.study.shared_prefixes import cost, plan
from hf_elmix.study.spec import Study, TrainerInputs
from hf_elmix.study.store import Store
from hf_elmix.training.whole_evaluation import with_whole_evaluation

# Of 20 steps in epochs of 5 they leave one another after 4, 11, 18 and 19 (in mid-epoch) and 5 and 10 (between two).
pytestmark = pytest.mark.slow  # bit-identity over many pauses; test_runner.py has the short cases

METHODS = ("ce", "el", "0", "0,0.5", "0-0.5", "0@0 0.3@0.55 0.5@0.9", "0@0 0.3@0.55", "0@0 0.5@0.25", "0@0 1:3@0.5")
DROPPED = ("cost", "provenance")

Results = dict[str, tuple[dict[str, Any], bytes]]


def padded(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in features], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": ids.ne(0).long(),
        "labels": torch.tensor([r["labels"] for r in features]),
    }


def results(study: Study, folder: Path, **given: Any) -> Results:
    """Record and model of each method, and the cost of all together beside them."""
    store = Store(folder)
    counts = run_grid(study, store, run_branch, keep="models", **given)
    assert counts == {"done": len(study.methods)}
    found: Results = {}
    for key in study.runs():
        record = json.loads(Path(store.folder_of(key) / "record.json").read_text())
        weights = Path(store.folder_of(key) / "model" / "model.safetensors").read_bytes()
        found[key.method] = record, weights
    return found


def trained(found: Results) -> int:
    return sum(record["cost"]["steps_trained"] for record, _ in found.values())


def assert_same(shared: Results, alone: Results) -> None:
    for method, (record, weights) in shared.items():
        other, other_weights = alone[method]
        for name in record.keys() - set(DROPPED):
            assert record[name] == other[name], (method, name)
        assert record["cost"]["steps_trained"] + record["cost"]["steps_inherited"] == other["cost"]["steps_trained"]
        assert weights == other_weights, method


CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "accumulation": ({"gradient_accumulation_steps": 2}, {"train": 24}),
    "ragged accumulation": ({"gradient_accumulation_steps": 2}, {"train": 18}),
    "accumulation over an epoch": ({"gradient_accumulation_steps": 8, "num_train_epochs": 8}, {}),
    "grouped by length": ({"train_sampling_strategy": "group_by_length"}, {"lengths": (3, 9, 5, 12)}),
    "grouped by length, accumulated": (
        {"train_sampling_strategy": "group_by_length", "gradient_accumulation_steps": 2},
        {"train": 42, "lengths": (3, 9, 5, 12)},
    ),
    "logs between forks": ({"logging_strategy": "steps", "logging_steps": 3, "logging_first_step": True}, {}),
    "rare logs": ({"logging_strategy": "steps", "logging_steps": 13}, {}),
    "evaluation between forks": ({"eval_strategy": "steps", "eval_steps": 7}, {}),
    "evaluation at forks": ({"eval_strategy": "steps", "eval_steps": 1}, {}),
    "max_steps": ({"max_steps": 17}, {}),
    "half an epoch": ({"num_train_epochs": 3.5}, {"train": 24}),
    "warmup": ({"warmup_steps": 6, "lr_scheduler_type": "cosine", "weight_decay": 0.1}, {}),
    "evaluation on start": ({"eval_on_start": True}, {}),
    "learning rate by score": ({"lr_scheduler_type": "reduce_lr_on_plateau"}, {}),
    "order from the global generator": ({"accelerator_config": {"use_seedable_sampler": False}}, {}),
    "own saves": ({"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1}, {}),
    "bf16": ({"bf16": True, "max_grad_norm": 0.1, "data_seed": 5, "label_smoothing_factor": 0.1}, {}),
}


def configured(toy: Any, name: str, *methods: str) -> Study:
    arguments, data = CONFIGURATIONS[name]

    def make(seed: int) -> TrainerInputs:
        rows = toy.rows(data.get("train", 20), 1, data.get("lengths", (6,)))
        return toy.inputs(seed, train_dataset=rows, data_collator=padded)

    return toy.study(make, *methods, **arguments)


# The quick tests train what differs most: accumulation, the order of rows, logs and evaluations between forks.
QUICK = ("grouped by length, accumulated", "rare logs", "evaluation at forks")


def quick_first(values: Iterable[Any], quick: Callable[[Any], bool]) -> list[Any]:
    """Parameters of which all but a few are slow."""
    return [value if quick(value) else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("name", quick_first(CONFIGURATIONS, lambda name: name in QUICK))
def test_all_methods_together_end_with_the_bits_of_each_alone(toy, tmp_path, name):
    study = configured(toy, name, *METHODS)
    shared = results(study, tmp_path / "shared")
    alone = results(study, tmp_path / "alone", sharing=False)
    assert_same(shared, alone)
    steps = next(iter(alone.values()))[0]["cost"]["steps_trained"]
    assert trained(alone) == steps * len(METHODS)
    segments = plan({method.name: method.loss for method in study.methods}, steps)
    assert trained(shared) == cost(segments) < trained(alone)
    # To compare says something only where methods differ, and they do if they differ in any step.
    ends = [segment for segment in segments if segment.stop == steps]
    assert len({weights for _, weights in alone.values()}) == len(ends) >= 6


@pytest.fixture(scope="module")
def default_alone(toy, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results(configured(toy, "default", *METHODS), tmp_path_factory.mktemp("alone"), sharing=False)


@pytest.mark.parametrize(
    "pair",
    quick_first(itertools.combinations(METHODS, 2), lambda pair: pair in (METHODS[2:4], METHODS[5:7])),
    ids=" | ".join,
)
def test_every_two_methods_end_with_the_bits_of_each_alone(toy, tmp_path, default_alone, pair):
    study = configured(toy, "default", *pair)
    shared = results(study, tmp_path)
    assert_same(shared, default_alone)
    assert trained(shared) == cost(plan({method.name: method.loss for method in study.methods}, 20))


def arguments_of(study: Study, folder: Path) -> TrainingArguments:
    defaults = {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": "no", "report_to": "none"}
    return TrainingArguments(str(folder), **{**defaults, "disable_tqdm": True, "seed": 3, **study.arguments})


@pytest.mark.parametrize("name", ["default", "ragged accumulation", "grouped by length", "rare logs"])
@pytest.mark.parametrize("method", quick_first(["0-0.5", "ce"], lambda method: method == "0-0.5"))
def test_what_is_done_alone_is_what_the_trainer_does(toy, tmp_path, name, method):
    study = configured(toy, name, method)
    ((record, weights),) = results(study, tmp_path / "study", sharing=False).values()
    args = arguments_of(study, tmp_path / "direct")
    trainer = with_whole_evaluation(MixedLossTrainer)(args=args, mixing=method, **study.tasks[0].inputs(3).trainer)
    trainer.train()
    (tmp_path / "model.safetensors").write_bytes(weights)
    for tensor, saved in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(trainer.model.state_dict()[tensor], saved)
    assert scores_of(trainer.state.log_history) == record["scores"]
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs == record["training"]


def bert(toy: Any, seed: int) -> TrainerInputs:
    torch.manual_seed(seed)
    tiny = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(**tiny, intermediate_size=32))
    rows = toy.rows(20, 1, (3, 9, 5, 12))
    return toy.inputs(seed, model=model, train_dataset=rows, data_collator=padded)


def test_a_transformer_ends_with_the_bits_of_each_alone(toy, tmp_path):
    study = toy.study(partial(bert, toy), "ce", "0", "0,0.5", "0-0.5", seeds=(3,))
    shared = results(study, tmp_path / "shared")
    assert_same(shared, results(study, tmp_path / "alone", sharing=False))
    assert trained(shared) == 20 + 20 + 1 + 16


def test_tasks_and_seeds_do_not_touch_one_another(toy, tmp_path):
    """Many trainings after one another in a process, each as if it were the only one."""
    study = toy.study(None, "0-0.5", "0", seeds=(5, 3))
    store = Store(tmp_path / "both")
    run_grid(study, store, run_branch)
    alone = results(toy.study(None, "0", "0-0.5"), tmp_path / "alone", sharing=False)
    for record in store.records():
        if record.key.seed == 3:
            assert record.scores == alone[record.key.method][0]["scores"]
            assert record.training == alone[record.key.method][0]["training"]


class Training:
    """A training that can be paused, with every log it writes."""

    def __init__(self, toy: Any, folder: Path, name: str) -> None:
        self.study, self.folder, self.count = configured(toy, name, "0-0.5"), folder, 0

    def trainer(self) -> MixedLossTrainer:
        self.count += 1
        args = arguments_of(self.study, self.folder / str(self.count))
        trainer = MixedLossTrainer(args=args, mixing="0-0.5", **self.study.tasks[0].inputs(3).trainer)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def until(self, *stops: int) -> MixedLossTrainer:
        """Train with pauses; in each of them others draw random numbers."""
        checkpoint: Path | None = None
        for stop in stops:
            trainer = self.trainer()
            trainer.add_callback(pause := PauseCallback(trainer, stop))
            self.train(trainer, checkpoint)
            assert trainer.state.global_step == stop
            checkpoint = pause.checkpoint
            for draws in (torch.manual_seed, random.seed, np.random.seed):  # noqa: NPY002
                draws(stop)
        self.train(trainer := self.trainer(), checkpoint)
        return trainer

    @staticmethod
    def train(trainer: MixedLossTrainer, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            PauseCallback.resume(trainer, checkpoint)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def logs_of(trainer: MixedLossTrainer) -> list[dict[str, Any]]:
    """All logs, without the clock's and without the summary, which is that of the last part alone."""
    logs = [log for log in trainer.state.log_history if "train_runtime" not in log]
    clock = ("_runtime", "_per_second")
    return [{name: value for name, value in log.items() if not name.endswith(clock)} for log in logs]


@pytest.mark.parametrize(
    ("name", "every"),
    [("rare logs", False), *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("default", *QUICK))],
)
def test_a_pause_after_any_step_changes_nothing(toy, tmp_path, name, every):
    training = Training(toy, tmp_path, name)
    whole = training.until()
    steps = whole.state.max_steps
    for stops in [(7,), tuple(range(1, steps))] if every else [(5, 6, 11, steps - 1)]:
        again = training.until(*stops)
        assert logs_of(again) == logs_of(whole), stops
        for one, other in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
            assert torch.equal(one, other), stops
        assert math.isclose(again.state.total_flos, whole.state.total_flos)


class Saves(TrainerCallback):
    """When a checkpoint was saved."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


def test_a_paused_training_stops_at_once_and_evaluates_no_half_epoch(toy, tmp_path):
    training = Training(toy, tmp_path, "default")
    for stop, evaluations in ((4, []), (5, [5]), (7, [5])):
        trainer = training.trainer()
        trainer.add_callback(pause := PauseCallback(trainer, stop))
        trainer.add_callback(saves := Saves())
        trainer.train()
        assert trainer.state.global_step == stop
        assert saves.steps == [stop]
        assert pause.checkpoint == Path(trainer.args.output_dir, f"checkpoint-{stop}")
        assert [path.name for path in Path(trainer.args.output_dir).iterdir()] == [pause.checkpoint.name]
        assert [log["step"] for log in trainer.state.log_history if "eval_loss" in log] == evaluations
        assert [log["step"] for log in trainer.state.log_history if "loss" in log] == evaluations
