"""Small models and rows to train in a moment, and the training itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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
from hf_elmix.diagnostics.predictions import Predictions

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
        right=logits.argmax(axis=-1) == labels,
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
        names += ("mixing", "loss", "callbacks")
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
