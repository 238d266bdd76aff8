"""Encoders of a stack beside the same encoders, each with its own Trainer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from hf_elmix.study.executors import stacked
from hf_elmix.study.executors.stacked import Stack, run_stack
from hf_elmix.study.runner import build_trainer, fields_of
from hf_elmix.study.shared_prefixes import Branch
from hf_elmix.study.spec import Method, Study
from hf_elmix.text.custom import custom_task
from hf_elmix.text.study import text_task

WORDS = ["the", "dog", "sleeps", "a", "doctor", "saw", "five", "people", "who", "loved", "music"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SMALL = {"distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}}
LOSSES = ("ce", "0-0.5", "focal:gamma=2", "ce-rescaled:0-0.5", "gce:q=0.7")


def rows(count: int) -> Dataset:
    texts = [" ".join(WORDS[row % 5 : row % 5 + 1 + row * 7 % 9]) for row in range(count)]
    return Dataset.from_dict({"text": texts, "label": [row % 3 for row in range(count)]})


def encoder_of(kind: str, tokenizer: str, folder: Path) -> str:
    """A small encoder of a kind with dropout, in a folder."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder)
    size = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, **SMALL.get(kind, SIZES)}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **size)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "padding", "bf16"),
    [
        ("bert", "free", False),
        ("bert", "free", True),
        pytest.param("bert", "longest", False, marks=pytest.mark.slow),
        pytest.param("roberta", "free", False, marks=pytest.mark.slow),
        pytest.param("mpnet", "longest", False, marks=pytest.mark.slow),
        ("distilbert", "multiple_of_16", False),
    ],
)
def test_each_run_ends_as_its_trainer_alone_would_have_it(kind, padding, bf16, encoder, tmp_path, store, monkeypatch):
    text, parts = custom_task(DatasetDict(train=rows(22), validation=rows(9)), "words")
    source = encoder_of(kind, encoder, tmp_path / "encoder")
    task = text_task(text, parts, source, origin={}, padding=padding)
    arguments: dict[str, Any] = {"num_train_epochs": 3, "learning_rate": 5e-3, "warmup_steps": 2, "use_cpu": True}
    arguments |= {"per_device_train_batch_size": 8, "lr_scheduler_type": "linear", "weight_decay": 0.01, "bf16": bf16}
    study = Study((task,), tuple(map(Method, LOSSES)), (0, 1), arguments)
    weights: dict[Any, dict[str, Tensor]] = {}
    train = stacked._Training.train

    def and_keep(training: Any) -> None:
        train(training)
        assert training.model.base.training
        weights.update({run.key: training.model.state_of(place) for place, run in enumerate(training.runs)})

    monkeypatch.setattr(stacked._Training, "train", and_keep)
    stack = Stack(tuple(Branch(key.task, key.seed, (key.method,), (key.method,)) for key in study.runs()))
    records = {record.key: record for record in run_stack(study, store, stack, lambda *_: None).records}
    assert [record.error for record in records.values() if record.error] == []
    for place, key in enumerate(study.runs()):
        if place % 2 == key.seed:  # each loss with one of the seeds
            with tempfile.TemporaryDirectory() as scratch:
                trainer, _ = build_trainer(study, *study.runs()[key], key.seed, Path(scratch))
                trainer.train()
            for name, value in trainer.model.state_dict().items() if not bf16 else ():  # AdamW enlarges its rounding
                torch.testing.assert_close(weights[key][name], value, rtol=0, atol=1e-5)
            alone = fields_of(task, trainer.state.log_history)["scores"]
            for name, values in alone.items():
                assert records[key].scores[name]["epochs"] == pytest.approx(
                    values["epochs"], abs=1e-3 if bf16 else 1e-5
                )
