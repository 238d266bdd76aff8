"""The time of a step of MixedLossTrainer and ComplementTrainer: python tests/benchmarks/bench_step.py.

A 6-layer encoder is trained by the first relative to Trainer, and by the second relative to the first on cross
entropy. Then a linear classifier of 8 rows by the first relative to Trainer: nothing hides what a step costs there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from pairs import compare, report
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_elmix import ComplementTrainer, MixedLossTrainer


def training(kind: type[Trainer], rows: Dataset, folder: str, hidden: int, **given: str) -> Callable[[], object]:
    """A training of one epoch, started afresh by each call; the trainer is built once."""
    set_seed(0)
    size = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_attention_heads": hidden // 32}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=6, vocab_size=1000, num_labels=3, **size))
    args = TrainingArguments(
        folder,
        num_train_epochs=1,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=5,
    )
    trainer = kind(model=model, args=args, train_dataset=rows, **given)
    trainer.remove_callback(PrinterCallback)
    return trainer.train


class Linear(nn.Module):
    """A linear classifier of 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 3)

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        logits = self.classifier(features)
        return SequenceClassifierOutput(None if labels is None else F.cross_entropy(logits, labels), logits)


def linear_training(kind: type[Trainer], folder: str, steps: int) -> Callable[[], object]:
    """The same for the linear classifier, in batches of 8."""
    set_seed(0)
    rows: Any = [{"features": row, "labels": int(row[0] > 0)} for row in torch.randn(8 * steps, 8)]
    quiet: dict[str, Any] = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 50}
    args = TrainingArguments(folder, num_train_epochs=1, use_cpu=True, dataloader_pin_memory=False, **quiet)
    trainer = kind(model=Linear(), args=args, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    return trainer.train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=384, help="384 is MiniLM's width")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ids = torch.randint(5, 1000, (32 * args.steps, 64))
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % 3).tolist()})
    with tempfile.TemporaryDirectory() as folder:
        stock, mixed, complement = (
            training(kind, rows, folder, args.hidden) for kind in (Trainer, MixedLossTrainer, ComplementTrainer)
        )
        plain = training(MixedLossTrainer, rows, folder, args.hidden, mixing="ce")
        pairs = {"mixed / Trainer": (mixed, stock), "COT / cross entropy": (complement, plain)}
        for name, (ours, peer) in pairs.items():
            per_step = [[seconds / args.steps for seconds in times] for times in compare(ours, peer, args.pairs)]
            report(f"{name}, 6 layers x {args.hidden}", *per_step)
        steps = 20 * args.steps
        ours, peer = (linear_training(kind, folder, steps) for kind in (MixedLossTrainer, Trainer))
        per_step = [[seconds / steps for seconds in times] for times in compare(ours, peer, args.pairs)]
        report("mixed / Trainer, linear", *per_step)


if __name__ == "__main__":
    main()
