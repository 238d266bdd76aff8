"""Training that several methods have in common, done once.

Losses are step functions of training progress. With the same task, seed and arguments, two methods are trained alike
until their losses first differ: together they form a trie, whose edges are the segments to train.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hf_elmix.losses.base import Loss, Schedule
from hf_elmix.study.spec import Block, Method, RunKey, RunRecord

__all__ = ["Branch", "Outcome", "Segment", "cost", "plan", "prefix", "roots", "share"]

FINE = 10**6  # stands for the number of steps of a run before that is known


@dataclass(frozen=True)
class Segment:
    """A stretch of training that is the same for all its methods.

    Attributes:
        start: Optimizer steps completed before it.
        stop: Optimizer steps completed after it: the end of training, or where the methods part.
        methods: Names of the methods it belongs to, in the order they were given.
        parent: The segment it continues from, or None if it starts from the untrained model.
    """

    start: int
    stop: int
    methods: tuple[str, ...]
    # Neither compared nor shown: there may be a thousand, and within a plan the other fields tell segments apart.
    parent: Segment | None = field(default=None, compare=False, repr=False)


def plan(losses: Mapping[str, Schedule], steps: int) -> list[Segment]:
    """Divide the training of all methods into segments, so that each shared step is trained once.

    Args:
        losses: `Method.loss` of each method by name.
        steps: Optimizer steps of a run, 1 or more.

    Returns:
        The segments, each after its parent, one branch after the other.
    """
    if steps <= 0:
        raise ValueError(f"Expected steps to be 1 or more, but got {steps}.")
    changes, end = _numbered(losses, steps), (steps, -1)
    segments: list[Segment] = []
    # Groups of methods that are alike in their first changes, how many those are, and the segment before. A stack,
    # since a thousand schedules may part one by one: too many for a recursion.
    pending: list[tuple[tuple[str, ...], int, Segment | None]] = [(tuple(losses), 0, None)] if losses else []
    while pending:
        names, known, parent = pending.pop()
        while len(ahead := {changes[name][known] for name in names}) == 1 and end not in ahead:
            known += 1
        stop = min(ahead)[0]
        segment = Segment(parent.stop if parent else 0, stop, names, parent) if stop else None
        segments += [segment] if segment else []  # methods that differ from the first step on share none
        groups: dict[tuple[int, int], list[str]] = {}
        for name in names if stop < steps else ():
            change = changes[name][known]
            groups.setdefault(change if change[0] == stop else end, []).append(name)
        pending += [(tuple(group), known + (change != end), segment) for change, group in reversed(groups.items())]
    return segments


def cost(segments: Iterable[Segment]) -> int:
    """Optimizer steps that the given segments take in total."""
    return sum(segment.stop - segment.start for segment in segments)


def share(branch: Branch, losses: Mapping[str, Schedule]) -> float:
    """The cost of a branch that starts at step 0, and of all that continue from it, as a multiple of one run."""
    segments = plan({name: losses[name] for name in branch.among}, FINE)
    return cost(segment for segment in segments if set(segment.methods) & set(branch.methods)) / FINE


def prefix(loss: Schedule, stop: int, steps: int) -> list[tuple[int, Loss]]:
    """Each change of a loss in the first `stop` of `steps` steps, as (step, loss from there on).

    Methods with equal prefixes are trained alike up to there.
    """
    changes: list[tuple[int, Loss]] = []
    # Of several parts that begin at the same step, the last counts.
    for step, now in {math.ceil(start * steps): now for start, now in loss.parts}.items():
        if step < stop and (not changes or changes[-1][1] != now):
            changes.append((step, now))
    return changes


@dataclass(frozen=True)
class Branch:
    """A unit of work: the segment that starts at `start` and belongs to `methods`.

    Attributes:
        task: Name of the task.
        seed: The seed.
        among: The methods that share training, trained already or not: they determine where segments end.
        methods: Those of them that are still to be trained.
        start: Optimizer steps completed before it.
    """

    task: str
    seed: int
    among: tuple[str, ...]
    methods: tuple[str, ...]
    start: int = 0

    @property
    def keys(self) -> tuple[RunKey, ...]:
        """The runs that the branch leads to."""
        return tuple(RunKey(self.task, method, self.seed) for method in self.methods)

    def segment(self, segments: Iterable[Segment]) -> Segment:
        """The segment of a plan (for the methods in `among`) that this branch trains."""
        return next(s for s in segments if s.start == self.start and self.methods[0] in s.methods)

    def children(self, segments: Iterable[Segment]) -> tuple[Branch, ...]:
        """The branches that continue where this one ends, by a plan for the methods in `among`."""
        segments = list(segments)
        parent = self.segment(segments)
        below = [
            (child.start, tuple(method for method in self.methods if method in child.methods))
            for child in segments
            if child.parent == parent
        ]
        return tuple(replace(self, methods=methods, start=start) for start, methods in below if methods)

    def alone(self) -> tuple[Branch, ...]:
        """One branch for each method, none of which shares training."""
        return tuple(replace(self, among=(method,), methods=(method,), start=0) for method in self.methods)

    def __str__(self) -> str:
        return f"{self.task} {' | '.join(self.methods)} seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """The result of training a branch.

    Attributes:
        branch: The branch.
        records: Records of the runs that ended with it.
        children: The branches that continue from it.
        checkpoint: Name of the checkpoint that they continue from.
        died: How its process ended, if it died.
    """

    branch: Branch
    records: tuple[RunRecord, ...] = ()
    children: tuple[Branch, ...] = ()
    checkpoint: str | None = None
    died: str | None = None


def roots(block: Block, methods: Iterable[Method], missing: Iterable[str], *, sharing: bool = True) -> list[Branch]:
    """The branches that a block starts with, one for each group of methods with the same arguments and first loss.

    Args:
        block: Task and seed.
        methods: The methods of the study.
        missing: Names of the methods still to be trained; a group without any has no branch.
        sharing: Whether to group methods at all.
    """
    groups: dict[Any, list[str]] = {}
    for method in methods:
        # Arguments are compared by their JSON, as records are.
        start = json.dumps(method.arguments, sort_keys=True), method.loss.at(0, FINE)
        groups.setdefault(start if sharing else method.name, []).append(method.name)
    wanted = set(missing)
    branches = [
        Branch(*block, tuple(group), tuple(name for name in group if name in wanted)) for group in groups.values()
    ]
    return [branch for branch in branches if branch.methods]


def _numbered(losses: Mapping[str, Schedule], steps: int) -> dict[str, list[tuple[int, int]]]:
    """The changes of each method as (step, number of the loss), and an end; comparing losses would take longer."""
    numbers: dict[Loss, int] = {}
    changes = {name: prefix(loss, steps, steps) for name, loss in losses.items()}
    return {
        name: [*((step, numbers.setdefault(now, len(numbers))) for step, now in known), (steps, -1)]
        for name, known in changes.items()
    }
