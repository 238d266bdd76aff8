from __future__ import annotations

import json
import statistics

import pytest

from glue_runs.tasks import TASKS
from hf_elmix.hub.facts import Origin, Score, facts_of, public_record, scores_on
from hf_elmix.hub.model_card import CARD, card_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_card_says_what_a_record_does(run_of):
    record = run_of("mrpc", "0,0.5", 3, 0.75)
    facts = facts_of(record)
    assert (facts.task, facts.config, facts.seed) == ("mrpc", "mrpc", 3)
    assert facts.origins["model"] == Origin("google-bert/bert-base-uncased", COMMIT)
    assert facts.origins["dataset"] == Origin("nyu-mll/glue", COMMIT)
    assert facts.scores == [Score("validation", "accuracy", 0.75), Score("validation", "f1", 0.75)]
    settings = {"seed": 3, "max_length": 64, "padding": "free", "learning_rate": 2e-5, "num_train_epochs": 6}
    assert facts.hyperparameters == settings
    assert facts.versions["hf_elmix commit"] == "c0ffee"
    assert facts.notes == []


def test_the_splits_of_mnli(run_of):
    assert facts_of(run_of("mnli", score=0.8)).scores == [
        Score("validation_matched", "accuracy", 0.8),
        Score("validation_mismatched", "accuracy", 0.8),
    ]


def test_a_score_that_is_none_is_left_out(run_of):
    assert facts_of(run_of(score=None)).scores == []


def test_a_run_of_another_task(run_of):
    settings = {"loss": "ce", "select": "accuracy", "arguments": {"learning_rate": 0.1}}
    facts = facts_of(run_of(settings=settings, provenance={}))
    assert (facts.task, facts.origins, facts.config) == ("mrpc", {}, None)
    assert facts.scores == [Score("evaluation", "accuracy", 0.75)]
    text = card_files(facts, "org/toy")[CARD].decode()
    assert "## Data" not in text
    assert "pipeline" not in text


def test_what_other_seeds_scored_is_said(run_of):
    scores = [0.71, 0.78, 0.74]
    runs = [run_of(seed=seed, score=score) for seed, score in enumerate(scores)]
    mean, spread = 100 * statistics.mean(scores), 100 * statistics.stdev(scores)
    over = (
        f"Over the 3 seeds of the study, accuracy is {mean:.2f} ± {spread:.2f} % (mean ± standard deviation, n − 1)."
    )
    assert facts_of(runs[0], runs).notes == [over]
    best = "This is the model of seed 1, the best of them on these rows, so expect a lower score on new ones."
    assert facts_of(runs[1], runs).notes == [over, best]
    assert facts_of(runs[1], [runs[1]]).notes == []
    failed = run_of(seed=4, score=None, status="failed")
    assert facts_of(runs[0], [*runs, failed]).notes == [over]


def test_the_scores_of_a_single_training():
    metrics = {"eval_accuracy": 0.7, "eval_f1": 0.8, "eval_loss": 0.5, "epoch": 3.0}
    scores = [Score("validation", "accuracy", 0.7), Score("validation", "f1", 0.8)]
    assert scores_on("validation", TASKS["mrpc"].metrics, metrics) == scores


def test_neither_places_nor_secrets_are_told(run_of):
    secret = {
        "hub_token": "hf_secret",
        "push_to_hub_token": "hf_secret",
        "hub_model_id": "secret",
        "a_token": "secret",
    }
    places = {"output_dir": "/home/secret", "logging_dir": "/home/secret", "resume_from_checkpoint": "/home/secret"}
    record = run_of()
    folders = {"model": "/home/secret/encoder", "dataset": "/home/secret/rows"}
    record.settings.update(folders, arguments={"learning_rate": 1.0, **secret, **places})
    record.provenance.update(model_revision=None, data_revision=None)
    text = card_files(facts_of(record), "org/x")[CARD].decode()
    assert "secret" not in text
    assert "encoder (a local folder)" in text
    assert "learning\\_rate" in text


def test_a_record_for_everybody(run_of):
    record = run_of(status="failed", error="ValueError: bad\nTraceback: /home/secret/file.py")
    record.settings.update(model="/home/secret/encoder")
    record.provenance.update(model_revision=None)
    shown = public_record(record)
    assert "secret" not in json.dumps(shown.to_dict())
    assert shown.settings["model"] == "encoder"
    assert shown.settings["dataset"] == "nyu-mll/glue"
    assert shown.error == "ValueError: bad"
    assert record.settings["model"] == "/home/secret/encoder"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_card(run_of, task):
    text = card_files(facts_of(run_of(task)), f"org/{task}")[CARD].decode()
    assert all(label.replace("_", "\\_") in text for label in TASKS[task].labels)
