"""Train one branch of a study: build a Trainer, train, evaluate, and record the result and its cost."""

from __future__ import annotations

import math
import random
import re
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import DefaultFlowCallback, PrinterCallback, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy, has_length
from transformers.utils import logging

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.predictions.callback import CohortCallback
from hf_elmix.study.checkpoints import checkpoint_name, is_intact
from hf_elmix.study.executors.local import Progress
from hf_elmix.study.files import naming_storage_faults, storage_fault, to_json
from hf_elmix.study.provenance import device_name, software
from hf_elmix.study.resume import PauseCallback
from hf_elmix.study.schema import Provenance, Record, parse
from hf_elmix.study.shared_prefixes import Branch, Outcome, Segment, plan, prefix
from hf_elmix.study.spec import DEFAULTS, SPEED, TRAINING, Method, RunKey, RunRecord, Study, Task
from hf_elmix.study.store import MODEL, Store
from hf_elmix.training.callback import MixingCallback
from hf_elmix.training.complement import trainer_for
from hf_elmix.training.precision import has_accelerator
from hf_elmix.training.trainer import MixedLossTrainer
from hf_elmix.training.whole_evaluation import with_whole_evaluation

__all__ = ["build_trainer", "check_study", "error_text", "fields_of", "run_branch", "scores_of"]

LOSS = re.compile(r"(^|_)loss(_ce|_el)?$")  # among the names in a log
CALLBACKS = (DefaultFlowCallback, MixingCallback, CohortCallback)  # a checkpoint holds their state

# With these arguments, training that continues from a checkpoint differs from uninterrupted training.
UNSHARED = (
    "auto_find_batch_size",
    "ignore_data_skip",
    "load_best_model_at_end",  # the best model may belong to another segment
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
    """Train one segment of a study, and evaluate it where it ends runs.

    Args:
        study: The study.
        store: Where checkpoints and models go; records are left to the caller.
        branch: The segment, and the methods that continue from it.
        progress: Called after every optimizer step with the completed steps of the run, their total and, if there
            are any, the lines that were logged since.
        keep_models: Keep the trained models beside the records.
        cohorts: Keep the predictions for every evaluation row, at every evaluation, beside the records.

    Returns:
        The records of runs that ended, or the branches to continue with. After an error during training, the records
        have the status ``failed``.

    Raises:
        OSError: If a disk is full, unwritable or out of reach, which is not a result of a run.
    """
    training = _Training(study, store, branch, progress, keep_models, cohorts)
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # transformers shows one for each file it writes
    try:
        outcome = training.advance()
        for record in outcome.records:  # may hold what nobody could read, from the inputs or metrics of a task
            parse(Record, to_json(record.to_dict()))
        return outcome
    except Exception as error:  # Any other error is the result of the run; the other runs continue.
        if storage_fault(error) is not None:
            raise
        text = error_text(error)
        return Outcome(branch, tuple(training.record(key, "failed", error=text) for key in branch.keys))
    finally:
        if shows_bars:
            logging.enable_progress_bar()


def error_text(error: Exception) -> str:
    """What a record says of an error: its text, which may hold names of files that are not UTF-8, and its end."""
    text = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
    return text.encode("utf-8", "backslashreplace").decode()


def check_study(study: Study, store: Store) -> None:
    """Build the Trainer of each task and of each kind of method, so that what cannot work shows before the first run.

    Args:
        study: The study.
        store: Where the records will go; nothing is written there.

    Raises:
        UsageError: If a model, its rows, a loss and training arguments do not go together.
    """
    first = {task.name: study.candidates[0] for task in study.tasks}
    kinds = {(type(method.loss.at(0, 1)), repr(method.arguments)): method for method in study.candidates}
    pairs = [*first.items(), *((study.tasks[0].name, method) for method in kinds.values())]
    for task, method in dict.fromkeys((task, method.name) for task, method in pairs):
        branch = Branch(task, study.seeds[0], (method,), (method,))
        try:
            with tempfile.TemporaryDirectory() as scratch:
                trainer = _Training(study, store, branch, lambda *_: None, False, False).trainer(Path(scratch))
                loader = trainer.get_train_dataloader()
            if has_length(loader) and not len(loader):
                raise UsageError("there are fewer rows than in a batch. Leave --dataloader_drop_last out.")
        except OSError:
            raise
        except Exception as error:  # models and data can raise anything
            raise UsageError(f"Cannot train {task} with {method}: {in_one_line(error)}") from error


def scores_of(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by metric from a Trainer's log history.

    Args:
        history: `trainer.state.log_history`; evaluations on several sets at one step are read together.

    Returns:
        ``{metric: {"last": x, "best": x, "epochs": [x, ...], "steps": [step, ...]}}``; the best value is the largest,
        except for a loss. Values that are not numbers are left out.
    """
    series: dict[str, dict[int, float]] = {}
    for log in history:
        for name, value in log.items():
            if name.startswith("eval_") and not name.endswith(SPEED) and isinstance(value, int | float):
                series.setdefault(name.removeprefix("eval_"), {})[log["step"]] = +value  # makes bools numbers
    scores = {}
    for name, by_step in sorted(series.items()):
        epochs = list(by_step.values())
        best = (min if LOSS.search(name) else max)(epochs)
        scores[name] = {"last": epochs[-1], "best": best, "epochs": epochs, "steps": list(by_step)}
    return scores


def build_trainer(
    study: Study, task: Task, method: Method, seed: int, scratch: Path
) -> tuple[MixedLossTrainer, dict[str, Any]]:
    """The Trainer of a run, with an untrained model, and the provenance of its data, model and device."""
    inputs = task.inputs(seed)
    args = TrainingArguments(
        **{
            **DEFAULTS,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "use_cpu": not has_accelerator(),  # else bf16 would be refused, and no setting that records must agree on
            **study.settings(task, method)["arguments"],
            **{"seed": seed, "output_dir": str(scratch / "trainer")},
        }
    )
    trainer_class = with_whole_evaluation(trainer_for(method.loss))
    if args.n_gpu > 1:
        args._n_gpu = 1  # a batch spread over several would change the training
    trainer = trainer_class(args=args, loss=method.loss, **inputs.trainer)
    trainer.trusts_checkpoints = True
    trainer.remove_callback(PrinterCallback)
    if inputs.prepare is not None:
        inputs.prepare(trainer)
    return trainer, {**inputs.provenance, "device": device_name(trainer.args.device)}


def fields_of(task: Task, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a record that follow from a Trainer's log history: status, scores, training, error."""
    scores = scores_of(history)
    wanted = (task.select.scored_metric, task.select.chosen_metric, *task.secondary_metrics)
    if missing := [name for name in wanted if name not in scores]:
        error = f"UsageError: Expected the evaluation to give {missing[0]!r}, but it gives {', '.join(scores)}."
        return {"status": "failed", "scores": scores, "error": error}
    losses = {name for name in set().union(*history) if LOSS.search(name)}
    finite = all(math.isfinite(log[name]) for log in history for name in losses & log.keys())
    status = "done" if finite else "diverged"
    training = [{name: log[name] for name in TRAINING if name in log} for log in history if "loss" in log]
    return {"status": status, "scores": scores, "training": training}


class _Training:
    """The training of one branch."""

    def __init__(
        self, study: Study, store: Store, branch: Branch, progress: Progress, keep_models: bool, cohorts: bool
    ) -> None:
        self.study, self.store, self.branch = study, store, branch
        self.keep_models, self.cohorts = keep_models, cohorts
        self.task = next(task for task in study.tasks if task.name == branch.task)
        methods = {method.name: method for method in study.candidates}
        self.methods = {name: methods[name] for name in branch.among}
        self.checkpoints = store.checkpoints((branch.task, branch.seed))
        self.provenance = dict(software())
        self.costs: list[dict[str, Any]] = []  # of each segment so far: the method that trained it, steps, seconds
        self.counter, self.start = _StepCounter(progress), time.perf_counter()

    def advance(self) -> Outcome:
        """Train the branch's segment from the end of its parent."""
        place = self.store.folder if self.store.local else tempfile.gettempdir()
        with self.checkpoints.scratch() as scratch, naming_storage_faults(scratch, place):
            return self._advance(scratch)

    def _advance(self, scratch: Path) -> Outcome:
        trainer = self.trainer(scratch)
        with torch.random.fork_rng(devices=[]):  # making a loader must not change what training draws
            loader = trainer.get_train_dataloader()
        steps = int(trainer.set_initial_training_values(trainer.args, loader)[-1])
        may_stop_early = not _has_known_callbacks(trainer)
        if len(self.branch.among) > 1 and not _can_share(trainer, loader):
            return Outcome(self.branch, children=self.branch.alone())
        segments = plan({name: method.loss for name, method in self.methods.items()}, steps)
        segment = self.branch.segment(segments)
        if segment.stop == steps:
            self.train(trainer, segment, steps, scratch)
            self.check_steps(trainer, may_stop_early)
            return Outcome(self.branch, self.finish(trainer, scratch))
        name = self.name(trainer, segment, steps)
        if self.is_needed(trainer, segment, segments):
            self.train_and_save(trainer, segment, steps, scratch)
        return Outcome(self.branch, children=self.branch.children(segments), checkpoint=name)

    def trainer(self, scratch: Path) -> MixedLossTrainer:
        """Build a Trainer for the branch, with an untrained model."""
        method = self.methods[self.branch.methods[0]]
        trainer, provenance = build_trainer(self.study, self.task, method, self.branch.seed, scratch)
        if self.keep_models and not hasattr(trainer.accelerator.unwrap_model(trainer.model), "save_pretrained"):
            kind = type(trainer.model).__name__
            raise UsageError(f"Expected a model that can be kept, with save_pretrained, but got {kind}. Keep none.")
        if self.cohorts:
            trainer.add_callback(CohortCallback())
        provenance = {**self.provenance, **provenance}
        parse(Provenance, to_json(provenance))
        self.provenance = provenance
        return trainer

    def name(self, trainer: MixedLossTrainer, segment: Segment, steps: int) -> str:
        """The name of the checkpoint at the end of a segment."""
        method = self.methods[segment.methods[0]]
        identity = {
            "settings": {k: v for k, v in self.study.settings(self.task, method).items() if k != "loss"},
            "seed": self.branch.seed,
            "steps": steps,
            "losses": [[step, str(loss)] for step, loss in prefix(method.loss, segment.stop, steps)],
            "software": [self.provenance["versions"], self.provenance["commit"], trainer.args.device.type],
            **({"cohorts": True} if self.cohorts else {}),  # else recording would begin in the middle of training
        }
        return checkpoint_name(segment.stop, identity)

    def is_needed(self, trainer: MixedLossTrainer, segment: Segment, segments: list[Segment]) -> bool:
        """Whether a segment must be trained: it has no checkpoint, and something that continues from it has none."""
        steps, wanted = segments[-1].stop, set(self.branch.methods)
        level = [segment]
        while level:
            if any(one.stop == steps for one in level):
                return True
            lacking = {one for one in level if not self.checkpoints.has(self.name(trainer, one, steps))}
            level = [one for one in segments if one.parent in lacking and not wanted.isdisjoint(one.methods)]
        return False

    def train_and_save(self, trainer: MixedLossTrainer, segment: Segment, steps: int, scratch: Path) -> None:
        """Train to the end of a segment and save a checkpoint there."""
        pause = PauseCallback(trainer, segment.stop)
        trainer.add_callback(pause)
        self.train(trainer, segment, steps, scratch)
        self.checkpoints.save(self.name(trainer, segment, steps), pause.checkpoint, {"costs": self.costs})

    def train(self, trainer: MixedLossTrainer, segment: Segment, steps: int, scratch: Path) -> None:
        """Train a segment from its parent's checkpoint; if that is lost, train the parent again."""
        checkpoint: Path | None = None
        if segment.parent is not None:
            name = self.name(trainer, segment.parent, steps)
            found = self.checkpoints.find(name, scratch)
            if found is None:
                self.train_and_save(self.trainer(scratch), segment.parent, steps, scratch)
                found = self.checkpoints.find(name, scratch)
            if found is None:
                raise RuntimeError(f"The checkpoint {name} was written but cannot be read back.")
            checkpoint, self.costs = found[0], found[1]["costs"]
            PauseCallback.resume(trainer, checkpoint)
        self.counter.steps, self.counter.checkpoint, self.start = 0, checkpoint, time.perf_counter()
        trainer.add_callback(self.counter)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self.costs = [*self.costs, self.cost()]
        self.counter.steps, self.start = 0, time.perf_counter()  # an error from here on has cost no steps

    def cost(self) -> dict[str, Any]:
        """The cost of the last segment, attributed to the first of the runs that need it."""
        seconds = round(time.perf_counter() - self.start, 3)
        return {"method": self.branch.methods[0], "steps": self.counter.steps, "seconds": seconds}

    def check_steps(self, trainer: MixedLossTrainer, may_stop_early: bool) -> None:
        """Refuse training in which steps were left out or trained twice; a custom callback may end it early."""
        planned = trainer.state.global_step if may_stop_early else trainer.state.max_steps
        trained = sum(cost["steps"] for cost in self.costs)
        if trained != planned or not trained:
            raise RuntimeError(f"Expected {trainer.state.max_steps} steps of training, but {trained} were done.")

    def finish(self, trainer: MixedLossTrainer, scratch: Path) -> tuple[RunRecord, ...]:
        """Records of the runs that end with this branch; saves their models and predictions."""
        fields = fields_of(self.task, trainer.state.log_history)
        if fields["status"] == "failed":
            return tuple(self.record(key, **fields) for key in self.branch.keys)
        keys = [key for key in self.branch.keys if not self.store.has_result(key)]  # of another driver at the same URL
        if self.keep_models:
            for key in keys:
                _save_model(trainer, scratch / MODEL)
                self.store.put_model(key, scratch / MODEL)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, CohortCallback) and callback.predictions:
                for key in keys:
                    self.store.write_predictions(key, callback.predictions)
        return tuple(self.record(key, **fields) for key in self.branch.keys)

    def record(self, key: RunKey, status: str, **values: Any) -> RunRecord:
        """A record of one of the branch's runs."""
        costs = self.costs if status != "failed" else [*self.costs, self.cost()]
        own = [cost for cost in costs if cost["method"] == key.method]
        trained = sum(cost["steps"] for cost in own)
        return RunRecord(
            key,
            status,
            **{"scores": {}, "training": [], "error": None, **values},
            settings=self.study.settings(self.task, self.methods[key.method]),
            provenance=self.provenance,
            cost={
                "seconds": round(sum(cost["seconds"] for cost in own), 3),
                "steps_trained": trained,
                "steps_inherited": sum(cost["steps"] for cost in costs) - trained,
            },
        )


def _can_share(trainer: MixedLossTrainer, loader: Any) -> bool:
    """Whether training that continues from a checkpoint gives bit for bit the weights of uninterrupted training."""
    arguments = not any(getattr(trainer.args, name, False) for name in UNSHARED)
    saving = trainer.args.save_strategy != SaveStrategy.BEST  # with it, the Trainer alone decides when to save
    if not (_has_known_callbacks(trainer) and arguments and saving and has_length(trainer.train_dataset)):
        return False
    # A collator may draw random numbers, such as for masking; resuming does not draw those of the skipped batches.
    with torch.random.fork_rng(devices=[]):
        before = _random_states()
        loader.collate_fn([loader.dataset[0]])
        return _random_states() == before


def _has_known_callbacks(trainer: MixedLossTrainer) -> bool:
    """Whether training can continue from a checkpoint; what a task adds says so itself if it keeps no state."""
    callbacks = trainer.callback_handler.callbacks
    return all(isinstance(each, CALLBACKS) or getattr(each, "follows_state", False) for each in callbacks)


def _random_states() -> tuple[Any, ...]:
    _, words, *rest = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002, it is only compared
    return random.getstate(), bytes(words), rest, torch.get_rng_state().numpy().tobytes()


def _save_model(trainer: MixedLossTrainer, folder: Path) -> None:
    """Save only the model and the tokenizer, for `from_pretrained`."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(folder)
    # The Trainer looks for it there, too. Without its files, an empty tokenizer would be loaded without an error.
    tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


class _StepCounter(TrainerCallback):
    """Counts optimizer steps, and reports each step and log; notices if a checkpoint vanished while it was loaded."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.steps, self.told = progress, 0, 0
        self.checkpoint: Path | None = None

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        # The Trainer has loaded everything now. It starts without the optimizer if that file is missing.
        if self.checkpoint is not None and not is_intact(self.checkpoint):
            raise RuntimeError(f"The checkpoint {self.checkpoint} changed while it was loaded.")
        self.checkpoint = None

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.steps += 1
        # The first logs are those of the segments before, which another process may have trained; those of the last
        # step are in the record.
        logs, self.told = state.log_history[self.told :], len(state.log_history)
        self.progress(state.global_step, state.max_steps, *([logs] if logs else []))
