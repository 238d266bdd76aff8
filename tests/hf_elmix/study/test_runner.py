from __future__ import annotations

import errno
import itertools
import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, EvalPrediction

from hf_elmix.losses.registry import parse_loss
from hf_elmix.predictions.records import FILE
from hf_elmix.study import runner as run_module
from hf_elmix.study.checkpoints import MANIFEST, Checkpoints
from hf_elmix.study.grid import run_grid
from hf_elmix.study.provenance import software
from hf_elmix.study.resume import PauseCallback
from hf_elmix.study.runner import fields_of, run_branch, scores_of
from hf_elmix.study.shared_prefixes import Branch, Outcome, cost, plan
from hf_elmix.study.spec import Method, RunKey, RunRecord, Study, Task, TrainerInputs
from hf_elmix.study.store import Store
from hf_elmix.training.trainer import MixedLossTrainer

EVERY_STEP = {"logging_strategy": "steps", "logging_steps": 1}
SLOW = [(1, 1), (1, 1.25), (1, 5 / 3), (1, 2.5), (1, 5), (0, 1)]

# The paper's rules (section "Scheduling") written out once more: weights after `s` of `n` steps.
RULES: dict[str, Callable[[int, int], tuple[float, float]]] = {
    "ce": lambda s, n: (1, 0),
    "el": lambda s, n: (0, 1),
    "0": lambda s, n: (1, 1),
    "0,0.5": lambda s, n: (0, 1) if 20 * s >= 19 * n else (1, 1),
    "0-0.5": lambda s, n: SLOW[s * 6 // n],
}


def ignore(*step: Any) -> None:
    pass


def run_alone(study: Study, folder: Path, progress: Callable[[int, int], None] = ignore, **given: Any) -> RunRecord:
    """The record of a study's only run."""
    (key,) = study.runs()
    branch = Branch(key.task, key.seed, (key.method,), (key.method,))
    outcome = run_branch(study, Store(folder), branch, progress, **given)
    assert (outcome.branch, outcome.children, outcome.checkpoint, outcome.died) == (branch, (), None, None)
    (record,) = outcome.records
    assert record.key == key
    return record


@pytest.fixture
def train(toy, tmp_path: Path) -> Callable[..., RunRecord]:
    """Do the only run of a study."""

    def train(
        make: Callable[[int], TrainerInputs] = toy.inputs,
        method: Method | str = "0-0.5",
        *,
        seed: int = 3,
        progress: Callable[[int, int], None] = ignore,
        **arguments: Any,
    ) -> RunRecord:
        return run_alone(toy.study(make, method, seeds=(seed,), **arguments), tmp_path / "runs", progress)

    return train


@pytest.fixture(scope="module")
def done(toy, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run_alone(toy.study(), tmp_path_factory.mktemp("runs"))


def test_a_done_record_has_the_documented_fields(toy, done):
    assert (done.key, done.status, done.error) == (RunKey("toy", "0-0.5", 3), "done", None)
    assert done.settings == {
        "loss": "mix:0-0.5",
        "select": {"metric": "accuracy", "epoch": "last"},
        "arguments": toy.arguments,
        "rows": "random",
    }
    assert done.provenance.keys() == {"versions", "commit", "dirty", "threads", "data_rows", "device"}
    assert done.provenance["data_rows"] == {"train": 20}
    assert done.provenance["device"].startswith("cpu")
    assert done.cost.keys() == {"seconds", "steps_trained", "steps_inherited"}
    assert 0 < done.cost["seconds"] < 60
    for name in (
        "step",
        "epoch",
        "loss",
        "loss_ce",
        "loss_el",
        "alpha",
        "beta",
        "focus",
        "learning_rate",
        "grad_norm",
    ):
        assert all(name in log for log in done.training), name


def test_a_done_record_is_plain_json(done):
    text = json.dumps(done.to_dict(), allow_nan=False)
    assert RunRecord.from_json(text.encode()) == done


def test_scores_are_kept_for_every_epoch(done):
    assert done.scores.keys() == {"accuracy", "loss", "loss_el"}
    for name, series in done.scores.items():
        assert series.keys() == {"last", "best", "epochs", "steps"}
        assert len(series["epochs"]) == 4
        assert series["last"] == series["epochs"][-1]
        assert len(series["steps"]) == 4
        assert series["best"] == (min if "loss" in name else max)(series["epochs"])
    assert [log["epoch"] for log in done.training] == [1, 2, 3, 4]


def test_the_last_scores_are_those_of_the_trained_model(toy, train):
    kept = {}

    def make(seed: int) -> TrainerInputs:
        kept["inputs"] = toy.inputs(seed)
        return kept["inputs"]

    record = train(make)
    model, data = kept["inputs"].trainer["model"].eval(), toy.rows(17, seed=2).with_format("torch")
    with torch.no_grad():
        logits = model(torch.stack(list(data["input_ids"]))).logits.double()
    labels = torch.stack(list(data["labels"]))
    p = torch.softmax(logits, -1)[torch.arange(17), labels]
    assert record.scores["accuracy"]["last"] == (logits.argmax(-1) == labels).double().mean().item()
    assert record.scores["loss"]["last"] == pytest.approx(-p.log().mean().item(), rel=1e-5)
    assert record.scores["loss_el"]["last"] == pytest.approx((1 - p).mean().item(), rel=1e-5)


@pytest.mark.parametrize("method", RULES)
def test_the_weights_of_every_step_follow_the_papers_rule(train, method):
    record = train(method=method, **EVERY_STEP)
    assert [log["step"] for log in record.training] == list(range(1, 21))
    weights = [(log["alpha"], log["beta"]) for log in record.training]
    assert weights == [RULES[method](step, 20) for step in range(20)]
    for log in record.training:
        assert log["loss"] == pytest.approx(log["alpha"] * log["loss_ce"] + log["beta"] * log["loss_el"], rel=1e-4)


def test_methods_with_the_same_seed_are_the_same_training_until_their_weights_differ(train):
    # Same start, same order of rows, same dropout: the comparison within a block rests on it.
    constant, slow, switched = (train(method=name, **EVERY_STEP).training for name in ("0", "0-0.5", "0,0.5"))
    terms = ("loss_ce", "loss_el", "grad_norm")
    same = [all(one[name] == other[name] for name in terms) for one, other in zip(constant, slow, strict=True)]
    assert same[:4] == [True] * 4
    assert not any(same[4:])
    assert constant[:19] == switched[:19]


@pytest.mark.parametrize(
    ("count", "arguments", "steps"),
    [
        (20, {}, 20),
        (21, {}, 24),
        (3, {}, 4),
        (20, {"gradient_accumulation_steps": 4}, 8),
        (20, {"num_train_epochs": 1}, 5),
        (20, {"max_steps": 7}, 7),
    ],
)
def test_steps_are_counted_and_progress_is_told_each_one(toy, train, count, arguments, steps):
    told = []
    record = train(lambda seed: toy.inputs(seed, count), progress=lambda *step: told.append(step[:2]), **arguments)
    assert record.cost["steps_trained"] == steps
    assert record.cost["steps_inherited"] == 0
    assert told == [(step, steps) for step in range(1, steps + 1)]


def test_the_same_run_twice_has_the_same_scores(train, done):
    again = train()
    assert again.scores == done.scores
    assert again.training == done.training
    assert again.settings == done.settings


def test_another_seed_is_another_run(toy, train, done):
    seeds = []

    def make(seed: int) -> TrainerInputs:
        seeds.append(seed)
        return toy.inputs(3)  # The same model, so that all that differs is what the Trainer draws.

    other = train(make, seed=4)
    assert seeds == [4]
    assert other.key == RunKey("toy", "0-0.5", 4)
    assert other.training[0]["loss"] != done.training[0]["loss"]


@pytest.mark.parametrize(
    ("method", "rate"), [(Method("ce"), 1e-2), (Method("ce", {"learning_rate": 1e-3, "weight_decay": 0.1}), 1e-3)]
)
def test_the_arguments_in_the_settings_are_those_it_trains_with(train, method, rate):
    record = train(method=method, lr_scheduler_type="constant")
    assert record.settings["arguments"]["learning_rate"] == rate
    assert {log["learning_rate"] for log in record.training} == {rate}


def test_several_evaluation_sets_are_kept_apart(toy, train):
    both = {"one": toy.rows(17, seed=2), "two": toy.rows(9, seed=5)}
    record = train(lambda seed: toy.inputs(seed, eval_dataset=both))
    alone = train()
    names = {f"{dataset}_{metric}" for dataset in both for metric in ("accuracy", "loss", "loss_el")}
    assert record.scores.keys() == names
    assert all(len(series["epochs"]) == 4 for series in record.scores.values())
    # Up to the first evaluation both are the same training; an evaluation draws from the generator of the dropout.
    assert record.scores["one_accuracy"]["epochs"][0] == alone.scores["accuracy"]["epochs"][0]
    assert record.scores["one_loss"]["epochs"][0] == pytest.approx(alone.scores["loss"]["epochs"][0])
    assert record.scores["two_loss"]["epochs"][0] != pytest.approx(alone.scores["loss"]["epochs"][0])


def test_every_row_is_scored_whatever_the_arguments_say_of_batches(toy, train):
    def measure(prediction: EvalPrediction) -> dict[str, float]:
        in_order = bool((prediction.label_ids == np.array(toy.rows(17, seed=2)["labels"][:])).all())
        return {**toy.accuracy(prediction), "rows": len(prediction.label_ids), "in_order": in_order}

    given = {"dataloader_drop_last": True, "train_sampling_strategy": "group_by_length"}
    record = train(partial(toy.inputs, compute_metrics=measure), per_device_eval_batch_size=5, **given)
    assert {name: record.scores[name]["last"] for name in ("rows", "in_order")} == {"rows": 17, "in_order": True}


def fails_to_load(seed: int) -> TrainerInputs:
    raise FileNotFoundError("no rows in nowhere")


def fails_to_score(prediction: EvalPrediction) -> dict[str, float]:
    raise RuntimeError("cannot score this")


@pytest.fixture
def failures(toy) -> dict[str, tuple[Callable[[int], TrainerInputs], dict[str, Any], str]]:
    unlabelled = toy.rows(8, 1).remove_columns("labels")
    return {
        "inputs": (fails_to_load, {}, "FileNotFoundError: no rows in nowhere"),
        "arguments": (toy.inputs, {"learning_rat": 1.0}, "TypeError: "),
        "evaluation": (
            lambda seed: toy.inputs(seed, compute_metrics=fails_to_score),
            {},
            "RuntimeError: cannot",
        ),
        "data": (lambda seed: toy.inputs(seed, train_dataset=unlabelled), {}, "UsageError: "),
    }


@pytest.mark.parametrize("place", ["inputs", "arguments", "evaluation", "data"])
def test_an_error_becomes_a_failed_record(toy, train, failures, place):
    make, arguments, message = failures[place]
    record = train(make, **arguments)
    assert (record.status, record.scores, record.training) == ("failed", {}, [])
    assert record.error.splitlines()[0].startswith(message)
    assert "Traceback" in record.error
    assert record.settings["arguments"] == {**toy.arguments, **arguments}
    assert torch.__version__.startswith(record.provenance["versions"]["torch"])  # which may lack "+cu130"
    assert record.cost["seconds"] >= 0
    assert RunRecord.from_json(json.dumps(record.to_dict()).encode()) == record


def test_a_run_that_fails_half_way_says_how_many_steps_it_trained(train, failures):
    record = train(failures["evaluation"][0])
    assert (record.status, record.cost["steps_trained"], record.cost["steps_inherited"]) == ("failed", 5, 0)


def test_an_interrupt_ends_the_run_without_a_record(train):
    def stop(step: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(progress=stop)


@pytest.fixture
def poisoned(toy) -> Callable[[int], TrainerInputs]:
    """Inputs with a model whose weights are not finite."""

    def poisoned(seed: int) -> TrainerInputs:
        made = toy.inputs(seed)
        with torch.no_grad():
            made.trainer["model"].head.weight.fill_(float("nan"))
        return made

    return poisoned


def test_a_loss_that_is_nan_becomes_a_diverged_record(poisoned, train):
    record = train(poisoned)
    assert (record.status, record.error, record.cost["steps_trained"]) == ("diverged", None, 20)
    assert math.isnan(record.scores["loss"]["last"])


def test_runs_that_share_training_that_diverges_have_all_diverged(toy, poisoned, tmp_path):
    """The methods share their first 10 of 20 steps, and continue from weights that are not finite."""
    store = Store(tmp_path)
    counts = run_grid(toy.study(poisoned, "0", "0@0 0.5@0.5", "0@0 0.3@0.5"), store, run_branch)
    assert counts == {"diverged": 3}
    assert sum(record.cost["steps_inherited"] for record in store.records()) == 20


def test_names_that_only_sound_like_a_loss_are_scores(toy):
    log = {"step": 1, "eval_loss": 0.5, "eval_glossary_accuracy": 0.3, "eval_lossless": float("nan")}
    later = {"step": 2, "eval_loss": 0.4, "eval_glossary_accuracy": 0.2, "eval_lossless": 0.1, "eval_note": "loss"}
    scores = scores_of([log, later])
    assert scores["glossary_accuracy"]["best"] == 0.3
    assert scores["loss"]["best"] == 0.4
    (task,) = toy.study(None, "ce", select="glossary_accuracy").tasks
    assert fields_of(task, [log, later])["status"] == "done"


def test_a_model_that_cannot_be_kept_is_refused_before_it_is_trained(toy, tmp_path):
    def plain(seed: int) -> TrainerInputs:
        made = toy.inputs(seed)
        inner = made.trainer["model"]

        class Plain(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
                return {"logits": self.inner(input_ids).logits}

        made.trainer["model"] = Plain()
        return made

    store = Store(tmp_path)
    run_grid(toy.study(plain, "ce"), store, run_branch, keep="models")
    (record,) = store.records()
    assert "Expected a model that can be kept, with save_pretrained, but got Plain. Keep none." in record.error
    assert record.cost["steps_trained"] == 0


def test_an_error_with_the_name_of_a_file_that_is_not_utf8(toy, train):
    def broken(seed: int) -> TrainerInputs:
        raise ValueError("caf\udce9.txt")

    assert "caf\\udce9.txt" in train(broken).error


def test_a_loss_that_is_nan_while_it_trains_is_not_hidden_by_a_finite_evaluation(toy, train):
    """A model whose loss is no number while it trains, though its weights, and so its evaluation, stay finite."""

    def poison(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        if module.training:
            outputs.logits.register_hook(torch.zeros_like)
            outputs.logits = outputs.logits * float("nan")

    def poisoned(seed: int) -> TrainerInputs:
        made = toy.inputs(seed)
        made.trainer["model"].register_forward_hook(poison)
        return made

    # The Trainer leaves such losses out of the mean it logs, so that its `loss` is finite.
    record = train(poisoned)
    assert all(math.isfinite(log["loss"]) for log in record.training)
    assert all(math.isfinite(loss) for loss in record.scores["loss"]["epochs"])
    assert record.status == "diverged"


def test_a_run_prints_nothing_and_leaves_no_file(toy, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run_alone(toy.study(num_train_epochs=1), tmp_path / "runs")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "it/s" not in captured.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


HISTORY = [
    {"loss": 1.5, "epoch": 1.0, "step": 6},
    {"eval_m_accuracy": 0.5, "eval_m_loss": 0.7, "eval_m_runtime": 2.0, "epoch": 1.0, "step": 6},
    {"eval_mm_accuracy": 0.4, "eval_mm_loss": 0.8, "eval_mm_steps_per_second": 9.0, "epoch": 1.0, "step": 6},
    {"loss": 1.0, "epoch": 2.0, "step": 12},
    {"eval_m_accuracy": 0.75, "eval_m_loss": 0.6, "eval_m_samples_per_second": 2.0, "epoch": 2.0, "step": 12},
    {"eval_mm_accuracy": 0.3, "eval_mm_loss": 0.9, "eval_mm_model_preparation_time": 1, "epoch": 2.0, "step": 12},
    {"train_runtime": 3.0, "train_loss": 1.25, "epoch": 2.0, "step": 12},
]


def test_scores_of_a_history_by_hand():
    assert scores_of(HISTORY) == {
        "m_accuracy": {"last": 0.75, "best": 0.75, "epochs": [0.5, 0.75], "steps": [6, 12]},
        "m_loss": {"last": 0.6, "best": 0.6, "epochs": [0.7, 0.6], "steps": [6, 12]},
        "mm_accuracy": {"last": 0.3, "best": 0.4, "epochs": [0.4, 0.3], "steps": [6, 12]},
        "mm_loss": {"last": 0.9, "best": 0.8, "epochs": [0.8, 0.9], "steps": [6, 12]},
    }


def test_a_second_evaluation_at_the_same_step_takes_the_place_of_the_first():
    again = [*HISTORY, {"eval_m_accuracy": 0.625, "epoch": 2.0, "step": 12}]
    assert scores_of(again)["m_accuracy"] == {"last": 0.625, "best": 0.625, "epochs": [0.5, 0.625], "steps": [6, 12]}


@pytest.mark.parametrize("history", [[], HISTORY[:1], [HISTORY[-1]]])
def test_a_history_without_evaluation_has_no_scores(history):
    assert scores_of(history) == {}


def test_a_score_that_no_metric_gives_is_a_failure_and_not_done(toy, train):
    record = train(lambda seed: toy.inputs(seed, compute_metrics=lambda prediction: {"other": 1.0}))
    assert record.status == "failed"
    assert "Expected the evaluation to give 'accuracy'" in record.error
    assert "other" in record.error
    assert (record.cost["steps_trained"], record.cost["steps_inherited"]) == (20, 0)


def test_a_missing_secondary_metric_is_a_failure_too(toy, tmp_path):
    study = toy.study(None, "ce", num_train_epochs=1)
    (task,) = study.tasks
    for name, status in {"loss": "done", "wrong_accuracy": "failed"}.items():
        record = run_alone(replace(study, tasks=(replace(task, secondary_metrics={name: "what it is"}),)), tmp_path)
        assert record.status == status
    assert "Expected the evaluation to give 'wrong_accuracy'" in record.error


@pytest.mark.parametrize("keep", [False, True])
def test_a_kept_model_is_the_trained_one_and_nothing_else_is_left(toy, tmp_path, keep):
    kept = {}

    def make(seed: int) -> TrainerInputs:
        kept["model"] = (made := toy.inputs(seed)).trainer["model"]
        return made

    run_alone(toy.study(make, "0"), tmp_path, keep_models=keep)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["toy/0/seed3/model/config.json", "toy/0/seed3/model/model.safetensors"][: 2 * keep]
    if keep:
        again = type(kept["model"]).from_pretrained(tmp_path / "toy/0/seed3/model")
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, kept["model"].state_dict()[name])


class Folder:
    """What is in a folder of runs while a study is done, branch by branch."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.store = study, Store(folder)
        self.branches: list[Branch] = []
        self.there: list[list[str]] = []  # the checkpoints before each branch
        self.before: Callable[[Branch], None] = lambda branch: None
        self.steps = 0

    def checkpoints(self) -> list[Path]:
        return sorted(path.parent for path in Path(self.store.folder).glob(f".segments/*/*/*/{MANIFEST}"))

    def run(self, study: Study, store: Store, branch: Branch, progress: Any, **given: Any) -> Outcome:
        def step(*done: Any) -> None:
            self.steps += 1
            progress(*done)

        self.there.append([path.name.split("-")[0] for path in self.checkpoints()])
        self.branches.append(branch)
        self.before(branch)
        return run_branch(study, store, branch, step, **given)

    def go(self, **given: Any) -> dict[str, RunRecord]:
        run_grid(self.study, self.store, self.run, **given)
        return {record.key.method: record for record in self.store.records()}

    def left(self) -> list[Path]:
        return [path for path in Path(self.store.folder).rglob(".segments/**/*") if path.is_file()]


PAPER = ("ce", "0", "0,0.5", "0-0.5")
TRAINED = {"ce": 20, "0": 20, "0,0.5": 1, "0-0.5": 16}


@pytest.fixture
def folder(toy, tmp_path: Path) -> Folder:
    return Folder(toy.study(None, *PAPER), tmp_path)


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    """What a study leaves that shares nothing."""
    return Folder(toy.study(None, *PAPER), tmp_path_factory.mktemp("runs")).go(sharing=False)


def assert_same_results(records: dict[str, RunRecord], undisturbed: dict[str, RunRecord]) -> None:
    assert records.keys() == undisturbed.keys()
    for method, record in records.items():
        other = undisturbed[method]
        assert (record.status, record.scores, record.training) == (other.status, other.scores, other.training)
        assert record.settings == other.settings
        assert record.cost["steps_trained"] + record.cost["steps_inherited"] == 20


def total(records: dict[str, RunRecord]) -> int:
    return sum(record.cost["steps_trained"] for record in records.values())


def test_a_shared_step_is_attributed_to_one_run_and_the_sum_is_what_was_trained(folder, undisturbed):
    records = folder.go()
    assert {method: record.cost["steps_trained"] for method, record in records.items()} == TRAINED
    assert_same_results(records, undisturbed)
    assert folder.steps == total(records) == cost(plan({m: parse_loss(m) for m in PAPER}, 20))


def test_checkpoints_go_as_soon_as_nothing_continues_from_them(folder):
    folder.go()
    starts = [(branch.start, branch.methods[0]) for branch in folder.branches]
    assert starts == [(0, "ce"), (0, "0"), (4, "0"), (19, "0"), (19, "0,0.5"), (4, "0-0.5")]
    # What remains after 4 steps waits for the last branch; what remains after 19, for the two before that.
    assert folder.there == [[], [], ["step4"], ["step19", "step4"], ["step19", "step4"], ["step4"]]
    assert folder.left() == []


def interrupted(folder: Folder, at: int) -> None:
    def stop(branch: Branch) -> None:
        if len(folder.branches) == at + 1:
            raise KeyboardInterrupt

    folder.before = stop
    with pytest.raises(KeyboardInterrupt):
        folder.go()
    folder.before = lambda branch: None


@pytest.mark.parametrize("at", [*(pytest.param(at, marks=pytest.mark.slow) for at in (0, 1, 2)), 3, 4, 5])
@pytest.mark.parametrize("lost", [False, True], ids=["checkpoints there", "checkpoints lost"])
def test_a_study_cut_short_between_two_branches_ends_with_the_same_results(folder, undisturbed, at, lost):
    interrupted(folder, at)
    if lost:
        for checkpoint in folder.checkpoints():
            (checkpoint / MANIFEST).unlink()
    assert_same_results(folder.go(), undisturbed)
    assert folder.left() == []
    # What is trained again is what the lost checkpoints held, and no more.
    again = {2: 4, 3: 19, 4: 19, 5: 4}.get(at, 0) if lost else 0
    assert folder.steps == sum(TRAINED.values()) + again
    assert total({m: folder.store.read(RunKey("toy", m, 3)) for m in PAPER}) <= folder.steps


@pytest.mark.parametrize("stop", [22, 41])
def test_a_study_cut_short_in_the_middle_of_a_branch_trains_only_that_one_again(folder, undisturbed, stop):
    def count(branch: Branch) -> None:
        folder.start = folder.steps

    run = folder.run

    def stopping(study: Study, store: Store, branch: Branch, progress: Any, **given: Any) -> Outcome:
        def step(*done: Any) -> None:
            progress(*done)
            if folder.steps == stop:
                raise KeyboardInterrupt

        return run(study, store, branch, step, **given)

    folder.before = count
    folder.run = stopping
    with pytest.raises(KeyboardInterrupt):
        folder.go()
    wasted = stop - folder.start
    folder.run = run
    assert_same_results(folder.go(), undisturbed)
    assert folder.steps == sum(TRAINED.values()) + wasted
    assert folder.left() == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


QUICK = [(truncate, "model.safetensors"), (flip, "optimizer.pt"), (Path.unlink, "trainer_state.json")]
FILES = ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "pending.safetensors", MANIFEST]


PARTING = ("0", "0,0.5")
DAMAGES = [
    pytest.param(damage, name, marks=[] if (damage, name) in QUICK else pytest.mark.slow)
    for damage, name in itertools.product((truncate, flip, Path.unlink), FILES)
]


@pytest.fixture(scope="module")
def parted(toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    study = toy.study(None, *PARTING, lr_scheduler_type="constant")
    return Folder(study, tmp_path_factory.mktemp("parted")).go(sharing=False)


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_a_damaged_checkpoint_is_noticed_and_trained_again(toy, tmp_path, parted, damage, name):
    # The two methods part after 19 of 20 steps, and both find the damage, of which the first one repairs it.
    folder = Folder(toy.study(None, *PARTING, lr_scheduler_type="constant"), tmp_path)

    def harm(branch: Branch) -> None:
        if len(folder.branches) == 2:
            (checkpoint,) = folder.checkpoints()
            damage(checkpoint / name)

    folder.before = harm
    assert_same_results(folder.go(), parted)
    assert folder.steps == 21 + 19
    assert folder.left() == []


def find_then(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Checkpoints, str, Path], None]) -> None:
    """Harm a checkpoint between the comparison of its digests and its use."""
    find = Checkpoints.find

    def found(self: Checkpoints, name: str, scratch: Path) -> Any:
        result = find(self, name, scratch)
        if result is not None:
            harm(self, name, result[0])
        return result

    monkeypatch.setattr(Checkpoints, "find", found)


def test_a_checkpoint_that_changes_after_it_was_checked_changes_nothing(toy, tmp_path, parted, monkeypatch):
    find_then(monkeypatch, lambda checkpoints, name, copy: Path(checkpoints.folder / name / "optimizer.pt").unlink())
    folder = Folder(toy.study(None, *PARTING, lr_scheduler_type="constant"), tmp_path)
    assert_same_results(folder.go(), parted)


def test_a_copy_that_loses_a_file_before_it_is_loaded_fails_its_run(toy, tmp_path, monkeypatch):
    find_then(monkeypatch, lambda checkpoints, name, copy: (copy / "optimizer.pt").unlink())
    records = Folder(toy.study(None, *PARTING, lr_scheduler_type="constant"), tmp_path).go()
    assert {record.status for record in records.values()} == {"failed"}
    assert all("optimizer.pt" in (record.error or "") for record in records.values())


def test_a_run_that_starts_again_from_the_first_step_is_not_done(toy, tmp_path, monkeypatch):
    train = MixedLossTrainer.train
    monkeypatch.setattr(MixedLossTrainer, "train", lambda self, **_: train(self))
    monkeypatch.setattr(PauseCallback, "resume", lambda trainer, checkpoint: None)
    records = Folder(toy.study(None, *PARTING, lr_scheduler_type="constant"), tmp_path).go()
    assert {record.status for record in records.values()} == {"failed"}
    assert all("Expected 20 steps of training, but 39 were done" in (one.error or "") for one in records.values())


@pytest.mark.parametrize("at", [3, 19, 20, 21])
def test_shared_training_that_is_deleted_meanwhile_gives_no_wrong_result(toy, tmp_path, parted, at):
    folder = Folder(toy.study(None, *PARTING, lr_scheduler_type="constant"), tmp_path)
    run = folder.run

    def deleting(study: Study, store: Store, branch: Branch, progress: Any, **given: Any) -> Outcome:
        def step(*done: Any) -> None:
            progress(*done)
            if folder.steps == at:
                shutil.rmtree(folder.store.folder / ".segments")

        return run(study, store, branch, step, **given)

    folder.run = deleting
    for method, record in folder.go().items():
        if record.status == "done":
            assert (record.scores, record.training) == (parted[method].scores, parted[method].training)
            assert record.cost["steps_trained"] + record.cost["steps_inherited"] == 20
    assert_same_results(folder.go(retry_failed=True), parted)


def test_a_run_without_a_step_is_not_done(toy, tmp_path):
    record = run_alone(toy.study(gradient_accumulation_steps=-1), tmp_path)
    assert (record.status, record.cost["steps_trained"]) == ("failed", 0)
    assert "0 were done" in record.error


def test_what_leads_only_to_a_checkpoint_that_is_there_is_not_trained_again(toy, tmp_path):
    folder = Folder(toy.study(None, "0-0.5", "0", "0,0.5"), tmp_path)
    interrupted(folder, 4)  # the checkpoint after 4 steps has gone with its children; that after 19 waits for the last
    assert [path.name.split("-")[0] for path in folder.checkpoints()] == ["step19"]
    folder.go()
    assert folder.steps == 4 + 16 + 15 + 1 + 1


def test_a_checkpoint_lost_far_back_is_trained_again_from_the_start(folder, undisturbed):
    def lose(branch: Branch) -> None:
        if branch.start == 19 and branch.methods == ("0",):
            for checkpoint in folder.checkpoints():
                (checkpoint / "model.safetensors").unlink()

    folder.before = lose
    records = folder.go()
    assert_same_results(records, undisturbed)
    # The first of the last two trains all of 19 steps again, by way of the checkpoint after 4, which is whole again.
    assert folder.steps == sum(TRAINED.values()) + 19


def other_rows(toy: Any, study: Study) -> Study:
    task = Task("toy", "accuracy", toy.inputs, {"rows": "others"})
    return Study((task,), study.methods, study.seeds, study.arguments)


OTHERS: dict[str, Callable[[Any], Study]] = {
    "learning rate": lambda toy: toy.study(None, *HALVES, learning_rate=2e-2),
    "steps": lambda toy: toy.study(None, *HALVES, num_train_epochs=8),
    "weights": lambda toy: toy.study(None, "1:2", "1:2@0 0.5@0.5"),
    "rows": lambda toy: other_rows(toy, toy.study(None, *HALVES)),
    "seed": lambda toy: toy.study(None, *HALVES, seeds=(4,)),
    "versions": lambda toy: toy.study(None, *HALVES),
}
HALVES = ("0", "0@0 0.5@0.5")


@pytest.mark.parametrize("change", OTHERS)
def test_a_checkpoint_of_another_training_is_not_used(toy, tmp_path, change, monkeypatch):
    """A study stops with a checkpoint where its methods part, and another one goes on in its folder."""
    first, second = Folder(toy.study(None, *HALVES), tmp_path), Folder(OTHERS[change](toy), tmp_path)
    interrupted(first, 1)
    assert len(first.checkpoints()) == 1
    if change == "seed":
        (tmp_path / ".segments/toy/seed3").rename(tmp_path / ".segments/toy/seed4")
    if change == "versions":
        monkeypatch.setattr(run_module, "software", lambda: {**software(), "versions": {"torch": "1.0"}})
    second.go()
    assert second.steps == (60 if change == "steps" else 30)
    assert second.left() == []


def test_a_checkpoint_of_the_same_training_is_used(toy, tmp_path):
    first, second = Folder(toy.study(None, *HALVES), tmp_path), Folder(toy.study(None, *reversed(HALVES)), tmp_path)
    interrupted(first, 1)
    assert first.steps == 10
    second.go()
    assert second.steps == 20


def test_a_run_added_later_ends_as_if_it_had_been_there_from_the_start(toy, tmp_path, undisturbed):
    Folder(toy.study(None, "ce", "0"), tmp_path).go()
    later = Folder(toy.study(None, *PAPER), tmp_path)
    assert_same_results(later.go(), undisturbed)
    assert later.steps == 20 + 16


def two_sets(toy: Any, seed: int) -> TrainerInputs:
    return toy.inputs(seed, eval_dataset={"near": toy.rows(17, seed=2), "far": toy.rows(5, seed=4)})


RECORDED = ("0", "0-0.5", "0@0 0.5@0.25")  # which part in mid-epoch and between two epochs


def recorded(folder: Folder) -> dict[str, bytes]:
    return {key.method: (folder.store.folder_of(key) / FILE).read_bytes() for key in folder.study.runs()}


def test_what_is_recorded_is_the_same_for_training_that_is_shared(toy, tmp_path):
    """And the rest is the same as where nothing is recorded."""
    study = toy.study(partial(two_sets, toy), *RECORDED, select="near_accuracy")
    shared, alone, plain = (Folder(study, tmp_path / name) for name in ("shared", "alone", "plain"))
    shared.run, alone.run = partial(shared.run, cohorts=True), partial(alone.run, cohorts=True)
    records = shared.go(keep="models")
    assert_same_results(records, alone.go(sharing=False, keep="models"))
    assert_same_results(records, plain.go(keep="models"))
    assert recorded(shared) == recorded(alone)
    assert len(set(recorded(shared).values())) == len(RECORDED)
    for key in study.runs():
        near, far = (shared.store.read_predictions(key)[name] for name in ("near", "far"))
        assert near.steps.tolist() == far.steps.tolist() == [5, 10, 15, 20]
        assert near.correct.mean(axis=1).tolist() == records[key.method].scores["near_accuracy"]["epochs"]
        assert plain.store.read_predictions(key) is None
        models = [store.folder_of(key) / "model/model.safetensors" for store in (shared.store, plain.store)]
        assert models[0].read_bytes() == models[1].read_bytes()
    assert shared.left() == []


@pytest.mark.parametrize("before", [False, True], ids=["nothing recorded", "recorded"])
def test_a_study_that_continues_records_whole_runs(toy, tmp_path, before):
    """The checkpoint of a training that recorded nothing is not gone on from."""
    alone, folder = (Folder(toy.study(None, *HALVES), tmp_path / name) for name in ("alone", "cut"))
    alone.run, run = partial(alone.run, cohorts=True), folder.run
    alone.go(sharing=False)
    folder.run = partial(run, cohorts=before)
    interrupted(folder, 1)
    folder.run = partial(run, cohorts=True)
    folder.go()
    assert recorded(folder) == recorded(alone)
    assert folder.steps == (30 if before else 40)
    assert folder.left() == []


def test_runs_that_are_done_are_not_done_again_to_record_them(toy, tmp_path):
    Folder(toy.study(None, "ce"), tmp_path).go()
    later = Folder(toy.study(None, "ce", "0", Method("again", {}, "0")), tmp_path)
    later.run = partial(later.run, cohorts=True)
    later.go()
    assert later.steps == 20
    files = {key.method: later.store.read_predictions(key) for key in later.study.runs()}
    assert files["ce"] is None
    np.testing.assert_array_equal(files["0"][""].p_true, files["again"][""].p_true)


def with_callback(toy: Any, seed: int) -> TrainerInputs:
    return toy.inputs(seed, callbacks=[EarlyStoppingCallback(2)])


def of_a_stream(toy: Any, seed: int) -> TrainerInputs:
    return toy.inputs(seed, train_dataset=toy.rows(20, 1).to_iterable_dataset())


def masked(toy: Any, seed: int, *, draw: Callable[[], float]) -> TrainerInputs:
    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.tensor([row[name] for row in features]) for name in ("input_ids", "labels")}
        keep = torch.tensor([[draw() < 0.7 for _ in row] for row in batch["input_ids"]])
        return {**batch, "input_ids": batch["input_ids"] * keep}

    return toy.inputs(seed, data_collator=collate)


by_torch = partial(masked, draw=lambda: torch.rand(()).item())
by_numpy = partial(masked, draw=lambda: np.random.rand())  # noqa: NPY002
by_python = partial(masked, draw=random.random)
best = {"metric_for_best_model": "loss", "greater_is_better": False}

UNSHARED: dict[str, tuple[Callable[[Any, int], TrainerInputs] | None, dict[str, Any]]] = {
    "a callback": (with_callback, best),
    "callbacks by name": (None, {"report_to": "tensorboard"}),
    "no way back into the data": (None, {"ignore_data_skip": True}),
    "the best model in the end": (None, {"save_strategy": "epoch", "load_best_model_at_end": True, **best}),
    "checkpoints without optimizer": (None, {"save_only_model": True}),
    "saves for the best only": (None, {"save_strategy": "best", **best}),
    "a stream of rows": (of_a_stream, {"max_steps": 10}),
    "rows masked by torch": (by_torch, {}),
    "rows masked by numpy": (by_numpy, {}),
    "rows masked by python": (by_python, {}),
}


@pytest.mark.parametrize("name", UNSHARED)
def test_what_a_checkpoint_could_not_carry_over_is_not_shared(toy, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # a log of each training goes below the working folder
    make, arguments = UNSHARED[name]
    study = toy.study(partial(make, toy) if make else None, "0", "0-0.5", **{"num_train_epochs": 2, **arguments})
    asked, alone = Folder(study, tmp_path / "asked"), Folder(study, tmp_path / "alone")
    records = asked.go(keep="models")
    for method, record in alone.go(sharing=False, keep="models").items():
        assert record.status == "done"
        assert (records[method].scores, records[method].training) == (record.scores, record.training)
        assert records[method].cost["steps_inherited"] == 0
        place = f"toy/{method}/seed3/model/model.safetensors"
        assert (tmp_path / "asked" / place).read_bytes() == (tmp_path / "alone" / place).read_bytes()
    assert asked.steps == alone.steps
    assert asked.left() == []


def test_methods_with_other_arguments_share_nothing_but_the_rest_does(toy, tmp_path):
    slower = Method("slower", {"learning_rate": 1e-3}, "0@0 0.5@0.5")
    records = Folder(toy.study(None, "0", slower, "0@0 0.5@0.5"), tmp_path / "runs").go()
    assert {name: record.cost["steps_inherited"] for name, record in records.items()} == {
        **{"0": 0, "slower": 0},
        "0@0 0.5@0.5": 10,
    }
    (alone,) = Folder(toy.study(None, slower), tmp_path / "alone").go().values()
    assert (records["slower"].scores, records["slower"].training) == (alone.scores, alone.training)


def test_one_schedule_under_two_names_is_trained_once_and_has_two_records(toy, tmp_path):
    study = toy.study(None, Method("slow", {}, "0-0.5"), "0-0.5")
    folder = Folder(study, tmp_path)
    records = folder.go(keep="models")
    assert folder.steps == 20
    one, other = records["slow"], records["0-0.5"]
    assert (one.scores, one.training, one.settings) == (other.scores, other.training, other.settings)
    assert [record.cost["steps_trained"] for record in (one, other)] == [20, 0]
    assert [record.cost["steps_inherited"] for record in (one, other)] == [0, 20]
    models = [tmp_path / "toy" / name / "seed3/model/model.safetensors" for name in records]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_progress_of_what_continues_starts_where_the_other_ended(toy, tmp_path):
    told: list[tuple[Branch, int, int]] = []

    def run(study: Study, store: Store, branch: Branch, progress: Any, **given: Any) -> Outcome:
        return run_branch(study, store, branch, lambda *step: told.append((branch, *step[:2])), **given)

    run_grid(toy.study(None, "0", "0@0 0.5@0.5"), Store(tmp_path), run)
    assert [(branch.start, step, steps) for branch, step, steps in told] == [
        *((0, step, 20) for step in range(1, 11)),
        *((10, step, 20) for step in range(11, 21)),
        *((10, step, 20) for step in range(11, 21)),
    ]


def test_an_error_in_shared_training_fails_its_runs_and_no_others(toy, tmp_path):
    def make(seed: int) -> TrainerInputs:
        return toy.inputs(seed, compute_metrics=scoring)

    def scoring(prediction: EvalPrediction) -> dict[str, float]:
        if folder.branches[-1].start == 4 and "0" in folder.branches[-1].methods:
            raise RuntimeError("cannot score this")
        return toy.accuracy(prediction)

    folder = Folder(toy.study(make, *PAPER), tmp_path)
    records = folder.go()
    assert {method: record.status for method, record in records.items()} == {
        **{"ce": "done", "0": "failed", "0,0.5": "failed", "0-0.5": "done"}
    }
    assert "cannot score this" in records["0,0.5"].error
    costs = {method: (r.cost["steps_trained"], r.cost["steps_inherited"]) for method, r in records.items()}
    assert costs == {"ce": (20, 0), "0": (5, 0), "0,0.5": (0, 5), "0-0.5": (16, 4)}
    assert folder.steps == total(records)
    assert folder.left() == []


def broken_by(error: Exception, cause: Exception | None = None) -> Callable[[int, int], None]:
    def progress(step: int, *_: Any) -> None:
        if step == 3:
            raise error from cause

    return progress


FULL = {
    "as the system says": (OSError(errno.ENOSPC, "No space left on device"), None),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), None),
    "in words": (RuntimeError("PytorchStreamWriter: No space left on device"), None),
    "as the cause": (RuntimeError("cannot save"), OSError(errno.ENOSPC, "No space left on device")),
}


@pytest.mark.parametrize("how", FULL)
def test_a_full_disk_is_not_a_result(train, tmp_path, how):
    with pytest.raises(OSError, match="No space left for a checkpoint or model. Free some") as caught:
        train(progress=broken_by(*FULL[how]))
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path / "runs") in str(caught.value)


FAULTS = ("EFBIG", "EROFS", "EIO", "ESTALE", "ENOTCONN", "ENODEV", "EMFILE", "EREMOTEIO")


@pytest.mark.parametrize("name", [name for name in FAULTS if hasattr(errno, name)])
@pytest.mark.parametrize("how", ["as the system says", "by Rust", "as the cause"])
def test_a_fault_of_the_storage_is_not_a_result(train, tmp_path, name, how):
    number = getattr(errno, name)
    system = OSError(number, os.strerror(number), str(tmp_path / "x"))
    by = {
        "as the system says": (system, None),
        "by Rust": (RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})"), None),
        "as the cause": (RuntimeError("cannot save"), system),
    }
    with pytest.raises(OSError, match="run the same command again") as caught:
        train(progress=broken_by(*by[how]))
    assert caught.value.errno == number
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_write_that_fails_without_a_reason_is_a_fault_of_the_storage(train):
    # What PyTorch says where it cannot write all of a file.
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    with pytest.raises(OSError, match="Cannot write or read a checkpoint or model"):
        train(progress=broken_by(error))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EFBIG])
def test_any_error_is_a_fault_of_the_storage_where_nothing_can_be_written(train, monkeypatch, number):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    def break_storage(step: int, steps: int) -> None:
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        raise RuntimeError("some library says this or that")

    with pytest.raises(OSError, match=r"No space left|Cannot write or read") as caught:
        train(progress=break_storage)
    assert caught.value.errno == number


def test_a_run_whose_folder_vanishes_has_no_result(train, tmp_path):
    def vanish(step: int, steps: int) -> None:
        shutil.rmtree(tmp_path / "runs")
        raise RuntimeError("some library says this or that")

    with pytest.raises(OSError, match="deleted or unmounted"):
        train(progress=vanish)


@pytest.mark.parametrize("part", ["the work of a block", "a model"])
def test_a_folder_that_cannot_be_written_is_not_a_result(toy, tmp_path, monkeypatch, part):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "runs"))

    monkeypatch.setattr(*((tempfile, "mkdtemp") if part == "the work of a block" else (shutil, "move")), refuse)
    with pytest.raises(OSError, match="Permission denied"):
        run_alone(toy.study(), tmp_path / "runs", keep_models=True)


def test_any_other_error_of_the_system_is_a_result(train):
    record = train(progress=broken_by(OSError(errno.EACCES, "Permission denied")))
    assert (record.status, record.cost["steps_trained"]) == ("failed", 3)
    assert record.error.startswith("PermissionError")


def test_a_lone_branch_leaves_no_checkpoint_but_a_shared_one_says_which(toy, tmp_path):
    study, store = toy.study(None, "0", "0@0 0.5@0.5"), Store(tmp_path)
    root = Branch("toy", 3, ("0", "0@0 0.5@0.5"), ("0", "0@0 0.5@0.5"))
    outcome = run_branch(study, store, root, ignore)
    assert outcome.records == ()
    assert [(child.methods, child.start) for child in outcome.children] == [(("0",), 10), (("0@0 0.5@0.5",), 10)]
    assert Checkpoints(store.segments_of("toy", 3)).has(outcome.checkpoint)
    # A second look finds it there.
    assert run_branch(study, store, root, lambda *step: pytest.fail("trained again")) == outcome


def test_a_missing_checkpoint_is_trained_by_whoever_needs_it(toy, tmp_path):
    study, store = toy.study(None, "0", "0@0 0.5@0.5"), Store(tmp_path)
    child = Branch("toy", 3, ("0", "0@0 0.5@0.5"), ("0@0 0.5@0.5",), 10)
    steps: list[int] = []
    (record,) = run_branch(study, store, child, lambda step, *_: steps.append(step)).records
    assert steps == list(range(1, 21))
    assert (record.cost["steps_trained"], record.cost["steps_inherited"]) == (20, 0)


def test_scores_are_numbers():
    log = {"step": 1, "eval_agreed": True, "eval_matrix": [[1, 0], [0, 1]], "eval_worst": "class 2", "eval_f1": 0.5}
    values = {name: scores["last"] for name, scores in scores_of([log]).items()}
    assert values == {"agreed": 1, "f1": 0.5}
    assert type(values["agreed"]) is int


def test_provenance_that_no_record_can_hold_fails_the_run(toy, train):
    def make(seed: int) -> TrainerInputs:
        return replace(toy.inputs(seed), provenance={"model_revision": 3})

    record = train(make)
    assert record.status == "failed"
    assert record.error.startswith("ValueError: model_revision: input should be a valid string, but got 3")
    assert RunRecord.from_json(json.dumps(record.to_dict()).encode()) == record
