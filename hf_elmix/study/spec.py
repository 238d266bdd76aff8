"""The words of a study: task, method, run, record.

A *task* is data, a model and a score to be maximised. A *method* is a loss with argument overrides. A
*run* is one (task, method, seed) and leaves one *record*. An *experiment* is one (task, seed): the methods are
compared within it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import parse_loss

STATUSES = ("done", "failed", "diverged")
KEEP = ("models", "best", "none")  # which trained models stay beside their records

__all__ = ["KEEP", "Materials", "Method", "RunKey", "RunRecord", "Study", "Task"]


@dataclass(frozen=True, order=True)
class RunKey:
    """Names one run.

    Attributes:
        task: Name of the task.
        method: Name of the method.
        seed: The seed.
    """

    task: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.method} seed {self.seed}"


@dataclass(frozen=True)
class Materials:
    """What a run is made of.

    Attributes:
        trainer: Keyword arguments of the Trainer: model, datasets, collator, metrics.
        provenance: Where data and model come from: ids, revisions, fingerprints.
    """

    trainer: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Data, a model and a score.

    Attributes:
        name: Short name, used in folders.
        score: Name of the evaluation metric that is maximised, without the prefix ``eval_``, in any unit.
        materials: Makes what a run with a given seed is made of; a fresh model each time.
        settings: Everything that determines the result and is no training argument, as plain JSON values.
        work: What one run costs, in any unit, beside the study's other tasks; used to estimate the time left.
        secondary_metrics: Metrics that a report shows beside the score, each with what it measures in words.
    """

    name: str
    score: str
    materials: Callable[[int], Materials]
    settings: Mapping[str, Any] = field(default_factory=dict)
    work: float = 1.0
    secondary_metrics: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A loss, with training arguments if it needs its own.

    Attributes:
        name: Name in records and folders.
        arguments: Training arguments in which it differs from the study's.
        loss: What `hf_elmix.losses.registry.parse_loss` reads, and then the loss itself; left out, the name is one. A
            function of the user's is to stand in a module, where other processes find it.

    Raises:
        UsageError: If there is no such loss.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    loss: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", parse_loss(self.name if self.loss is None else self.loss))


@dataclass(frozen=True)
class Study:
    """Every task with every method and every seed.

    Attributes:
        tasks: The tasks.
        methods: The methods that are compared.
        seeds: The seeds, the same for all methods.
        arguments: Training arguments of all runs.

    Raises:
        UsageError: If a task, method or seed is there twice: it would be one run.
    """

    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        tasks, methods = ([part.name for part in parts] for parts in (self.tasks, self.methods))
        for kind, names in {"task": tasks, "method": methods, "seed": self.seeds}.items():
            twice = [name for name in names if list(names).count(name) > 1]
            if twice:
                raise UsageError(f"Expected each {kind} once, but got {twice[0]!r} {len(twice)} times.")

    def runs(self) -> dict[RunKey, tuple[Task, Method]]:
        """All runs, experiment by experiment, so that a study cut short has complete experiments."""
        grid = itertools.product(self.tasks, self.seeds, self.methods)
        return {RunKey(task.name, method.name, seed): (task, method) for task, seed, method in grid}

    def settings(self, task: Task, method: Method) -> dict[str, Any]:
        """Everything that determines the result of a run besides its seed.

        Args:
            task: The task.
            method: The method.

        Returns:
            Plain JSON values: ``loss``, ``score``, ``arguments`` and what the task adds.
        """
        return {
            "loss": str(method.loss),
            "score": task.score,
            "arguments": {**self.arguments, **method.arguments},
            **({"secondary_metrics": dict(task.secondary_metrics)} if task.secondary_metrics else {}),
            **task.settings,
        }


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a run; all values are plain JSON.

    Attributes:
        key: Task, method and seed.
        status: ``done``, ``failed`` (an error ended it) or ``diverged`` (its loss is no number).
        scores: For each metric its value at the ``last`` evaluation, the ``best`` one, and all of them (``epochs``),
            with the completed optimizer ``steps`` they were made at.
        training: The training logs: step, epoch, loss and its terms, alpha, beta, focus, learning rate.
        settings: Everything that determines the result.
        provenance: Versions, commit, data and model revisions, device.
        cost: ``seconds`` on the clock while it trained, and the optimizer steps ``steps_trained`` for it and
            ``steps_inherited`` from training it shares, summing to the run's.
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

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunRecord:
        """The record that `to_dict` was called on.

        Args:
            values: What it gave.

        Raises:
            ValueError: If the values are none of a record.
        """
        record = cls(**{**values, "key": RunKey(**values["key"])})
        if record.status not in STATUSES:
            raise ValueError(f"its status is {record.status!r}")
        for name in ("scores", "settings", "provenance", "cost"):
            if not isinstance(getattr(record, name), Mapping):
                raise ValueError(f"its {name} are no object")
        for name, values_ in record.scores.items():
            if not isinstance(values_["last"], int | float | None):
                raise ValueError(f"its {name} is {values_['last']!r}")
        return record
