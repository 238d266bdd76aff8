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
from hf_elmix.cli.training_flags import FlagParser
from hf_elmix.training.arguments import MixedLossArguments

__all__ = ["FinetuneArguments", "add_all_flags"]


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

    def __post_init__(self) -> None:
        self.mixing, self.loss = None, chosen_loss(self.mixing, self.loss, self.class_weights)
        if self.loss == STOCK:
            TrainingArguments.__post_init__(self)
        else:
            super().__post_init__()
        self.dataloader_pin_memory &= torch.cuda.is_available()  # otherwise each loader warns that it cannot pin


def add_all_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the Trainer to a parser that shows or completes them."""
    add_flags_of(FlagParser(FinetuneArguments, parser.prog), parser, UNUSABLE)
