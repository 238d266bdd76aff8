"""Train all runs of a task whose model is small as one batched model."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, SchedulerType, TrainingArguments, set_seed

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss
from hf_elmix.losses.baselines import NegativeComplementEntropy
from hf_elmix.losses.schedules import CROSS_ENTROPY
from hf_elmix.study.executors.local import BranchProgress, Logs, Progress, Take, run_in_process
from hf_elmix.study.files import storage_fault, to_json
from hf_elmix.study.provenance import software
from hf_elmix.study.runner import build_trainer, error_text, fields_of
from hf_elmix.study.schema import Record, parse
from hf_elmix.study.shared_prefixes import Branch, Outcome
from hf_elmix.study.spec import Method, RunKey, RunRecord, Study, Task
from hf_elmix.study.store import Store
from hf_elmix.training.callback import BOUND
from hf_elmix.training.stacked import Objective, StackedModel, stacking_key
from hf_elmix.training.trainer import MixedLossTrainer

__all__ = ["Stack", "check_stackable", "run_stack", "run_stacked"]

# Training arguments that a stack follows; with any other, a run would differ from the Trainer's.
FOLLOWED = {
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "dataloader_drop_last", "data_seed", "use_cpu"),
    *("bf16", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
}
STACKED = {
    "optim": ("adamw_torch", "adamw_torch_fused", "sgd"),
    "lr_scheduler_type": [kind for kind in SchedulerType if kind not in ("reduce_lr_on_plateau", "greedy")],
}  # values of some of them
LARGEST = 2**25  # parameters in one batched model; their gradients and the optimizer's state take as much each
GPU_BYTES = 32  # of free memory on a GPU for each parameter: the above in float32, and as much for what is computed
KEPT = 256  # steps whose losses are kept before they are added up
EVERY = 0.5  # seconds between two reports of progress


@dataclass(frozen=True)
class Stack:
    """A unit of work: branches of one task, each of which is one whole run."""

    branches: tuple[Branch, ...]

    @property
    def keys(self) -> tuple[RunKey, ...]:
        """The runs."""
        return tuple(key for branch in self.branches for key in branch.keys)


def run_stacked(
    take: Take, run: Callable[..., Any], progress: BranchProgress, *, within: Any = run_in_process
) -> Iterator[Outcome]:
    """Train the branches of each task as one `Stack`.

    Args:
        take: Returns the next branch, each a whole run (`run_grid` with ``sharing=False``), or None.
        run: Trains one stack: `run_stack`.
        progress: Called with each branch and its optimizer steps, completed and total.
        within: The executor that trains the stacks: `run_in_process`, or `run_in_workers` with its number of workers.

    Yields:
        The outcome of each branch when its stack ends.
    """
    ahead: list[Branch] = []  # the first branch of the next task, once taken

    def take_stack() -> Stack | None:
        branches = [ahead.pop()] if ahead else []
        while (branch := take()) is not None:
            if branches and branch.task != branches[0].task:
                ahead.append(branch)
                break
            branches.append(branch)
        return Stack(tuple(branches)) if branches else None

    def report(stack: Stack, step: int, steps: int, logs: Logs = ()) -> None:
        for branch in stack.branches:
            progress(branch, step, steps)

    for outcome in within(take_stack, run, report):
        records = {record.key: record for record in outcome.records}
        for branch in outcome.branch.branches:
            own = tuple(records[key] for key in branch.keys if key in records)
            yield Outcome(branch, own, died=outcome.died)


def check_stackable(study: Study) -> None:
    """Refuse training arguments that a stack does not follow, with a `UsageError`."""
    defaults = TrainingArguments.__dataclass_fields__
    for method in study.candidates:
        for name, value in {**study.arguments, **method.arguments}.items():
            if value not in STACKED.get(name, [value]) or (name not in FOLLOWED and value != defaults[name].default):
                raise UsageError(f"Runs cannot be stacked with {name}={value!r}. Type --executor local.")


def run_stack(study: Study, store: Store, stack: Stack, progress: Progress, *, keep_models: bool = False) -> Outcome:
    """Train all runs of a stack together, each to the weights that its Trainer alone would give.

    Called as `run_branch` is, but leaves nothing but records: `store` is not used, and models cannot be kept.

    Args:
        study: The study.
        store: Not used.
        stack: The runs.
        progress: Called from time to time with the completed optimizer steps of a run and their total.
        keep_models: Must be False.

    Returns:
        The records, ``failed`` for the runs of a batched model that an error ended.

    Raises:
        OSError: If a disk is full, unwritable or out of reach, which is not a result of a run.
    """
    if keep_models:
        raise UsageError("Models of stacked runs cannot be kept.")
    start = time.perf_counter()
    errors: dict[RunKey, str] = {}
    runs: list[_Run] = []
    with tempfile.TemporaryDirectory() as scratch:
        with _errors_of(stack.keys, errors):
            runs = _runs(study, stack, Path(scratch))
        parts = list(_batches(runs))
        for number, part in enumerate(parts):
            with _errors_of([run.key for run in part], errors):
                kind = _TextTraining if _reads_text(part[0].trainer) else _Training
                training = kind(part, _part_of(progress, number, len(parts)))
                # The cache of cast weights would outlive the step that they belong to.
                with torch.autocast(training.device.type, torch.bfloat16, part[0].trainer.args.bf16, False):
                    training.train()
    seconds = round((time.perf_counter() - start) / len(stack.keys), 3)
    trained = {run.key: run for run in runs}
    records = tuple(_record(study, stack, key, trained.get(key), errors.get(key), seconds) for key in stack.keys)
    parse(Record, to_json(records[0].to_dict()))  # may hold what nobody could read, and then they all do
    return Outcome(stack, records)  # type: ignore[arg-type]  # the unit of work that the executor was given


@contextmanager
def _errors_of(keys: Iterable[RunKey], errors: dict[RunKey, str]) -> Iterator[None]:
    """Keep an error as the result of these runs; others continue. A fault of the storage is nobody's result."""
    try:
        yield
    except Exception as failure:
        if storage_fault(failure) is not None:
            raise
        errors.update(dict.fromkeys(keys, error_text(failure)))


def _part_of(progress: Progress, number: int, parts: int) -> Progress:
    """The progress of one of several batched models, as that of a whole run."""
    return lambda step, steps, logs=(): progress(number * steps + step, parts * steps)


def _found(study: Study, key: RunKey) -> tuple[Task, Method]:
    """The task and method of a run."""
    return (
        next(task for task in study.tasks if task.name == key.task),
        next(method for method in study.candidates if method.name == key.method),
    )


def _record(study: Study, stack: Stack, key: RunKey, run: _Run | None, error: str | None, seconds: float) -> RunRecord:
    """The record of a run: of its logs, or of the error that ended its stack."""
    task, method = _found(study, key)
    failed: dict[str, Any] = {"status": "failed", "scores": {}, "error": error}
    fields = fields_of(task, run.history) if run is not None and error is None else failed
    return RunRecord(
        key,
        **{"training": [], **fields},
        settings=study.settings(task, method),
        provenance={**software(), **(run.provenance if run else {}), "stacked": len(stack.keys)},
        cost={"seconds": seconds, "steps_trained": run.steps if run else 0, "steps_inherited": 0},
    )


@dataclass
class _Run:
    """A run of a stack.

    Attributes:
        key: Its task, method and seed.
        method: Its method.
        trainer: A Trainer of a run that starts with the same weights and has the same order of rows.
        rate: Its learning rate.
        provenance: Of its data, model and device.
        alike: What runs must have in common to be in one batched model.
        history: Its training and evaluation logs, as a Trainer writes them.
        steps: Completed optimizer steps.
    """

    key: RunKey
    method: Method
    trainer: MixedLossTrainer
    rate: float
    provenance: dict[str, Any]
    alike: tuple[Any, ...]
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0

    @property
    def model(self) -> nn.Module:
        """A model with its initial weights."""
        assert self.trainer.model is not None, "a Trainer has a model"
        return self.trainer.model

    def loss(self, step: int, steps: int) -> Loss:
        """The loss of the step that follows `step` completed ones."""
        return self.method.loss.at(step, steps)


def _runs(study: Study, stack: Stack, scratch: Path) -> list[_Run]:
    """The runs of a stack; those that start alike share a Trainer."""
    trainers: dict[Any, tuple[MixedLossTrainer, dict[str, Any]]] = {}
    runs = []
    for key in stack.keys:
        task, method = _found(study, key)
        arguments = dict(study.settings(task, method)["arguments"])
        rate = arguments.pop("learning_rate", None)
        first = method.loss.at(0, 1)
        alike = (json.dumps(arguments, sort_keys=True), first if isinstance(first, BOUND) else None)
        if (key.seed, alike) not in trainers:
            trainers[key.seed, alike] = build_trainer(study, task, method, key.seed, scratch)
        trainer, provenance = trainers[key.seed, alike]
        rate = trainer.args.learning_rate if rate is None else float(rate)
        seed = key.seed if _reads_text(trainer) else None
        runs.append(_Run(key, method, trainer, rate, provenance, (*alike, id(trainer.train_dataset), seed)))
    return runs


def _reads_text(trainer: MixedLossTrainer) -> bool:
    """Whether the rows of a Trainer are tokens."""
    rows: Any = trainer.train_dataset
    return "input_ids" in rows[0]


def _batches(runs: Iterable[_Run]) -> Iterator[list[_Run]]:
    """The runs of each batched model: alike, not too many for the memory, and those with the same loss in a row."""

    def order(run: _Run) -> str:
        return repr(
            (run.alike, stacking_key(run.loss(0, 1)) is not None, str(run.method.loss), run.rate, run.key.seed)
        )

    for _, group in groupby(sorted(runs, key=order), key=lambda run: run.alike):
        alike = list(group)
        size = sum(parameter.numel() for parameter in alike[0].model.parameters())
        device = alike[0].trainer.args.device
        largest = torch.cuda.mem_get_info(device)[0] // GPU_BYTES if device.type == "cuda" else LARGEST
        most = max(1, largest // max(1, size))
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


class _Training:
    """The training of the runs of one batched model, each of which has its own order of rows."""

    randomness = "error"  # models with dropout are refused: runs of several seeds cannot draw the same numbers

    def __init__(self, runs: list[_Run], progress: Progress) -> None:
        self.runs, self.progress = runs, progress
        self.trainer = trainer = runs[0].trainer
        self.device = trainer.args.device
        trainers = {run.key.seed: run.trainer for run in runs}
        self.loaders = {seed: _loader(of_seed) for seed, of_seed in trainers.items()}
        loader = self.loaders[runs[0].key.seed]
        self.steps = int(trainer.set_initial_training_values(trainer.args, loader)[-1])
        self.steps_in_epoch = len(loader)
        models, rates = [run.model for run in runs], [run.rate for run in runs]
        # By what each learning rate is multiplied at a step, which for some schedules depends on that rate.
        self.schedules = {rate: self._schedule(rate) for rate in dict.fromkeys(rates)}
        assert trainer.optimizer is not None, "it has been created with the schedule"
        rows, norm = self._rows(loader), trainer.args.max_grad_norm
        self.model = StackedModel(models, *rows, trainer.optimizer, rates, norm, self.randomness)
        given = trainer.eval_dataset
        sets = {f"eval_{name}": part for name, part in given.items()} if isinstance(given, dict) else {"eval": given}
        self.evaluated = {name: self._evaluated(part) for name, part in sets.items()}
        self.changes = {0}.union(*(run.method.loss.changes(self.steps) for run in runs))
        self.kept: list[tuple[Tensor, list[Tensor]]] = []
        self.sums = torch.zeros(3, len(runs), device=self.device)  # of loss, cross entropy and expectation loss
        self.entropies = torch.zeros(len(runs), device=self.device)  # complement entropy, if there is a second step

    def train(self) -> None:
        """Train all runs, and add the logs and evaluations of each epoch to their histories."""
        step, epoch, reported = 0, 0, time.monotonic()
        while step < self.steps:
            begin = step
            for batch in self._batches(epoch):
                if step == min(self.steps, begin + self.steps_in_epoch):
                    break
                self._step(batch, step)
                step += 1
                if (now := time.monotonic()) > reported + EVERY:
                    reported = now
                    self.progress(step, self.steps)
            self._log(begin, step)
            epoch += 1
        for run in self.runs:
            run.steps = step
        self.progress(step, self.steps)

    def _schedule(self, rate: float) -> Callable[[int], float]:
        """The Trainer's schedule of a learning rate: a factor for each step."""
        trainer = self.trainer
        trainer.args.learning_rate, trainer.optimizer, trainer.lr_scheduler = rate, None, None
        trainer.create_optimizer_and_scheduler(self.steps)
        if not isinstance(trainer.lr_scheduler, LambdaLR):
            raise UsageError(f"Runs cannot be stacked with lr_scheduler_type={trainer.args.lr_scheduler_type!r}.")
        return trainer.lr_scheduler.lr_lambdas[0]

    def _rate_factors(self, step: int) -> Tensor | float:
        """By what the learning rate of each run is multiplied at a step, shape (R,), or a number for all."""
        factors = {rate: at(step) for rate, at in self.schedules.items()}
        first, *others = set(factors.values())
        return torch.tensor([factors[run.rate] for run in self.runs], device=self.device) if others else first

    def _rows(self, loader: Any) -> tuple[dict[str, Tensor], Tensor]:
        """The rows and labels of which batches are made."""
        return _tensors(loader, self.device)

    def _batches(self, epoch: int) -> Iterable[Any]:
        """The batches of an epoch: the rows of each run, shape (runs, B)."""
        orders = {}
        for seed, loader in self.loaders.items():
            loader.set_epoch(epoch)
            orders[seed] = torch.tensor([row for batch in loader.batch_sampler for row in batch], device=self.device)
        order = torch.stack([orders[run.key.seed] for run in self.runs])
        return order.split(self.trainer.args.train_batch_size, dim=1)

    def _advance(self, batch: Any, objective: Objective, factor: Tensor) -> tuple[Tensor, list[Tensor]]:
        """One optimizer step on a batch (see `StackedModel.step`)."""
        return self.model.step(batch, objective, factor)

    def _evaluated(self, rows: Any) -> Any:
        """What `_logits` reads of an evaluation set."""
        return _tensors(self.trainer.get_eval_dataloader(rows), self.device)

    def _logits(self, evaluated: Any) -> tuple[Tensor, Tensor]:
        """Logits of an evaluation set, shape (runs, rows, C), and its labels."""
        rows, labels = evaluated
        return self.model.logits(rows), labels

    def _step(self, batch: Any, step: int) -> None:
        """One optimizer step; with complement entropy, a second one on the same batches."""
        if step in self.changes:
            self._add_up()
            losses = [run.loss(step, self.steps) for run in self.runs]
            twice = isinstance(losses[0], NegativeComplementEntropy)
            self.objective = Objective([CROSS_ENTROPY for _ in losses] if twice else losses, self.device)
            self.second = Objective(losses, self.device) if twice else None
            self.factors = torch.tensor([loss.learning_rate_factor for loss in losses], device=self.device)
        factor = self.factors * self._rate_factors(step)
        terms = self._advance(batch, self.objective, factor)
        if self.kept and (len(self.kept) == KEPT or self.kept[0][0].shape != terms[0].shape):
            self._add_up()
        self.kept.append(terms)
        if self.second is not None:
            _, (negative,) = self._advance(batch, self.second, factor)
            self.entropies -= negative.mean(-1)

    def _add_up(self) -> None:
        """Add the losses of the kept steps to the sums of the epoch."""
        if not self.kept:
            return
        log_p = torch.stack([log_p for log_p, _ in self.kept])
        others = [torch.stack(part) for part in zip(*(others for _, others in self.kept), strict=True)]
        terms = self.objective.of_terms(log_p, others)
        self.sums += torch.stack([term.mean(-1).sum(0) for term in terms])
        self.kept = []

    def _log(self, begin: int, step: int) -> None:
        """Log an epoch of training, and evaluate."""
        self._add_up()
        means = (torch.cat([self.sums, self.entropies[None]]) / (step - begin)).T.tolist()
        self.sums.zero_()
        self.entropies.zero_()
        for run, (loss, ce, el, entropy) in zip(self.runs, means, strict=True):
            rate = run.rate * self.schedules[run.rate](step - 1)
            logged = run.loss(step - 1, self.steps).logged()
            values = {"loss": loss, **logged, "loss_ce": ce, "loss_el": el, "learning_rate": rate}
            values |= {} if self.second is None else {"complement_entropy": entropy}
            run.history.append({**values, "epoch": step / self.steps_in_epoch, "step": step})
        for name, evaluated in self.evaluated.items():
            for run, scores in zip(self.runs, self._scores(*self._logits(evaluated)), strict=True):
                run.history.append({f"{name}_{metric}": value for metric, value in scores.items()} | {"step": step})

    def _scores(self, logits: Tensor, labels: Tensor) -> Iterator[dict[str, float]]:
        """The metrics of each run on evaluation rows, as the Trainer computes them."""
        index = labels.expand(len(self.runs), -1)
        ce = F.cross_entropy(logits.flatten(0, 1), index.flatten(), reduction="none").view_as(index)
        losses, els = (values.mean(-1).tolist() for values in (ce, -(-ce).expm1()))
        reduce, measure = self.trainer.preprocess_logits_for_metrics, self.trainer.compute_metrics
        outputs = logits.flatten(0, 1)  # of the rows of all runs: the Trainer, too, reduces some rows at a time
        outputs = outputs if reduce is None else reduce(outputs, index.flatten())
        ids = labels.cpu().numpy()
        for own, loss, el in zip(outputs.unflatten(0, index.shape).cpu().numpy(), losses, els, strict=True):
            metrics = measure(EvalPrediction(own, ids)) if measure is not None else {}
            yield {"loss": loss, "loss_el": el, **metrics}


class _TextTraining(_Training):
    """The training of runs of one seed on text, all on the batches that their Trainer reads.

    A batch is padded to its longest text, and encoders have dropout. Runs of one seed read the same batches and draw
    the same random numbers, so each of them draws what it would alone.
    """

    randomness = "same"

    def train(self) -> None:
        """See `_Training.train`; the random numbers begin as those of the Trainer do."""
        self.loader = _loader(self.trainer)
        super().train()

    def _rows(self, loader: Any) -> tuple[dict[str, Tensor], Tensor]:
        return _tensors(loader, self.device, 1)

    def _batches(self, epoch: int) -> Iterable[Any]:
        self.loader.set_epoch(epoch)
        return self.loader

    def _advance(self, batch: Any, objective: Objective, factor: Tensor) -> tuple[Tensor, list[Tensor]]:
        inputs = {name: values for name, values in batch.items() if name != "labels"}
        return self.model.step_together(inputs, batch["labels"], objective, factor)

    def _evaluated(self, rows: Any) -> Any:
        return rows

    def _logits(self, evaluated: Any) -> tuple[Tensor, Tensor]:
        logits, labels = [], []
        for batch in self.trainer.get_eval_dataloader(evaluated):
            labels.append(batch.pop("labels"))
            logits.append(self.model.logits(batch))
        return torch.cat(logits, dim=1), torch.cat(labels)


def _loader(trainer: MixedLossTrainer) -> Any:
    """The loader of the training rows, whose order depends on the seed that was set last."""
    set_seed(trainer.args.seed)
    return trainer.get_train_dataloader()


def _tensors(loader: Any, device: torch.device, count: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of a loader (all, or the first) as tensors by name, with a leading axis of rows, and their labels."""
    batch = loader.collate_fn([loader.dataset[row] for row in range(count or len(loader.dataset))])
    tensors = {name: values.to(device) for name, values in batch.items()}
    labels = tensors.pop("labels")
    if labels.dim() != 1 or labels.is_floating_point() or labels.min() < 0:
        raise UsageError("Expected one class id for each row in a stack, but got other labels.")
    return tensors, labels.long()
