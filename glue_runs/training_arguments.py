"""The training arguments of ``glue-runs finetune``; importing them takes seconds."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from glue_runs.arguments import flag
from glue_runs.flags import STOCK, UNUSABLE, chosen_loss
from hf_elmix.cli.help import add_flags_of
from hf_elmix.cli.study import PRECISIONS
from hf_elmix.cli.training_flags import FlagParser
from hf_elmix.errors import UsageError
from hf_elmix.training.arguments import MixedLossArguments
from hf_elmix.training.precision import choose_precision, has_accelerator

__all__ = ["FinetuneArguments", "add_all_flags"]

SMALLER = ("mse", "loss_el")  # is better, although the name does not end with "loss" as the Trainer expects then


@dataclass
class FinetuneArguments(MixedLossArguments):
    """Training arguments with the defaults of the study (see `glue_runs.protocol`); the loss may be ``none``."""

    learning_rate: float = flag(2e-5, "Initial learning rate.")
    num_train_epochs: float = flag(6.0, "Epochs of training.")
    per_device_train_batch_size: int = flag(32, "Rows in a batch on each device.")
    per_device_eval_batch_size: int = flag(64, "Rows in a batch while evaluating.")
    eval_strategy: IntervalStrategy | str = flag("epoch", "When to evaluate.")
    logging_steps: float = flag(50, "Optimizer steps between logs.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers, such as tensorboard, trackio or wandb."}
    )
    precision: str | None = flag(
        None, "bf16, fp32, or auto: bf16 where matrix products are faster in it.", choices=PRECISIONS
    )

    def __post_init__(self) -> None:
        self.use_cpu |= not has_accelerator()  # else bf16 would be refused
        if self.precision is not None:
            if self.bf16 or self.fp16:
                raise UsageError("Expected --precision, --bf16 or --fp16, but got two of them. Leave one out.")
            self.precision, self.precision_note = choose_precision(self.precision)
            self.bf16 = self.precision == "bf16"
        if (self.metric_for_best_model or "").removeprefix("eval_") in SMALLER and self.greater_is_better is None:
            self.greater_is_better = False
        self.mixing, self.loss = None, chosen_loss(self.mixing, self.loss, self.class_weights)
        if self.loss == STOCK:
            TrainingArguments.__post_init__(self)
        else:
            super().__post_init__()
        self.dataloader_pin_memory &= torch.cuda.is_available()  # otherwise each loader warns that it cannot pin


def add_all_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the Trainer to a parser that shows or completes them."""
    add_flags_of(FlagParser(FinetuneArguments, parser.prog), parser, UNUSABLE)
