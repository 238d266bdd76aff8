from __future__ import annotations

import json
import statistics

import pytest
from huggingface_hub import ModelCard
from transformers import SchedulerType

from glue_runs.tasks import TASKS
from hf_elmix.hub.facts import Origin, Score, facts_of, public_record, scores_on
from hf_elmix.hub.model_card import CARD, card_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_facts_of_record(run_of):
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


def test_scores_of_both_mnli_splits(run_of):
    assert facts_of(run_of("mnli", score=0.8)).scores == [
        Score("validation_matched", "accuracy", 0.8),
        Score("validation_mismatched", "accuracy", 0.8),
    ]


def test_missing_score_is_left_out(run_of):
    assert facts_of(run_of(score=None)).scores == []


def test_facts_of_task_without_text(run_of):
    settings = {"loss": "ce", "select": "accuracy", "arguments": {"learning_rate": 0.1}}
    facts = facts_of(run_of(settings=settings, provenance={}))
    assert (facts.task, facts.origins, facts.config) == ("mrpc", {}, None)
    assert facts.scores == [Score("evaluation", "accuracy", 0.75)]
    text = card_files(facts, "org/toy")[CARD].decode()
    assert "## Data" not in text
    assert "pipeline" not in text


def test_notes_compare_with_other_seeds(run_of):
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


def test_scores_on_split():
    metrics = {"eval_accuracy": 0.7, "eval_f1": 0.8, "eval_loss": 0.5, "epoch": 3.0}
    scores = [Score("validation", "accuracy", 0.7), Score("validation", "f1", 0.8)]
    assert scores_on("validation", TASKS["mrpc"].metrics, metrics) == scores


def test_scores_that_are_no_numbers_are_left_out(run_of):
    record = run_of("mrpc", score=0.75)
    record.scores["f1"]["last"] = float("nan")
    assert facts_of(record).scores == [Score("validation", "accuracy", 0.75)]
    metrics = {"eval_accuracy": float("inf"), "eval_f1": None}
    assert scores_on("validation", ("accuracy", "f1"), metrics) == []


def test_score_is_that_of_the_published_weights(run_of):
    """A model is kept as it is after the last step, also where the study scores the best epoch."""
    record = run_of(settings={"loss": "ce", "select": {"metric": "accuracy", "epoch": "best"}}, provenance={})
    record.scores["accuracy"] = {"last": 0.5, "best": 0.75, "epochs": [0.75, 0.5], "steps": [1, 2]}
    assert record.score == 0.75
    assert facts_of(record).scores == [Score("evaluation", "accuracy", 0.5)]


@pytest.mark.parametrize(
    ("limit", "rows", "said"),
    [
        (None, 408, "validation"),
        (400, 400, "validation (first 400 rows)"),
        (500, 408, "validation"),
        (400, None, "validation (first 400 rows)"),
    ],
)
def test_scores_on_some_rows_are_not_those_of_the_split(run_of, limit, rows, said):
    record = run_of("mrpc")
    record.settings["max_eval_samples"] = limit
    record.provenance["data_rows"] = {"train": 9} if rows is None else {"train": 9, "validation": rows}
    card = ModelCard(card_files(facts_of(record), "org/x")[CARD].decode())
    assert {result.dataset_split for result in card.data.eval_results} == {said}
    assert f"| {said} | accuracy |" in card.text


def test_a_model_that_predicts_one_class_says_so(run_of):
    note = "This model predicts the same class for every row."
    for name, count in (("predicted_classes", 1.0), ("matched_predicted_classes", 1.0), ("predicted_classes", 2.0)):
        record = run_of()
        record.scores[name] = {"last": count, "best": count, "epochs": [count], "steps": [9]}
        assert (note in facts_of(record).notes) == (count == 1)


def test_values_from_a_list_are_words(run_of):
    record = run_of()
    record.settings["arguments"]["lr_scheduler_type"] = SchedulerType.COSINE
    assert facts_of(record).hyperparameters["lr_scheduler_type"] == "cosine"
    assert "| lr\\_scheduler\\_type | cosine |" in card_files(facts_of(record), "org/x")[CARD].decode()


def test_paths_and_secrets_are_not_published(run_of):
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
    assert "encoder (local)" in text
    assert "learning\\_rate" in text


SECRETS = {
    "accelerator_config": {"split_batches": True, "file": "secret.json"},
    "deepspeed": "/home/secret/ds.json",
    "fsdp_config": {"/home/secret": 1},
    "hub_token": "hf_secret",
    "logging_dir": "secret",
    "optim_args": "path=secret",
    "report_to": ["secret"],
    "lr_scheduler_type": "../secret",
}


def test_public_record(run_of):
    record = run_of(status="failed", error="ValueError: secret\nTraceback: /home/secret/file.py")
    record.settings.update(model="/home/secret/encoder", url="https://secret", note="secret")
    record.settings["arguments"].update(SECRETS, optim="adamw_torch", bf16=True, adam_betas=[0.9, 0.99])
    record.provenance.update(model_revision=None, host="secret")
    record.training[0].update(note="secret")
    shown = public_record(record)
    assert "secret" not in json.dumps(shown.to_dict())
    assert shown.settings["model"] == "encoder"
    assert shown.settings["dataset"] == "nyu-mll/glue"
    for name in ("loss", "max_length", "padding", "select", "text", "weights"):
        assert shown.settings[name] == record.settings[name]
    kept = {"learning_rate": 2e-5, "num_train_epochs": 6, "optim": "adamw_torch", "bf16": True}
    kept |= {"adam_betas": [0.9, 0.99], "accelerator_config": {"split_batches": True}, "fsdp_config": {}}
    assert shown.settings["arguments"] == kept
    assert (shown.error, shown.scores, shown.cost) == ("ValueError", record.scores, record.cost)
    assert shown.training == [{name: value for name, value in record.training[0].items() if name != "note"}]
    assert record.settings["model"] == "/home/secret/encoder"


def test_only_known_texts_are_published(run_of):
    record = run_of()
    record.settings["arguments"].update(SECRETS, optim="adamw_torch")
    record.provenance["versions"]["torch"] = "/home/secret/torch"
    facts = facts_of(record)
    text = card_files(facts, "org/x")[CARD].decode()
    assert "secret" not in text
    assert facts.hyperparameters["optim"] == "adamw_torch"
    assert facts.versions["python"] == "3.11"


def test_fractions_in_schedule_are_published(run_of):
    record = run_of(mixing="ce@0 1:2@1/6 1:4@5/6")
    assert public_record(record).settings["loss"] == record.settings["loss"]
    assert "1/6" in record.settings["loss"]


@pytest.mark.parametrize("error", ["/home/secret/x.py: failed", "secret failed", ""])
def test_public_error_without_class(run_of, error):
    assert public_record(run_of(status="failed", error=error)).error == "error"


@pytest.mark.parametrize(
    ("name", "revision", "shown"),
    [
        ("org/model", COMMIT, "org/model"),
        ("/home/secret/model", COMMIT, "model"),
        ("secret/model", None, "model"),
        ("https://secret@host/model?token=secret", COMMIT, "model"),
    ],
)
def test_origin_is_hub_id_or_last_part_of_path(run_of, name, revision, shown):
    record = run_of()
    record.settings["model"], record.provenance["model_revision"] = name, revision
    assert facts_of(record).origins["model"].name == shown


@pytest.mark.parametrize("task", TASKS)
def test_card_of_every_task(run_of, task):
    text = card_files(facts_of(run_of(task)), f"org/{task}")[CARD].decode()
    assert all(label.replace("_", "\\_") in text for label in TASKS[task].labels)
