"""Which number of a run counts: by hand, and over whole studies on toy tasks."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from hf_elmix import MixedLossTrainer
from hf_elmix.analysis.frames import curves_table, runs_table, scores_table
from hf_elmix.errors import UsageError
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import run_branch
from hf_elmix.study.select import Select, best_first, choose_runs
from hf_elmix.study.spec import Method, RunKey, RunRecord, Study, Task, TrainerInputs

HELD_OUT = Select("accuracy", "best", chosen_on="validation", scored_on="test")
LEARNING_RATES = (0.03, 0.3)


def series(*values: float | None) -> dict[str, Any]:
    return {
        "last": values[-1],
        "best": None,
        "epochs": [*values],
        "steps": [*range(len(values))],
    }


@pytest.mark.parametrize(
    ("validation", "test", "score"),
    [
        ([0.5, 0.9, 0.7], [0.1, 0.2, 0.3], 0.2),
        ([0.9, 0.9, 0.7], [0.1, 0.2, 0.3], 0.1),  # the first of equals
        ([None, 0.2, math.nan], [0.1, 0.2, 0.3], 0.2),
        ([0.1, 0.9, 0.3], [0.1, None, 0.3], None),
    ],
)
def test_the_score_is_that_of_the_epoch_with_the_best_validation(validation, test, score):
    scores = {"validation_accuracy": series(*validation), "test_accuracy": series(*test)}
    assert HELD_OUT.score(scores) == score
    assert HELD_OUT.choice(scores) == max(value for value in validation if value and value == value)
    assert Select("accuracy", scored_on="test").score(scores) == 0.3


def test_epochs_are_matched_by_their_steps():
    scores = {"validation_f1": {"epochs": [0.1, 0.9], "steps": [5, 10]}, "test_f1": {"epochs": [0.3], "steps": [10]}}
    assert Select("f1", "best", "validation", "test").score(scores) == 0.3


def test_the_last_epoch_needs_no_other_set():
    scores = {"accuracy": {"last": 0.25, "best": 0.75, "epochs": [0.75, 0.25], "steps": [1, 2]}}
    assert Select("accuracy").score(scores) == 0.25
    assert Select("accuracy", "best").score(scores) == Select("accuracy", "best").choice(scores) == 0.75
    assert Select("f1").score(scores) is None


@pytest.mark.parametrize(
    "select", ["accuracy", Select("f1", "best"), Select("f1", scored_on="a"), Select("f1", "last", "a", "b"), HELD_OUT]
)
def test_settings_read_back(select):
    select = Select.of(select)
    assert Select.of(select.to_settings()) == select == Select.of(select)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metric": ""}, "the name of a metric, but got ''"),
        ({"metric": "f1", "epoch": "first"}, "'last' or 'best', but got 'first'"),
        ({"metric": "f1", "epoch": "best", "scored_on": "test"}, "Expected chosen_on where .* scored on 'test'"),
        ({"metric": "f1", "chosen_on": "validation"}, "Expected scored_on, too, .* on 'validation'"),
        ({"metric": "f1", "scored_on": ""}, "an evaluation set or None, but got ''"),
        ({"metric": "f1", "on": "x"}, "but got 'on'"),
        ({}, "but got ''"),
        (3, "but got 3"),
    ],
)
def test_values_that_contradict_each_other_are_refused_in_one_line(values, message):
    with pytest.raises(UsageError, match=message) as caught:
        Task("a", values, lambda seed: pytest.fail("loads nothing"))
    assert "\n" not in str(caught.value)


def test_a_record_with_an_impossible_selection_is_not_one(record_of):
    record = record_of(RunKey("a", "ce", 0), settings={"select": {"metric": "accuracy", "epoch": "middle"}})
    with pytest.raises(ValueError, match="'last' or 'best'"):
        RunRecord.from_json(json.dumps(record.to_dict()).encode())


def test_only_a_run_that_is_done_has_a_score(record_of):
    key = RunKey("a", "ce", 0)
    assert record_of(key, 0.5).score == 0.5
    assert record_of(key, 0.5, status="diverged").score is None
    assert record_of(key, 0.5, settings={}).score is None
    assert record_of(key, 0.5).curve() == [0.5]
    runs = [record_of(RunKey("a", "ce", seed), score) for seed, score in enumerate((0.5, 0.75, 0.75))]
    assert [run.key.seed for run in sorted(runs, key=best_first)] == [1, 2, 0]


def candidates(record_of: Any, *outcomes: float | str | None) -> tuple[list[RunRecord], list[RunKey]]:
    """Records of a sweep's candidates, one for each score or status, and the runs that were asked for."""
    keys = [RunKey("a", f"ce [lr={k}]", 0) for k in range(len(outcomes))]
    given = [(key, outcome) for key, outcome in zip(keys, outcomes, strict=True) if outcome is not None]
    records = [
        record_of(key, 0.99, status=outcome) if isinstance(outcome, str) else record_of(key, outcome)
        for key, outcome in given
    ]
    return records, keys


@pytest.mark.parametrize(
    ("outcomes", "chosen"),
    [
        ((0.5, 0.75, 0.6), 1),
        ((0.75, 0.75), 0),
        (("diverged", 0.1), 1),
        (("diverged", "diverged"), 0),
        ((0.9, "failed", 0.1), 1),
        ((0.9, "failed", None), None),
        ((0.9, None), None),
    ],
)
def test_the_best_candidate_counts_once_all_have_ended(record_of, outcomes, chosen):
    records, keys = candidates(record_of, *outcomes)
    other = record_of(RunKey("a", "el", 0))
    runs = choose_runs([other, *reversed(records)], iter([*keys, other.key]))
    assert runs == {
        RunKey("a", "ce", 0): None if chosen is None else next(r for r in records if r.key == keys[chosen]),
        other.key: other,
    }


def test_a_method_cannot_have_the_name_of_a_candidate(toy):
    with pytest.raises(UsageError, match=r"without brackets, which are for sweeps, but got 'ce \[x\]'"):
        toy.study(None, Method("ce [x]", loss="ce"))


def test_two_equal_candidates_are_refused(toy):
    with pytest.raises(UsageError, match=r"'ce \[seed=1\]' 2 times"):
        toy.study(None, Method("ce", sweep=({"seed": 1}, {"seed": 1})))


def test_a_sweep_is_not_chosen_by_what_is_scored(toy):
    sweep = Method("ce", sweep=({"learning_rate": 0.1}, {"learning_rate": 0.01}))
    with pytest.raises(UsageError, match="only 'test', which is scored. .* chosen_on"):
        toy.study(None, sweep, select=Select("accuracy", scored_on="test"))
    assert toy.study(None, sweep, select=HELD_OUT).runs().keys() == {
        RunKey("toy", f"ce [learning_rate={rate}]", 3) for rate in (0.1, 0.01)
    }


# Whole studies, beside a few plain lines.


def inputs(toy: Any, seed: int) -> TrainerInputs:
    return toy.inputs(seed, eval_dataset={"validation": toy.rows(25, seed=2), "test": toy.rows(25, seed=4)})


def accuracies(toy: Any, loss: str, seed: int, folder: Any, **arguments: Any) -> dict[str, list[float]]:
    """Accuracy on both sets after each epoch, by a Trainer alone."""
    given = {**toy.arguments, **arguments, "eval_strategy": "epoch", "report_to": "none", "disable_tqdm": True}
    args = TrainingArguments(str(folder), seed=seed, save_strategy="no", **given)
    trainer = MixedLossTrainer(args=args, loss=loss, **inputs(toy, seed).trainer)
    trainer.train()
    logs = trainer.state.log_history
    return {
        name: [log[f"eval_{name}_accuracy"] for log in logs if f"eval_{name}_accuracy" in log]
        for name in ("validation", "test")
    }


@pytest.fixture(scope="module")
def swept(toy, tmp_path_factory) -> Any:
    """A study whose learning rate and epoch are chosen on one set and scored on another."""
    from hf_elmix.study.store import Store

    store = Store(tmp_path_factory.mktemp("swept"))
    task = Task("toy", HELD_OUT, lambda seed: inputs(toy, seed))
    sweep = tuple({"learning_rate": rate} for rate in LEARNING_RATES)
    study = Study((task,), (Method("ce", sweep=sweep), Method("el")), (3, 4), toy.arguments)
    run_grid(study, store, run_branch, keep="best", command="study it")
    return store


@pytest.mark.slow
def test_epoch_and_learning_rate_are_chosen_on_validation_and_scored_on_test(toy, swept, tmp_path):
    scores = scores_table(runs_table(swept.records(), swept.asked()))
    assert list(scores) == ["ce", "el"]
    chosen = choose_runs(swept.records(), swept.asked())
    for seed in (3, 4):
        runs = [accuracies(toy, "ce", seed, tmp_path, learning_rate=rate) for rate in LEARNING_RATES]
        best = max(range(2), key=lambda k: max(runs[k]["validation"]))
        epoch = int(np.argmax(runs[best]["validation"]))
        assert scores.loc[("toy", seed), "ce"] == runs[best]["test"][epoch]
        assert chosen[RunKey("toy", "ce", seed)].key.method == f"ce [learning_rate={LEARNING_RATES[best]}]"
        alone = accuracies(toy, "el", seed, tmp_path)
        assert scores.loc[("toy", seed), "el"] == alone["test"][int(np.argmax(alone["validation"]))]
        # The choice has to differ from the last epoch's, or from the best on the test set, for this to show anything.
    numbers = [record.scores["test_accuracy"] for record in swept.records()]
    assert any(record.score != record.scores["test_accuracy"]["last"] for record in swept.records()), numbers


def test_curves_are_those_of_the_chosen_candidate_on_the_scored_set(swept):
    curves = curves_table(swept.records(), swept.asked())
    assert set(curves["method"]) == {"ce", "el"}
    record = choose_runs(swept.records(), swept.asked())[RunKey("toy", "ce", 3)]
    shown = curves[(curves["method"] == "ce") & (curves["seed"] == 3) & (curves["quantity"] == "score")]["value"]
    assert shown.tolist() == record.scores["test_accuracy"]["epochs"]


def test_every_candidate_has_a_record_and_one_model_of_a_method_stays(swept):
    folders = {path.parent.name for path in (swept.folder / "toy").glob("*/seed3")}
    assert folders == {"el", *(f"ce [learning_rate={rate}]" for rate in LEARNING_RATES)}
    chosen = choose_runs(swept.records(), swept.asked())
    kept = {path.parent for path in swept.folder.glob("*/*/*/model")}
    for method in ("ce", "el"):
        best = min((chosen[RunKey("toy", method, seed)] for seed in (3, 4)), key=best_first)
        assert swept.folder_of(best.key) in kept
    assert len(kept) == 2
    assert swept.declaration()["commands"] == ["study it"]


def test_candidates_share_what_they_have_in_common(toy, store):
    sweep = ({"learning_rate": 0.1}, {"learning_rate": 0.01})
    study = toy.study(None, Method("0", sweep=sweep), Method("0,0.5", sweep=sweep))
    run_grid(study, store, run_branch)
    records = {record.key.method: record for record in store.records()}
    assert [records[f"0,0.5 [learning_rate={rate}]"].cost["steps_inherited"] for rate in (0.1, 0.01)] == [19, 19]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("eval_accuracy", "Leave out 'eval_'"),
        ("loss", "of which more is better"),
        ("test_loss", "of which more is bett"),
    ],
)
def test_metrics_that_no_evaluation_gives_or_that_should_be_small_are_refused(metric, message):
    with pytest.raises(UsageError, match=message):
        Select(metric)
