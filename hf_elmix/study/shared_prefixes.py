"""Training that several methods have in common, done once.

Losses are step functions of training. With the same task, seed and arguments, two methods are the very same
training until their losses first differ: together they form a trie, whose edges are the segments to be trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hf_elmix.losses.base import Loss, Schedule
from hf_elmix.study.spec import Method, RunKey, RunRecord

__all__ = ["Branch", "Outcome", "Segment", "cost", "plan", "prefix", "roots", "share"]

FINE = 10**6  # steps of a run, where their number is not known and a share is asked for


@dataclass(frozen=True)
class Segment:
    """A stretch of training that is the same for all its methods.

    Attributes:
        start: Optimizer steps done before it.
        stop: Optimizer steps done after it; where that is not the end, its methods part there.
        methods: Names of the methods it is a part of, in the order they were given.
        parent: The segment it goes on from, or None if it starts from the untrained model.
    """

    start: int
    stop: int
    methods: tuple[str, ...]
    parent: Segment | None = None


def plan(losses: Mapping[str, Schedule], steps: int) -> list[Segment]:
    """The segments that give every method its whole training, none of them trained twice.

    Args:
        losses: Loss of each method by its name.
        steps: Optimizer steps of a run.

    Returns:
        The segments, each after its parent, one branch after the other.

    Raises:
        ValueError: If `steps` is not positive.
    """
    if steps <= 0:
        raise ValueError(f"Expected steps to be 1 or more, but got {steps}.")
    return [segment for group in _alike(losses, 0, steps) for segment in _grow(group, 0, steps, None)]


def cost(segments: Iterable[Segment]) -> int:
    """Optimizer steps that the segments take altogether.

    Args:
        segments: From `plan`, or some of them.
    """
    return sum(segment.stop - segment.start for segment in segments)


def share(branch: Branch, losses: Mapping[str, Schedule]) -> float:
    """What a branch and all that goes on from it cost, as a multiple of one run.

    Args:
        branch: A branch that starts at the beginning.
        losses: Loss of each method of the study.
    """
    segments = plan({name: losses[name] for name in branch.among}, FINE)
    needed = [segment for segment in segments if set(segment.methods) & set(branch.methods)]
    return cost(needed) / FINE


def prefix(loss: Schedule, stop: int, steps: int) -> list[tuple[int, Loss]]:
    """What a loss is in the first `stop` of `steps` steps: each change of it, and the step it comes at.

    Two methods whose prefixes are equal are the same training that far.

    Args:
        loss: The loss.
        stop: Optimizer steps to look at.
        steps: Optimizer steps of a run.

    Returns:
        Pairs of a step and what the loss is from there on.
    """
    changes: list[tuple[int, Loss]] = []
    for step in [0, *loss.changes(steps)]:
        now = loss.at(step, steps)
        if step < stop and (not changes or changes[-1][1] != now):
            changes.append((step, now))
    return changes


@dataclass(frozen=True)
class Branch:
    """A piece of work: the segment that starts at `start` and belongs to the methods.

    Attributes:
        task: Name of the task.
        seed: The seed.
        among: The methods that the training is shared among, whether or not they are still to be done: they
            determine where segments end.
        methods: Those of them that are to be done.
        start: Optimizer steps done before it.
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
        """The segment of a plan that this branch is to train.

        Args:
            segments: From `plan`, for the methods the training is shared among.
        """
        return next(s for s in segments if s.start == self.start and self.methods[0] in s.methods)

    def children(self, segments: Iterable[Segment]) -> tuple[Branch, ...]:
        """The branches that go on from where this one ends.

        Args:
            segments: From `plan`, for the methods the training is shared among.
        """
        segments = list(segments)
        parent = self.segment(segments)
        below = [(child, self._only(child.methods)) for child in segments if child.parent == parent]
        return tuple(replace(self, methods=methods, start=child.start) for child, methods in below if methods)

    def alone(self) -> tuple[Branch, ...]:
        """A branch for each method that shares nothing with the others."""
        return tuple(replace(self, among=(method,), methods=(method,), start=0) for method in self.methods)

    def _only(self, methods: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(method for method in self.methods if method in methods)

    def __str__(self) -> str:
        return f"{self.task} {' | '.join(self.methods)} seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What came of a branch.

    Attributes:
        branch: The branch.
        records: Records of the runs that ended with it.
        children: The branches that go on from it.
        checkpoint: Name of the checkpoint that they go on from.
        died: What became of the process that was at work on it, where it did not live to say so itself.
    """

    branch: Branch
    records: tuple[RunRecord, ...] = ()
    children: tuple[Branch, ...] = ()
    checkpoint: str | None = None
    died: str | None = None


def roots(
    task: str, seed: int, methods: Iterable[Method], missing: Iterable[str], *, sharing: bool = True
) -> list[Branch]:
    """The branches that an experiment starts with.

    Methods whose arguments differ share nothing, and neither do those whose losses differ from the first step on.

    Args:
        task: Name of the task.
        seed: The seed.
        methods: The methods of the study.
        missing: Names of those that are to be done.
        sharing: Train what methods have in common once.

    Returns:
        One branch for each group of methods that begin alike, without those of which nothing is to be done.
    """
    wanted = set(missing)
    groups: list[list[Method]] = []
    for method in methods:
        alike = (group for group in groups if sharing and _start_alike(group[0], method))
        group = next(alike, None)
        if group is None:
            groups.append([method])
        else:
            group.append(method)
    named = [tuple(method.name for method in group) for group in groups]
    branches = [Branch(task, seed, among, tuple(name for name in among if name in wanted)) for among in named]
    return [branch for branch in branches if branch.methods]


def _start_alike(one: Method, other: Method) -> bool:
    # Arguments are compared as what JSON makes of them, as records are.
    arguments = [json.dumps(method.arguments, sort_keys=True) for method in (one, other)]
    first = [method.loss.at(0, FINE) for method in (one, other)]
    return arguments[0] == arguments[1] and first[0] == first[1]


def _grow(losses: Mapping[str, Schedule], start: int, steps: int, parent: Segment | None) -> Iterator[Segment]:
    """The segment of methods that are alike at `start`, and all that follow it."""
    changes = sorted({step for loss in losses.values() for step in loss.changes(steps) if step > start})
    stop = next((step for step in changes if len(_alike(losses, step, steps)) > 1), steps)
    segment = Segment(start, stop, tuple(losses), parent)
    yield segment
    if stop < steps:
        for group in _alike(losses, stop, steps):
            yield from _grow(group, stop, steps, segment)


def _alike(losses: Mapping[str, Schedule], step: int, steps: int) -> list[dict[str, Schedule]]:
    """Groups of methods with the same loss in the step that follows `step` completed ones."""
    groups: dict[Loss, dict[str, Schedule]] = {}
    for name, loss in losses.items():
        groups.setdefault(loss.at(step, steps), {})[name] = loss
    return list(groups.values())
