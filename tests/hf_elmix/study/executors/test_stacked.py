"""Runs of a stack beside the same runs, each with its own Trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import KNOWN
from hf_elmix.study.executors import stacked
from hf_elmix.study.executors.local import run_in_process, run_in_workers
from hf_elmix.study.executors.stacked import Stack, check_stackable, run_stack, run_stacked
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import build_trainer, fields_of, run_branch
from hf_elmix.study.shared_prefixes import Branch, Outcome
from hf_elmix.study.spec import Method, RunRecord, Select, Study, Task, TrainerInputs
from hf_elmix.training import stacked as training_module

pytestmark = pytest.mark.usefixtures("importable")

FEATURES, CLASSES, ROWS = 6, 4, 37  # with batches of 8, the last one of an epoch has 5 rows
SPECS = {"mix": "0.1@0 0.4@0.4 el@0.9", "ce-rescaled": "ce-rescaled:0-0.5"}
LOSSES = {name: SPECS.get(name, name) for name in KNOWN}
MOMENTUM = {"optim": "sgd", "optim_args": "momentum=0.9", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
ADAMW = {"weight_decay": 0.1, "warmup_steps": 3, "lr_scheduler_type": "cosine", "max_steps": 17}  # clipped at norm 1


class SmallConfig(PretrainedConfig):
    model_type = "small"


class Small(PreTrainedModel):
    """A model whose head can be replaced by Max-Mahalanobis centres."""

    config_class = SmallConfig

    def __init__(self, config: SmallConfig) -> None:
        super().__init__(config)
        self.hidden, self.head = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.head(self.hidden(inputs).relu()))


class Rows(Dataset):
    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, FEATURES, generator=generator)
        self.labels = torch.randint(CLASSES, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[row], "labels": self.labels[row]}


TRAIN, SETS = Rows(ROWS, 0), {"validation": Rows(10, 1), "test": Rows(21, 2)}


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def inputs(seed: int) -> TrainerInputs:
    torch.manual_seed(seed)
    config = SmallConfig(num_labels=CLASSES)
    return TrainerInputs(
        {"model": Small(config), "train_dataset": TRAIN, "eval_dataset": SETS, "compute_metrics": accuracy}
    )


def study_of(*methods: Method, tasks: str = "a", seeds: tuple[int, ...] = (0, 1), **arguments: Any) -> Study:
    select = Select("accuracy", "best", chosen_on="validation", scored_on="test")
    common = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "learning_rate": 0.05, "use_cpu": True}
    return Study(tuple(Task(name, select, inputs) for name in tasks), methods, seeds, {**common, **arguments})


def stack_of(study: Study) -> Stack:
    return Stack(tuple(Branch(key.task, key.seed, (key.method,), (key.method,)) for key in study.runs()))


@pytest.fixture
def weights(monkeypatch) -> dict[Any, dict[str, Tensor]]:
    """The weights of each run of the stacks that are trained, by key."""
    found: dict[Any, dict[str, Tensor]] = {}
    train = stacked._Training.train

    def and_keep(training: Any) -> None:
        train(training)
        found.update({run.key: training.model.state_of(place) for place, run in enumerate(training.runs)})

    monkeypatch.setattr(stacked._Training, "train", and_keep)
    return found


def alone(study: Study, key: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the fields of the record that a Trainer gives."""
    task, method = study.runs()[key]
    with tempfile.TemporaryDirectory() as scratch:
        trainer, _ = build_trainer(study, task, method, key.seed, Path(scratch))
        trainer.train()
    return trainer.model.state_dict(), fields_of(task, trainer.state.log_history)


@pytest.mark.parametrize(
    "arguments", [pytest.param(MOMENTUM, id="momentum"), pytest.param(ADAMW, id="adamw", marks=pytest.mark.slow)]
)
def test_each_run_ends_as_its_trainer_alone_would_have_it(weights, store, monkeypatch, arguments):
    monkeypatch.setattr(training_module, "TRACED_AFTER", 3)
    study = study_of(*(Method(name, loss=loss) for name, loss in LOSSES.items()), **arguments)
    outcome = run_stack(study, store, stack_of(study), lambda *_: None)
    records = {record.key: record for record in outcome.records}
    assert [record.error for record in records.values() if record.error] == []
    assert set(records) == set(weights) == set(study.runs())
    for place, key in enumerate(study.runs()):
        if place % 2 != key.seed:  # each loss with one of the seeds
            continue
        state, fields = alone(study, key)
        assert set(state) == set(weights[key])
        for name, value in state.items():
            torch.testing.assert_close(weights[key][name], value, rtol=0, atol=1e-5)
        same_fields(records[key], fields)


def same_fields(record: RunRecord, fields: dict[str, Any]) -> None:
    assert record.status == fields["status"] == "done"
    assert set(record.scores) == set(fields["scores"])
    for name, values in fields["scores"].items():
        assert record.scores[name]["steps"] == values["steps"]
        assert record.scores[name]["epochs"] == pytest.approx(values["epochs"], abs=1e-5)
    assert len(record.training) == len(fields["training"])
    for here, there in zip(record.training, fields["training"], strict=True):
        there = {name: value for name, value in there.items() if name != "grad_norm"}
        assert here == pytest.approx(there, abs=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.005}},
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.005}},
    ],
)
def test_candidates_have_their_own_learning_rates_and_arguments(weights, store, schedule):
    """Some schedules multiply each learning rate by a factor of its own."""
    sweep = ({"learning_rate": 0.1}, {"learning_rate": 0.01}, {"weight_decay": 0.5})
    study = study_of(Method("0-0.5", sweep=sweep), seeds=(5,), **{**MOMENTUM, **schedule})
    records = run_stack(study, store, stack_of(study), lambda *_: None).records
    for key, record in zip(study.runs(), records, strict=True):
        state, fields = alone(study, key)
        for name, value in state.items():
            torch.testing.assert_close(weights[key][name], value, rtol=0, atol=1e-5)
        same_fields(record, fields)


def test_a_stack_that_is_too_large_is_split(weights, store, monkeypatch):
    study = study_of(*map(Method, ("ce", "0", "focal")), **MOMENTUM)
    run_stack(study, store, stack_of(study), lambda *_: None)
    whole, steps = dict(weights), []
    parameters = sum(parameter.numel() for parameter in inputs(0).trainer["model"].parameters())
    monkeypatch.setattr(stacked, "LARGEST", 2 * parameters)
    sizes = []
    make = stacked.StackedModel
    monkeypatch.setattr(
        stacked, "StackedModel", lambda models, *rest: sizes.append(len(models)) or make(models, *rest)
    )
    monkeypatch.setattr(stacked, "EVERY", 0.0)
    outcome = run_stack(study, store, stack_of(study), lambda *step: steps.append(step))
    assert sizes == [2, 2, 2]
    for key in study.runs():
        for name, value in whole[key].items():
            torch.testing.assert_close(weights[key][name], value, rtol=0, atol=1e-6)
    assert steps == sorted(steps)
    assert steps[-1] == (60, 60)  # 3 stacks of 20 steps
    assert {record.cost["steps_trained"] for record in outcome.records} == {20}


def test_an_error_ends_the_runs_of_its_batched_model_only(store):
    methods = Method("ce"), Method("broken", loss="focal", arguments={"optim": "adagrad"})
    study = study_of(*methods, tasks="ab", seeds=(0,), **{**MOMENTUM, "optim": "sgd"})
    counts = run_grid(study, store, run_stack, executor=run_stacked, sharing=False)
    assert counts == {"done": 2, "failed": 2}
    errors = {record.key.method: record.error for record in store.records()}
    assert errors["ce"] is None
    assert "Expected SGD or AdamW" in errors["broken"]


@pytest.mark.parametrize(
    "within",
    [
        pytest.param(run_in_process, id="here"),
        pytest.param(partial(run_in_workers, workers=2), id="workers", marks=pytest.mark.slow),
    ],
)
def test_a_study_of_stacks_goes_on_where_it_stopped(store, within):
    study = study_of(*map(Method, ("ce", "0-0.5")), tasks="abc", seeds=(0, 1), **MOMENTUM)
    executor = partial(run_stacked, within=within)
    first = next(iter(study.runs()))
    run_grid(study_of(Method("ce"), seeds=(0,), **MOMENTUM), store, run_stack, executor=executor, sharing=False)
    before = store.read(first)
    assert run_grid(study, store, run_stack, executor=executor, sharing=False) == {"done": 12}
    assert store.read(first) == before
    seen = [record for record in store.records() if record.key != first]
    assert {record.provenance["stacked"] for record in seen if record.key.task == "a"} == {3}
    assert {record.provenance["stacked"] for record in seen if record.key.task != "a"} == {4}


def test_a_stack_and_a_trainer_leave_the_same_study(store):
    study = study_of(Method("0-0.5"), seeds=(0,), **MOMENTUM)
    run_grid(study, store, run_stack, executor=run_stacked, sharing=False)
    one = next(store.records())
    assert run_grid(study, store, run_branch) == {"done": 1}  # nothing is left to do: the settings agree
    assert set(vars(one)) == set(vars(next(store.records())))


class Dies:
    """Stacks of task b die; others leave records."""

    def __call__(self, stack: Stack, progress: Callable[[int, int], None]) -> Outcome:
        progress(1, 2)
        if stack.branches[0].task == "b":
            return Outcome(stack, died="exit code -9")  # type: ignore[arg-type]
        cost = {"seconds": 0.0, "steps_trained": 2, "steps_inherited": 0}
        return Outcome(stack, tuple(RunRecord(key, "done", {}, [], {}, {}, cost) for key in stack.keys))  # type: ignore


def test_each_task_is_a_stack_and_every_branch_gets_its_outcome():
    branches = [Branch(task, seed, ("ce",), ("ce",)) for task in "abc" for seed in (0, 1)]
    waiting, steps = list(branches), []

    def take() -> Branch | None:
        return waiting.pop(0) if waiting else None

    outcomes: Iterator[Outcome] = run_stacked(take, Dies(), lambda *step: steps.append(step))
    found = list(outcomes)
    assert [outcome.branch for outcome in found] == branches
    assert [outcome.died for outcome in found] == [None, None, "exit code -9", "exit code -9", None, None]
    assert [len(outcome.records) for outcome in found] == [1, 1, 0, 0, 1, 1]
    assert steps == [(branch, 1, 2) for branch in branches]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fp16": True}, "fp16=True"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2"),
        ({"optim": "adagrad"}, "optim='adagrad'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type='reduce_lr_on_plateau'"),
    ],
)
def test_arguments_that_a_stack_does_not_follow_are_refused(arguments, message):
    check_stackable(study_of(Method("ce"), bf16=True, **MOMENTUM))
    with pytest.raises(UsageError, match=f"{message}. Type --executor local"):
        check_stackable(study_of(Method("ce"), **arguments))
    with pytest.raises(UsageError, match=message):
        check_stackable(study_of(Method("ce", arguments=arguments)))


def test_a_schedule_of_learning_rates_that_looks_at_scores_is_refused(store):
    study = study_of(Method("ce"), lr_scheduler_type="reduce_lr_on_plateau")
    (record, *_) = run_stack(study, store, stack_of(study), lambda *_: None).records
    assert "reduce_lr_on_plateau" in record.error
