from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction

from hf_elmix.study import run as run_module
from hf_elmix.study.run import run_one, scores_of, software
from hf_elmix.study.spec import Materials, Method, Problem, RunKey, RunRecord, Study

TINY = {
    **{"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "intermediate_size": 32,
}
ARGUMENTS = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "use_cpu": True}
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


def rows(count: int, seed: int) -> Dataset:
    generator = np.random.default_rng(seed)
    columns = {"input_ids": generator.integers(1, 60, (count, 6)), "labels": generator.integers(0, 2, count)}
    return Dataset.from_dict({name: column.tolist() for name, column in columns.items()})


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def tiny_bert(seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**TINY))


def materials(seed: int, train: int = 40, **changes: Any) -> Materials:
    trainer = {
        "model": tiny_bert(seed),
        "train_dataset": rows(train, seed=1),
        "eval_dataset": rows(17, seed=2),
        "compute_metrics": accuracy,
    }
    return Materials({**trainer, **changes}, {"data_rows": {"train": train}})


def study_of(make: Callable[[int], Materials], *methods: Method, score: str = "accuracy", **arguments: Any) -> Study:
    problem = Problem("toy", score, make, {"rows": "random"})
    return Study((problem,), methods or (Method("0-0.5"),), (3, 4), {**ARGUMENTS, **arguments})


def ignore(step: int, steps: int) -> None:
    pass


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., RunRecord]:
    """Do the first run of a study of one problem."""

    def train(
        make: Callable[[int], Materials] = materials,
        method: Method | str = "0-0.5",
        *,
        seed: int = 3,
        progress: Callable[[int, int], None] = ignore,
        **arguments: Any,
    ) -> RunRecord:
        method = Method(method) if isinstance(method, str) else method
        key = RunKey("toy", method.name, seed)
        return run_one(study_of(make, method, **arguments), key, tmp_path / "run", progress)

    return train


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    study = study_of(materials)
    return run_one(study, RunKey("toy", "0-0.5", 3), tmp_path_factory.mktemp("run"), ignore)


def test_a_done_record_has_the_documented_fields(done):
    assert (done.key, done.status, done.error) == (RunKey("toy", "0-0.5", 3), "done", None)
    assert done.settings == {"mixing": "0-0.5", "score": "accuracy", "arguments": ARGUMENTS, "rows": "random"}
    assert done.provenance.keys() == {"versions", "commit", "dirty", "threads", "data_rows", "device"}
    assert done.provenance["data_rows"] == {"train": 40}
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
    assert RunRecord.from_dict(json.loads(text)) == done


def test_scores_are_kept_for_every_epoch(done):
    assert done.scores.keys() == {"accuracy", "loss", "loss_el"}
    for name, series in done.scores.items():
        assert series.keys() == {"last", "best", "epochs"}
        assert len(series["epochs"]) == 2
        assert series["last"] == series["epochs"][-1]
        assert series["best"] == (min if "loss" in name else max)(series["epochs"])
    assert [log["epoch"] for log in done.training] == [1, 2]


def test_the_last_scores_are_those_of_the_trained_model(train):
    kept = {}

    def make(seed: int) -> Materials:
        kept["materials"] = materials(seed)
        return kept["materials"]

    record = train(make)
    model, data = kept["materials"].trainer["model"].eval(), rows(17, seed=2).with_format("torch")
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
    # Same start, same order of rows, same dropout: the comparison within an experiment rests on it.
    constant, slow, switched = (train(method=name, **EVERY_STEP).training for name in ("0", "0-0.5", "0,0.5"))
    terms = ("loss_ce", "loss_el", "grad_norm")
    same = [all(one[name] == other[name] for name in terms) for one, other in zip(constant, slow, strict=True)]
    assert same[:4] == [True] * 4
    assert not any(same[4:])
    assert constant[:19] == switched[:19]


@pytest.mark.parametrize(
    ("count", "arguments", "steps"),
    [
        (40, {}, 20),
        (41, {}, 22),
        (3, {}, 2),
        (40, {"gradient_accumulation_steps": 4}, 6),
        (40, {"num_train_epochs": 1}, 10),
        (40, {"max_steps": 7}, 7),
    ],
)
def test_steps_are_counted_and_progress_is_told_each_one(train, count, arguments, steps):
    told = []
    record = train(lambda seed: materials(seed, count), progress=lambda *step: told.append(step), **arguments)
    assert record.cost["steps_trained"] == steps
    assert record.cost["steps_inherited"] == 0
    assert told == [(step, steps) for step in range(1, steps + 1)]


def test_the_same_run_twice_has_the_same_scores(train, done):
    again = train()
    assert again.scores == done.scores
    assert again.training == done.training
    assert again.settings == done.settings


def test_another_seed_is_another_run(train, done):
    seeds = []

    def make(seed: int) -> Materials:
        seeds.append(seed)
        return materials(3)  # The same model, so that all that differs is what the Trainer draws.

    other = train(make, seed=4)
    assert seeds == [4]
    assert other.key == RunKey("toy", "0-0.5", 4)
    assert other.training[0]["loss"] != done.training[0]["loss"]


@pytest.mark.parametrize(
    ("method", "rate"), [(Method("ce"), 5e-3), (Method("ce", {"learning_rate": 1e-3, "weight_decay": 0.1}), 1e-3)]
)
def test_the_arguments_in_the_settings_are_those_it_trains_with(train, method, rate):
    record = train(method=method, lr_scheduler_type="constant")
    assert record.settings["arguments"]["learning_rate"] == rate
    assert {log["learning_rate"] for log in record.training} == {rate}


def test_several_evaluation_sets_are_kept_apart(train):
    both = {"one": rows(17, seed=2), "two": rows(9, seed=5)}
    record = train(lambda seed: materials(seed, eval_dataset=both))
    alone = train()
    names = {f"{dataset}_{metric}" for dataset in both for metric in ("accuracy", "loss", "loss_el")}
    assert record.scores.keys() == names
    assert all(len(series["epochs"]) == 2 for series in record.scores.values())
    # Up to the first evaluation both are the same training; an evaluation draws from the generator of the dropout.
    assert record.scores["one_accuracy"]["epochs"][0] == alone.scores["accuracy"]["epochs"][0]
    assert record.scores["one_loss"]["epochs"][0] == pytest.approx(alone.scores["loss"]["epochs"][0])
    assert record.scores["two_loss"]["epochs"][0] != pytest.approx(alone.scores["loss"]["epochs"][0])


def fails_to_load(seed: int) -> Materials:
    raise FileNotFoundError("no rows in nowhere")


def fails_to_score(prediction: EvalPrediction) -> dict[str, float]:
    raise RuntimeError("cannot score this")


FAILURES = {
    "materials": (fails_to_load, {}, "FileNotFoundError: no rows in nowhere"),
    "arguments": (materials, {"learning_rat": 1.0}, "TypeError: "),
    "evaluation": (
        lambda seed: materials(seed, compute_metrics=fails_to_score),
        {},
        "RuntimeError: cannot score this",
    ),
    "data": (lambda seed: materials(seed, train_dataset=rows(8, 1).remove_columns("labels")), {}, "UsageError: "),
}


@pytest.mark.parametrize("place", FAILURES)
def test_an_error_becomes_a_failed_record(train, place):
    make, arguments, message = FAILURES[place]
    record = train(make, **arguments)
    assert (record.status, record.scores, record.training) == ("failed", {}, [])
    assert record.error.splitlines()[0].startswith(message)
    assert "Traceback" in record.error
    assert record.settings["arguments"] == {**ARGUMENTS, **arguments}
    assert record.provenance["versions"]["torch"] == torch.__version__
    assert record.cost["seconds"] >= 0
    assert RunRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_run_that_fails_half_way_says_how_many_steps_it_trained(train):
    record = train(FAILURES["evaluation"][0])
    assert (record.status, record.cost["steps_trained"]) == ("failed", 10)


def test_an_interrupt_ends_the_run_without_a_record(train):
    def stop(step: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(progress=stop)


def poisoned(seed: int) -> Materials:
    made = materials(seed)
    with torch.no_grad():
        made.trainer["model"].classifier.weight.fill_(float("nan"))
    return made


def test_a_loss_that_is_no_number_becomes_a_diverged_record(train):
    record = train(poisoned)
    assert (record.status, record.error, record.cost["steps_trained"]) == ("diverged", None, 20)
    assert math.isnan(record.scores["loss"]["last"])


def poisoned_in_training(seed: int) -> Materials:
    """A model whose loss is no number while it trains, though its weights, and so its evaluation, stay finite."""

    def poison(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        if module.training:
            outputs.logits.register_hook(torch.zeros_like)
            outputs.logits = outputs.logits * float("nan")

    made = materials(seed)
    made.trainer["model"].register_forward_hook(poison)
    return made


def test_a_loss_that_is_no_number_while_it_trains_is_not_hidden_by_a_finite_evaluation(train):
    # The Trainer leaves such losses out of the mean it logs, so that its `loss` is finite.
    record = train(poisoned_in_training)
    assert all(math.isfinite(log["loss"]) for log in record.training)
    assert all(math.isfinite(loss) for loss in record.scores["loss"]["epochs"])
    assert record.status == "diverged"


def test_a_run_prints_nothing_and_leaves_no_file(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run_one(study_of(materials, num_train_epochs=1), RunKey("toy", "0-0.5", 3), tmp_path / "run", ignore)
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
        "m_accuracy": {"last": 0.75, "best": 0.75, "epochs": [0.5, 0.75]},
        "m_loss": {"last": 0.6, "best": 0.6, "epochs": [0.7, 0.6]},
        "mm_accuracy": {"last": 0.3, "best": 0.4, "epochs": [0.4, 0.3]},
        "mm_loss": {"last": 0.9, "best": 0.8, "epochs": [0.8, 0.9]},
    }


def test_a_second_evaluation_at_the_same_step_takes_the_place_of_the_first():
    again = [*HISTORY, {"eval_m_accuracy": 0.625, "epoch": 2.0, "step": 12}]
    assert scores_of(again)["m_accuracy"] == {"last": 0.625, "best": 0.625, "epochs": [0.5, 0.625]}


@pytest.mark.parametrize("history", [[], HISTORY[:1], [HISTORY[-1]]])
def test_a_history_without_evaluation_has_no_scores(history):
    assert scores_of(history) == {}


def test_software_says_versions_commit_and_threads():
    said = software()
    for package in ("torch", "transformers", "datasets"):
        assert said["versions"][package] == version(package)
    command = ["git", "-C", str(Path(run_module.__file__).parent), "rev-parse", "HEAD"]
    git = subprocess.run(command, capture_output=True, text=True)
    assert said["commit"] == (git.stdout.strip() if git.returncode == 0 else None)
    assert said["threads"] == torch.get_num_threads()


def test_software_without_git_and_without_a_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(run_module, "PACKAGES", ("torch", "no-such-package"))
    said = software.__wrapped__()
    assert said["commit"] is None
    assert said["versions"]["no-such-package"] is None
    assert said["versions"]["torch"] == version("torch")


def test_a_score_that_no_metric_gives_is_a_failure_and_not_done(train):
    record = train(lambda seed: materials(seed, compute_metrics=lambda prediction: {"other": 1.0}))
    assert record.status == "failed"
    assert "Expected the evaluation to give 'accuracy'" in record.error
    assert "other" in record.error
