"""A training of MixedLossTrainer beside one of Trainer on a 6-layer encoder: python tests/benchmarks/bench_step.py."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable

import torch
from datasets import Dataset
from pairs import compare, report
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_elmix import MixedLossTrainer


def training(kind: type[Trainer], rows: Dataset, folder: str, hidden: int) -> Callable[[], object]:
    """A training of one epoch, started afresh at each call; the trainer is built once."""
    set_seed(0)
    size = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_attention_heads": hidden // 32}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=6, vocab_size=1000, **size))
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
    trainer = kind(model=model, args=args, train_dataset=rows)
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
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % 2).tolist()})
    with tempfile.TemporaryDirectory() as folder:
        ours, peer = (training(kind, rows, folder, args.hidden) for kind in (MixedLossTrainer, Trainer))
        times = compare(ours, peer, args.pairs)
    per_step = [[seconds / args.steps for seconds in series] for series in times]
    report(f"step, 6 layers x {args.hidden}, 32 x 64 tokens", *per_step)


if __name__ == "__main__":
    main()
