"""One piece of training: build a Trainer, train, score, and say what it took. All of the engine's training is here."""

from __future__ import annotations

import errno
import math
import os
import platform
import random
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import (
    DefaultFlowCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import SaveStrategy, has_length
from transformers.utils import logging

from hf_elmix.predictions.callback import CohortCallback
from hf_elmix.predictions.records import Predictions
from hf_elmix.study import shared_prefixes as fork
from hf_elmix.study.checkpoints import Checkpoints, name_of
from hf_elmix.study.executors.local import Progress
from hf_elmix.study.resume import PauseCallback
from hf_elmix.study.shared_prefixes import Branch, Outcome, Segment
from hf_elmix.study.spec import Materials, Method, RunKey, RunRecord, Study, Task
from hf_elmix.study.store import MODEL, Store, put_folder
from hf_elmix.training.callback import MixingCallback
from hf_elmix.training.complement import trainer_for
from hf_elmix.training.trainer import MixedLossTrainer

__all__ = ["run_branch", "scores_of", "software"]


PACKAGES = ("hf-elmix", "torch", "transformers", "accelerate", "datasets", "tokenizers")
SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
OF_SOME_LOSSES = ("complement_entropy", "learning_rate_factor")
TRAINING = (
    "step",
    "epoch",
    "loss",
    "loss_ce",
    "loss_el",
    "alpha",
    "beta",
    "focus",
    "learning_rate",
    "grad_norm",
    *OF_SOME_LOSSES,
)

FULL = (errno.ENOSPC, errno.EDQUOT)

OWN = (DefaultFlowCallback, MixingCallback, CohortCallback)

# With these a training that goes on from a checkpoint is another one than the training that never stopped.
UNSHARED = (
    "auto_find_batch_size",
    "ignore_data_skip",
    "load_best_model_at_end",  # the best one may be on the way of another segment
    "restore_callback_states_from_checkpoint",
    "save_only_model",
)


def run_branch(
    study: Study,
    store: Store,
    branch: Branch,
    progress: Progress,
    *,
    keep_models: bool = False,
    cohorts: bool = False,
) -> Outcome:
    """Train one segment of a study, and score it where it ends runs.

    Args:
        study: The study.
        store: Where checkpoints and models go; records are left to the caller.
        branch: Which segment.
        progress: Called after every optimizer step with the run's completed steps, and their number.
        keep_models: Keep the trained models beside the records.
        cohorts: Keep what the models say of each evaluation row, at every evaluation, beside the records.

    Returns:
        The records of runs that ended, or the branches to go on with. An error while it trains ends in records too,
        with status ``failed``.

    Raises:
        OSError: If the disk is full, which is no result of a run.
    """
    training = _Training(study, store, branch, progress, keep_models, cohorts)
    try:
        with _no_bars():
            return training.advance()
    except Exception as error:  # Whatever goes wrong is the run's result; the other runs go on.
        if _disk_is_full(error):
            place = str(store.folder if store.local else tempfile.gettempdir())
            text = f"No space left for a checkpoint or model. Free some in {place!r}"
            raise OSError(errno.ENOSPC, text) from error
        text = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
        return Outcome(branch, tuple(training.record(key, "failed", error=text) for key in branch.keys))


def scores_of(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by metric from a Trainer's log history.

    Args:
        history: `trainer.state.log_history`; evaluations on several datasets at one step are read together.

    Returns:
        ``{metric: {"last": x, "best": x, "epochs": [x, ...], "steps": [step, ...]}}``; the best loss is the smallest,
        else the largest.
    """
    by_step: dict[int, dict[str, float]] = {}
    for log in history:
        values = {name.removeprefix("eval_"): value for name, value in log.items() if name.startswith("eval_")}
        by_step.setdefault(log["step"], {}).update(values)
    names = {name for values in by_step.values() for name in values if not name.endswith(SPEED)}
    series = {name: {step: values[name] for step, values in by_step.items() if name in values} for name in names}
    return {name: _series(values, min if "loss" in name else max) for name, values in sorted(series.items())}


def _series(values: Mapping[int, float], best: Callable[[Iterable[float]], float]) -> dict[str, Any]:
    """A metric at each step it was evaluated at."""
    epochs = list(values.values())
    return {"last": epochs[-1], "best": best(epochs), "epochs": epochs, "steps": list(values)}


@cache
def software() -> dict[str, Any]:
    """Versions, commit and machine of this process."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "threads": torch.get_num_threads(),
    }


class _Training:
    """What it takes to train one branch."""

    def __init__(
        self, study: Study, store: Store, branch: Branch, progress: Progress, keep_models: bool, cohorts: bool
    ) -> None:
        self.study, self.store, self.branch, self.progress = study, store, branch, progress
        self.keep_models, self.cohorts = keep_models, cohorts
        self.task, self.methods = _parts(study, branch)
        self.checkpoints = Checkpoints(store.segments_of(branch.task, branch.seed))
        self.provenance = dict(software())
        self.ledger: list[dict[str, Any]] = []  # the segments on the way here: who trained how much of each
        self.counter, self.start = _StepCallback(progress), time.perf_counter()

    def advance(self) -> Outcome:
        """Train the branch's segment, from its parent's end."""
        with self.checkpoints.scratch() as scratch, _full_disk_named(scratch):
            trainer = self.trainer(scratch)
            loader = _loader(trainer)
            steps = int(trainer.set_initial_training_values(trainer.args, loader)[-1])
            if len(self.branch.among) > 1 and not _can_share(trainer, loader):
                return Outcome(self.branch, children=self.branch.alone())
            segments = fork.plan({name: method.loss for name, method in self.methods.items()}, steps)
            segment = self.branch.segment(segments)
            if segment.stop == steps:
                self.train(trainer, segment, steps, scratch)
                return Outcome(self.branch, self.ended(trainer, scratch))
            name = self.name(trainer, segment, steps)
            if self.needed(trainer, segment, segments):
                self.reach(trainer, segment, steps, scratch)
            return Outcome(self.branch, children=self.branch.children(segments), checkpoint=name)

    def trainer(self, scratch: Path) -> MixedLossTrainer:
        """A Trainer for the branch with an untrained model."""
        materials = self.task.materials(self.branch.seed)
        method = self.methods[self.branch.methods[0]]
        arguments = self.study.settings(self.task, method)["arguments"]
        trainer = _trainer(
            materials, method, {**arguments, "seed": self.branch.seed, "output_dir": str(scratch / "trainer")}
        )
        if self.cohorts:
            trainer.add_callback(CohortCallback())
        self.provenance |= {**materials.provenance, "device": _device(trainer.args.device)}
        return trainer

    def name(self, trainer: MixedLossTrainer, segment: Segment, steps: int) -> str:
        """The name of the checkpoint at the end of a segment."""
        method = self.methods[segment.methods[0]]
        settings = {k: v for k, v in self.study.settings(self.task, method).items() if k != "loss"}
        changes = fork.prefix(method.loss, segment.stop, steps)
        identity = {
            "settings": settings,
            "seed": self.branch.seed,
            "steps": steps,
            "losses": [[step, str(loss)] for step, loss in changes],
            "software": [self.provenance["versions"], self.provenance["commit"], trainer.args.device.type],
            **({"cohorts": True} if self.cohorts else {}),  # else what is recorded would begin in the middle
        }
        return name_of(segment.stop, identity)

    def needed(self, trainer: MixedLossTrainer, segment: Segment, segments: list[Segment]) -> bool:
        """Whether a segment is to be trained: not if it has been, nor if everything that goes on from it has been."""
        steps = segments[-1].stop
        if segment.stop < steps and self.checkpoints.has(self.name(trainer, segment, steps)):
            return False
        below = [s for s in segments if s.parent == segment and set(s.methods) & set(self.branch.methods)]
        return segment.stop == steps or any(self.needed(trainer, child, segments) for child in below)

    def reach(self, trainer: MixedLossTrainer, segment: Segment, steps: int, scratch: Path) -> None:
        """Train up to the end of a segment and keep a checkpoint there."""
        pause = PauseCallback(trainer, segment.stop)
        trainer.add_callback(pause)
        self.train(trainer, segment, steps, scratch)
        name = self.name(trainer, segment, steps)
        self.checkpoints.save(name, pause.checkpoint, {"ledger": self.ledger})

    def train(self, trainer: MixedLossTrainer, segment: Segment, steps: int, scratch: Path) -> None:
        """Train a segment from its parent's checkpoint; where that is lost, train what it held once more."""
        came_from: Path | None = None
        if segment.parent is not None:
            name = self.name(trainer, segment.parent, steps)
            found = self.checkpoints.find(name, scratch)
            if found is None:
                self.reach(self.trainer(scratch), segment.parent, steps, scratch)
                found = self.checkpoints.find(name, scratch)
            if found is None:
                raise RuntimeError(f"The checkpoint {name} was written and cannot be read back.")
            came_from, self.ledger = found[0], found[1]["ledger"]
            PauseCallback.go_on(trainer, came_from)
        self.counter.steps, self.start = 0, time.perf_counter()
        trainer.add_callback(self.counter)
        trainer.train(resume_from_checkpoint=None if came_from is None else str(came_from))
        self.ledger = [*self.ledger, self.entry()]
        self.counter.steps, self.start = 0, time.perf_counter()  # an error from here on has cost no steps

    def entry(self) -> dict[str, Any]:
        """What this process has trained last, put down to the first of the runs that need it."""
        seconds = round(time.perf_counter() - self.start, 3)
        return {"method": self.branch.methods[0], "steps": self.counter.steps, "seconds": seconds}

    def ended(self, trainer: MixedLossTrainer, scratch: Path) -> tuple[RunRecord, ...]:
        """Records of the runs that end with this branch."""
        history = trainer.state.log_history
        scores = scores_of(history)
        missing = [name for name in (self.task.score, *self.task.secondary_metrics) if name not in scores]
        if missing:
            given = ", ".join(scores)
            text = f"UsageError: Expected the evaluation to give {missing[0]!r}, but it gives {given}."
            return tuple(self.record(key, "failed", scores=scores, error=text) for key in self.branch.keys)
        if self.keep_models:
            for key in self.branch.keys:
                _save_model(trainer, scratch / MODEL)
                put_folder(scratch / MODEL, self.store.folder_of(key) / MODEL)
        for key in self.branch.keys if (recorded := _recorded(trainer)) else ():
            self.store.write_predictions(key, recorded)
        status = "done" if _finite(history) else "diverged"
        training = [_only(log, TRAINING) for log in history if "loss" in log]
        return tuple(self.record(key, status, scores=scores, training=training) for key in self.branch.keys)

    def record(self, key: RunKey, status: str, **values: Any) -> RunRecord:
        """A record of one of the branch's runs."""
        ledger = self.ledger if status != "failed" else [*self.ledger, self.entry()]
        own = [entry for entry in ledger if entry["method"] == key.method]
        trained = sum(entry["steps"] for entry in own)
        return RunRecord(
            key,
            status,
            **{"scores": {}, "training": [], "error": None, **values},
            settings=self.study.settings(self.task, self.methods[key.method]),
            provenance=self.provenance,
            cost={
                "seconds": round(sum(entry["seconds"] for entry in own), 3),
                "steps_trained": trained,
                "steps_inherited": sum(entry["steps"] for entry in ledger) - trained,
            },
        )


def _parts(study: Study, branch: Branch) -> tuple[Task, dict[str, Method]]:
    """The task and the methods that a branch names."""
    task = next(task for task in study.tasks if task.name == branch.task)
    methods = {method.name: method for method in study.methods}
    return task, {name: methods[name] for name in branch.among}


def _trainer(materials: Materials, method: Method, arguments: Mapping[str, Any]) -> MixedLossTrainer:
    quiet = {"disable_tqdm": True, "log_level": "error", "report_to": "none"}
    defaults = {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": SaveStrategy.NO}
    device = {"dataloader_pin_memory": torch.cuda.is_available()}
    args = TrainingArguments(**{**quiet, **defaults, **device, **arguments})
    trainer = trainer_for(method.loss)(args=args, loss=method.loss, **materials.trainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _recorded(trainer: MixedLossTrainer) -> dict[str, Predictions]:
    """What was recorded of each evaluation row, if anything was."""
    callbacks = trainer.callback_handler.callbacks
    return next((known.predictions for known in callbacks if isinstance(known, CohortCallback)), {})


def _loader(trainer: MixedLossTrainer) -> Any:
    """The loader of a training, to ask it things; asking must not change what the training draws."""
    with torch.random.fork_rng(devices=[]):
        return trainer.get_train_dataloader()


def _can_share(trainer: MixedLossTrainer, loader: Any) -> bool:
    """Whether a training that goes on from a checkpoint ends with the very weights of one that never stopped."""
    # Any other callback may have a state that the checkpoint lacks, or write a log of each training.
    callbacks = all(isinstance(known, OWN) for known in trainer.callback_handler.callbacks)
    arguments = not any(getattr(trainer.args, name, False) for name in UNSHARED)
    saving = trainer.args.save_strategy != SaveStrategy.BEST  # with it, the Trainer alone says when to save
    return callbacks and arguments and saving and has_length(trainer.train_dataset) and not _draws_rows(loader)


def _draws_rows(loader: Any) -> bool:
    """Whether making a batch of given rows takes random numbers, as masking does: in mid-epoch those are lost."""
    with torch.random.fork_rng(devices=[]):
        before = _random_states()
        loader.collate_fn([loader.dataset[0]])
        return _random_states() != before


def _random_states() -> tuple[Any, ...]:
    _, words, *rest = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002, it is asked for
    return random.getstate(), bytes(words), rest, torch.get_rng_state().numpy().tobytes()


def _save_model(trainer: MixedLossTrainer, folder: Path) -> None:
    """Model and tokenizer as `from_pretrained` reads them, and nothing else that the Trainer would write."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(folder)
    # Where the Trainer looks for it too. Without its files, a tokenizer that knows no word would be loaded, silently.
    tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
    """No bar for each file that transformers writes: the grid has a view of its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Let an error that comes while a disk is full say so: libraries that write weights do not all do."""
    try:
        yield
    except Exception as error:
        if not _has_room(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _has_room(folder: Path) -> bool:
    """Whether a MiB can be written; asked by writing it, since quotas are not seen otherwise."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno not in FULL
    return True


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error comes from a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class _StepCallback(TrainerCallback):
    """Counts optimizer steps, and says so."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.steps = progress, 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.steps += 1
        self.progress(state.global_step, state.max_steps)


def _finite(history: Iterable[Mapping[str, Any]]) -> bool:
    losses = [value for log in history for name, value in log.items() if "loss" in name]
    return all(math.isfinite(loss) for loss in losses)


def _only(log: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: log[name] for name in names if name in log}


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    """What git says of the checkout this file is in, or None where it is in none."""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
