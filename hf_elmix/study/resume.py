"""Pause training so that continuing from its checkpoint gives bit for bit the result of never having stopped."""

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

# Files with what a checkpoint of the Trainer leaves out.
TENSORS, COUNTS = "pending.safetensors", "pending.json"


class PauseCallback(TrainerCallback):
    """Saves a checkpoint after a given step and stops the training there.

    A Trainer checkpoint restores weights, optimizer, learning rate, position in the data and random numbers. For the
    same result as without the stop, four more things are needed: an unfinished epoch must not be logged and evaluated;
    the losses since the last log must be kept; a sampler that draws the epoch's order from the global generator must
    find it in the same state; and the predictions that a `CohortCallback` has recorded must be copied.

    Args:
        trainer: The Trainer it is added to.
        stop: Completed optimizer steps at which to stop.

    Attributes:
        checkpoint: The folder of the checkpoint.
    """

    checkpoint: Path

    def __init__(self, trainer: MixedLossTrainer, stop: int) -> None:
        self.trainer, self.stop = trainer, stop
        self.epoch_rng = torch.get_rng_state()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the state of the generator that the sampler draws from."""
        self.epoch_rng = torch.get_rng_state()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop; save at once unless the epoch ends here."""
        if state.global_step >= self.stop:
            control.should_training_stop = True
            control.should_save = not _ends_epoch(state)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save after the evaluation of an epoch that ends here; skip the evaluation of an unfinished one."""
        if state.global_step >= self.stop:
            control.should_save = _ends_epoch(state)
            if not control.should_save:
                control.should_log = control.should_evaluate = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add what the Trainer leaves out."""
        self.checkpoint = Path(args.output_dir or "", f"checkpoint-{state.global_step}")
        terms, steps = self.trainer.mixing_callback.pending()
        # If an epoch ends here, the next one draws from the current state.
        rng = torch.get_rng_state() if _ends_epoch(state) else self.epoch_rng
        tensors = {"loss": self.trainer._tr_loss.detach(), "rng": rng}
        if terms is not None:
            tensors["terms"] = terms
        save_file(tensors, self.checkpoint / TENSORS)
        counts = {"steps": steps, "last_logged": self.trainer._globalstep_last_logged}
        (self.checkpoint / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
        _copy_predictions(self.checkpoint.parent, self.checkpoint)

    @staticmethod
    def resume(trainer: MixedLossTrainer, checkpoint: Path) -> None:
        """Prepare a Trainer to resume from the checkpoint of a `PauseCallback`."""
        trainer.args.eval_on_start = False  # training has already started
        _copy_predictions(checkpoint, Path(trainer.args.output_dir or ""))
        callbacks = trainer.callback_handler.callbacks
        # After the mixing callback, which resets itself; before one that pauses again and saves the restored state.
        callbacks.insert(callbacks.index(trainer.mixing_callback) + 1, _ResumeCallback(trainer, checkpoint))


class _ResumeCallback(TrainerCallback):
    """Restores what `PauseCallback` added to a checkpoint."""

    def __init__(self, trainer: MixedLossTrainer, checkpoint: Path) -> None:
        self.trainer = trainer
        self.tensors = load_file(checkpoint / TENSORS)
        self.counts = json.loads((checkpoint / COUNTS).read_text(encoding="utf-8"))
        self.epoch_rng: torch.Tensor | None = self.tensors.pop("rng")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restore the losses since the last log, which the Trainer and the mixing callback have just reset."""
        loss = {name: tensor.to(args.device) for name, tensor in self.tensors.items()}
        self.trainer._tr_loss += loss["loss"]
        self.trainer._globalstep_last_logged = self.counts["last_logged"]
        self.trainer.mixing_callback.resume(loss.get("terms"), self.counts["steps"])

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let the sampler draw the order of the current epoch again; the Trainer then restores the generator."""
        if self.epoch_rng is not None:
            torch.set_rng_state(self.epoch_rng)
            self.epoch_rng = None


def _copy_predictions(source: Path, target: Path) -> None:
    """Copy recorded predictions, if there are any, from one folder to another."""
    if (source / FILE).is_file():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / FILE, target / FILE)


def _ends_epoch(state: TrainerState) -> bool:
    return float(state.epoch or 0).is_integer()
