"""Stopping a training where others go on from, so that nobody could tell from what follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_elmix.predictions.records import FILE
from hf_elmix.training.trainer import MixedLossTrainer

__all__ = ["PauseCallback"]

# What a Trainer's own checkpoint leaves out.
TENSORS, COUNTS = "pending.safetensors", "pending.json"


class PauseCallback(TrainerCallback):
    """Leaves a checkpoint after a given step and stops the training there.

    A Trainer checkpoint restores the weights, the optimizer, the schedule, the place in the data and the random
    numbers. Four things more are needed for a training that goes on from it to be the one that never stopped: an
    epoch that is left half way must not be logged and evaluated; the losses since the last log must not be forgotten;
    a sampler that draws the epoch's order from the global generator must find it as it was; and what a
    `CohortCallback` has recorded so far must come along.

    Args:
        trainer: The Trainer it is added to.
        stop: Completed optimizer steps at which to stop.

    Attributes:
        checkpoint: The folder it has left.
    """

    checkpoint: Path

    def __init__(self, trainer: MixedLossTrainer, stop: int) -> None:
        self.trainer, self.stop = trainer, stop
        self.epoch_rng = torch.get_rng_state()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what the sampler will draw from."""
        self.epoch_rng = torch.get_rng_state()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop; where the epoch does not end here, save at once."""
        if state.global_step >= self.stop:
            control.should_training_stop = True
            control.should_save = not _ends_epoch(state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save after the evaluation of an epoch that ends here; leave out that of one that does not."""
        if state.global_step >= self.stop:
            if _ends_epoch(state):
                control.should_save = True
            else:
                control.should_log = control.should_evaluate = control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add to the checkpoint what it lacks."""
        self.checkpoint = Path(args.output_dir or "", f"checkpoint-{state.global_step}")
        terms, steps = self.trainer.mixing.pending()
        # Where an epoch ends here, what the next one draws from is what there is now.
        rng = torch.get_rng_state() if _ends_epoch(state) else self.epoch_rng
        tensors = {"loss": self.trainer._tr_loss.detach(), "rng": rng}
        if terms is not None:
            tensors["terms"] = terms
        save_file(tensors, self.checkpoint / TENSORS)
        counts = {"steps": steps, "last_logged": self.trainer._globalstep_last_logged}
        (self.checkpoint / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
        _copy_predictions(self.checkpoint.parent, self.checkpoint)

    @staticmethod
    def go_on(trainer: MixedLossTrainer, checkpoint: Path) -> None:
        """Prepare a Trainer whose `train` is going to resume from a checkpoint that was left here.

        Args:
            trainer: The Trainer, before it trains.
            checkpoint: The folder that a `PauseCallback` has left.
        """
        trainer.args.eval_on_start = False  # that was the start of another one
        _copy_predictions(checkpoint, Path(trainer.args.output_dir or ""))
        callbacks = trainer.callback_handler.callbacks
        # After the mixing callback, which starts afresh; before one that pauses again and keeps what is restored here.
        callbacks.insert(callbacks.index(trainer.mixing) + 1, _ResumeCallback(trainer, checkpoint))


class _ResumeCallback(TrainerCallback):
    """Restores, at the right moments, what `PauseCallback` added to a checkpoint."""

    def __init__(self, trainer: MixedLossTrainer, checkpoint: Path) -> None:
        self.trainer = trainer
        self.tensors = load_file(checkpoint / TENSORS)
        self.counts = json.loads((checkpoint / COUNTS).read_text(encoding="utf-8"))
        self.epoch_rng: torch.Tensor | None = self.tensors.pop("rng")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the losses since the last log, which the Trainer and the mixing callback have just set to 0."""
        loss = {name: tensor.to(args.device) for name, tensor in self.tensors.items()}
        self.trainer._tr_loss += loss["loss"]
        self.trainer._globalstep_last_logged = self.counts["last_logged"]
        self.trainer.mixing.resume(loss.get("terms"), self.counts["steps"])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the sampler draw the order of the epoch that goes on once more; the Trainer then restores the rest."""
        if self.epoch_rng is not None:
            torch.set_rng_state(self.epoch_rng)
            self.epoch_rng = None


def _copy_predictions(source: Path, target: Path) -> None:
    """Copy what was recorded, if anything was, from one folder to another."""
    if (source / FILE).is_file():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / FILE, target / FILE)


def _ends_epoch(state: TrainerState) -> bool:
    return float(state.epoch or 0).is_integer()
