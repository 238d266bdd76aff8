from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    TokenizersBackend,
    pipeline,
)

from glue_runs import finetune as module
from glue_runs.arguments import DataArguments
from glue_runs.finetune import finetune as run
from glue_runs.flags import parse
from glue_runs.pocket.encoder import encoder_path
from glue_runs.tasks import GLUE_TASKS, TASKS
from hf_elmix import MixedLossTrainer, UsageError
from hf_elmix.text.metrics import check_metric
from hf_elmix.text.models import load_model, load_tokenizer
from hf_elmix.text.tasks import TextTask

QUICK = ["--report_to", "none", "--disable_tqdm", "true", "--max_steps", "3", "--use_cpu"]
TOKEN = "hf_" + "secret" * 5

# Files that run_glue writes after training and evaluation, without the model card.
FILES = {"all_results.json", "train_results.json", "eval_results.json", "trainer_state.json", "config.json"}
FILES |= {"model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def finetune(line):
    return run(*parse(line))


def words(glue, encoder, output, *more, task="cola", **splits):
    return [
        "--task_name", task, "--dataset_name", glue(task, **splits), "--model_name_or_path", encoder,
        "--output_dir", str(output), *QUICK, *more,
    ]  # fmt: skip


def read(path):
    return json.loads(path.read_text())


def predicted(path):
    header, *lines = path.read_text().splitlines()
    assert header == "index\tprediction"
    assert [int(line.split("\t")[0]) for line in lines] == list(range(len(lines)))
    return [line.split("\t")[1] for line in lines]


def unlabelled(rows):
    """Rows without known labels, like the test rows of GLUE."""
    return [{**row, "label": -1} for row in rows]


def test_trains_evaluates_and_writes_run_glues_files(glue, encoder, tmp_path):
    output = tmp_path / "out"
    assert finetune(words(glue, encoder, output, "--mixing", "0,0.5", "--logging_steps", "1")) == 0
    assert {path.name for path in output.iterdir()} >= FILES
    results = read(output / "all_results.json")
    assert results["eval_accuracy"] == read(output / "eval_results.json")["eval_accuracy"]
    assert {"eval_loss", "eval_loss_el", "eval_matthews_correlation", "train_loss"} <= results.keys()
    assert (results["train_samples"], results["eval_samples"]) == (12, 12)
    state = read(output / "trainer_state.json")
    assert [log["beta"] for log in state["log_history"] if "beta" in log] == [1, 1, 1]
    answer = pipeline("text-classification", model=str(output))("the dog sleeps")[0]
    assert answer["label"] in ("unacceptable", "acceptable")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """The small encoder with a head for CoLA, as if it had been fine-tuned."""
    folder, encoder = tmp_path_factory.mktemp("classifier"), str(encoder_path())
    names = dict(enumerate(("unacceptable", "acceptable")))
    model = AutoModelForSequenceClassification.from_pretrained(encoder, id2label=names)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return str(folder)


def test_only_evaluation(glue, classifier, tmp_path):
    assert finetune(words(glue, classifier, tmp_path / "out", "--do_eval")) == 0
    assert (tmp_path / "out/eval_results.json").exists()
    assert not (tmp_path / "out/train_results.json").exists()


def test_unlabelled_rows_are_predicted(glue, good_rows, encoder, tmp_path):
    """The predictions are those of the saved model for each row."""
    rows = good_rows("mrpc")
    output = tmp_path / "out"
    line = words(
        glue, encoder, output, "--do_train", "--do_predict", "--learning_rate", "1e-2", "--max_predict_samples", "5",
        task="mrpc", train=rows, test=unlabelled(rows),
    )  # fmt: skip
    assert finetune(line) == 0
    answers = predicted(output / "predict_results_mrpc.txt")
    classify = pipeline("text-classification", model=str(output))
    pairs = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in rows[:5]]
    assert answers == [classify(pair)["label"] for pair in pairs]
    assert not (output / "eval_results.json").exists()  # nobody asked, and there are no such rows
    assert not (output / "predict_results.json").exists()


def test_flags_about_batches_neither_reorder_nor_drop_rows(glue, encoder, tmp_path):
    """Scores and predictions are those of the saved model for each row; the rows have many lengths."""
    words_ = ["the dog sleeps", "a doctor saw the film"]
    texts = [" ".join([words_[k % 2]] * (1 + k * 5 % 7)) for k in range(13)]
    rows = [{"sentence": text, "label": k % 2, "idx": k} for k, text in enumerate(texts)]
    line = words(glue, encoder, tmp_path / "model", "--do_train", "--learning_rate", "5e-3", train=rows)
    assert finetune([*line, "--max_steps", "12"]) == 0
    answers = [pipeline("text-classification", model=str(tmp_path / "model"))(text)[0]["label"] for text in texts]
    assert len(set(answers)) == 2
    right = [name == ("unacceptable", "acceptable")[row["label"]] for name, row in zip(answers, rows, strict=True)]
    flags = ["--train_sampling_strategy", "group_by_length", "--dataloader_drop_last", "--do_eval", "--do_predict"]
    flags += [
        "--eval_do_concat_batches",
        "false",
        "--eval_accumulation_steps",
        "1",
        "--per_device_eval_batch_size",
        "5",
    ]
    for mixing in ("ce", "none"):
        output, sets = tmp_path / mixing, {"validation": rows, "test": rows}
        line = words(glue, str(tmp_path / "model"), output, "--mixing", mixing, *flags, **sets)
        assert finetune(line) == 0
        assert predicted(output / "predict_results_cola.txt") == answers
        assert read(output / "eval_results.json")["eval_accuracy"] == pytest.approx(np.mean(right))


def test_mnli_has_both_sets(glue, good_rows, encoder, tmp_path):
    rows = good_rows("mnli")
    matched, mismatched = ([{**row, "label": label} for row in rows] for label in (0, 1))
    parts = {"train": rows, "validation_matched": matched, "validation_mismatched": mismatched[:7]}
    parts |= {"test_matched": unlabelled(rows), "test_mismatched": unlabelled(rows[:4])}
    more = ["--do_train", "--do_eval", "--do_predict", "--metric_for_best_model", "accuracy"]
    line = words(glue, encoder, tmp_path / "out", *more, task="mnli", **parts)
    assert finetune(line) == 0
    results = read(tmp_path / "out/eval_results.json")
    assert (results["eval_samples"], results["eval_samples_mm"]) == (12, 7)
    assert results["eval_accuracy"] + results["eval_accuracy_mm"] <= 1.5
    assert {"eval_loss", "eval_loss_mm", "eval_loss_el_mm"} <= results.keys()
    names = [predicted(tmp_path / f"out/predict_results_mnli{suffix}.txt") for suffix in ("", "-mm")]
    assert list(map(len, names)) == [12, 4]
    assert {*names[0], *names[1]} <= {"entailment", "neutral", "contradiction"}


def test_a_regression_has_the_stock_loss(glue, encoder, tmp_path):
    texts = ["the dog sleeps", "a doctor saw the dog", "five people loved music", "the film was awful"]
    rows = [{"sentence1": texts[k % 4], "sentence2": texts[k % 3], "label": k / 2, "idx": k} for k in range(10)]
    parts = {"train": rows, "validation": rows, "test": unlabelled(rows)}
    with pytest.raises(UsageError, match="stsb is a regression.*Add --mixing none"):
        finetune(words(glue, encoder, tmp_path / "out", task="stsb", **parts))
    more = ["--mixing", "none", "--do_train", "--do_eval", "--do_predict"]
    assert finetune(words(glue, encoder, tmp_path / "out", *more, task="stsb", **parts)) == 0
    results = read(tmp_path / "out/eval_results.json")
    values = list(map(float, predicted(tmp_path / "out/predict_results_stsb.txt")))
    expected = pearsonr(values, [row["label"] for row in rows]).statistic
    assert results["eval_pearson"] == pytest.approx(expected, abs=0.02)  # three digits were written
    assert results["eval_combined_score"] == pytest.approx((results["eval_pearson"] + results["eval_spearmanr"]) / 2)
    config = read(tmp_path / "out/config.json")
    assert config["problem_type"] == "regression"
    assert results["eval_loss"] == pytest.approx(
        np.mean([(v - row["label"]) ** 2 for v, row in zip(values, rows, strict=True)]), abs=0.02
    )


def test_the_stock_loss_is_the_stock_trainer(glue, encoder, tmp_path, monkeypatch):
    """The weights are those of the Trainer, which only checks more before it continues."""
    kinds = []

    class Stock(module.StockTrainer):
        def train(self, *args, **kwargs):
            kinds.append(self)
            return super().train(*args, **kwargs)

    monkeypatch.setattr(module, "StockTrainer", Stock)
    for name, mixing in (("stock", "none"), ("ce", "ce")):
        finetune(words(glue, encoder, tmp_path / name, "--mixing", mixing))
    (stock,) = kinds
    assert not isinstance(stock, MixedLossTrainer)
    models = [AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("stock", "ce")]
    assert all(torch.equal(a, b) for a, b in zip(*(model.state_dict().values() for model in models), strict=True))


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_custom_files(encoder, tmp_path):
    rows = [
        {"id": k, "text": ["very charming", "very awful"][k % 2], "label": ["up", "down"][k % 2]} for k in range(8)
    ]
    train, validation = (write_csv(tmp_path / f"{name}.csv", rows) for name in ("mood", "validation"))
    test = write_csv(tmp_path / "test.csv", [{"id": k, "text": "very charming"} for k in range(3)])
    line = ["--train_file", train, "--validation_file", validation, "--test_file", test, "--do_train", "--do_eval"]
    line += ["--do_predict", "--model_name_or_path", encoder, "--output_dir", str(tmp_path / "out"), *QUICK]
    assert finetune(line) == 0
    assert read(tmp_path / "out/config.json")["id2label"] == {"0": "down", "1": "up"}
    answers = predicted(tmp_path / "out/predict_results_mood.txt")
    assert len(answers) == 3
    # The trained model predicts without training rows: its labels are those of its configuration.
    alone = ["--test_file", test, "--do_predict", "--model_name_or_path", str(tmp_path / "out")]
    assert finetune([*alone, "--output_dir", str(tmp_path / "again"), *QUICK]) == 0
    assert predicted(tmp_path / "again/predict_results_test.txt") == answers


def test_any_dataset_without_rows_to_evaluate(glue, good_rows, encoder, tmp_path):
    """The second command of run_glue's page: a dataset with texts, labels, and labelled test rows."""
    rows = [{"text": row["sentence"], "label": row["label"]} for row in good_rows("cola")]
    folder = glue("plain_text", train=rows, test=rows)
    line = ["--model_name_or_path", encoder, "--dataset_name", folder, "--max_seq_length", "12", *QUICK]
    assert finetune([*line, "--do_train", "--do_predict", "--output_dir", str(tmp_path / "out")]) == 0
    answers = predicted(tmp_path / "out/predict_results_glue.txt")
    right = np.mean([int(answer) == row["label"] for answer, row in zip(answers, rows, strict=True)])
    assert read(tmp_path / "out/predict_results.json")["predict_accuracy"] == pytest.approx(right)
    line[1] = str(tmp_path / "out")
    with pytest.raises(UsageError, match="--validation_split_name"):
        finetune([*line, "--do_eval", "--output_dir", str(tmp_path / "other")])
    scored = [*line, "--do_eval", "--validation_split_name", "test", "--output_dir", str(tmp_path / "other")]
    assert finetune(scored) == 0  # although the split is also the one to predict


def test_a_model_with_the_classes_in_another_order_is_scored_correctly(glue, good_rows, encoder, tmp_path):
    rows = good_rows("mnli")
    parts = {"train": rows, "validation_matched": rows, "validation_mismatched": rows}
    more = ["--learning_rate", "1e-2"]
    assert finetune(words(glue, encoder, tmp_path / "ours", *more, task="mnli", **parts)) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    order = [2, 0, 1]
    with torch.no_grad():
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter.copy_(parameter[order].clone())
    model.config.id2label = {k: TASKS["mnli"].labels[j].upper() for k, j in enumerate(order)}
    model.config.label2id = {name: k for k, name in model.config.id2label.items()}
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    model.save_pretrained(tmp_path / "theirs")
    scores = []
    for name in ("ours", "theirs"):
        line = words(glue, str(tmp_path / name), tmp_path / f"{name} scored", "--do_eval", task="mnli", **parts)
        assert finetune(line) == 0
        scores.append(read(tmp_path / f"{name} scored/eval_results.json"))
    assert scores[0]["eval_loss"] == pytest.approx(scores[1]["eval_loss"])
    assert scores[0]["eval_accuracy"] == scores[1]["eval_accuracy"]


def named_model(encoder, folder, names):
    load_model(encoder, TextTask("mine", ("text",), names), 3).save_pretrained(shutil.copytree(encoder, folder))
    return str(folder)


def custom(model, output, *more):
    return ["--model_name_or_path", model, "--output_dir", str(output), *more, *QUICK]


TEXTS = ["the film was superb", "the film was awful", "a doctor saw the dog", "five people loved music"]


@pytest.mark.parametrize(
    "labels",
    [
        ["good", "bad", "good", "bad"],
        ["good"] * 4,
        ["GOOD", "bad", "Neutral", "bad"],
        [2, 1, 0, 1],
        ["1", "1", "1", "1"],
    ],
)
def test_a_model_is_scored_by_the_names_of_its_classes(encoder, tmp_path, labels):
    """Whichever of them a file has, and in which case; class ids are those of the model."""
    names = ("neutral", "bad", "good")
    model = named_model(encoder, tmp_path / "model", names)
    pd.DataFrame({"text": TEXTS, "label": labels}).to_csv(tmp_path / "v.csv", index=False)
    line = custom(model, tmp_path / "out", "--validation_file", str(tmp_path / "v.csv"), "--do_eval")
    assert finetune(line) == 0
    answers = [answer["label"] for answer in pipeline("text-classification", model=model, tokenizer=encoder)(TEXTS)]
    words = [names[int(label)] if str(label).isdigit() else label.lower() for label in labels]
    right = np.mean([one == two for one, two in zip(answers, words, strict=True)])
    assert read(tmp_path / "out/eval_results.json")["eval_accuracy"] == right


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["great", "bad", "so-so", "bad"], "row 0 has 'great'"),
        ([1, 2, 3, 1], "row 2 has '3'"),
        (["good", "", "bad", "bad"], "row 1 has no label"),
    ],
)
def test_a_model_is_not_scored_on_other_classes(encoder, tmp_path, labels, found):
    model = named_model(encoder, tmp_path / "model", ("neutral", "bad", "good"))
    pd.DataFrame({"text": TEXTS, "label": labels}).to_csv(tmp_path / "v.csv", index=False)
    line = custom(model, tmp_path / "out", "--validation_file", str(tmp_path / "v.csv"), "--do_eval")
    with pytest.raises(UsageError, match=found):
        finetune(line)
    assert not (tmp_path / "out").exists()


def test_a_decoder_without_a_padding_token(encoder, tmp_path):
    """A row is classified as it is alone, without padding."""
    rules = {**read(Path(encoder) / "tokenizer.json"), "padding": None}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    marks = {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    tokenizer = TokenizersBackend(tokenizer_file=str(tmp_path / "rules.json"), **marks)
    assert tokenizer.pad_token is None
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 293}
    GPT2Model(GPT2Config(**sizes, bos_token_id=2, eos_token_id=3)).save_pretrained(tmp_path / "model")
    texts = [*TEXTS, "the dog"]
    pd.DataFrame({"text": texts, "label": [0, 1, 0, 1, 1]}).to_csv(tmp_path / "t.csv", index=False)
    more = [
        "--train_file",
        str(tmp_path / "t.csv"),
        "--test_file",
        str(tmp_path / "t.csv"),
        "--do_train",
        "--do_predict",
    ]
    more += ["--learning_rate", "0.1"]
    with pytest.warns(UserWarning, match="truncated to 32 tokens"):
        assert finetune(custom(str(tmp_path / "model"), tmp_path / "out", *more)) == 0
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out"),
        load_tokenizer(tmp_path / "out"),
    )
    assert model.config.pad_token_id == tokenizer.pad_token_id == 3
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    assert predicted(tmp_path / "out/predict_results_t.txt") == [str(int(row.argmax())) for row in logits]


def test_a_correlation_needs_two_rows(glue, encoder, tmp_path):
    rows = [{"sentence1": "the dog", "sentence2": "the film", "label": float(k), "idx": k} for k in range(5)]
    more = ["--mixing", "none", "--max_eval_samples", "1"]
    with pytest.raises(UsageError, match="2 or more rows in the split 'validation'"):
        finetune(words(glue, encoder, tmp_path / "out", *more, task="stsb", train=rows, validation=rows))
    assert not (tmp_path / "out").exists()


def test_a_head_for_other_labels(glue, good_rows, encoder, tmp_path):
    rows = good_rows("mnli")
    parts = {"train": rows, "validation_matched": rows, "validation_mismatched": rows}
    load_model(encoder, GLUE_TASKS["cola"], 0).save_pretrained(shutil.copytree(encoder, tmp_path / "two"))
    line = words(glue, str(tmp_path / "two"), tmp_path / "out", task="mnli", **parts)
    with pytest.raises(UsageError, match="another number of labels than 3; --ignore_mismatched_sizes replaces it"):
        finetune(line)
    assert finetune([*line, "--ignore_mismatched_sizes"]) == 0


def test_resuming_from_a_checkpoint(glue, encoder, tmp_path, monkeypatch):
    more = ["--save_strategy", "steps", "--save_steps", "1", "--per_device_train_batch_size", "4"]
    whole = words(glue, encoder, tmp_path / "whole", *more)
    finetune(whole)
    shutil.copytree(tmp_path / "whole/checkpoint-2", tmp_path / "part/checkpoint-2")
    part = words(glue, encoder, tmp_path / "part", *more)
    with pytest.raises(UsageError, match="holds checkpoints of an unfinished run.*--resume_from_checkpoint last"):
        finetune(part)
    resumed = [*part, "--resume_from_checkpoint", "last"]
    with pytest.raises(UsageError, match=r"made with --learning_rate 2e-05 \(now 0.001\).*start again in another"):
        finetune([*resumed, "--learning_rate", "1e-3"])
    with pytest.raises(UsageError, match=r"made with other rows \(train"):
        finetune([*resumed, "--max_train_samples", "9"])
    with pytest.raises(UsageError, match="Add --do_train"):
        finetune([*resumed, "--do_eval"])
    damaged = shutil.copytree(tmp_path / "part/checkpoint-2", tmp_path / "part/checkpoint-3")
    (damaged / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no model.safetensors.*--resume_from_checkpoint .*part/checkpoint-2\.$"):
        finetune(resumed)
    shutil.rmtree(damaged)
    monkeypatch.setattr("glue_runs.resume.device_name", lambda device: "abacus")
    assert finetune([*resumed, "--per_device_eval_batch_size", "3"]) == 0
    assert (
        "Training continued from checkpoint-2 with other software or hardware: device cpu"
        in card(tmp_path / "part")[1]
    )
    assert "continued" not in card(tmp_path / "whole")[1]
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert ends[0] == ends[1]
    with pytest.raises(UsageError, match="has none"):
        finetune([*words(glue, encoder, tmp_path / "empty"), "--resume_from_checkpoint", "true"])


def test_a_finished_run_is_not_overwritten(glue, encoder, tmp_path):
    line = words(glue, encoder, tmp_path / "out")
    finetune(line)
    before = (tmp_path / "out/model.safetensors").read_bytes()
    for more in (["--seed", "3"], ["--do_eval"]):
        with pytest.raises(UsageError, match="holds a model or a finished run"):
            finetune([*line, *more])
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["README.md", "train_results.json", "tokenizer.json"])
def test_files_of_others_are_not_overwritten(glue, encoder, tmp_path, name):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(UsageError, match=f"holds .*{name}"):
        finetune(words(glue, encoder, folder))
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(UsageError, match=f"holds .*{name}"):
        finetune([*words(glue, encoder, folder), "--resume_from_checkpoint", str(tmp_path / "checkpoint-1")])
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task_name", "cloa"], "Did you mean 'cola'"),
        (["--resume_from_checkpoint", "nosuch"], "'nosuch' is not one"),
        (["--report_to", "nope"], "nope"),
        (["--max_seq_length", "0"], "--max_seq_length to be 1 or more, but got 0"),
        (["--metric_for_best_model="], "to be one of loss, loss_el"),
        (["--metric_for_best_model", "eval_f1"], "loss, loss_el, accuracy, matthews_correlation"),
        (["--metric_for_best_model", "loss_el", "--mixing", "none"], "loss, accuracy, matthews_correlation"),
        (["--text_column_delimiter", " "], "Expected --task_name or --text_column_delimiter, but got both"),
        (["--max_predict_samples", "5"], "--max_predict_samples has no effect here: it needs --do_predict"),
        (["--hub_model_id", "me/mine"], "--hub_model_id has no effect here: it needs --push_to_hub"),
        (["--class_weights", "1", "2", "--do_eval"], "--class_weights has no effect here: it needs --do_train"),
        (["--do_predict"], "task cola in .* to have the split 'test'"),
    ],
)
def test_mistakes(glue, encoder, tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        finetune(words(glue, encoder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_head_is_not_scored(glue, encoder, classifier, tmp_path):
    """Its predictions would be random."""
    new = tmp_path / "new.csv"
    new.write_text("text\nthe dog sleeps\n")
    line = [
        "--model_name_or_path",
        encoder,
        "--test_file",
        str(new),
        "--do_predict",
        "--output_dir",
        str(tmp_path / "x"),
    ]
    for mistake in (words(glue, encoder, tmp_path / "x", "--do_eval"), line):
        with pytest.raises(UsageError, match="Expected a model that was trained as a classifier, but .* was not"):
            finetune(mistake)
    folder = shutil.copytree(classifier, tmp_path / "headless")
    weights = load_file(folder / "model.safetensors")
    save_file({name: part for name, part in weights.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.raises(UsageError, match="it was never trained as a classifier: it has no classifier.bias"):
        finetune(words(glue, str(folder), tmp_path / "x", "--do_eval"))


def test_the_epoch_with_the_smallest_error_is_the_best(glue, encoder, tmp_path):
    words_ = words(glue, encoder, tmp_path / "out", "--metric_for_best_model")
    assert parse([*words_, "eval_loss_el"])[2].greater_is_better is False
    assert parse([*words_, "mse"])[2].greater_is_better is False
    assert parse([*words_, "accuracy"])[2].greater_is_better is True
    assert parse([*words_, "mse", "--greater_is_better", "true"])[2].greater_is_better is True


def test_the_rows_are_summarised(glue, classifier, tmp_path, capsys):
    finetune(words(glue, classifier, tmp_path / "out", "--do_eval"))
    expected = "cola: 12 validation rows; text from sentence; label: unacceptable, acceptable"
    assert expected in capsys.readouterr().out


def test_the_model_it_starts_from_is_not_overwritten(glue, classifier, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds a model"):
        finetune(words(glue, str(folder), folder))
    assert (folder / "model.safetensors").read_bytes() == before
    assert finetune([*words(glue, str(folder), folder), "--do_eval"]) == 0  # its results may lie beside it


def card(folder):
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_card_lies_beside_the_model(glue, encoder, tmp_path):
    more = ["--mixing", "0,0.5", "--weight_decay", "0.125", "--learning_rate", "3e-5", "--save_steps", "7"]
    finetune(words(glue, encoder, tmp_path / "out", *more))
    data, text = card(tmp_path / "out")
    results = data["model-index"][0]["results"]
    assert {metric["type"] for result in results for metric in result["metrics"]} == {
        "accuracy",
        "matthews_correlation",
    }
    assert (data["hf_elmix"]["task"], data["hf_elmix"]["loss"]) == ("cola", "mix:0,0.5")
    assert "| weight\\_decay " in text
    assert "0.125" in text
    assert "save\\_steps" not in text
    assert (tmp_path / "out/schedule.png").read_bytes().startswith(b"\x89PNG")


def test_the_scores_of_both_sets_of_mnli(glue, good_rows, encoder, tmp_path):
    line = words(glue, encoder, tmp_path / "out", "--mixing", "none", task="mnli")
    finetune(line)
    data, text = card(tmp_path / "out")
    splits = [result["dataset"]["split"] for result in data["model-index"][0]["results"]]
    assert splits == ["validation_matched", "validation_mismatched"]
    assert not (tmp_path / "out/schedule.png").exists()
    assert "the Trainer's own loss" in text


def test_a_run_that_trains_nothing_writes_no_card(glue, classifier, tmp_path):
    finetune(words(glue, classifier, tmp_path / "out", "--do_eval"))
    assert not (tmp_path / "out/README.md").exists()


def test_a_model_is_pushed_once_without_pickle_or_token(glue, encoder, tmp_path, local_hub, capsys):
    more = ["--push_to_hub", "--hub_model_id", "org/mine", "--save_strategy", "steps", "--save_steps", "1"]
    assert finetune(words(glue, encoder, tmp_path / "out", *more)) == 0
    shown = capsys.readouterr()
    assert f"{local_hub.url}/org/mine: " in shown.out
    files = {path.name: path.read_bytes() for path in (local_hub.store.home / "models/org/mine").iterdir()}
    assert files.keys() >= {"model.safetensors", "config.json", "tokenizer.json", "README.md", "schedule.png"}
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pth"))}
    assert len(local_hub.history()) == 2  # one that makes the repository, and one of all files
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [
        content
        for content in [*written, shown.out.encode(), shown.err.encode()]
        if local_hub.token.encode() in content
    ]


def test_a_token_that_was_given_is_in_no_file(glue, encoder, tmp_path):
    finetune(words(glue, encoder, tmp_path / "out", "--hub_token", TOKEN))
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "training_args.bin" in written
    assert not [name for name, content in written.items() if TOKEN.encode() in content]


def test_what_cannot_be_pushed_is_known_before_training(glue, encoder, tmp_path, local_hub):
    with pytest.raises(UsageError, match="Add --do_train"):
        finetune(words(glue, encoder, tmp_path / "out", "--push_to_hub", "--do_eval"))
    taken = local_hub.store.home / "models/org/theirs"
    taken.mkdir(parents=True)
    (taken / "model.safetensors").write_text("theirs")
    with pytest.raises(UsageError, match="not made by hf_elmix"):
        finetune(words(glue, encoder, tmp_path / "out", "--push_to_hub", "--hub_model_id", "org/theirs"))
    assert not (tmp_path / "out").exists()
    assert not local_hub.history()


def test_the_split_to_train_on_can_be_named_and_shuffled(tmp_path):
    for name, rows in {"train": 3, "extra": 40}.items():
        lines = [f"{name} {k},{k % 2}" for k in range(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]))
    data = DataArguments(dataset_name=str(tmp_path), train_split_name="extra", shuffle_train_dataset=True)
    files = {"train": "train.csv", "extra": "extra.csv"}
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {path}\n" for split, path in files.items())
        + "---\n"
    )
    first = module._read(data)[1]["train"]["text"][:]
    assert sorted(first) == sorted(f"extra {k}" for k in range(40))
    assert first != [f"extra {k}" for k in range(40)]
    assert module._read(data)[1]["train"]["text"][:] == first
    assert module._read(replace(data, shuffle_seed=1))[1]["train"]["text"][:] != first


@pytest.mark.parametrize(
    ("labels", "name", "right"),
    [(("a", "b"), "f1", True), (("a", "b", "c"), "f1", False), ((), "pearson", True), ((), "accuracy", False)],
)
def test_a_metric_that_the_task_does_not_have_is_refused(labels, name, right):
    task = TextTask("mine", ("text",), labels)
    if right:
        assert check_metric(task, name) == name
        return
    with pytest.raises(UsageError, match=f"Expected the metric of mine to be one of .*, but got '{name}'"):
        check_metric(task, name)
