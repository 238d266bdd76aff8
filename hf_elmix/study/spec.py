"""The vocabulary of a study: task, method, run, record.

A *task* is data, a model and a score to be maximised. A *method* is a loss with argument overrides. A *run* is one
(task, method, seed) and leaves one *record*. A *block* is one (task, seed): methods are compared within it.
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import parse_loss
from hf_elmix.study.select import Select

KEEP = ("models", "best", "none")  # which trained models stay beside their records
TRACKERS = ("tensorboard", "trackio", "wandb")
MAX_SEED = 2**32 - 1  # of NumPy, which the Trainer seeds, too
DEFAULTS: dict[str, Any] = {  # training arguments of a run, where the study or the method has no others
    **{"disable_tqdm": True, "log_level": "error", "report_to": "none"},
    **{"eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": "no"},
}

# Endings of values of an evaluation that are no scores.
SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
TRAINING = (  # values of the training logs that a record keeps; the last two belong to particular losses
    *("step", "epoch", "loss", "loss_ce", "loss_el", "alpha", "beta", "focus", "learning_rate", "grad_norm"),
    *("complement_entropy", "learning_rate_factor"),
)

__all__ = [
    "DEFAULTS",
    "KEEP",
    "MAX_SEED",
    "SPEED",
    "TRACKERS",
    "TRAINING",
    "Block",
    "Method",
    "RunKey",
    "RunRecord",
    "Select",
    "Study",
    "Task",
    "TrainerInputs",
]

Block = tuple[str, int]  # task and seed

OWN_ARGUMENTS = frozenset(("seed", "output_dir", "resume_from_checkpoint"))  # of training, which a study sets
RESERVED = (".locks", ".segments", "study.json")  # what a study writes beside the folders of its tasks


@dataclass(frozen=True, order=True)
class RunKey:
    """Identifies one run by task, method (or a candidate of its sweep) and seed."""

    task: str
    method: str
    seed: int

    @property
    def block(self) -> Block:
        """The block of the run."""
        return self.task, self.seed

    @property
    def reported(self) -> RunKey:
        """The key under which a report shows the run: for a candidate of a sweep, that of its method."""
        method, bracket, _ = self.method.partition(" [")
        return replace(self, method=method) if bracket and self.method.endswith("]") else self

    def __str__(self) -> str:
        return f"{self.task} {self.method} seed {self.seed}"


@dataclass(frozen=True)
class TrainerInputs:
    """The inputs of one run's Trainer.

    Attributes:
        trainer: Keyword arguments of the Trainer: model, datasets, collator, metrics.
        provenance: Where data and model come from: ids, revisions, fingerprints.
        prepare: Called with the Trainer when it is built, before it makes its optimizer.
    """

    trainer: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] | None = None


@dataclass(frozen=True)
class Task:
    """Data, a model and a score.

    Attributes:
        name: Short name, used in folders.
        select: Which number of a run is its score, a `Select`; the name of a metric stands for its last evaluation.
        inputs: Returns the inputs of the Trainer for a seed, with a new model each time.
        settings: Everything that determines the result and is not a training argument, as plain JSON values; those
            that `hf_elmix.study.schema.Settings` names have its types.
        work: Relative cost of one run, in any unit; used to estimate the time left.
        secondary_metrics: Further metrics for the report, each with a description.

    Raises:
        UsageError: If the selection is not valid.
    """

    name: str
    select: Any
    inputs: Callable[[int], TrainerInputs]
    settings: Mapping[str, Any] = field(default_factory=dict)
    work: float = 1.0
    secondary_metrics: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "select", Select.of(self.select))


@dataclass(frozen=True)
class Method:
    """A loss, optionally with overrides of training arguments.

    Attributes:
        name: Name in records and folders.
        arguments: Training arguments that override the study's.
        loss: Anything that `hf_elmix.losses.registry.parse_loss` accepts; the parsed loss replaces it. By default the
            name. A custom function must be importable by other processes.
        sweep: Further overrides, one for each candidate; the best by validation counts (see `choose_runs`).

    Raises:
        UsageError: If the loss does not exist.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    loss: Any = None
    sweep: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", parse_loss(self.name if self.loss is None else self.loss))

    def candidates(self) -> tuple[Method, ...]:
        """The methods to train: this one, or one for each override of its sweep."""
        return tuple(
            replace(
                self,
                name=f"{self.name} [{','.join(f'{name}={value}' for name, value in override.items())}]",
                arguments={**self.arguments, **override},
                sweep=(),
            )
            for override in self.sweep
        ) or (self,)


@dataclass(frozen=True)
class Study:
    """Every task with every method and every seed.

    Attributes:
        tasks: The tasks.
        methods: The methods to compare.
        seeds: The seeds, the same for all methods.
        arguments: Training arguments of all runs.

    Raises:
        UsageError: If a task, method or seed is given twice, a task has the name of a file that the study itself
            writes, a seed is out of range, or a sweep has no evaluation set to choose on.
    """

    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(map(operator.index, self.seeds)))  # NumPy's are no JSON
        tasks, methods = ([part.name for part in parts] for parts in (self.tasks, self.candidates))
        for kind, names in {"task": tasks, "method": methods, "seed": self.seeds}.items():
            for name, count in Counter(names).most_common(1):
                if count > 1:
                    raise UsageError(f"Expected each {kind} once, but got {name!r} {count} times.")
        if own := [name for name in tasks if name in RESERVED]:
            raise UsageError(f"Expected another name for the task {own[0]!r}, which the study uses itself. Rename it.")
        if outside := [seed for seed in self.seeds if not 0 <= seed <= MAX_SEED]:
            raise UsageError(f"Expected seeds from 0 to {MAX_SEED}, but got {outside[0]}.")
        for method in self.methods:
            self._check_method(method)

    def _check_method(self, method: Method) -> None:
        if " [" in method.name:
            raise UsageError(
                f"Expected the name of a method without brackets, which are for sweeps, but got {method.name!r}."
            )
        for given in (self.arguments, method.arguments, *method.sweep):
            if own := sorted(OWN_ARGUMENTS.intersection(given)):
                raise UsageError(f"Expected training arguments without {own[0]!r}, which a study sets. Leave it out.")
        for select in (task.select for task in self.tasks if method.sweep):
            if select.scored_on is not None and select.chosen_on is None:
                raise UsageError(
                    f"Expected an evaluation set to choose the best candidate of {method.name!r} on, but got only "
                    f"{select.scored_on!r}, which is scored. Name one with Select(..., chosen_on=...)."
                )

    @cached_property
    def candidates(self) -> tuple[Method, ...]:
        """The methods to train: all methods, with those that have a sweep replaced by its candidates."""
        return tuple(candidate for method in self.methods for candidate in method.candidates())

    def runs(self) -> dict[RunKey, tuple[Task, Method]]:
        """All runs, block by block, so that an interrupted study has complete blocks."""
        grid = itertools.product(self.tasks, self.seeds, self.candidates)
        return {RunKey(task.name, method.name, seed): (task, method) for task, seed, method in grid}

    def settings(self, task: Task, method: Method) -> dict[str, Any]:
        """Everything that determines the result of a run besides its seed, as plain JSON values.

        These are ``loss``, ``select``, ``arguments``, ``secondary_metrics`` if there are any, and those of the task.
        """
        return {
            "loss": str(method.loss),
            "select": task.select.to_settings(),
            "arguments": {**self.arguments, **method.arguments},
            **({"secondary_metrics": dict(task.secondary_metrics)} if task.secondary_metrics else {}),
            **task.settings,
        }


@dataclass(frozen=True)
class RunRecord:
    """The result of a run, as plain JSON values.

    Attributes:
        key: Task, method and seed.
        status: ``done``, ``failed`` (ended by an error) or ``diverged`` (its loss is NaN or infinite).
        scores: For each metric its value at the ``last`` evaluation, the ``best`` one, and all of them (``epochs``),
            with the optimizer ``steps`` completed at each.
        training: The training logs: step, epoch, loss and its terms, alpha, beta, focus, learning rate.
        settings: Everything that determines the result.
        provenance: Versions, commit, data and model revisions, device.
        cost: Wall-clock ``seconds`` of training, and the optimizer steps ``steps_trained`` by the run itself and
            ``steps_inherited`` from a shared prefix, which add up to the run's.
        error: What ended a failed run.
    """

    key: RunKey
    status: str
    scores: dict[str, Any]
    training: list[dict[str, Any]]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    cost: dict[str, Any]
    error: str | None = None

    @property
    def select(self) -> Select | None:
        """Which number is the score, or None if the settings do not say."""
        return Select.of(self.settings["select"]) if "select" in self.settings else None

    @property
    def score(self) -> float | None:
        """The score; None for a run that is not done."""
        select = self.select if self.status == "done" else None
        return select.score(self.scores) if select else None

    def curve(self, metric: str | None = None) -> list[float | None]:
        """The values of a metric, by default that of the score, at every evaluation."""
        if metric is None:
            metric = select.scored_metric if (select := self.select) else ""
        return self.scores.get(metric, {}).get("epochs", [])

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, as `schema.Record` describes them."""
        from hf_elmix.study.schema import FORMAT  # loads pydantic, which help and errors need not wait for

        return {**asdict(self), "format": FORMAT}

    @classmethod
    def from_json(cls, data: bytes) -> RunRecord:
        """The record from what `to_dict` returned, as JSON.

        Raises:
            NewerFormat: If it was written by a later version of the package.
            ValueError: If it is not a record.
        """
        from hf_elmix.study.schema import Record, parse

        values: dict[str, Any] = {**parse(Record, data)}
        values.pop("format", None)
        record = cls(**{**values, "key": RunKey(**values["key"])})
        for name, score in record.scores.items():
            if len(score["steps"]) != len(score["epochs"]) or score["steps"] != sorted(set(score["steps"])):
                raise ValueError(f"scores.{name}: expected a step for each of the epochs, in order")
            if score["epochs"] and score["last"] != score["epochs"][-1]:
                raise ValueError(f"scores.{name}: expected the last to be that of the epochs")
        if record.status == "done" and record.select and record.select.scored_metric not in record.scores:
            raise ValueError(f"scores: expected {record.select.scored_metric!r}, which is the score")
        return record
