"""Small models and rows to train in a moment, and the training itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_elmix import MixedLossTrainer
from hf_elmix.analysis.predictions import PredictionReaders
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey, RunRecord

matplotlib.use("Agg")

CLASSES = 3
LENGTH = 10


def config(dropout: float = 0.1, **more: Any) -> BertConfig:
    small = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertConfig(**small, intermediate_size=64, **{"num_labels": CLASSES, **rates, **more})


class Padding:
    """A stand-in for a tokenizer, as far as a collator needs one."""

    padding_side = "right"

    def pad(self, features: list[dict[str, list[int]]], return_tensors: str | None = None, **_: Any) -> dict[str, Any]:
        length = max(len(row["input_ids"]) for row in features)
        ids = [row["input_ids"] + [0] * (length - len(row["input_ids"])) for row in features]
        mask = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in features]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def sequence_rows(count: int, seed: int = 0) -> Dataset:
    """Rows whose label can be learned: the class of their first token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (count, LENGTH), generator=generator)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % CLASSES).tolist()})


def token_rows(count: int, seed: int = 0) -> Dataset:
    """Rows with a label for each token, very unevenly many of them ignored, some rows wholly."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (count, LENGTH), generator=generator)
    share = torch.rand(count, 1, generator=generator)
    labels = (ids % CLASSES).masked_fill(torch.rand(count, LENGTH, generator=generator) < share, -100)
    labels[::5] = -100
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def sequence_model(dropout: float = 0.1, **more: Any) -> BertForSequenceClassification:
    set_seed(0)
    return BertForSequenceClassification(config(dropout, **more))


def token_model(dropout: float = 0.1, **more: Any) -> BertForTokenClassification:
    set_seed(0)
    return BertForTokenClassification(config(dropout, **more))


def make_predictions(rows: int = 200, *, points: int = 6, seed: int = 0, learned: float = 3.0) -> Predictions:
    """What a model might say of some rows while it learns, at the end of each of so many epochs of 10 steps."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(rows).integers(CLASSES, size=rows)  # those of other seeds, too
    truth = np.eye(CLASSES)[labels] * rng.normal(1, 1, size=(rows, 1))
    noise = rng.normal(size=(rows, CLASSES))
    times = np.arange(1, points + 1)[:, None, None] / points
    logits = learned * times * truth + noise + rng.normal(scale=0.3, size=(points, rows, CLASSES))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return Predictions(
        steps=10 * np.arange(1, points + 1),
        epochs=np.arange(1, points + 1),
        labels=labels,
        p_true=p[:, np.arange(rows), labels],
        correct=logits.argmax(axis=-1) == labels,
        logits=logits[-1],
    )


@pytest.fixture(scope="session")
def predictions() -> Callable[..., Predictions]:
    return make_predictions


class Kit:
    """What the trainer tests are made of."""

    config = staticmethod(config)
    sequence_rows = staticmethod(sequence_rows)
    token_rows = staticmethod(token_rows)
    sequence_model = staticmethod(sequence_model)
    token_model = staticmethod(token_model)
    token_collator = staticmethod(DataCollatorForTokenClassification(Padding()))

    def __init__(self, folder: Any) -> None:
        self.folder, self.count = folder, 0

    def trainer(self, kind: type[Trainer] = MixedLossTrainer, **given: Any) -> Trainer:
        """A quiet trainer; keywords that are no arguments of the Trainer go to its `arguments`, a class of them."""
        names = ("model", "train_dataset", "eval_dataset", "data_collator", "compute_metrics", "compute_loss_func")
        names += ("mixing", "loss", "callbacks", "class_weights", "replace_loss")
        own = {name: given.pop(name) for name in names if name in given}
        own.setdefault("model", sequence_model())
        own.setdefault("train_dataset", sequence_rows(40))
        own.setdefault("eval_dataset", sequence_rows(20, seed=1))
        args: dict[str, Any] = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 1e-3}
        quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
        self.count += 1
        folder = given.pop("output_dir", self.folder / str(self.count))
        args |= {"logging_steps": 1, "output_dir": str(folder), **quiet, **given}
        arguments = args.pop("arguments", TrainingArguments)
        trainer = kind(args=arguments(**args), **own)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        return trainer

    def train(self, kind: type[Trainer] = MixedLossTrainer, **given: Any) -> Trainer:
        resume = given.pop("resume_from_checkpoint", None)
        trainer = self.trainer(kind, **given)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def tokens(self, **given: Any) -> dict[str, Any]:
        """Arguments of a trainer for token classification."""
        return {
            "model": token_model(given.pop("dropout", 0.1)),
            "train_dataset": token_rows(40),
            "eval_dataset": token_rows(20, seed=1),
            "data_collator": self.token_collator,
            **given,
        }


def difference(one: Trainer, other: Trainer) -> float:
    """Largest difference of any weight."""
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def logged(trainer: Trainer, name: str) -> list[float]:
    """Every value of a name in the logs."""
    return [log[name] for log in trainer.state.log_history if name in log]


@pytest.fixture
def kit(tmp_path) -> Kit:
    return Kit(tmp_path)


@pytest.fixture(name="difference")
def difference_fixture():
    return difference


@pytest.fixture(name="logged")
def logged_fixture():
    return logged


def make_record(
    task: str, method: str, seed: int, score: float | None = None, /, *, status: str = "done", **metrics: float
) -> RunRecord:
    """A record with the score under ``accuracy``, or without any."""
    last = {**({} if score is None else {"accuracy": score}), **metrics}
    # The best epoch is better than the last, so that a table that takes the wrong one shows it.
    scores: dict[str, Any] = {
        name: {"last": value, "best": value + 0.125, "epochs": [value + 0.125, value], "steps": [6, 12]}
        for name, value in last.items()
    }
    cost = {"seconds": 2.5 + seed, "steps_trained": 12, "steps_inherited": 0}
    return RunRecord(RunKey(task, method, seed), status, scores, [], {"select": "accuracy"}, {}, cost)


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture(scope="session")
def small_study() -> list[RunRecord]:
    """Two tasks, three methods, two seeds; one run failed, one diverged, one is missing; in no order."""
    return [
        make_record("rte", "0-0.5", 1, 0.75),
        make_record("cola", "0.3", 0, status="failed"),
        make_record("rte", "ce", 0, 0.5),
        make_record("cola", "ce", 1, 0.5, mcc=0.25),
        make_record("rte", "0-0.5", 0, 0.625),
        make_record("cola", "0-0.5", 0, 1.0, mcc=0.75),
        make_record("rte", "0.3", 0, 0.5),
        make_record("cola", "ce", 0, 0.75, mcc=0.5),
        make_record("rte", "ce", 1, 0.875, status="diverged"),
        make_record("cola", "0-0.5", 1, 0.5, mcc=0.125),
        make_record("cola", "0.3", 1, 0.25, mcc=0.0),
    ]


@pytest.fixture(scope="session")
def predicted_study(predictions: Callable[..., Predictions]) -> tuple[list[RunRecord], PredictionReaders]:
    """Two tasks, three methods, two seeds, and what reads their predictions; one run failed, one left none."""
    records, readers = [], {}
    for k, (task, method, seed) in enumerate(itertools.product(("cola", "rte"), ("ce", "0-0.5", "0.3"), range(2))):
        records.append(make_record(task, method, seed, 0.5 + k / 100))
        one = predictions(60, points=3, seed=k)
        readers[records[-1].key] = lambda one=one: {"": one}
    records[3] = make_record("cola", "0-0.5", 1, status="failed")
    del readers[RunKey("rte", "0.3", 1)]
    return records, readers


PAPER_METHODS = ["ce", "0", "0,0.5", "0-0.5"]

# Accuracies in percent, as printed. Table 1 has CIFAR100 and CINIC10 for each of its eight models.
TABLE_1 = """
ShuffleNetV2    68.10 68.46 68.46 68.51  81.35 81.55 81.59 81.79
ResNet20        68.25 68.58 68.58 68.48  83.35 83.53 83.53 83.72
ResNet32        69.66 70.02 70.02 69.83  84.74 84.91 84.96 85.10
ResNet44        70.71 71.06 71.06 70.93  84.81 84.99 85.00 85.18
ResNet18        74.54 74.58 74.58 74.60  88.02 88.22 88.26 88.25
ResNet34        74.35 74.77 74.77 74.69  88.10 88.74 88.77 88.85
PreActResnet18  74.39 74.82 74.82 74.81  85.97 86.55 86.60 86.71
ResNext29       76.04 76.47 76.47 76.52  88.35 88.58 88.59 88.72
"""
TABLE_2 = """
ResNet18    69.82 70.19 70.25 70.50
ResNet34    73.26 73.65 73.91 74.07
ResNet50    75.74 75.86 76.06 76.35
ResNet101   77.59 77.90 78.37 78.51
SuffleNet   65.28 65.92 65.51 65.99
ResNeXt50   77.30 77.63 78.01 78.25
ResNeXt101  79.20 79.45 79.73 79.99
"""
TABLE_3 = """
Arch1  61.08 60.81 60.95 61.57
Arch2  60.46 61.52 61.52 61.36
Arch3  60.07 61.12 61.12 61.27
Arch4  63.26 63.20 63.20 63.46
Arch5  63.14 63.79 63.79 63.77
"""


def read_table(text: str) -> pd.DataFrame:
    """One row for each experiment, four columns; a line of eight numbers is two experiments."""
    rows = {}
    for name, *numbers in map(str.split, text.strip().splitlines()):
        for part in range(0, len(numbers), 4):
            rows[f"{name}.{part // 4}"] = [float(number) for number in numbers[part : part + 4]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=PAPER_METHODS)


@pytest.fixture
def paper_tables() -> list[pd.DataFrame]:
    """Tables 1 to 3 of the paper."""
    return [read_table(table) for table in (TABLE_1, TABLE_2, TABLE_3)]
